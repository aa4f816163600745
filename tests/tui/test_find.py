"""The find bar, and the small questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import on
from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import TextArea

import tui
from tui.screens.dialogs import AskLine, Confirm
from tui.themes import DARK
from tui.widgets.find import FindBar


class House(App[None]):
    """A find bar above a prompt, and all that it asked for."""

    CSS_PATH = Path(tui.__file__).parent / "chats.tcss"

    def __init__(self) -> None:
        super().__init__()
        self.register_theme(DARK)
        self.theme = DARK.name
        self.asked: list[tuple[str, Any]] = []

    def compose(self) -> ComposeResult:
        yield TextArea()
        yield FindBar()

    def on_mount(self) -> None:
        self.bar = self.query_one(FindBar)

    @on(FindBar.Wanted)
    @on(FindBar.Step)
    @on(FindBar.Closed)
    def note(self, event: Message) -> None:
        what = getattr(event, "query", getattr(event, "direction", None))
        self.asked.append((type(event).__name__, what))

    def text(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(part.text for part in strip) for strip in strips)


Living = tuple[House, Pilot[None]]


@asynccontextmanager
async def house(size: tuple[int, int] = (80, 24)) -> AsyncIterator[Living]:
    app = House()
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield app, pilot


async def until(pilot: Pilot[None], predicate: Callable[[], object]) -> None:
    for _ in range(300):
        if predicate():
            return
        await pilot.pause(0.01)
    pytest.fail("still not so")


# --------------------------------------------------------------------- find bar


async def test_the_bar_takes_no_room_until_it_is_opened() -> None:
    async with house() as (app, _):
        assert app.bar.region.height == 0
        assert app.asked == []


async def test_typing_asks_for_finds_and_keys_step_through_them() -> None:
    async with house() as (app, pilot):
        app.bar.open()
        await pilot.press("up", "enter")
        assert app.asked == [], "there is nothing to step through yet"
        await pilot.press("a", "b", "enter", "down", "up", "shift+enter", "escape")
        assert app.asked == [
            ("Wanted", "a"),
            ("Wanted", "ab"),
            ("Step", 1),
            ("Step", 1),
            ("Step", -1),
            ("Step", -1),
            ("Closed", None),
        ]
        assert not app.bar.is_open and app.bar.region.height == 0


async def test_everything_on_the_bar_can_be_clicked() -> None:
    async with house((40, 10)) as (app, pilot):
        app.bar.open()
        await pilot.press("a")
        for name in ("before", "next", "close"):
            await pilot.click(f"#find-{name}")
        await pilot.pause()
        assert app.asked[1:] == [("Step", -1), ("Step", 1), ("Closed", None)]


@pytest.mark.parametrize(
    ("width", "keys"), [(80, "↑ before  ↓ next  Esc close"), (40, "↑  ↓  Esc")]
)
async def test_the_count_and_the_keys_stand_in_the_row(width: int, keys: str) -> None:
    async with house((width, 10)) as (app, pilot):
        app.bar.open()
        await pilot.press("a")
        app.bar.show_count(3, 1200)
        await until(pilot, lambda: f"3 of 1,200  {keys}" in app.text())
        app.bar.show_count(0, 0)
        await until(pilot, lambda: "no find" in app.text())
        await pilot.press("backspace")
        await until(pilot, lambda: "no find" not in app.text())
        assert app.asked[-1] == ("Wanted", "")


async def test_the_words_come_back_when_the_keys_are_elsewhere() -> None:
    async with house((40, 10)) as (app, pilot):
        app.bar.open()
        app.query_one(TextArea).focus()
        await until(pilot, lambda: "before  next  close" in app.text())


async def test_what_was_looked_for_last_is_asked_again_and_can_be_typed_over() -> None:
    async with house() as (app, pilot):
        app.bar.open()
        await pilot.press("a", "escape")
        app.asked.clear()
        app.bar.open()
        await pilot.press("b")
        assert app.asked == [("Wanted", "a"), ("Wanted", "b")]


# --------------------------------------------------------------------- dialogs


async def ask(app: House, pilot: Pilot[None], screen: Screen[Any], *keys: str) -> list[Any]:
    """What a dialog gives after some keys."""
    answers: list[Any] = []
    app.push_screen(screen, answers.append)
    await pilot.pause()
    await pilot.press(*keys)
    await pilot.pause()
    return answers


async def test_a_line_is_given_without_blanks_around_it() -> None:
    async with house() as (app, pilot):
        assert await ask(app, pilot, AskLine("Title", "old"), *" new ", "enter") == ["new"]
        assert await ask(app, pilot, AskLine("Title", "old"), "end", "x", "enter") == ["oldx"]
        assert await ask(app, pilot, AskLine("Title", "old"), "x", "escape") == [None]
        tidy = "\x1b[31m\nof  [/b] \u202eit"
        assert await ask(app, pilot, AskLine("Title", tidy), "enter") == ["[31m of  [/b] it"]


async def test_a_blank_line_is_no_answer() -> None:
    async with house() as (app, pilot):
        answers = await ask(app, pilot, AskLine("Title", "old"), "space", "enter")
        assert answers == []
        await pilot.click("#no")
        await until(pilot, lambda: answers == [None])


async def test_a_title_of_a_dialog_is_no_markup() -> None:
    async with house() as (app, pilot):
        await ask(app, pilot, AskLine("Rename [b]it[/b] [/]", "x" * 2000))
        assert "Rename [b]it[/b] [/]" in app.text()
        await pilot.click("#yes")
        await until(pilot, lambda: len(app.screen_stack) == 1)


async def test_nothing_is_done_by_enter_alone() -> None:
    async with house() as (app, pilot):
        assert await ask(app, pilot, Confirm("Delete it?"), "enter") == [False]
        assert await ask(app, pilot, Confirm("Delete it?"), "escape") == [False]
        assert await ask(app, pilot, Confirm("Delete it?"), "n") == [False]
        assert await ask(app, pilot, Confirm("Delete it?"), "y") == [True]
        assert await ask(app, pilot, Confirm("Delete it?"), "left", "enter") == [True]


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
async def test_the_answers_can_be_clicked_below_any_text(size: tuple[int, int]) -> None:
    async with house(size) as (app, pilot):
        question = Confirm("Delete “[b]東京[/b]”?", "It is gone then. " * 40, yes="Erase [it]")
        answers = await ask(app, pilot, question)
        assert "Erase [it]" in app.text()
        await pilot.click("#yes")
        await until(pilot, lambda: answers == [True])


async def test_a_question_can_be_answered_in_a_window_of_20_by_5() -> None:
    async with house((20, 5)) as (app, pilot):
        assert await ask(app, pilot, Confirm("Delete it?", "It is gone then. " * 40), "y") == [True]
        assert await ask(app, pilot, AskLine("Title", "old"), "a", "enter") == ["a"]
