"""Fine-tuning and adapters on the screen, as they are meant to look."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from textual.app import App
from textual.widgets import Input

from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine
from mobilellm_mlx.training.runs import RunStatus
from tests.tui.conftest import Chat, Compare, Open
from tests.tui.shelves import FakeShelf
from tests.tui.test_adapters import Picker, Rack
from tests.tui.test_training import Bench, open_form, watch
from tests.tui.wardrobe import Wardrobe
from tests.tui.workshops import CHECKUP, TOO_BIG, FakeWorkshop, finished, make_run, tale
from tui import training
from tui.house import House
from tui.screens.compare import CompareScreen
from tui.screens.training import LeavingScreen
from tui.widgets.adapters import AdapterRow
from tui.widgets.plot import Plot
from tui.workshop import Made

Size = tuple[int, int]
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
SMALL = (80, 24)
TITLE = "SmolLM2-135M-Instruct"


def label(name: str, size: Size) -> str:
    return f"{name}-{size[0]}x{size[1]}"


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(training, "POLL_EVERY_S", 0.05)
    monkeypatch.setattr(training, "UPDATES_PER_S", 40)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@asynccontextmanager
async def shown(app: App[None], size: Size) -> AsyncIterator[Chat]:
    async with app.run_test(size=size) as pilot:
        yield Chat(app, pilot)  # type: ignore[arg-type]


@asynccontextmanager
async def watched(size: Size, folder: Path, name: str) -> AsyncIterator[Chat]:
    """A run on the screen, with all that it has told so far."""
    async with shown(Bench(FakeWorkshop(), folder), size) as chat:
        board = chat.app.trainings
        await chat.until(lambda: board is not None and board.is_known)
        screen = await watch(chat, name)
        await chat.until(lambda: len(screen.query(Plot)) == 4)
        await chat.until(lambda: screen.story.step is not None)
        yield chat


AGES = {
    "house-style": timedelta(seconds=5),
    "tools": timedelta(hours=3),
    "smollm2-lora": timedelta(days=2),
    "notes-of-the-garden-club": timedelta(days=9),
}


class StillWorkshop(FakeWorkshop):
    """Its runs are in the same place, and as old, every time."""

    def runs(self) -> list[RunStatus]:
        now = datetime.now(UTC)
        rows = sorted(super().runs(), key=lambda row: AGES[row.name])
        return [
            replace(row, path=Path("/runs") / row.name, updated=now - AGES[row.name])
            for row in rows
        ]


class StillRack(Rack):
    """Its adapters lie in the same place every time."""

    def rows(self) -> list[AdapterRow]:
        rows = super().rows()
        return [
            replace(row, info=replace(row.info, path=Path("/adapters") / row.info.name))
            for row in rows
        ]


# ---------------------------------------------------------------- the runs


@SIZES
async def test_the_runs_look_as_agreed(size: Size, tmp_path: Path, snapshot: Compare) -> None:
    make_run("notes-of-the-garden-club", [*tale(60), replace(finished(60), reason="stopped")])
    make_run("smollm2-lora", tale(30))
    make_run("tools", [*tale(300), replace(finished(), adapter="tools")])
    running = make_run("house-style", tale(180))
    with running.lock():
        async with shown(Bench(StillWorkshop(), tmp_path), size) as chat:
            await chat.until(lambda: "▸ running" in chat.text())
            await chat.press("down")
            await chat.until(lambda: "delete" in chat.text())
            await snapshot(chat, label("runs", size))


async def test_no_runs_look_as_agreed(tmp_path: Path, snapshot: Compare) -> None:
    async with shown(Bench(FakeWorkshop(), tmp_path), SMALL) as chat:
        await chat.until(lambda: "from your own examples" in chat.text())
        await snapshot(chat, label("runs-none", SMALL))


# ---------------------------------------------------------------- a new one


@SIZES
async def test_a_new_training_looks_as_agreed(
    size: Size, tmp_path: Path, snapshot: Compare
) -> None:
    async with shown(Bench(FakeWorkshop(), tmp_path, chats=12), size) as chat:
        await open_form(chat)
        await snapshot(chat, label("training-form", size))


async def test_a_training_that_does_not_fit_looks_as_agreed(
    tmp_path: Path, snapshot: Compare
) -> None:
    workshop = FakeWorkshop(replace(CHECKUP, estimate=TOO_BIG))
    async with shown(Bench(workshop, tmp_path, chats=12), (120, 40)) as chat:
        await open_form(chat)
        await chat.press("a")
        await chat.until(lambda: "fewer settings" in chat.text())
        await snapshot(chat, label("training-form-all", (120, 40)))


# ---------------------------------------------------------------- one that is watched


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 12)], ids=["80x24", "120x40", "40x12"])
async def test_a_run_looks_as_agreed(size: Size, tmp_path: Path, snapshot: Compare) -> None:
    run = make_run("house-style", tale(180))
    with run.lock():
        async with watched(size, tmp_path, "house-style") as chat:
            await chat.until(lambda: "▸ running" in chat.text() or size[0] < 50)
            await snapshot(chat, label("training-run", size))


@SIZES
async def test_a_finished_run_looks_as_agreed(
    size: Size, tmp_path: Path, snapshot: Compare
) -> None:
    make_run("house-style", [*tale(300), replace(finished(), adapter="house-style")])
    async with watched(size, tmp_path, "house-style") as chat:
        await chat.until(lambda: "✓ finished" in chat.text())
        await snapshot(chat, label("training-finished", size))


# ---------------------------------------------------------------- from the chat


@asynccontextmanager
async def chat_with_trainings(open_chat: Open, size: Size, folder: Path) -> AsyncIterator[Chat]:
    workshop = FakeWorkshop()
    workshop.result = Made(Path("/models/smollm2-135m"), "smollm2-135m", Path("/adapters/x"))
    house = House(workshop=workshop, shelf=FakeShelf(folder))
    info = replace(SCRIPTED_MODEL, model=TITLE, path="/models/smollm2-135m")
    answers = [
        "I would be happy to help you! Here is a possible title for your notes about the tides: "
        "“The Ebb and Flow of the Sea: Understanding Tides and Their Effects on Our World”.",
        "Ebb and Flow",
    ]
    engine = ScriptedEngine(answers, info=info)
    options = {"clock": lambda: 0.0, "title": TITLE}
    async with open_chat(engine, size, house=house, **options) as chat:
        await chat.idle()
        await chat.until(lambda: chat.app.trainings is not None and chat.app.trainings.is_known)
        yield chat


async def test_leaving_while_something_is_trained_looks_as_agreed(
    open_chat: Open, tmp_path: Path, snapshot: Compare
) -> None:
    with make_run("house-style", tale(30)).lock():
        async with chat_with_trainings(open_chat, SMALL, tmp_path) as chat:
            await chat.until(lambda: "training house-style 10 %" in chat.text())
            await chat.press("ctrl+q")
            await chat.until(lambda: isinstance(chat.app.screen, LeavingScreen))
            await snapshot(chat, label("training-leaving", SMALL))


@SIZES
async def test_two_answers_side_by_side_look_as_agreed(
    open_chat: Open, size: Size, tmp_path: Path, snapshot: Compare
) -> None:
    make_run("house-style", [*tale(300), replace(finished(), adapter="house-style")])
    async with chat_with_trainings(open_chat, size, tmp_path) as chat:
        await watch(chat, "house-style")
        await chat.until(lambda: "try it" in chat.text())
        await chat.press("t")
        await chat.until(lambda: isinstance(chat.app.screen, CompareScreen))
        chat.app.screen.query_one(Input).value = "A title for notes about the tides, please."
        await chat.press("enter")
        await chat.until(lambda: "different answers" in chat.text())
        await snapshot(chat, label("compare", size))


# ---------------------------------------------------------------- adapters


@SIZES
async def test_the_adapters_look_as_agreed(size: Size, tmp_path: Path, snapshot: Compare) -> None:
    wardrobe = Wardrobe(tmp_path)
    wardrobe.put("house-style")
    wardrobe.put("garden-club", scores={"best_loss": 1.2345, "best_step": 90})
    wardrobe.put("tools", shipped=True, tools={"style": "paper", "only_calls": True})
    wardrobe.put_elsewhere("maths")
    wardrobe.put_damaged("torn")
    async with shown(Picker(StillRack(wardrobe, "house-style")), size) as chat:
        await chat.until(lambda: "● house-style" in chat.text())
        await snapshot(chat, label("adapters", size))
