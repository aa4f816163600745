"""The models there are: choosing, fetching, checking and removing one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.errors import format_bytes

from ..messages import Problem
from ..pulls import PullBoard
from ..shelf import Memory, ModelChoice, ModelRow
from ..text import printable
from ..widgets.models import (
    ModelList,
    actions_line,
    columns_line,
    describe_model,
    describe_pull,
    labelled,
    model_line,
    title_line,
)

CONSENT_AFTER_S = 0.3
"""A key that is held down repeats sooner than a person reads."""
FOLD, LOOK = "fold", "look"
Asked = tuple[str, Path, float]


class ModelsScreen(ModalScreen[ModelChoice | None]):
    """Every model with what it costs and allows; dismissed with the one to use, or None.

    Args:
        board: runs the jobs, and knows the shelf.
        current: directory of the model in use.
        held_bytes: memory that it holds, and gives back when another is loaded.
        adapters: gives the names of those that were made for a model.
    """

    CSS_PATH = "models.tcss"
    AUTO_FOCUS = "ModelList"
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (20, "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "find", "Find", id="models.find", tooltip="Find a model by its name"),
        Binding(
            "o", "directory", "Directory", id="models.directory", tooltip="Use a directory of yours"
        ),
        Binding("v", "check", "Check", id="models.check", tooltip="Compare files with their hash"),
        Binding("p", "pause", "Pause", id="models.pause", tooltip="Pause a pull, or go on with it"),
        Binding("x", "cancel", "Cancel", id="models.cancel", tooltip="Cancel a pull"),
        Binding("d,delete", "remove", "Remove", id="models.remove", tooltip="Remove a model"),
        Binding("escape", "back", "Back", id="models.close", tooltip="Back", show=False),
        Binding("up", "move(-1)", "Up", id="models.up", show=False),
        Binding("down", "move(1)", "Down", id="models.down", show=False),
        Binding("pageup", "read(-1)", "Up", id="models.page_up", priority=True, show=False),
        Binding("pagedown", "read(1)", "Down", id="models.page_down", priority=True, show=False),
    ]

    def __init__(
        self,
        board: PullBoard,
        current: Path | None = None,
        held_bytes: int = 0,
        adapters: Callable[[ModelRow], Sequence[str]] = lambda _: (),
    ) -> None:
        super().__init__()
        self._board = board
        self._current = current.resolve() if current is not None else None
        self._held_bytes = held_bytes
        self._adapters = adapters
        self._rows: list[ModelRow] = []
        self._found: dict[Path, ModelRow] = {}
        self._shown: dict[str, ModelRow] = {}
        self._pulling: set[str] = set()
        self._unfolded = False
        self._asked: Asked | None = None
        self._said = ""
        self._list = ModelList(compact=True, markup=False)
        self._input = Input(compact=True, placeholder="/ finds by name", select_on_focus=False)
        self._columns = Static("", id="columns", markup=False)
        self._title = Static("", id="title", markup=False)
        self._about = Static("", id="about", markup=False)
        self._actions = Static("", id="actions", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(id="models") as box:
            box.border_title = "Models"
            yield self._input
            yield self._columns
            yield self._list
            with VerticalScroll(id="detail"):
                yield self._title
                yield self._about
            yield self._actions

    def on_mount(self) -> None:
        self._board.watch(self)
        self._load()

    def on_unmount(self) -> None:
        self._board.unwatch(self)

    def on_resize(self) -> None:
        self.call_after_refresh(self._build)

    # What there is

    def _load(self) -> None:
        self._board.later(self._board.shelf.rows, self._take_rows)

    def _take_rows(self, found: list[ModelRow] | Exception) -> None:
        if not self.is_running:
            return
        if isinstance(found, Exception):
            self._say(Problem.of(found))
            return
        self._rows = [self._with_held(row) for row in found]
        memory = next((row.memory for row in self._rows if row.memory), None)
        if memory is not None:
            free = format_bytes(memory.available_bytes)
            self.query_one("#models").border_subtitle = f"{free} of memory free"
        self._build()

    def _with_held(self, row: ModelRow) -> ModelRow:
        return replace(row, memory=self._freed(row.memory)) if row.memory else row

    def _freed(self, memory: Memory) -> Memory:
        """What would be free once the model in use is gone."""
        return replace(memory, available_bytes=memory.available_bytes + self._held_bytes)

    def _is_current(self, row: ModelRow) -> bool:
        return row.installed and row.path.resolve() == self._current

    def _wanted(self) -> tuple[list[ModelRow], int]:
        """The rows to show, and how many others are folded away."""
        here = {row.path for row in self._rows}
        rows = [*(row for row in self._found.values() if row.path not in here), *self._rows]
        if words := self._input.value.lower().split():
            return [row for row in rows if all(word in _words(row) for word in words)], 0
        if self._unfolded:
            return rows, 0
        shown = [row for row in rows if row.chats is not False or self._is_kept(row)]
        return shown, len(rows) - len(shown)

    def _is_kept(self, row: ModelRow) -> bool:
        return row.installed or row.path in self._found or self._board.get(row.name) is not None

    def _build(self, point_at: str | None = None) -> None:
        """Draw the list anew, with the same model pointed at."""
        rows, folded = self._wanted()
        self._shown = {str(row.path): row for row in rows}
        before = point_at or self._pointed_id or self._current_id
        width = self._width
        self._columns.update(columns_line(width))
        options: list[Option] = []
        for heading in dict.fromkeys(row.heading for row in rows):
            said = Content(printable(heading)).truncate(width, ellipsis=True)
            options.append(Option(said, disabled=True))
            options += [
                Option(self._line(row, width), id=str(row.path))
                for row in rows
                if row.heading == heading
            ]
        if folded:
            more = f"  … {folded} more complete text and do not chat"
            options.append(Option(Content.styled(more, "dim"), id=FOLD))
        if not rows and self._input.value.strip():
            options.append(Option(Content(f"  look up {printable(self._input.value)}"), id=LOOK))
        self._list.set_options(options)
        ids = [option.id for option in options]
        first = next((at for at, option in enumerate(options) if not option.disabled), None)
        self._list.highlighted = ids.index(before) if before and before in ids else first
        self._describe()

    def _line(self, row: ModelRow, width: int) -> Content:
        return model_line(row, width, self._board.get(row.name), self._is_current(row))

    @property
    def _current_id(self) -> str | None:
        return next((path for path, row in self._shown.items() if self._is_current(row)), None)

    @property
    def _width(self) -> int:
        return max(10, self._list.size.width - 1)  # the scrollbar comes and goes

    @property
    def _pointed_id(self) -> str | None:
        option = self._list.highlighted_option
        return option.id if option is not None else None

    @property
    def _pointed(self) -> ModelRow | None:
        return self._shown.get(self._pointed_id or "")

    @on(PullBoard.Changed)
    def show_pulls(self) -> None:
        """Only the lines that can have changed are drawn again."""
        pulling = {str(pull.row.path) for pull in self._board.pulls}
        for path in (pulling | self._pulling) & self._shown.keys():
            self._list.replace_option_prompt(path, self._line(self._shown[path], self._width))
        self._pulling = pulling
        self._describe()

    @on(PullBoard.Ended)
    def show_outcome(self) -> None:
        self._load()

    # What is said about the one that is pointed at

    @on(OptionList.OptionHighlighted)
    def point(self, event: OptionList.OptionHighlighted) -> None:
        if self._asked is not None and str(self._asked[1]) != event.option_id:
            self._asked = None
            self._said = ""
        elif self._asked is None:
            self._said = ""
        self._describe()
        self.query_one("#detail").scroll_home(animate=False)

    def _say(self, problem: Problem | str) -> None:
        if isinstance(problem, Problem):
            problem = f"{problem.text}\n{problem.hint}" if problem.hint else problem.text
        self._said = printable(problem)
        self._describe()

    def _describe(self) -> None:
        row, board = self._pointed, self._board
        self.set_class(self._asked is not None, "-asking")
        width = max(10, self.query_one("#detail").scrollable_content_region.width)
        self._actions.update(actions_line(self._doable(row), self._width))
        said = [("", line) for line in self._said.splitlines()]
        if row is None:
            self._title.update("")
            nothing = "No model has that name." if self._rows else "Looking what is here ..."
            help_line = _HINTS.get(self._pointed_id or "", nothing)
            self._about.update(labelled(said or [("", help_line)], width))
            return
        self._title.update(title_line(row, self._is_current(row)))
        checking = row.path in board.checking
        facts = describe_model(row, board.verdicts.get(row.path), board.clock(), checking)
        if row.installed and (adapters := self._adapters(row)):
            facts.append(("adapters", printable(", ".join(adapters))))
        if self._asked is not None:  # only what matters for the answer
            facts = [fact for fact in facts if fact[0] == "memory"]
        elif said:
            facts = []
        elif (pull := board.get(row.name)) is not None:
            said = [("", describe_pull(pull))]
        self._about.update(labelled([*said, *facts], width))

    def _doable(self, row: ModelRow | None) -> list[tuple[str, str, str]]:
        """Keys, words and actions that make sense now, the most useful first."""
        if self._asked is not None:
            yes = "fetches it" if self._asked[0] == "fetch" else "removes it"
            return [("Enter", yes, "choose"), ("Esc", "does not", "back")]
        doable = []
        if row is None:
            if self._pointed_id is not None:
                doable = [("Enter", "show" if self._pointed_id == FOLD else "look", "choose")]
        elif pull := self._board.get(row.name):
            pause = "pause" if row.resumes else "stop"
            if pull.phase in ("paused", "failed"):
                pause = "go on" if pull.phase == "paused" and row.resumes else "try again"
            doable = [("p", pause, "pause"), ("x", "cancel", "cancel")]
        elif row.installed:
            use = "keep using" if self._is_current(row) else "use"
            doable = [("Enter", use, "choose"), ("v", "check", "check")]
            if row.removable and not self._is_current(row):
                doable.append(("d", "remove", "remove"))
        else:
            doable = [("Enter", "fetch", "choose")]
        always = [("/", "find", "find"), ("o", "directory…", "directory"), ("Esc", "back", "back")]
        return [*doable, *always]

    # What a person does

    @on(Input.Changed)
    def filter(self) -> None:
        self._asked, self._said = None, ""
        self._build()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def action_choose(self) -> None:
        """Use, fetch, unfold or look up what is pointed at; a second time is the consent."""
        row = self._pointed
        if self._asked is not None:
            self._consent(*self._asked)
        elif row is not None:
            self._choose(row)
        elif self._pointed_id == FOLD:
            self._unfolded = True
            self._build(next(iter(row_id for row_id in self._hidden_ids()), None))
        elif self._pointed_id == LOOK:
            text = self._input.value.strip()
            self._board.later(lambda: self._board.shelf.find(text), self._take_found)

    def _hidden_ids(self) -> Iterable[str]:
        return (str(row.path) for row in self._rows if str(row.path) not in self._shown)

    def _choose(self, row: ModelRow) -> None:
        shelf = self._board.shelf
        if (pull := self._board.get(row.name)) is not None:
            if pull.phase in ("paused", "failed"):
                self._board.start(row)
        elif not row.installed:
            self._board.later(
                lambda: shelf.announcement(row), lambda said: self._ask("fetch", row, said)
            )
        elif self._is_current(row):
            self.dismiss(None)
        elif row.trouble:
            self._say(f"{row.name} cannot be used: {row.trouble}")
        elif row.chats is False:
            self._say(
                f"{row.name} has no chat template: it completes text, it does not chat.\n"
                f"`mobilellm generate --model {row.name}` runs it."
            )
        else:
            self._board.later(lambda: shelf.memory(row), lambda found: self._use(row, found))

    def _use(self, row: ModelRow, memory: Memory | Exception | None) -> None:
        """Leave with the choice, unless it would not fit."""
        if not self.is_running:
            return
        if isinstance(memory, Exception):
            self._say(Problem.of(memory))
        elif memory is not None and not (freed := self._freed(memory)).fits:
            self._say(
                f"{row.name} is not loaded: it needs {freed.arithmetic}.\n"
                "Close other programs, choose a smaller model, or start again with a shorter "
                "context, as in `mobilellm --context 2048`."
            )
        else:
            self.dismiss(ModelChoice(row.name, row.path))

    def _ask(self, what: str, row: ModelRow, said: str | Exception) -> None:
        """Say what would happen, and wait for a second Enter."""
        if not self.is_running or self._pointed_id != str(row.path):
            return
        if isinstance(said, Exception):
            self._say(Problem.of(said))
            return
        self._list.focus()  # the line that finds may make room for the question
        self._asked = (what, row.path, self._board.clock())
        self._say(said)

    def _consent(self, what: str, path: Path, asked_at: float) -> None:
        row = self._shown.get(str(path))
        if row is None or self._board.clock() - asked_at < CONSENT_AFTER_S:
            return
        self._asked, self._said = None, ""
        if what == "fetch":
            self._board.start(row)
        else:
            self._board.later(
                lambda: self._board.shelf.remove(row), lambda freed: self._removed(row, freed)
            )

    def _removed(self, row: ModelRow, freed: int | Exception) -> None:
        self._board.verdicts.pop(row.path, None)
        if not self.is_running:
            return
        if isinstance(freed, Exception):
            self._say(Problem.of(freed))
            return
        self.notify(f"{printable(row.name)} removed, {format_bytes(freed)} freed", markup=False)
        self._load()

    def _take_found(self, found: ModelRow | Exception) -> None:
        if not self.is_running:
            return
        if isinstance(found, Exception):
            self._say(Problem.of(found))
            return
        self._found[found.path] = self._with_held(found)
        with self.prevent(Input.Changed):
            self._input.value = ""
        self._list.focus()
        self._build(str(found.path))

    def action_find(self) -> None:
        """Into the line that finds."""
        self._input.focus()

    def action_directory(self) -> None:
        """The same line, with the beginning of a path in it."""
        self._input.value = "~/"
        self._input.focus()
        self._input.action_end()

    def action_move(self, by: int) -> None:
        """Up and down from the line that finds."""
        if by > 0:
            self._list.action_cursor_down()
        else:
            self._list.action_cursor_up()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """By pages a question is read while there is one, and else the list."""
        return action != "read" or self._asked is not None

    def action_read(self, pages: int) -> None:
        """Read on in the question; the list may be hidden, where it cannot count its pages."""
        detail = self.query_one("#detail")
        (detail.scroll_page_down if pages > 0 else detail.scroll_page_up)(animate=False)

    def action_check(self) -> None:
        """Compare the files of what is pointed at with their hashes."""
        if (row := self._pointed) is not None and row.installed:
            self._asked, self._said = None, ""
            self._board.check(row)
            self._describe()

    def action_pause(self) -> None:
        """Pause the pull of what is pointed at, or go on with it."""
        row = self._pointed
        pull = self._board.get(row.name) if row is not None else None
        if pull is None:
            return
        if pull.phase in ("paused", "failed"):
            self._board.start(pull.row)
        else:
            self._board.pause(pull.row.name)

    def action_cancel(self) -> None:
        """Give up the pull of what is pointed at."""
        if (row := self._pointed) is not None:
            self._board.cancel(row.name)

    def action_remove(self) -> None:
        """Ask whether to remove what is pointed at, and say what that frees."""
        row = self._pointed
        if row is None or not row.installed:
            return
        if self._is_current(row):
            self._say(f"{row.name} is in use: change to another model first.")
        elif not row.removable:
            self._say(f"{row.path} is yours: remove it by hand if you want to.")
        else:
            size = format_bytes(row.bytes or 0)
            self._ask(
                "remove", row, f"Remove {row.name}? It frees {size}; it can be fetched again."
            )

    def action_back(self) -> None:
        """One step back: from a question, from the line that finds, from the screen."""
        if self._asked is not None:
            self._asked, self._said = None, ""
            self._describe()
        elif self._input.has_focus or self._input.value:
            self._input.value = ""
            self._list.focus()
        else:
            self.dismiss(None)


_HINTS = {
    FOLD: "Base models, for completing text and for fine-tuning. / finds one by its name.",
    LOOK: "A directory with a converted model, or org/name of the Hugging Face Hub.",
}


def _words(row: ModelRow) -> str:
    """What a filter looks at."""
    terms = "nc non-commercial" if row.non_commercial else row.licence or ""
    return f"{row.name} {row.title} {row.heading} {terms} {row.page} {row.path}".lower()
