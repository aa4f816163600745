"""Searching all chats: what a find looks like, and a search that is slow or fails."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from mobilellm_mlx.chat.records import ChatRecord, SearchHit
from mobilellm_mlx.errors import StorageError
from tui.screens.search import Searcher, SearchScreen, draw_result, format_when, mark_finds
from tui.themes import DARK

TODAY = date(2026, 11, 19)  # a Thursday
NOON = datetime(2026, 11, 19, 12, 0, tzinfo=UTC)
PATIENCE_S = 5.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that lives by UTC, whatever this one does."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def make_chat(name: str, days_ago: float = 0, **fields: Any) -> ChatRecord:
    said = NOON - timedelta(days=days_ago)
    return ChatRecord(
        **{"id": name, "created_at": said, "updated_at": said, "title": name} | fields
    )


def make_hit(word: str, excerpt: str, chat: ChatRecord | None = None, **fields: Any) -> SearchHit:
    """A find of ``word``, marked wherever it stands in the excerpt."""
    at, marks = 0, []
    while (start := excerpt.find(word, at)) >= 0:
        at = start + len(word)
        marks.append((start, at))
    chat = chat or make_chat("a chat")
    hit = SearchHit(chat, f"{chat.id}-1", "user", chat.updated_at, excerpt, tuple(marks))
    return replace(hit, **fields)


RECENT = [make_chat("first"), make_chat("second", 1, pinned=True), make_chat("[b]third[/b]", 9)]


class Library:
    """A search that can be held up, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def search(self, query: str) -> list[SearchHit]:
        self.asked.append(query)
        self.may_answer.wait(PATIENCE_S)
        if query == "broken":
            raise StorageError("the history is [locked]", hint="close the other program")
        if query == "bug":
            raise ZeroDivisionError("by zero")
        words = ["one", "two", "three"]
        return [make_hit(query, f"{word} {query} {word}", make_chat(word)) for word in words]


class Desk:
    """The search screen on an otherwise empty app."""

    def __init__(self, pilot: Pilot[None], screen: SearchScreen, answers: list[Any]) -> None:
        self.pilot = pilot
        self.press = pilot.press
        self.screen = screen
        self.answers = answers

    def text(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(part.text for part in strip) for strip in strips)

    async def until(self, predicate: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE_S / 0.01)):
            if predicate():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"still not so\n{self.text()}")

    async def sees(self, *texts: str) -> None:
        await self.until(lambda: all(text in self.text() for text in texts))


@asynccontextmanager
async def desk(
    library: Library, recent: Sequence[ChatRecord] = RECENT, query: str = ""
) -> AsyncIterator[Desk]:
    app: App[None] = App()
    app.register_theme(DARK)
    app.theme = DARK.name
    async with app.run_test(size=(80, 24)) as pilot:
        answers: list[Any] = []
        screen = SearchScreen(library.search, recent, query=query, today=TODAY)
        app.push_screen(screen, answers.append)
        await pilot.pause()
        yield Desk(pilot, screen, answers)
        library.may_answer.set()


# --------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 11, 19, 0, 5, tzinfo=UTC), "00:05"),
        (datetime(2026, 11, 17, 14, 2, tzinfo=UTC), "Tue 14:02"),
        (datetime(2026, 11, 13, 14, 2, tzinfo=UTC), "Fri 14:02"),
        (datetime(2026, 11, 12, 14, 2, tzinfo=UTC), "12 Nov"),
        (datetime(2026, 3, 3, 14, 2, tzinfo=UTC), "3 Mar"),
        (datetime(2025, 3, 3, 14, 2, tzinfo=UTC), "3 Mar 2025"),
        (datetime(2026, 11, 21, 14, 2, tzinfo=UTC), "21 Nov"),
    ],
)
def test_a_date_is_as_short_as_it_stays_clear(moment: datetime, words: str) -> None:
    assert format_when(moment, TODAY) == words


def test_found_words_are_bold_and_underlined_wherever_they_stand() -> None:
    line = mark_finds(make_hit("tea", "some tea and [b]tea[/b]"), 60)
    assert line.plain == "some tea and [b]tea[/b]"
    marked = [line.plain[s.start : s.end] for s in line.spans if s.style == "bold underline"]
    assert marked == ["tea", "tea"]


def test_a_find_at_the_end_of_a_long_excerpt_is_seen() -> None:
    line = mark_finds(make_hit("needle", f"{'straw ' * 50}needle in it"), 40)
    assert line.plain == "…straw straw straw needle in it"
    assert mark_finds(make_hit("针", f"{'草' * 50}针草草"), 21).plain == "…草草草草针草草"
    assert mark_finds(make_hit("tea", f"{'草' * 50} tea"), 40).plain == f"…{'草' * 8} tea"


@pytest.mark.parametrize(
    "marks", [((0, 2), (1, 3)), ((-5, 2),), ((2, 900),), ((3, 1),), ((5, 6), (0, 1)), ((99, 100),)]
)
def test_marks_that_make_no_sense_lose_no_text(marks: tuple[tuple[int, int], ...]) -> None:
    assert mark_finds(make_hit("x", "excerpt", marks=marks), 40).plain == "excerpt"


def test_control_characters_do_not_shift_the_marks() -> None:
    line = mark_finds(make_hit("tea", "\x1b[31m\u202esome\ntea\x07 here"), 40)
    assert line.plain == "[31msome tea here"
    assert [line.plain[s.start : s.end] for s in line.spans if "underline" in str(s.style)] == [
        "tea"
    ]


@pytest.mark.parametrize("width", [12, 20, 36, 94])
@pytest.mark.parametrize(
    "text",
    [
        "a title [b]of[/b] some length",
        "東京への旅行の計画を立てる三日間",
        "مرحبا كيف حالك اليوم يا صديقي",
        "👩‍👩‍👧‍👦 family " * 9,
    ],
)
def test_a_row_fits_its_width_in_any_script(text: str, width: int) -> None:
    hit = make_hit("tea", f"{text} tea {text}", make_chat("a", title=text, pinned=True))
    for row in (draw_result(hit, width, TODAY), draw_result(hit.chat, width, TODAY)):
        assert all(line.cell_length <= width for line in row.split("\n"))
        assert row.split("\n")[0].plain.endswith("12:00")


def test_words_in_a_title_are_not_said_to_be_the_persons() -> None:
    chat = make_chat("a", title="tea and cake", leaf_id="newest")
    in_title = make_hit("tea", "tea and cake", chat, message_id="newest")
    assert "title: tea and cake" in draw_result(in_title, 40, TODAY).plain
    in_message = replace(in_title, message_id="oldest")
    assert "you: tea and cake" in draw_result(in_message, 40, TODAY).plain


# --------------------------------------------------------------------- the screen


async def test_without_a_query_enter_opens_the_newest_chat() -> None:
    library = Library()
    async with desk(library) as at:
        await at.sees("Recent chats", "first", "◆ second", "Wed 12:00", "[b]third[/b]", "10 Nov")
        await at.press("enter")
        await at.until(lambda: at.answers)
        assert at.answers == [RECENT[0]]
        assert library.asked == []


async def test_typing_finds_and_the_arrows_move_without_leaving_the_line() -> None:
    async with desk(Library()) as at:
        await at.press(*"tea")
        await at.sees("3 finds in 3 chats", "you: one tea one", "you: three tea three")
        await at.press("down", "down", "up", *"s")
        await at.sees("two teas two")
        await at.press("down", "enter")
        await at.until(lambda: at.answers)
        assert at.answers[0].message_id == "two-1"


async def test_a_query_to_begin_with_is_looked_for_at_once() -> None:
    async with desk(Library(), query="tea") as at:
        await at.sees("3 finds in 3 chats", "you: one tea one")
        await at.press("backspace")
        await at.sees("you: one te one")


async def test_a_click_opens_a_find_and_a_click_beside_closes() -> None:
    async with desk(Library()) as at:
        await at.press(*"tea")
        await at.sees("two tea two")
        await at.pilot.click("ResultList", offset=(5, 3))
        await at.until(lambda: at.answers)
        assert at.answers[0].message_id == "two-1"
    async with desk(Library()) as at:
        await at.pilot.click(offset=(0, 0))
        await at.until(lambda: at.answers)
        assert at.answers == [None]


async def test_escape_and_its_word_close() -> None:
    async with desk(Library()) as at:
        await at.sees("Esc close")
        await at.pilot.click("#search-close")
        await at.until(lambda: at.answers)
        assert at.answers == [None]


async def test_emptying_the_line_brings_the_recent_chats_back() -> None:
    async with desk(Library()) as at:
        await at.press(*"tea")
        await at.sees("3 finds")
        await at.press("ctrl+u", "space")
        await at.sees("Recent chats", "second")


async def test_while_a_search_is_slow_typing_goes_on_and_only_the_latest_counts() -> None:
    library = Library()
    library.may_answer.clear()
    async with desk(library) as at:
        await at.press("a")
        await at.until(lambda: library.asked)
        await at.press(*"bc")
        await at.sees("abc", "Searching…", "first")
        await at.press("d")
        await at.pilot.pause(0.2)  # longer than the pause that begins a search
        library.may_answer.set()
        await at.sees("one abcd one")
        assert library.asked == ["a", "abcd"]


async def test_an_enter_before_the_search_is_done_opens_what_it_finds() -> None:
    library = Library()
    library.may_answer.clear()
    async with desk(library) as at:
        await at.press(*"tea", "enter")
        await at.until(lambda: library.asked)
        assert at.answers == [], "a recent chat is not what was asked for"
        library.may_answer.set()
        await at.until(lambda: at.answers)
        assert at.answers[0].excerpt == "one tea one"


async def test_going_back_to_an_older_query_shows_what_that_one_finds() -> None:
    library = Library()
    async with desk(library) as at:
        await at.press(*"tea")
        await at.sees("one tea one")
        library.may_answer.clear()
        await at.press("s")
        await at.until(lambda: "teas" in library.asked)
        await at.press("backspace")
        await at.sees("Searching…")
        library.may_answer.set()
        await at.sees("one tea one", "3 finds")
        assert library.asked == ["tea", "teas", "tea"]


async def test_a_search_that_was_given_up_shows_nothing() -> None:
    library = Library()
    library.may_answer.clear()
    async with desk(library) as at:
        await at.press("a")
        await at.until(lambda: library.asked)
        await at.press("backspace")
        library.may_answer.set()
        await at.until(lambda: not at.screen._searcher.is_waiting)
        await at.sees("Recent chats", "second")


async def test_leaving_does_not_wait_for_a_search() -> None:
    library = Library()
    library.may_answer.clear()
    began = time.monotonic()
    async with desk(library) as at:
        await at.press("a")
        await at.until(lambda: library.asked)
        await at.press("escape")
        await at.until(lambda: at.answers)
    assert time.monotonic() - began < PATIENCE_S - 1


async def test_a_search_that_fails_says_why_and_the_next_one_works() -> None:
    async with desk(Library()) as at:
        await at.press(*"broken")
        await at.sees("error: the history is [locked]", "hint: close the other program")
        at.screen._input.value = "bug"
        await at.sees("internal error: ZeroDivisionError: by zero")
        at.screen._input.value = "tea"
        await at.sees("3 finds")


async def test_nothing_found_is_said() -> None:
    library = Library()
    library.search = lambda query: []  # type: ignore[method-assign]
    async with desk(library, recent=[]) as at:
        await at.sees("No chats yet.")
        await at.press("x", "enter")
        await at.sees("Nothing was said that has all of these words.")
        assert at.answers == []


@pytest.mark.parametrize("size", [(120, 40), (40, 10)])
async def test_finds_are_drawn_anew_when_the_window_changes(size: tuple[int, int]) -> None:
    async with desk(Library()) as at:
        await at.press(*"tea")
        await at.sees("3 finds")
        await at.press("down")
        await at.pilot.resize_terminal(*size)
        await at.sees("you: one tea one", "3 finds", "Esc close", "Enter opens")
        assert at.screen._list.highlighted == 1
        widths = {strip.cell_length for strip in at.screen._compositor.render_strips()}
        assert widths == {size[0]}
        lines = [line for line in at.text().split("\n") if "12:00" in line]
        right = at.screen._list.region.right
        assert {line.index("12:00") for line in lines} == {right - len("12:00") - 2}


def test_an_answer_to_an_older_question_is_dropped() -> None:
    library = Library()
    searcher = Searcher(library.search)
    searcher.ask("a")
    searcher.ask("b")
    found = None
    for _ in range(500):
        if found := searcher.collect():
            break
        time.sleep(0.01)
    assert found is not None and found.query == "b"
    assert not searcher.is_waiting
