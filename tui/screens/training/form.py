"""A new training: what it needs to know on one side, what would come of it on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from mobilellm_mlx.errors import ConfigError, MobileLLMError

from ...messages import Problem
from ...shelf import ModelRow
from ...text import Segment, fit, printable
from ...training import TrainingBoard
from ...widgets.models import actions_line
from ...workshop import Checkup, Order, Preset
from ..dialogs import Confirm
from ..settings.row import Row
from .draft import MORE, Draft, shown_value
from .fields import FormRow, FormRows
from .headline import Headline
from .words import as_in_form, checkup_content, counted, problem_content, shortage_words

BESIDE_FROM = 100
"""Columns from which on the report stands beside the form."""
MOST_COLUMNS = 84
"""Of the report: longer lines are hard to read."""
_ABOUT = (
    "Choose data: what they hold, what of it is learned, and the memory that the training would "
    "take are shown here before it starts."
)
_LOOKING = "Looking at the data as the training would read them …"


class FormScreen(Screen[str | None]):
    """Asks for a training; dismissed with the name of the run that was begun, or None.

    Args:
        board: starts it.
        bases: gives the models that are here; asked on a thread.
        folder: where relative paths begin.
        current: the model of the chat.
        held_bytes: memory that it holds.
        chats: how many chats are kept.
    """

    CSS_PATH = "training.tcss"
    AUTO_FOCUS = None
    HORIZONTAL_BREAKPOINTS = [(0, "-above"), (BESIDE_FROM, "-beside")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (18, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "activate", "Change", id="form.change", tooltip="Change this"),
        Binding("s", "start", "Start", id="form.start", tooltip="Start the training"),
        Binding("m", "chats", "My chats", id="form.chats", tooltip="Train on your chats"),
        Binding("a", "all", "All", id="form.all", tooltip="Show or hide all settings"),
        Binding("delete,backspace", "unset", "Unset", id="form.unset", tooltip="Back to the usual"),
        Binding("left", "step(-1)", "Before", id="form.left", tooltip="The choice before"),
        Binding("right", "step(1)", "Next", id="form.right", tooltip="The next choice"),
        Binding("up,shift+tab", "move(-1)", "Up", id="form.up", tooltip="The line above"),
        Binding("down,tab", "move(1)", "Down", id="form.down", tooltip="The line below"),
        Binding("pageup", "page(-1)", "Up", id="form.page_up", show=False, tooltip="Report: up"),
        Binding(
            "pagedown", "page(1)", "Down", id="form.page_down", show=False, tooltip="Report: down"
        ),
        Binding("escape", "leave", "Back", id="form.close", tooltip="Back without a training"),
    ]

    def __init__(
        self,
        board: TrainingBoard,
        bases: Callable[[], Sequence[ModelRow]],
        *,
        folder: Path,
        current: Path | None = None,
        held_bytes: int = 0,
        chats: int = 0,
    ) -> None:
        super().__init__()
        self.draft = Draft()
        self._board = board
        self._bases = bases
        self._folder = folder
        self._current = current
        self._held_bytes = held_bytes
        self._chats = chats
        self._export: Path | None = None
        """A file that was made of the chats and that no run uses yet."""
        self._checked: Order | None = None
        """What the report is about, or will be."""
        self._checkup: Checkup | Exception | None = None
        self._is_checking = False
        self._starts = False
        """Whether to start as soon as the report is there."""
        self._begins = False
        """Whether the run is being made."""
        self._said = ""
        self._head = Headline()
        self._help = Static("", id="help", markup=False)
        self._report = Static("", id="report-text", markup=False)
        self._actions = Static("", id="actions", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        with Container(id="form"):
            with Vertical(id="choices"):
                yield FormRows(id="rows")
                yield self._help
            with VerticalScroll(id="report", can_focus=False):
                yield self._report
        yield self._actions

    async def on_mount(self) -> None:
        await self._fill()
        self._board.later(self._bases, self._take_bases)
        self._board.later(self._board.workshop.presets, self._take_presets)

    def on_unmount(self) -> None:
        if self._export is not None and not self._begins:
            # At once: when the program ends, no thread would come to it.
            with suppress(MobileLLMError, OSError):
                self._board.workshop.discard(self._export)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # ---------------------------------------------------------------- what there is to choose

    def _take_bases(self, found: Sequence[ModelRow] | Exception) -> None:
        if not self.is_running:
            return
        if isinstance(found, Exception):
            self._say(found)
            return
        draft = self.draft
        draft.bases = [row for row in found if row.installed and not row.trouble]
        in_use = [row for row in draft.bases if self._current and _same(row.path, self._current)]
        chosen = next(iter([*in_use, *draft.bases]), None)
        draft.base = chosen.name if chosen else ""
        self._show()

    def _take_presets(self, found: list[Preset] | Exception) -> None:
        if not self.is_running:
            return
        if isinstance(found, Exception):
            self._say(found)
            return
        self.draft.presets = found
        self._show()

    # ---------------------------------------------------------------- what is shown

    async def _fill(self, key: str = "") -> None:
        """Draw the form anew, with a line of it in focus."""
        rows = self.query_one(FormRows)
        async with self.batch():
            await rows.remove_children()
            await rows.mount_all([FormRow(line, self._folder) for line in self.draft.lines()])
        found = list(self.query(FormRow))
        row = next((row for row in found if row.line.key == key), found[0])
        row.focus(scroll_visible=False)  # where it is, is known after the next refresh
        self.call_after_refresh(row.scroll_visible, animate=False)
        self._draw()

    def _show(self) -> None:
        """Say on every line what it is now, and look at the data if that is another matter."""
        for row, line in zip(self.query(FormRow), self.draft.lines(), strict=False):
            row.show(line)
        self._check()
        self._draw()

    @on(Headline.Resized)
    def _draw(self) -> None:
        width = max(10, self._head.size.width)
        title = Content.styled("Train a model", "bold $primary")
        aside = Content.styled(self._verdict(), "dim")
        self._head.update(
            fit([Segment([(9, title)])], [Segment([(1, aside), (0, Content(""))])], width)
        )
        self._report.update(self._report_content())
        self._actions.update(actions_line(self._doable(), width))
        if (row := self._row) is not None:
            self._explain(row)

    def _verdict(self) -> str:
        if self._is_checking:
            return "looking at the data …"
        if isinstance(self._checkup, Checkup) and self._checkup.warnings:
            count = len(self._checkup.warnings)
            return f"{count} warning{'' if count == 1 else 's'}"
        return "ready" if isinstance(self._checkup, Checkup) else ""

    def _report_content(self) -> Content:
        room = self.query_one("#report").scrollable_content_region.width
        width = max(10, min(MOST_COLUMNS, room))
        checkup = self._checkup
        if self._said:
            return Content.styled(self._said, "bold")
        if isinstance(checkup, Checkup):
            return checkup_content(checkup, width, self._held_bytes)
        if checkup is not None:
            problem = Problem.of(checkup)
            return problem_content(replace(problem, hint=as_in_form(problem.hint or "")))
        return Content.styled(_LOOKING if self._is_checking else _ABOUT, "dim")

    def _doable(self) -> list[tuple[str, str, str]]:
        """Keys, words and actions that make sense now, the most useful first."""
        doable = [("s", "start", "start"), ("Enter", "change", "activate")]
        if self._chats:
            doable.append(("m", "my chats", "chats"))
        doable.append(("a", "fewer settings" if self.draft.unfolded else "all settings", "all"))
        return [*doable, ("Esc", "back", "leave")]

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, Row):
            self._explain(event.widget)

    def _explain(self, row: Row) -> None:
        if not row.is_edited:
            self._tell(row.line.help)

    def _tell(self, text: str, *, wrong: str = "") -> None:
        self._help.set_class(bool(wrong), "-wrong")
        self._help.update(printable(f"{wrong}: {text}" if wrong else text))

    def _say(self, problem: Exception) -> None:
        said = Problem.of(problem)
        hint = as_in_form(said.hint or "")
        self._said = printable(f"{said.text}\n{hint}" if hint else said.text)
        self._draw()

    # ---------------------------------------------------------------- the doctor

    def _check(self) -> None:
        """Have the data looked at, unless that was done; one look at a time."""
        try:
            order = self.draft.order(self._folder)
        except MobileLLMError:
            self._checked = self._checkup = None  # something is missing still
            return
        if order == self._checked or self._is_checking:
            return
        self._checked, self._is_checking, self._said = order, True, ""
        workshop = self._board.workshop
        self._board.later(lambda: workshop.check(order), self._take_checkup)

    def _take_checkup(self, found: Checkup | Exception) -> None:
        self._is_checking = False
        if not self.is_running:
            return
        self._checkup = found
        checked = self._checked
        self._check()  # something may have changed meanwhile
        self._draw()
        if self._starts and checked == self._checked:
            self._starts = False
            self.action_start()

    # ---------------------------------------------------------------- what a person does

    @property
    def _row(self) -> FormRow | None:
        """The line in focus, or whose field is."""
        above = self.focused.ancestors_with_self if self.focused is not None else []
        return next((node for node in above if isinstance(node, FormRow)), None)

    def action_move(self, step: int) -> None:
        """To another line."""
        rows = list(self.query(FormRow))
        if rows and (row := self._row) is not None:
            rows[(rows.index(row) + step) % len(rows)].focus()

    def action_page(self, step: int) -> None:
        """Scroll the report."""
        report = self.query_one("#report")
        report.scroll_relative(y=step * max(1, report.size.height - 1), animate=False)

    @on(Row.Activated)
    async def activate(self, event: Row.Activated) -> None:
        event.row.focus()
        if not event.row.is_edited:
            await self.action_activate()

    async def action_activate(self) -> None:
        """Change what is in focus: the next choice, or something to write."""
        if (row := self._row) is None or row.is_edited:
            return
        if row.line.key == MORE:
            await self.action_all()
        elif row.line.choices:
            self.action_step(1)
        else:
            is_export = row.line.key == "data" and self.draft.from_chats
            await row.edit("" if is_export else shown_value(self.draft.current(row.line.key)))

    def action_step(self, step: int) -> None:
        """Another choice, where there are some."""
        if (row := self._row) is None or row.is_edited or not (choices := row.line.choices):
            return
        value = self.draft.current(row.line.key)
        at = choices.index(value) if value in choices else -1
        self._put(row.line.key, choices[(at + step) % len(choices)])

    def action_unset(self) -> None:
        """Back to what is usual."""
        if (
            (row := self._row) is not None
            and not row.is_edited
            and row.line.key not in (MORE, "base")
        ):
            self._put(row.line.key, None)

    def _put(self, key: str, value: Any) -> bool:
        try:
            self.draft.put(key, value)
        except ConfigError as error:
            self._tell(
                f"{error.message}; {error.hint}" if error.hint else error.message,
                wrong="Not changed",
            )
            return False
        if key == "data":
            self._drop_export()
        self._said = ""
        self._show()
        return True

    async def action_all(self) -> None:
        """Show or hide the settings that matter less."""
        key = self._row.line.key if self._row is not None else ""
        self.draft.unfolded = not self.draft.unfolded
        self.set_class(self.draft.unfolded, "-all")
        await self._fill(key)

    @on(Row.Typed)
    async def take(self, event: Row.Typed) -> None:
        """Take what stands in a field; what cannot be is said, and the field stays."""
        event.stop()
        row, key = event.row, event.row.line.key
        if not row.is_edited:
            return
        try:
            value = self.draft.parse(key, event.text) if event.text.strip() else None
        except ConfigError as error:
            if event.leaving:
                await row.close()
            self._tell(error.message, wrong="Not changed")
            return
        if value == self.draft.current(key) or self._put(key, value) or event.leaving:
            await row.close()

    def action_chats(self) -> None:
        """Ask whether to train on the chats, and write them to a file."""
        if not self._chats:
            self._tell("no chats are kept here", wrong="Not changed")
            return
        count = f"{counted(self._chats, 'chat')} {'is' if self._chats == 1 else 'are'}"

        def answered(agreed: bool | None) -> None:
            if agreed:
                self._board.later(self._board.workshop.export_chats, self._take_export)

        self.app.push_screen(
            Confirm(
                "Train on your chats?",
                f"{count} written to a file beside the run, on this computer only; the file "
                "goes with the run. The model will tend to repeat what stands in them, so do not "
                "pass the adapter on if they are private.",
                yes="Use them",
            ),
            answered,
        )

    def _take_export(self, found: Path | Exception) -> None:
        if isinstance(found, Exception):
            if self.is_running:
                self._say(found)
            return
        if not self.is_running:
            self._board.later(lambda: self._board.workshop.discard(found), lambda _: None)
            return
        if found != self._export:
            self._drop_export()
        self._export = found
        self.draft.data, self.draft.from_chats = str(found), True
        self._show()

    def _drop_export(self) -> None:
        """Delete the file that was made of the chats, unless a run is being made of it."""
        if (export := self._export) is not None and not self._begins:
            self._export = None
            self._board.later(lambda: self._board.workshop.discard(export), lambda _: None)

    def action_start(self) -> None:
        """Start, once the data have been looked at and the memory suffices or is risked."""
        try:
            order = self.draft.order(self._folder)
        except MobileLLMError as error:
            self._say(error)
            return
        if order != self._checked or self._is_checking:
            self._starts = True
            self._check()
            self._draw()
            return
        if isinstance(self._checkup, Exception):
            self._tell(Problem.of(self._checkup).text, wrong="Not started")
            return
        estimate = self._checkup.estimate if self._checkup else None
        if estimate is None or estimate.fits:
            self._begin(order)
            return
        self.app.push_screen(
            Confirm(
                "Start although it may not fit?",
                shortage_words(estimate),
                yes="Start",
            ),
            lambda agreed: self._begin(replace(order, risks_memory=True)) if agreed else None,
        )

    def _begin(self, order: Order) -> None:
        if not self._begins:
            self._begins = True
            self._board.begin(order, self._began)

    def _began(self, found: str | Exception) -> None:
        self._begins = False
        if not self.is_running:
            if isinstance(found, Exception):
                self._drop_export()
            return
        if isinstance(found, Exception):
            self._say(found)
            return
        self._export = None  # the run needs it now
        self.dismiss(found)

    async def action_leave(self) -> None:
        """Out of the field, or back."""
        row = self._row
        if row is not None and row.is_edited:
            await row.close()
        else:
            self.dismiss(None)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except OSError:
        return False
