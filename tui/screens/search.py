"""Finding a chat again: the recent ones, and what was said in all of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.chat.records import ChatRecord, SearchHit
from mobilellm_mlx.messages import Role

from ..messages import Problem
from ..text import printable
from ..widgets.line import Line
from ..widgets.sidebar import LOW, PINNED, local, one_line, title_of
from ..widgets.word import Word

Search = Callable[[str], Sequence[SearchHit]]

PAUSE_S = 0.12
"""Typing that goes on for longer than this is not yet a question."""
LOOKS_PER_S = 25
SLOW_S = 0.3
"""A search that takes longer says so; a word that flashes by would only disturb."""
LONGEST_CUT = 10
"""Cells that may be given up so that an excerpt begins with a whole word."""
SPEAKERS: dict[Role, str] = {"user": "you", "assistant": "model"}


def format_when(moment: datetime, today: date) -> str:
    """A moment as short as it stays clear: ``14:02``, ``Tue 14:02``, ``3 Mar``, ``3 Mar 2024``."""
    when = local(moment)
    day = when.date()
    if day == today:
        return f"{when:%H:%M}"
    if today - timedelta(days=7) < day < today:
        return f"{when:%a %H:%M}"
    return f"{day.day} {day:%b}" if day.year == today.year else f"{day.day} {day:%b} {day.year}"


# ------------------------------------------------------------------- rows


def _justify(begin: Content, end: str, width: int) -> Content:
    """``begin`` cut to leave room for ``end`` at the right edge."""
    room = max(1, width - len(end) - 2)
    gap = Content("  ")
    return begin.truncate(room, ellipsis=True, pad=True) + gap + Content.styled(end, "dim")


def _pieces(hit: SearchHit) -> Iterator[tuple[str, bool]]:
    """The excerpt in pieces, and whether each was looked for; marks need not make sense."""
    text, at = hit.excerpt, 0
    for start, end in sorted(hit.marks):
        start, end = max(start, at), min(end, len(text))
        if start < end:
            yield text[at:start], False
            yield text[start:end], True
            at = end
    yield text[at:], False


def mark_finds(hit: SearchHit, width: int) -> Content:
    """The excerpt on one line of at most ``width`` cells, the first find well inside of it."""
    pieces = [(printable(text).replace("\n", " "), found) for text, found in _pieces(hit)]
    before, rest = (pieces[0][0], pieces[1:]) if len(pieces) > 1 else ("", pieces)
    lead = before[-width:]
    while Content(lead).cell_length > width // 2:  # what comes after a find explains it as well
        lead = lead[1:]
    if len(lead) < len(before):
        begun, blank, whole = lead[1:].partition(" ")  # a word cut in two reads badly
        is_word = blank and Content(begun).cell_length <= LONGEST_CUT
        lead = f"…{whole if is_word else lead[1:]}"
    styled = [(text, "bold underline" if found else "dim") for text, found in rest]
    return Content.assemble((lead, "dim"), *styled).truncate(width, ellipsis=True)


def _is_title(hit: SearchHit) -> bool:
    """Whether the words stand in the chat's title: the store names its newest message then."""
    is_newest = hit.message_id in ("", hit.chat.leaf_id)
    return is_newest and hit.role == "user" and one_line(hit.excerpt) in one_line(hit.chat.title)


def draw_result(result: SearchHit | ChatRecord, width: int, today: date) -> Content:
    """One line for a chat; for a find a second one with who said what."""
    chat = result.chat if isinstance(result, SearchHit) else result
    title = f"{PINNED if chat.pinned else ''}{title_of(chat)}"
    if isinstance(result, ChatRecord):
        return _justify(Content(title), format_when(result.updated_at, today), width)
    head = _justify(Content(title), format_when(result.created_at, today), width)
    speaker = "title" if _is_title(result) else SPEAKERS.get(result.role, result.role)
    said = mark_finds(result, max(1, width - len(speaker) - 4))
    return Content.assemble(head, "\n", (f"  {speaker}: ", "dim"), said)


class ResultList(OptionList, can_focus=False):
    """What was found. The keys stay with the line above, so that one can go on typing."""

    def __init__(self, today: date) -> None:
        super().__init__(markup=False, compact=True)
        self._today = today
        self._results: Sequence[SearchHit | ChatRecord] = ()
        self._drawn = 0

    @property
    def chosen(self) -> SearchHit | ChatRecord | None:
        """The highlighted one."""
        return None if self.highlighted is None else self._results[self.highlighted]

    def show(self, results: Sequence[SearchHit | ChatRecord]) -> None:
        """Replace all; the first one is highlighted."""
        self._results = results
        self._draw(0)

    def on_mount(self) -> None:
        self.screen.screen_layout_refresh_signal.subscribe(self, lambda _: self._fit())

    def _fit(self) -> None:
        if self.scrollable_content_region.width != self._drawn:
            self._draw(self.highlighted or 0)

    def _draw(self, highlight: int) -> None:
        self._drawn = self.scrollable_content_region.width
        width = max(12, self._drawn - 2)  # a column of air on both sides
        options = (Option(draw_result(result, width, self._today)) for result in self._results)
        self.set_options(options)
        self.highlighted = highlight if self._results else None


# ------------------------------------------------------------------- looking


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave."""

    query: str
    hits: Sequence[SearchHit] = ()
    problem: Problem | None = None


class Searcher:
    """Runs one search at a time; of what is asked meanwhile, only the newest is looked for.

    The thread is a daemon that only fills a box, for the same reasons as the one of ``Bridge``.

    Args:
        search: may be slow, and may fail.
    """

    def __init__(self, search: Search):
        self._search = search
        self._wanted: str | None = None
        self._is_running = False
        self._box: deque[Found] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether there is an answer to wait for."""
        return self._is_running

    def ask(self, query: str | None) -> None:
        """Look for ``query``, as soon as a running search is done; None wants nothing any more."""
        self._wanted = query
        if query is not None and not self._is_running:
            self._is_running = True
            threading.Thread(
                target=self._run, args=(query,), name="mobilellm-search", daemon=True
            ).start()

    def collect(self) -> Found | None:
        """What was found, if it is still wanted."""
        if not self._box:
            return None
        found = self._box.popleft()
        self._is_running = False
        if found.query == self._wanted:
            return found
        self.ask(self._wanted)
        return None

    def _run(self, query: str) -> None:
        try:
            self._box.append(Found(query, list(self._search(query))))
        except Exception as error:
            self._box.append(Found(query, problem=Problem.of(error)))


# ------------------------------------------------------------------- the screen


class SearchScreen(ModalScreen[SearchHit | ChatRecord | None]):
    """Type to search all chats; nothing typed lists the recent ones, the newest first.

    Gives the find or the chat to open, or None.

    Args:
        search: what to look with; called on a thread of its own.
        recent: chats to offer before anything is typed.
        query: to begin with.
        today: the day of the person; None asks the machine.
    """

    CSS_PATH = "search.tcss"
    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move('cursor_up')", "Up", id="search.up", tooltip="The result above"),
        Binding(
            "down", "move('cursor_down')", "Down", id="search.down", tooltip="The result below"
        ),
        Binding("pageup", "move('page_up')", "Page up", id="search.page_up", tooltip="A page up"),
        Binding(
            "pagedown",
            "move('page_down')",
            "Page down",
            id="search.page_down",
            tooltip="A page down",
        ),
        Binding("escape", "close", "Close", id="search.close", tooltip="Close the search"),
    ]

    def __init__(
        self,
        search: Search,
        recent: Sequence[ChatRecord],
        *,
        query: str = "",
        today: date | None = None,
    ) -> None:
        super().__init__()
        self._recent = recent
        self._query = query
        self._searcher = Searcher(search)
        self._asked = ""
        """The query in the line above; what is shown may be older."""
        self._shown = ""
        self._opens_first = False
        """Enter came before the search was done."""
        self._since = 0.0
        self._input = Line(placeholder="Search what was said in all chats")
        self._count = Static(markup=False, id="search-count")
        self._list = ResultList(today or date.today())

    def compose(self) -> ComposeResult:
        with Vertical(id="search") as box:
            box.border_title = "Search"
            box.border_subtitle = "Enter opens"
            yield self._input
            with Horizontal(id="search-line"):
                yield self._count
                yield Word("close", id="search-close", binding="search.close")
            yield self._list

    def on_mount(self) -> None:
        self._pause = self.set_timer(PAUSE_S, self._ask, pause=True)
        self._looks = self.set_interval(1 / LOOKS_PER_S, self._look, pause=True)
        self._show_recent()
        if self._query:
            self._input.value = self._query  # which asks for it, as typing does

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < LOW, "-low")

    # ---------------------------------------------------------------- what the person does

    @on(Input.Changed)
    def wait_for_pause(self, event: Input.Changed) -> None:
        """Search when the typing rests; an empty line needs no search."""
        self._asked = " ".join(printable(event.value).split())
        self._opens_first = False
        self._pause.stop()
        self._searcher.ask(None)
        if self._asked:
            self._pause = self.set_timer(PAUSE_S, self._ask)
        else:
            self._show_recent()

    @on(Input.Submitted)
    def open_highlighted(self) -> None:
        """Open what is highlighted, unless that answers an older question."""
        if self._shown != self._asked:
            self._opens_first = True
        elif chosen := self._list.chosen:
            self.dismiss(chosen)

    @on(OptionList.OptionSelected)
    def open_clicked(self) -> None:
        self.dismiss(self._list.chosen)

    @on(Word.Clicked)
    def obey(self) -> None:
        self.action_close()

    def on_click(self, event: events.Click) -> None:
        """A click beside the window closes it."""
        if event.widget is self:
            self.action_close()

    async def action_move(self, how: str) -> None:
        """Move through the results, from the line above them."""
        await self._list.run_action(how)

    def action_close(self) -> None:
        """Leave without opening anything."""
        self.dismiss(None)

    # ---------------------------------------------------------------- what was found

    def _ask(self) -> None:
        self._searcher.ask(self._asked)
        self._since = time.monotonic()
        self._looks.resume()

    def _look(self) -> None:
        found = self._searcher.collect()
        if found is not None:
            self._show(found)
        if not self._searcher.is_waiting:
            self._looks.pause()
        elif self._asked and time.monotonic() - self._since > SLOW_S:
            self._count.update("Searching…")

    def _show_recent(self) -> None:
        self._shown = ""
        self._list.show(self._recent)
        self._count.update("Recent chats" if self._recent else "No chats yet.")

    def _show(self, found: Found) -> None:
        self._shown = found.query
        self._list.show(found.hits)
        self._count.update(describe(found))
        if self._opens_first and found.hits:
            self.dismiss(found.hits[0])
        self._opens_first = False


def describe(found: Found) -> Content:
    """How much was found, or why nothing was."""
    if problem := found.problem:
        said = Content.assemble(("error: ", "bold"), printable(problem.text))
        hint = Content.assemble("\n", ("hint: ", "bold"), printable(problem.hint or ""))
        return said + hint if problem.hint else said
    if not found.hits:
        return Content("Nothing was said that has all of these words.")
    finds, chats = len(found.hits), len({hit.chat.id for hit in found.hits})
    return Content(
        f"{finds} {'find' if finds == 1 else 'finds'} in "
        f"{chats} {'chat' if chats == 1 else 'chats'}"
    )
