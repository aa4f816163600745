"""The adapters there are: switching one on or off, trying, renaming and deleting one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.adapters import AdapterInfo
from mobilellm_mlx.errors import MobileLLMError, format_bytes

from ..completing import on_thread
from ..messages import Problem
from ..text import printable
from ..widgets.adapters import (
    AdapterList,
    AdapterRow,
    adapter_line,
    columns_line,
    describe_adapter,
    title_line,
)
from ..widgets.calls import brief
from ..widgets.models import actions_line, labelled
from .dialogs import AskLine, Confirm

EMPTY = (
    "There are no adapters yet. One is a small change of the model, learned from examples of "
    "yours; `mobilellm train lora DATA` makes it."
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a person chose to have on top of the model; None is nothing."""

    adapter: AdapterInfo | None


class Shelf(Protocol):
    """Where the adapters are. Errors are ``MobileLLMError``."""

    def rows(self) -> Sequence[AdapterRow]:
        """All of them, as they stand to the model in memory. Called on a thread."""

    def rename(self, name: str, new: str) -> None:
        """Call one something else."""

    def remove(self, name: str) -> None:
        """Take one away."""


class AdaptersScreen(ModalScreen[Chosen | None]):
    """Every adapter with what is known of it; dismissed with what to switch to, or None.

    Args:
        shelf: has them.
        try_it: shows what one changes; None where nothing can be tried now.
    """

    CSS_PATH = "adapters.tcss"
    AUTO_FOCUS = "AdapterList"
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (20, "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "try", "Try it", id="adapters.try", tooltip="Ask with and without it"),
        Binding("i", "details", "Details", id="adapters.details", tooltip="All that is known"),
        Binding("r", "rename", "Rename", id="adapters.rename", tooltip="Give it another name"),
        Binding("d,delete", "remove", "Delete", id="adapters.remove", tooltip="Delete it"),
        Binding("escape,q", "back", "Back", id="adapters.close", tooltip="Back", show=False),
        Binding("pageup", "scroll(-1)", "Up", id="adapters.up", priority=True, show=False),
        Binding("pagedown", "scroll(1)", "Down", id="adapters.down", priority=True, show=False),
    ]

    def __init__(self, shelf: Shelf, try_it: Callable[[AdapterInfo], object] | None = None) -> None:
        super().__init__()
        self._shelf = shelf
        self._try_it = try_it
        self._rows: list[AdapterRow] = []
        self._is_loaded = False
        self._said = ""
        self._said_of: str | None = None
        """The adapter that was pointed at then."""
        self._list = AdapterList(compact=True, markup=False)
        self._columns = Static("", id="adapter-columns", markup=False)
        self._title = Static("", id="adapter-name", markup=False)
        self._about = Static("", id="adapter-about", markup=False)
        self._actions = Static("", id="adapter-actions", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(id="adapters") as box:
            box.border_title = "Adapters"
            yield self._columns
            yield self._list
            with VerticalScroll(id="adapter-detail", can_focus=False):
                yield self._title
                yield self._about
            yield self._actions

    def on_mount(self) -> None:
        self._load()

    def on_resize(self) -> None:
        self.call_after_refresh(self._build)

    # ---------------------------------------------------------------- what there is

    def _load(self, point_at: str | None = None) -> None:
        self.run_worker(self._read(point_at), exclusive=True)

    async def _read(self, point_at: str | None) -> None:
        """Look on a thread: the first time, large files may have to be compared."""
        try:
            self._rows = sorted(
                await asyncio.wrap_future(on_thread(self._shelf.rows)),
                key=lambda row: row.is_elsewhere,
            )
        except (MobileLLMError, OSError) as error:
            self._say(error)
        self._is_loaded = True
        self._build(point_at)

    def _build(self, point_at: str | None = None) -> None:
        """Draw the list anew, with the same adapter pointed at."""
        before = point_at or self._pointed_id or self._current_id
        width = max(10, self._list.size.width - 1)  # the scrollbar comes and goes
        self._columns.update(columns_line(width) if self._rows else "")
        options: list[Option] = []
        for row in self._rows:
            if row.is_elsewhere and not any(option.disabled for option in options):
                options.append(Option("Not for this model", disabled=True))
            options.append(Option(adapter_line(row, width), id=row.info.name))
        self._list.set_options(options)
        ids = [option.id for option in options]
        first = next((at for at, option in enumerate(options) if not option.disabled), None)
        self._list.highlighted = ids.index(before) if before in ids and before else first
        count, size = len(self._rows), sum(row.info.bytes for row in self._rows)
        named = "adapter" if count == 1 else "adapters"
        told = f"{count} {named}, {format_bytes(size)}" if count else ""
        self.query_one("#adapters").border_subtitle = told
        self._describe()

    @property
    def _current_id(self) -> str | None:
        return next((row.info.name for row in self._rows if row.is_on), None)

    @property
    def _pointed_id(self) -> str | None:
        option = self._list.highlighted_option
        return option.id if option is not None else None

    @property
    def _pointed(self) -> AdapterRow | None:
        wanted = self._pointed_id
        return next((row for row in self._rows if row.info.name == wanted), None)

    # ---------------------------------------------------------------- what is said of it

    @on(OptionList.OptionHighlighted)
    def point(self) -> None:
        if self._pointed_id != self._said_of:
            self._said = ""
        self._describe()
        self.query_one("#adapter-detail").scroll_home(animate=False)

    def _say(self, problem: Exception | str) -> None:
        if isinstance(problem, Exception):
            told = Problem.of(problem)
            problem = f"{told.text}\n{told.hint}" if told.hint else told.text
        self._said, self._said_of = printable(problem), self._pointed_id
        self._describe()

    def _describe(self) -> None:
        row = self._pointed
        self._actions.update(actions_line(self._doable(row), max(10, self._list.size.width - 1)))
        detail = self.query_one("#adapter-detail")
        width = max(10, detail.scrollable_content_region.width)
        said = [("", line) for line in self._said.splitlines()]
        if row is None:
            self._title.update("")
            waiting = EMPTY if self._is_loaded else "Looking what is here ..."
            self._about.update(labelled(said or [("", waiting)], width))
            return
        self._title.update(title_line(row))
        self._about.update(labelled(said or describe_adapter(row), width))

    def _doable(self, row: AdapterRow | None) -> list[tuple[str, str, str]]:
        """Keys, words and actions that make sense now, the most useful first."""
        doable = []
        if row is not None and not row.obstacle:
            doable.append(("Enter", f"switch {'off' if row.is_on else 'on'}", "switch"))
            if self._try_it is not None:
                doable.append(("t", "try it", "try"))
        if row is not None:
            is_open = self.has_class("-open")
            doable.append(("i", "the list" if is_open else "details", "details"))
            if not (row.info.shipped or row.is_on):
                renaming = [] if row.damage else [("r", "rename", "rename")]
                doable += [*renaming, ("d", "delete", "remove")]
        return [*doable, ("Esc", "back", "back")]

    # ---------------------------------------------------------------- what a person does

    @on(OptionList.OptionSelected)
    def action_switch(self) -> None:
        """Switch the adapter that is pointed at on or off, and go back to the chat."""
        if (row := self._pointed) is None:
            return
        if row.damage or row.obstacle:
            self._say(_refusal(row))
        else:
            self.dismiss(Chosen(None if row.is_on else row.info))

    def action_try(self) -> None:
        """Show what it changes."""
        if (row := self._pointed) is None or self._try_it is None:
            return
        if row.obstacle:
            self._say(_refusal(row))
        else:
            self._try_it(row.info)

    def action_details(self) -> None:
        """Give what is known of it all the room, or the list some of it again."""
        self.toggle_class("-open")
        self.call_after_refresh(self._describe)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While there is a list, it has the keys that turn pages."""
        return action != "scroll" or self.has_class("-open")

    def action_scroll(self, pages: int) -> None:
        """Read on below."""
        detail = self.query_one("#adapter-detail")
        (detail.scroll_page_down if pages > 0 else detail.scroll_page_up)(animate=False)

    def action_rename(self) -> None:
        """Ask for another name."""
        if (row := self._mine) is None:
            return
        name = row.info.name

        def rename(new: str | None) -> None:
            if new and new != name:
                self._change(lambda: self._shelf.rename(name, new), new)

        self.app.push_screen(AskLine(f"Name for {brief(name)}", name, yes="Rename"), rename)

    def action_remove(self) -> None:
        """Ask whether it may go."""
        if (row := self._mine) is None:
            return
        name = row.info.name

        def remove(agreed: bool | None) -> None:
            if agreed:
                self._change(lambda: self._shelf.remove(name))

        size = f" ({format_bytes(row.info.bytes)})" if row.info.bytes else ""
        detail = f"Its files{size} are gone then. Chats that were held with it stay."
        self.app.push_screen(Confirm(f"Delete the adapter {brief(name)}?", detail), remove)

    @property
    def _mine(self) -> AdapterRow | None:
        """What is pointed at, if it may be changed; if not, that is said."""
        row = self._pointed
        if row is None:
            return None
        name = brief(row.info.name)
        if row.info.shipped:
            self._say(f"{name} came with this program and stays as it is.")
        elif row.is_on:
            self._say(f"{name} is on: switch it off first.")
        else:
            return row
        return None

    def _change(self, work: Callable[[], None], point_at: str | None = None) -> None:
        try:
            work()
        except MobileLLMError as error:
            self._say(error)
        else:
            self._load(point_at)

    def action_back(self) -> None:
        """To the list, or to the chat."""
        if self.has_class("-open"):
            self.action_details()
        else:
            self.dismiss(None)


def _refusal(row: AdapterRow) -> str:
    name = brief(row.info.name)
    if row.damage:
        return f"{name} cannot be read: {row.damage}"
    if row.is_elsewhere:
        return (
            f"{name} stays off. `mobilellm chat --adapter {name} --force-adapter` tries it "
            "nevertheless; what comes of that may be nonsense."
        )
    return f"{name} stays off: {row.obstacle}."
