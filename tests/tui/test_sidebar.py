"""The list of chats: its order, what it asks for, and that it keeps still."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from textual import on
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import TextArea

import tui
from mobilellm_mlx.chat.records import ChatRecord
from tui.themes import DARK
from tui.widgets.sidebar import CURRENT, PINNED, ChatList, Row, Sidebar, group_of, iter_rows
from tui.widgets.word import Word

TODAY = date(2026, 11, 19)  # a Thursday
NOON = datetime(2026, 11, 19, 12, 0, tzinfo=UTC)
STYLES = Path(tui.__file__).parent / "chats.tcss"


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


def make_chats(count: int) -> list[ChatRecord]:
    return [make_chat(f"chat {index:03}", index / 4) for index in range(count)]


class House(App[None]):
    """A sidebar beside a prompt, and all that it asked for."""

    CSS_PATH = STYLES

    def __init__(self, chats: Sequence[ChatRecord], current: str | None) -> None:
        super().__init__()
        self.register_theme(DARK)
        self.theme = DARK.name
        self.chats = list(chats)
        self.current = current
        self.asked: list[Message] = []

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Sidebar()
            yield TextArea()

    def on_mount(self) -> None:
        self.sidebar = self.query_one(Sidebar)
        self.list = self.query_one(ChatList)
        self.show()

    def show(self, *chats: ChatRecord) -> None:
        self.chats = list(chats) or self.chats
        self.sidebar.show(self.chats, self.current, TODAY)

    @on(Sidebar.Chosen)
    @on(Sidebar.RenameAsked)
    @on(Sidebar.PinAsked)
    @on(Sidebar.DeleteAsked)
    @on(Sidebar.NewAsked)
    @on(Sidebar.Left)
    def note(self, event: Message) -> None:
        self.asked.append(event)

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(type(event).__name__, getattr(event, "chat_id", "")) for event in self.asked]

    def lines(self) -> list[str]:
        """The sidebar's rows as they are on the screen, without its border."""
        strips = [strip.crop(1, 26) for strip in self.screen._compositor.render_strips()]
        return ["".join(part.text for part in strip).rstrip() for strip in strips]

    async def highlight(self, pilot: Pilot[None], chat: int) -> None:
        """Go to the chat with this number."""
        self.list.highlighted = self.list.get_option_index(self.chats[chat].id)
        await pilot.pause()


Living = tuple[House, Pilot[None]]


@asynccontextmanager
async def house(
    chats: Sequence[ChatRecord], current: str | None = None, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Living]:
    app = House(chats, current)
    async with app.run_test(size=size) as pilot:
        app.sidebar.take_focus()
        await pilot.pause()
        yield app, pilot


async def until(pilot: Pilot[None], predicate: Callable[[], object]) -> None:
    for _ in range(300):
        if predicate():
            return
        await pilot.pause(0.01)
    pytest.fail("still not so")


def words(app: House) -> dict[str, str]:
    """What the words to click say."""
    shown = {}
    for word in app.query(Word):
        content = word.content
        assert isinstance(content, Content)
        shown[(word.id or "").removeprefix("sidebar-")] = content.plain
    return shown


# --------------------------------------------------------------------- grouping


@pytest.mark.parametrize(
    ("days_ago", "heading"),
    [
        (-2, "Today"),
        (0, "Today"),
        (1, "Yesterday"),
        (2, "This week"),
        (3, "This week"),
        (4, "November 2026"),
        (25, "October 2026"),
        (400, "October 2025"),
    ],
)
def test_a_chat_stands_under_the_day_it_was_last_used(days_ago: int, heading: str) -> None:
    assert group_of(make_chat("a", days_ago), TODAY) == heading


def test_a_pinned_chat_stands_under_pinned_however_old() -> None:
    assert group_of(make_chat("a", 400, pinned=True), TODAY) == "Pinned"


def test_days_are_those_of_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    late = make_chat("a", updated_at=datetime(2026, 11, 18, 23, 30, tzinfo=UTC))
    assert group_of(late, TODAY) == "Yesterday"
    monkeypatch.setenv("TZ", "XYZ-2")  # two hours ahead of UTC
    time.tzset()
    assert group_of(late, TODAY) == "Today"


def test_a_moment_that_no_clock_can_tell_is_still_grouped() -> None:
    first = make_chat("a", updated_at=datetime.min.replace(tzinfo=UTC))
    assert group_of(first, TODAY) == "January 1"
    assert group_of(replace(first, updated_at=datetime.max.replace(tzinfo=UTC)), TODAY) == "Today"


def test_rows_have_one_heading_per_group_and_the_pinned_ones_first() -> None:
    chats = [make_chat("a"), make_chat("b"), make_chat("c", 1), make_chat("d", 1, pinned=True)]
    rows = list(iter_rows(chats, "b", TODAY))
    texts = [row.text for row in rows]
    assert texts == ["Pinned", "d", "", "Today", "a", "b", "", "Yesterday", "c"]
    assert [row.text for row in rows if row.current] == ["b"]


def test_being_current_and_being_pinned_are_shapes() -> None:
    plain = Row("title", "a").content.plain
    current = Row("title", "a", current=True).content.plain
    pinned = Row("title", "a", pinned=True).content.plain
    assert (plain, current, pinned) == (" title", f"{CURRENT}title", f" {PINNED}title")


# --------------------------------------------------------------------- drawing


async def test_titles_are_shown_literally_cut_and_on_one_line() -> None:
    chats = [
        make_chat("a", title="[bold]x[/bold] [/]"),
        make_chat("b", title="two\nlines \x1b[31m\x07of it"),
        make_chat("c", title="  \x1b  "),
        make_chat("d", title="a title that is much too long for this"),
        make_chat("e", title="東京への旅行の計画を立てる三日間"),
        make_chat("f", title="مرحبا كيف حالك اليوم يا صديقي"),
        make_chat("g", title="x" * 1_000_000),
    ]
    async with house(chats) as (app, _):
        lines = app.lines()
        assert lines[2:6] == [" Today", " [bold]x[/bold] [/]", " two lines [31mof it", " Untitled"]
        assert lines[6] == " a title that is much to…"
        assert [line[-1] for line in lines[6:10]] == ["…"] * 4
        strips = app.screen._compositor.render_strips()
        assert {strip.cell_length for strip in strips} == {80}
        border = {"".join(part.text for part in strip.crop(27, 28)) for strip in strips}
        assert border == {"│"}


async def test_without_chats_a_sentence_stands_there_and_a_new_chat_can_begin() -> None:
    async with house([]) as (app, pilot):
        assert "No chats yet." in "\n".join(app.lines())
        await pilot.press("enter", "r", "p", "d", "down", "n")
        assert app.said == [("NewAsked", "")]


@pytest.mark.parametrize("size", [(120, 40), (40, 10), (28, 5)])
async def test_the_highlighted_chat_can_be_seen_in_every_size(size: tuple[int, int]) -> None:
    async with house(make_chats(60), "chat 000", size) as (app, pilot):
        await pilot.press("end")
        await until(pilot, lambda: any("chat 059" in line for line in app.lines()))
        await pilot.press("home")
        await until(pilot, lambda: any("Today" in line for line in app.lines()))
        if size[1] >= 10:
            assert "r rename p pin d delete" in app.lines()[-1]


# --------------------------------------------------------------------- keys and mouse


async def test_keys_ask_for_what_they_say() -> None:
    async with house([make_chat("a"), make_chat("b")], "a") as (app, pilot):
        await pilot.press("down", "r", "p", "d", "n", "enter", "escape")
        assert app.said == [
            ("RenameAsked", "b"),
            ("PinAsked", "b"),
            ("DeleteAsked", "b"),
            ("NewAsked", ""),
            ("Chosen", "b"),
            ("Left", ""),
        ]


async def test_headings_are_stepped_over() -> None:
    async with house([make_chat("a"), make_chat("b", 1)], "a") as (app, pilot):
        await pilot.press("down")
        assert app.list.chosen is not None and app.list.chosen.chat_id == "b"
        await pilot.click(ChatList, offset=(3, 0))  # "Today"
        await pilot.press("enter")
        assert app.said == [("Chosen", "b")]


async def test_everything_can_be_clicked() -> None:
    async with house([make_chat("a"), make_chat("b")], "a") as (app, pilot):
        app.query_one(TextArea).focus()
        await pilot.pause()
        await pilot.click(ChatList, offset=(3, 2))
        for name in ("rename", "pin", "delete", "new"):
            await pilot.click(f"#sidebar-{name}")
        await pilot.pause()
        assert app.said == [
            ("Chosen", "b"),
            ("RenameAsked", "b"),
            ("PinAsked", "b"),
            ("DeleteAsked", "b"),
            ("NewAsked", ""),
        ]
        await pilot.click("#sidebar-filter")
        await pilot.press("a")
        assert app.sidebar.has_class("-filtering")
        assert [row.chat_id for row in app.list._rows if row.chat_id] == ["a"]


async def test_keys_are_written_out_only_while_they_work() -> None:
    async with house([make_chat("a"), make_chat("b", pinned=True)], "a") as (app, pilot):
        all_keys = {
            "filter": "/ filter",
            "new": "n new",
            "rename": "r rename",
            "pin": "p pin",
            "delete": "d delete",
        }
        assert words(app) == all_keys
        await pilot.press("up")
        assert words(app)["pin"] == "p unpin"
        await pilot.press("slash")
        await pilot.pause()
        assert words(app)["delete"] == "delete", "a d would be typed into the filter"
        app.query_one(TextArea).focus()
        await pilot.pause()
        assert words(app)["rename"] == "rename"


async def test_a_key_that_was_changed_is_the_one_that_is_shown() -> None:
    async with house([make_chat("a")], "a") as (app, pilot):
        app.set_keymap({"sidebar.rename": "e"})
        await pilot.pause()
        assert words(app)["rename"] == "e rename"
        await pilot.press("e")
        assert app.said == [("RenameAsked", "a")]


# --------------------------------------------------------------------- filter


async def test_typing_after_a_slash_narrows_the_list() -> None:
    chats = [make_chat("Tea in Kyoto"), make_chat("Lists"), make_chat("tea and cake", 1)]
    async with house(chats) as (app, pilot):
        await pilot.press("slash", *"TEA")
        assert [row.text for row in app.list._rows] == [
            "Today",
            "Tea in Kyoto",
            "",
            "Yesterday",
            "tea and cake",
        ]
        await pilot.press("space", *"cake", "enter")
        assert app.said == [("Chosen", "tea and cake")]
        await until(pilot, lambda: app.focused is app.list)
        assert not app.sidebar.has_class("-filtering")
        assert len([row for row in app.list._rows if row.chat_id]) == 3


async def test_letters_that_are_keys_and_a_slash_are_typed_into_the_filter() -> None:
    async with house([make_chat("n/drp")]) as (app, pilot):
        await pilot.press("slash", *"n/drp")
        assert app.sidebar._filter.value == "n/drp"
        assert app.said == []


async def test_down_goes_from_the_filter_into_what_it_found() -> None:
    async with house([make_chat("a"), make_chat("b")], "b") as (app, pilot):
        await pilot.press("slash", "a", "down", "d")
        assert app.said == [("DeleteAsked", "a")]


async def test_escape_leaves_the_filter_first_and_the_list_after_that() -> None:
    async with house([make_chat("a"), make_chat("b")]) as (app, pilot):
        await pilot.press("slash", "b", "escape")
        assert app.focused is app.list
        assert len([row for row in app.list._rows if row.chat_id]) == 2
        assert app.said == []
        await pilot.press("escape")
        assert app.said == [("Left", "")]


async def test_a_filter_without_finds_says_so() -> None:
    async with house([make_chat("a")]) as (app, pilot):
        await pilot.press("slash", "z", "enter", "down")
        await until(pilot, lambda: "No title has that." in "\n".join(app.lines()))
        assert app.said == []


async def test_the_filter_stays_when_the_chats_are_shown_again() -> None:
    async with house([make_chat("a"), make_chat("b")]) as (app, pilot):
        await pilot.press("slash", "b")
        app.show(make_chat("a"), make_chat("b"), make_chat("bb"))
        assert [row.chat_id for row in app.list._rows if row.chat_id] == ["b", "bb"]


# --------------------------------------------------------------------- keeping still


def shown_rows(app: House) -> list[str]:
    return app.lines()[2:-2]


async def test_showing_the_same_again_changes_nothing() -> None:
    async with house(make_chats(200), "chat 000") as (app, pilot):
        await app.highlight(pilot, 30)
        before, options = app.lines(), list(app.list.options)
        app.show()
        await pilot.pause()
        assert app.lines() == before
        assert list(app.list.options) == options, "not even drawn again"


async def test_a_new_title_is_drawn_in_its_place() -> None:
    chats = make_chats(60)
    async with house(chats, "chat 000") as (app, pilot):
        await app.highlight(pilot, 20)
        before = shown_rows(app)
        chats[18] = replace(chats[18], title="renamed")
        app.show(*chats)
        await pilot.pause()
        after = shown_rows(app)
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert changed == [(" chat 018", " renamed")]


async def test_a_chat_that_moves_to_the_top_moves_nothing_that_is_looked_at() -> None:
    chats = make_chats(200)
    async with house(chats, "chat 000") as (app, pilot):
        await app.highlight(pilot, 60)
        looked_at, chosen = shown_rows(app), app.list.chosen
        assert chosen is not None
        last = replace(chats.pop(150), updated_at=NOON)
        app.show(last, *chats)
        await pilot.pause()
        assert app.list.chosen == chosen
        assert shown_rows(app).index(f" {chosen.text}") == looked_at.index(f" {chosen.text}")


async def test_looking_elsewhere_than_at_the_highlight_is_not_disturbed() -> None:
    chats = make_chats(200)
    async with house(chats, "chat 000") as (app, pilot):
        app.list.scroll_to(y=100, animate=False, immediate=True)
        await pilot.pause()
        looked_at = shown_rows(app)
        app.show(make_chat("new one"), *chats)
        await pilot.pause()
        assert shown_rows(app) == looked_at
        assert app.list.chosen is not None and app.list.chosen.chat_id == "chat 000"


async def test_after_a_delete_its_neighbour_is_highlighted() -> None:
    chats = make_chats(60)
    async with house(chats, "chat 000") as (app, pilot):
        await app.highlight(pilot, 30)
        before = shown_rows(app).index(" chat 030")
        del chats[30]
        app.show(*chats)
        await pilot.pause()
        assert app.list.chosen is not None and app.list.chosen.text in ("chat 029", "chat 031")
        assert abs(shown_rows(app).index(f" {app.list.chosen.text}") - before) <= 1


async def test_a_chat_opened_from_elsewhere_is_highlighted_and_seen() -> None:
    async with house(make_chats(200), "chat 000") as (app, pilot):
        app.query_one(TextArea).focus()
        await pilot.pause()
        app.current = "chat 150"
        app.show()
        await until(pilot, lambda: f"{CURRENT}chat 150" in app.lines())
        assert app.list.chosen is not None and app.list.chosen.current


async def test_the_list_under_the_persons_hands_keeps_its_highlight() -> None:
    async with house(make_chats(20), "chat 000") as (app, pilot):
        await pilot.press("down", "down")
        app.current = "chat 010"
        app.show()
        assert app.list.chosen is not None and app.list.chosen.chat_id == "chat 002"
