"""The runs there are: how they stand, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.training.status import RunStatus

from ...messages import Problem
from ...text import printable
from ...training import TrainingBoard
from ...widgets.models import actions_line, labelled
from ..dialogs import Confirm
from .headline import Headline
from .words import counted, loss_words, run_line, runs_columns

NEW = "new"


class RunList(OptionList):
    """A list in which a click only points."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="runs.open", tooltip="Watch this run"),
    ]

    async def _on_click(self, event: events.Click) -> None:
        event.prevent_default()
        if (clicked := event.style.meta.get("option")) is not None:
            self.highlighted = clicked


class RunsScreen(Screen[None]):
    """Every run that was begun; the first line begins another.

    Args:
        board: knows the runs.
        open_run: shows one of them.
        open_form: asks for a new one.
    """

    CSS_PATH = "training.tcss"
    AUTO_FOCUS = "RunList"
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (18, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New", id="runs.new", tooltip="Train a model"),
        Binding("r", "resume", "Resume", id="runs.resume", tooltip="Go on with this run"),
        Binding("d,delete", "remove", "Delete", id="runs.remove", tooltip="Delete this run"),
        Binding("escape", "leave", "Back", id="runs.close", tooltip="Back to the chat"),
    ]

    def __init__(
        self,
        board: TrainingBoard,
        open_run: Callable[[str], object],
        open_form: Callable[[], object],
    ) -> None:
        super().__init__()
        self._board = board
        self._open_run = open_run
        self._open_form = open_form
        self._said = ""
        self._shown: list[Content] = []
        self._head = Headline()
        self._columns = Static("", id="columns", markup=False)
        self._list = RunList(compact=True, markup=False)
        self._about = Static("", id="about", markup=False)
        self._actions = Static("", id="actions", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._columns
        yield self._list
        with VerticalScroll(id="detail", can_focus=False):
            yield self._about
        yield self._actions

    def on_mount(self) -> None:
        self._board.watch(self)
        self._build()

    def on_unmount(self) -> None:
        self._board.unwatch(self)

    def on_resize(self) -> None:
        self.call_after_refresh(self._build)

    # ---------------------------------------------------------------- what is shown

    @on(Headline.Resized)
    @on(TrainingBoard.Changed)
    @on(TrainingBoard.Ended)
    def _build(self) -> None:
        """Draw the list anew where it changed, with the same run pointed at."""
        width = max(10, self._list.size.width - 1)
        now = datetime.now(UTC)
        lines = [run_line(row, width, now) for row in self._board.rows]
        wanted = [Content("+ Train a model …"), *lines]
        ids = [NEW, *(row.name for row in self._board.rows)]
        if wanted != self._shown:
            before = self._pointed_id if len(self._shown) > 1 else None
            self._shown = wanted
            self._list.set_options(
                [Option(line, id=f"={name}") for line, name in zip(wanted, ids, strict=True)]
            )
            first = 1 if len(ids) > 1 else 0
            self._list.highlighted = ids.index(before) if before in ids else first
        self._columns.update(runs_columns(width) if lines else "")
        self._head.update(Content.styled("Fine-tuning", "bold $primary"))
        self._describe()

    @property
    def _pointed_id(self) -> str | None:
        option = self._list.highlighted_option
        return option.id.removeprefix("=") if option is not None and option.id else None

    @property
    def pointed(self) -> RunStatus | None:
        """The run that is pointed at; None for the line that begins one."""
        return self._board.get(self._pointed_id or "")

    @on(OptionList.OptionHighlighted)
    def _point(self) -> None:
        self._said = ""
        self._describe()

    def _describe(self) -> None:
        width = max(10, self.query_one("#detail").scrollable_content_region.width)
        row = self.pointed
        self._actions.update(actions_line(self._doable(row), max(10, self._head.size.width)))
        facts: list[tuple[str, str]] = [("", line) for line in self._said.splitlines()]
        if row is not None:
            facts += describe_run(row)
        elif not facts:
            text = "Teach a model from your own examples: a file of them, or your chats."
            facts = [("", text if self._board.is_known else "Looking what there is ...")]
        self._about.update(labelled(facts, width))

    def _doable(self, row: RunStatus | None) -> list[tuple[str, str, str]]:
        """Keys, words and actions that make sense now, the most useful first."""
        doable = [("Enter", "watch" if row else "begin", "open")]
        if row is not None and row.can_resume:
            doable.append(("r", "resume", "resume"))
        if row is not None and not row.is_alive:
            doable.append(("d", "delete", "remove"))
        return [*doable, ("n", "new", "new"), ("Esc", "back", "leave")]

    def _say(self, problem: Exception | None) -> None:
        if problem is not None and self.is_running:
            said = Problem.of(problem)
            self._said = printable(f"{said.text}\n{said.hint}" if said.hint else said.text)
            self._describe()

    # ---------------------------------------------------------------- what a person does

    @on(OptionList.OptionSelected)
    def action_open(self) -> None:
        """Watch the run that is pointed at, or begin one."""
        if (row := self.pointed) is not None:
            self._open_run(row.name)
        else:
            self._open_form()

    def action_new(self) -> None:
        """Begin a run."""
        self._open_form()

    def action_resume(self) -> None:
        """Go on with the run that is pointed at, and watch it."""
        if (row := self.pointed) is not None and row.can_resume:
            self._board.resume(row.name, self._resumed)

    def _resumed(self, found: str | Exception) -> None:
        if isinstance(found, Exception):
            self._say(found)
        elif self.is_running:
            self._open_run(found)

    def action_remove(self) -> None:
        """Ask whether to delete the run that is pointed at."""
        row = self.pointed
        if row is None or row.is_alive:
            return

        def answered(agreed: bool | None) -> None:
            if agreed:
                self._board.remove(row.name, self._say)

        kept = f" The adapter `{row.adapter}` stays." if row.adapter else ""
        self.app.push_screen(
            Confirm(f"Delete the run {row.name}?", f"Its checkpoints and figures go.{kept}"),
            answered,
        )

    def action_leave(self) -> None:
        """Back to the chat; what is trained goes on."""
        self.dismiss(None)


def describe_run(row: RunStatus) -> list[tuple[str, str]]:
    """Labels and texts of what is worth knowing about a run."""
    steps = f"{row.step:,} of {counted(row.steps, 'step')}" if row.steps else ""
    done = steps or "not begun"
    best = (
        f"{loss_words(row.best_loss)} at step {row.best_step}" if row.best_step is not None else ""
    )
    last = "now" if row.is_alive else "at the end"
    loss = f"{loss_words(row.loss)} {last}" if row.loss is not None else ""
    lines = [
        ("state", row.state),
        ("why", row.reason),
        ("model", f"{row.model} ({row.method})" if row.model else ""),
        ("done", done),
        ("loss", ", best ".join(part for part in (loss, best) if part)),
        ("adapter", row.adapter or ""),
        ("files", str(row.path)),
    ]
    return [(label, printable(text)) for label, text in lines if text]
