"""The chats by day, beside the conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.chat.records import ChatRecord

from ..text import printable
from .line import Line
from .word import Word

CURRENT = "▌"
PINNED = "◆ "
LOW = 16
"""Rows below which no row is spent on air."""
LONGEST_TITLE = 300
"""More of a title is never drawn, whoever wrote it."""


def one_line(text: str) -> str:
    """``text`` as it can stand in a list: nothing that steers the terminal, no line breaks."""
    return " ".join(printable(text).split())


def title_of(chat: ChatRecord) -> str:
    """What to call a chat; none is nameless."""
    return one_line(chat.title[:LONGEST_TITLE]) or "Untitled"


def local(moment: datetime) -> datetime:
    """A moment on the clock of this machine; one outside of what that can tell stays as it is."""
    try:
        return moment.astimezone()
    except (OverflowError, ValueError, OSError):
        return moment


def group_of(chat: ChatRecord, today: date) -> str:
    """The heading under which a chat is listed. Weeks begin on Monday."""
    if chat.pinned:
        return "Pinned"
    day = local(chat.updated_at).date()
    if day >= today:  # a clock that was ahead is no reason for a heading of its own
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    if day >= today - timedelta(days=today.weekday()):
        return "This week"
    return f"{day:%B} {day.year}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list: a chat, or without an id a heading or a gap."""

    text: str
    chat_id: str = ""
    pinned: bool = False
    current: bool = False

    @property
    def key(self) -> str:
        """What makes it this row, however it is drawn."""
        return self.chat_id or self.text

    @property
    def content(self) -> Content:
        """The line; being current and being pinned are shapes, not colours."""
        if not self.chat_id:
            return Content(f" {self.text}")
        mark = CURRENT if self.current else " "
        return Content(f"{mark}{PINNED if self.pinned else ''}{self.text}")


def iter_rows(chats: Sequence[ChatRecord], current: str | None, today: date) -> Iterator[Row]:
    """Chats under their headings, in the order given, the pinned ones first."""
    heading = ""
    for chat in sorted(chats, key=lambda chat: not chat.pinned):
        if (group := group_of(chat, today)) != heading:
            if heading:
                yield Row("")
            yield Row(group)
            heading = group
        yield Row(title_of(chat), chat.id, chat.pinned, chat.id == current)


class ChatList(OptionList):
    """The rows, each one line high, so that an option's index is its line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="sidebar.open", show=False, tooltip="Open the chat"),
    ]

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._rows: list[Row] = []

    @property
    def chosen(self) -> Row | None:
        """The highlighted chat."""
        return None if self.highlighted is None else self._rows[self.highlighted]

    def draw(self, rows: list[Row], follow: str | None = None) -> None:
        """Show ``rows``. What the eye rests on keeps its place on the screen.

        Args:
            rows: all of them.
            follow: id of a chat to highlight instead of the one that is.
        """
        old, self._rows = self._rows, rows
        if [row.key for row in old] == [row.key for row in rows]:
            for index, row in enumerate(rows):
                if row != old[index]:
                    self.replace_option_prompt_at_index(index, row.content)
        else:
            self._rebuild(old)
        if follow is not None and (followed := self._index(follow)) is not None:
            self.highlighted = followed

    def _rebuild(self, old: list[Row]) -> None:
        at, top = self.highlighted, self.scroll_offset.y
        bottom = top + max(1, self.scrollable_content_region.height)
        # The highlighted row if it can be seen, or else the first one that can.
        seen = ([] if at is None else [at]) + list(range(top, bottom))
        eye = next((i for i in seen if top <= i < min(bottom, len(old)) and old[i].chat_id), None)
        with self.prevent(OptionList.OptionHighlighted):
            self.set_options(
                Option(row.content, id=row.chat_id or None, disabled=not row.chat_id)
                for row in self._rows
            )
            self.highlighted = self._nearest(None if at is None else old[at].chat_id, at)
        if eye is not None:
            # The chat that stood at `eye`, or if it is gone, whatever stands there now.
            now = self._index(old[eye].chat_id)
            line = top + (now - eye if now is not None else 0)
            self.scroll_to(y=max(0, line), animate=False, immediate=True, force=True)

    def _index(self, chat_id: str) -> int | None:
        return next((i for i, row in enumerate(self._rows) if row.chat_id == chat_id), None)

    def _nearest(self, chat_id: str | None, at: int | None) -> int | None:
        """The row of ``chat_id``; without it, the chat closest to where it was."""
        if chat_id and (found := self._index(chat_id)) is not None:
            return found
        chats = [index for index, row in enumerate(self._rows) if row.chat_id]
        return min(chats, key=lambda index: abs(index - (at or 0)), default=None)

    def scroll_to_highlight(self, top: bool = False) -> None:
        """Keep the highlighted row in view, the first one together with its heading."""
        super().scroll_to_highlight(top)
        if self.highlighted == 1:
            self.scroll_to(y=0, animate=False, immediate=True, force=True)


class Sidebar(Vertical):
    """All chats; says what the person wants with one and does nothing to it itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "rename", "Rename", id="sidebar.rename", tooltip="Rename the chat"),
        Binding("p", "pin", "Pin", id="sidebar.pin", tooltip="Pin the chat, or unpin it"),
        Binding("d,delete", "delete", "Delete", id="sidebar.delete", tooltip="Delete the chat"),
        Binding("n", "new", "New chat", id="sidebar.new", tooltip="Start a new chat"),
        Binding("slash", "filter", "Filter", id="sidebar.filter", tooltip="Filter by title"),
        Binding("down", "to_list", "List", id="sidebar.list", show=False),
        Binding("escape", "leave", "Back", id="sidebar.leave", tooltip="Back to the prompt"),
    ]

    class Asked(Message):
        """The person wants something with a chat."""

        def __init__(self, chat_id: str) -> None:
            super().__init__()
            self.chat_id = chat_id

    class Chosen(Asked):
        """Open it."""

    class RenameAsked(Asked):
        """Give it another title."""

    class PinAsked(Asked):
        """Pin it, or unpin it if it is pinned."""

    class DeleteAsked(Asked):
        """Delete it."""

    class NewAsked(Message):
        """Begin a new chat."""

    class Left(Message):
        """Nothing more here: the keys belong to the prompt again."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._chats: Sequence[ChatRecord] = ()
        self._current: str | None = None
        self._today = date.today()
        self._list = ChatList()
        self._filter = Line(placeholder="filter by title")
        self._note = Static(markup=False, classes="note")

    def compose(self) -> ComposeResult:
        with Horizontal(classes="head"):
            yield Static("Chats", classes="name")
            yield Word("filter", id="sidebar-filter", binding="sidebar.filter")
            yield Word("new", id="sidebar-new", binding="sidebar.new")
        yield self._filter
        yield self._note
        yield self._list
        with Horizontal(classes="foot"):
            yield Word("rename", id="sidebar-rename", binding="sidebar.rename")
            yield Word("pin", id="sidebar-pin", binding="sidebar.pin")
            yield Word("delete", id="sidebar-delete", binding="sidebar.delete")

    def on_mount(self) -> None:
        # Not `on_resize`: what takes the focus as it is shown may never hear of its size.
        self.screen.screen_layout_refresh_signal.subscribe(self, lambda _: self._fit())
        self._draw()

    def _fit(self) -> None:
        if self.size:
            self.set_class(self.size.height < LOW, "-low")

    def show(self, chats: Sequence[ChatRecord], current: str | None, today: date) -> None:
        """Draw the chats; cheap when little has changed, and nothing jumps.

        Args:
            chats: newest first.
            current: id of the chat that is open.
            today: where the person is.
        """
        listed = any(chat.id == current for chat in self._chats)
        moved = (current != self._current or not listed) and not self._list.has_focus
        self._chats, self._current, self._today = chats, current, today
        self._draw(follow=current if moved else None)

    def take_focus(self) -> None:
        """Give the keys to the list."""
        self._list.focus(scroll_visible=False)

    def _draw(self, follow: str | None = None) -> None:
        words = self._filter.value.casefold().split()
        found = [c for c in self._chats if all(w in title_of(c).casefold() for w in words)]
        self._list.draw(list(iter_rows(found, self._current, self._today)), follow)
        if not self._chats:
            self._note.update("No chats yet. The one you begin appears here.")
        elif not found:
            self._note.update("No title has that. A search looks inside the chats, too.")
        self._note.display = not found
        self._name_actions()

    def _name_actions(self) -> None:
        if self.is_mounted:
            chosen = self._list.chosen
            pinned = chosen is not None and chosen.pinned
            self.query_one("#sidebar-pin", Word).say("unpin" if pinned else "pin")
            # Whoever clicks a word must see which chat it is about.
            is_seen = chosen is not None and (self._list.has_focus or chosen.current)
            self.query_one(".foot").set_class(not is_seen, "-idle")

    @on(events.DescendantFocus)
    @on(events.DescendantBlur)
    def follow_focus(self) -> None:
        self._name_actions()

    # ---------------------------------------------------------------- what the person does

    def action_filter(self) -> None:
        """Open the line that narrows the list; a second time, go back into it."""
        self.add_class("-filtering")
        self._filter.focus(scroll_visible=False)

    def action_to_list(self) -> None:
        """From the filter into what it found."""
        if self._list.chosen:
            self.take_focus()

    def action_leave(self) -> None:
        """From the filter back to all chats, from there to the prompt."""
        if not self._filter.has_focus:
            self.post_message(self.Left())
        self._end_filter()

    def action_new(self) -> None:
        self.post_message(self.NewAsked())

    def action_rename(self) -> None:
        self._ask(self.RenameAsked)

    def action_pin(self) -> None:
        self._ask(self.PinAsked)

    def action_delete(self) -> None:
        self._ask(self.DeleteAsked)

    def _ask(self, kind: type[Asked]) -> None:
        if chosen := self._list.chosen:
            self.post_message(kind(chosen.chat_id))

    def _end_filter(self) -> None:
        if self._filter.has_focus:
            self.take_focus()
        self.remove_class("-filtering")
        self._filter.clear()

    @on(Input.Changed)
    def narrow(self, event: Input.Changed) -> None:
        event.stop()
        self._draw()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def choose(self, event: Message) -> None:
        event.stop()
        if self._list.chosen:
            self._ask(self.Chosen)
            self._end_filter()

    @on(OptionList.OptionHighlighted)
    def follow_highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._name_actions()

    @on(Word.Clicked)
    async def obey(self, event: Word.Clicked) -> None:
        event.stop()
        await self.run_action((event.word.id or "").removeprefix("sidebar-"))
