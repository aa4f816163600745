"""Fine-tuning in the interface: a form, a child process, and what is seen of it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.app import App
from textual.widgets import Input

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.events import TrainPaused
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine
from mobilellm_mlx.training.runs import Run
from tests.tui.conftest import Chat, Open
from tests.tui.shelves import FakeShelf
from tests.tui.workshops import CHECKUP, TOO_BIG, FakeWorkshop, finished, make_run, step, tale
from tui import training
from tui.house import House
from tui.keymap import list_actions
from tui.screens.compare import CompareScreen
from tui.screens.dialogs import Confirm
from tui.screens.help import describe_keys
from tui.screens.training import FormScreen, LeavingScreen, RunScreen, RunsScreen
from tui.themes import THEMES
from tui.training import WENT_WRONG, TrainingBoard, last_words
from tui.widgets.plot import Plot
from tui.workshop import Made

SIZES = [(80, 24), (120, 40), (60, 20), (40, 12), (40, 10)]
Train = Callable[..., AbstractAsyncContextManager[Chat]]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "POLL_EVERY_S", 0.05)
    monkeypatch.setattr(training, "UPDATES_PER_S", 40)


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    from mobilellm_mlx.training.runs import list_runs

    for row in list_runs():
        if row.pid:
            os.kill(row.pid, signal.SIGKILL)


class Bench(App[None]):
    """An app that is nothing but the screens of the training."""

    def __init__(self, workshop: FakeWorkshop, models: Path, chats: int = 0) -> None:
        super().__init__()
        self.trainings = TrainingBoard(workshop)
        self._models = FakeShelf(models)
        self._chats = chats
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = THEMES[0].name

    def on_mount(self) -> None:
        self.trainings.attach(self)
        self.push_screen(RunsScreen(self.trainings, self.watch, self.open_form))

    def watch(self, name: str) -> None:
        self.push_screen(RunScreen(self.trainings, name, lambda _: None))

    def open_form(self) -> None:
        form = FormScreen(
            self.trainings, self._models.rows, folder=self._models.home, chats=self._chats
        )
        self.push_screen(form, lambda name: self.watch(name) if name else None)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Runs the screens with a workshop: ``async with train(workshop) as chat``."""

    @asynccontextmanager
    async def run(
        workshop: FakeWorkshop | None = None, size: tuple[int, int] = (80, 24), **parts: Any
    ) -> AsyncIterator[Chat]:
        app = Bench(workshop or FakeWorkshop(), tmp_path, **parts)
        async with app.run_test(size=size) as pilot:
            chat = Chat(app, pilot)  # type: ignore[arg-type]
            await chat.until(lambda: app.trainings.is_known)
            yield chat
            app.trainings.close()

    return run


@pytest.fixture
def train_in_chat(open_chat: Open, tmp_path: Path) -> Train:
    """The same from within a chat."""

    @asynccontextmanager
    async def run(workshop: FakeWorkshop | None = None) -> AsyncIterator[Chat]:
        house = House(workshop=workshop or FakeWorkshop(), shelf=FakeShelf(tmp_path))
        info = replace(SCRIPTED_MODEL, path="/models/smollm2-135m")
        engine = ScriptedEngine(["The base [b]says[/b] this.", "The adapter says that."], info=info)
        async with open_chat(engine, house=house) as chat:
            await chat.idle()
            await chat.until(lambda: chat.app.trainings.is_known)
            yield chat

    return run


async def open_form(chat: Chat, data: str = "talk.jsonl") -> FormScreen:
    """The form with data, after the doctor has looked at them."""
    await chat.until(lambda: isinstance(chat.app.screen, RunsScreen))
    await chat.press("n")
    await chat.until(lambda: isinstance(chat.app.screen, FormScreen))
    form = chat.app.screen
    assert isinstance(form, FormScreen)
    await chat.until(lambda: form.draft.base and form.draft.presets)
    if data:
        await chat.press("down", "enter")
        await chat.until(lambda: form.query(Input))
        form.query_one(Input).value = data
        await chat.press("enter")
        await chat.until(lambda: form._checkup is not None)
        await chat.pilot.pause()
    return form


async def watch(chat: Chat, name: str) -> RunScreen:
    chat.app.watch(name) if isinstance(chat.app, Bench) else chat.app.chat.trains.open_run(name)
    await chat.until(lambda: isinstance(chat.app.screen, RunScreen))
    screen = chat.app.screen
    assert isinstance(screen, RunScreen)
    return screen


# ---------------------------------------------------------------- a new run


async def test_a_training_begins_in_the_chat_and_is_watched(train_in_chat: Train) -> None:
    workshop = FakeWorkshop()
    async with train_in_chat(workshop) as chat:
        await chat.say("/train")
        await open_form(chat)
        await chat.press("s")
        await chat.until(lambda: isinstance(chat.app.screen, RunScreen))
        await chat.until(lambda: "running" in chat.text())
        await chat.until(lambda: chat.app.screen.story.step is not None)
        assert workshop.begun[0].data.name == "talk.jsonl"
        await chat.press("s")
        await chat.until(lambda: "stopped" in chat.text())
        assert Run.open("new-run").status().state == "stopped"


async def test_the_doctor_is_heard_before_anything_starts(train: Train) -> None:
    async with train(size=(120, 40)) as chat:
        await open_form(chat)
        text = chat.text()
        for said in ("2 prompts stand in both", "412 examples", "840 MB", "fits", "▌ Lima."):
            assert said in text
        assert "And of [b]Chile[/b]?" in text


async def test_data_that_cannot_be_read_are_not_trained_on(train: Train) -> None:
    workshop = FakeWorkshop(DataError("talk.jsonl:3 is no [b]JSON", "mend the line"))
    async with train(workshop) as chat:
        await open_form(chat)
        assert "talk.jsonl:3 is no [b]JSON" in chat.text()
        await chat.press("s")
        await chat.until(lambda: "Not started: talk.jsonl:3 is no [b]JSON" in chat.text())
        assert workshop.begun == []
        assert isinstance(chat.app.screen, FormScreen)


async def test_a_start_without_data_says_what_is_missing(train: Train) -> None:
    async with train() as chat:
        await open_form(chat, data="")
        await chat.press("s")
        await chat.until(lambda: "no data is chosen" in chat.text())


async def test_a_file_made_of_the_chats_goes_when_other_data_are_chosen(train: Train) -> None:
    workshop = FakeWorkshop()
    async with train(workshop, chats=2) as chat:
        form = await open_form(chat, data="")
        await chat.press("m", "y")
        await chat.until(lambda: form.draft.from_chats)
        form._put("epochs", 2.0)
        assert workshop.discarded == []
        form._put("data", "talk.jsonl")
        await chat.until(lambda: workshop.discarded == [Path("/data/chats.jsonl")])
        await chat.press("escape")
        await chat.until(lambda: not isinstance(chat.app.screen, FormScreen))
        assert len(workshop.discarded) == 1


async def test_a_file_made_of_the_chats_stays_for_the_run_that_begins(train: Train) -> None:
    workshop = FakeWorkshop(command=("true",))
    async with train(workshop, chats=2) as chat:
        form = await open_form(chat, data="")
        await chat.press("m", "y")
        await chat.until(lambda: form.draft.from_chats and form._checkup is not None)
        await chat.press("s")
        await chat.until(lambda: not isinstance(chat.app.screen, FormScreen))
        assert [order.data for order in workshop.begun] == [Path("/data/chats.jsonl")]
        assert workshop.discarded == []


async def test_what_does_not_fit_is_started_only_after_a_question(train: Train) -> None:
    workshop = FakeWorkshop(replace(CHECKUP, estimate=TOO_BIG), command=("true",))
    async with train(workshop) as chat:
        await open_form(chat)
        assert "does not fit" in chat.text()
        assert "batch size 4 saves" in chat.text()
        assert "--batch" not in chat.text()
        await chat.press("s")
        await chat.until(lambda: isinstance(chat.app.screen, Confirm))
        await chat.press("n")
        assert workshop.begun == []
        await chat.press("s")
        await chat.until(lambda: isinstance(chat.app.screen, Confirm))
        await chat.press("y")
        await chat.until(lambda: workshop.begun)
        assert workshop.begun[0].risks_memory


async def test_a_changed_setting_is_looked_at_again_and_a_wrong_one_refused(train: Train) -> None:
    workshop = FakeWorkshop()
    async with train(workshop) as chat:
        form = await open_form(chat)
        await chat.press("down", "right")  # the recipe
        await chat.until(lambda: len(workshop.checked) == 2)
        assert workshop.checked[1].config.rank == 16
        await chat.press("down", "down", "enter")
        await chat.until(lambda: form.query(Input))
        form.query_one(Input).value = "-3"
        await chat.press("enter")
        await chat.until(lambda: "Not changed" in chat.text())
        assert form.draft.values == {}
        await chat.press("escape")
        assert isinstance(chat.app.screen, FormScreen)


async def test_chats_are_written_down_after_asking_and_thrown_away_unused(train: Train) -> None:
    workshop = FakeWorkshop()
    async with train(workshop, chats=1) as chat:
        form = await open_form(chat, data="")
        await chat.press("m")
        await chat.until(lambda: isinstance(chat.app.screen, Confirm))
        assert "1 chat" in chat.text()
        await chat.press("y")
        await chat.until(lambda: form.draft.from_chats)
        await chat.until(lambda: "your chats" in chat.text())
        await chat.press("escape")
        await chat.until(lambda: workshop.discarded == [Path("/data/chats.jsonl")])


# ---------------------------------------------------------------- a run that is watched


async def test_a_run_is_paused_goes_on_and_is_stopped(train: Train) -> None:
    run = make_run("a-run", tale(30))
    async with train() as chat:
        with run.lock():
            await watch(chat, "a-run")
            await chat.until(lambda: "▸ running" in chat.text())
            await chat.press("p")
            await chat.until(lambda: run.want() == "pause")
            await chat.until(lambda: "pausing …" in chat.text())
            run.note(TrainPaused(30))
            await chat.until(lambda: "‖ paused" in chat.text())
            await chat.press("p")
            await chat.until(lambda: run.want() == "run")
            run.note(step(31))
            await chat.until(lambda: "▸ running" in chat.text())
            await chat.press("s")
            await chat.until(lambda: run.want() == "stop" and "stopping …" in chat.text())
            run.note(replace(finished(31), reason="stopped", status="cancelled"))
        await chat.until(lambda: "■ stopped" in chat.text())


async def test_a_child_that_dies_is_explained_with_its_last_words(train: Train) -> None:
    async with train(FakeWorkshop(steps=3, ending="dies")) as chat:
        await open_form(chat)
        await chat.press("s")
        await chat.until(lambda: "the disk [/is] full; free some space" in chat.text())
        assert "resume" in chat.text()


async def test_a_finished_run_says_what_came_of_it(train: Train) -> None:
    make_run("done", [*tale(300), finished()])
    async with train() as chat:
        await watch(chat, "done")
        await chat.until(lambda: "✓ finished" in chat.text())
        await chat.until(lambda: "3.410 → 1.220" in chat.text())
        assert "Rain taps the roof all night." in chat.text() or "asked" in chat.text()


async def test_the_curves_follow_the_run(train: Train) -> None:
    run = make_run("a-run", tale(60))
    async with train(size=(120, 40)) as chat:
        screen = await watch(chat, "a-run")
        await chat.until(lambda: len(screen.query(Plot)) == 4 and "● valid" in chat.text())
        await chat.until(lambda: screen.story.step and screen.story.step.step == 60)
        assert all(plot.display for plot in screen.query(Plot))
        run.note(step(61))
        await chat.until(lambda: screen.story.step.step == 61)


async def test_one_curve_at_a_time_where_there_is_little_room(train: Train) -> None:
    make_run("a-run", tale(60))
    async with train() as chat:
        screen = await watch(chat, "a-run")
        await chat.until(lambda: len(screen.query(Plot)) == 4)
        await chat.press("v", "v")
        await chat.until(lambda: [plot.display for plot in screen.query(Plot)].index(True) == 2)
        assert sum(plot.display for plot in screen.query(Plot)) == 1


async def test_earlier_answers_can_be_read_again(train: Train) -> None:
    make_run("a-run", tale(180))
    async with train() as chat:
        await watch(chat, "a-run")
        await chat.until(lambda: "Answers at step 180" in chat.text())
        await chat.press("left", "left")
        await chat.until(lambda: "Answers at step 120" in chat.text())
        await chat.press("right", "right", "right")
        await chat.until(lambda: "Answers at step 180" in chat.text())


@pytest.mark.parametrize("size", SIZES)
async def test_figures_are_readable_at_every_size(train: Train, size: tuple[int, int]) -> None:
    make_run("a-run", tale(180))
    async with train(size=size) as chat:
        await watch(chat, "a-run")
        await chat.until(lambda: "1.113" in chat.text())
        await chat.until(lambda: "180 of 300" in chat.text())
        assert "interrupted" in chat.text()


# ---------------------------------------------------------------- the runs there are


async def test_the_runs_are_listed_resumed_and_deleted(train: Train) -> None:
    make_run("old-run", tale(30))
    workshop = FakeWorkshop(command=("true",))
    async with train(workshop) as chat:
        await chat.until(lambda: chat.app.screen.pointed)
        await chat.press("r")
        await chat.until(lambda: isinstance(chat.app.screen, RunScreen))
        assert workshop.resumed == ["old-run"]
        await chat.until(lambda: "! interrupted" in chat.text())  # its process did nothing
        await chat.press("escape")
        await chat.until(lambda: isinstance(chat.app.screen, RunsScreen))
        await chat.press("d")
        await chat.until(lambda: isinstance(chat.app.screen, Confirm))
        await chat.press("y")
        await chat.until(lambda: "old-run" not in chat.text())


async def test_a_program_that_is_not_there_is_a_sentence(train: Train) -> None:
    make_run("old-run", tale(30))
    async with train(FakeWorkshop(command=("/no/such/program",))) as chat:
        await chat.until(lambda: chat.app.screen.pointed)
        await chat.press("r")
        await chat.until(lambda: "could not be started" in chat.text())


async def test_a_run_that_is_trained_elsewhere_is_found_again(train_in_chat: Train) -> None:
    run = make_run("elsewhere", tale(30))
    with run.lock():
        async with train_in_chat() as chat:
            await chat.until(lambda: chat.app.trainings.active)
            await chat.until(lambda: "training elsewhere 10 %" in chat.text())
            await chat.say("/train")
            await chat.until(lambda: isinstance(chat.app.screen, RunScreen))
            await chat.until(lambda: "▸ running" in chat.text())


# ---------------------------------------------------------------- leaving


@pytest.mark.parametrize(("key", "want"), [("g", "run"), ("s", "stop")])
async def test_leaving_asks_what_becomes_of_a_training(
    train_in_chat: Train, key: str, want: str
) -> None:
    run = make_run("elsewhere", tale(30))
    with run.lock():
        async with train_in_chat() as chat:
            await chat.until(lambda: chat.app.trainings.active)
            await chat.press("ctrl+q")
            await chat.until(lambda: isinstance(chat.app.screen, LeavingScreen))
            await chat.press("escape")
            assert chat.app.is_running
            assert run.want() == "run"
            await chat.press("ctrl+q")
            await chat.until(lambda: isinstance(chat.app.screen, LeavingScreen))
            await chat.press(key)
            await chat.until(lambda: not chat.app.is_running or chat.app._exit)
            assert run.want() == want


# ---------------------------------------------------------------- trying it


async def test_base_and_adapter_answer_the_same_question(
    train_in_chat: Train,
) -> None:
    make_run("done", [*tale(300), finished()])
    workshop = FakeWorkshop()
    workshop.result = Made(Path("/models/smollm2-135m"), "smollm2-135m", Path("/adapters/done"))
    async with train_in_chat(workshop) as chat:
        await watch(chat, "done")
        await chat.until(lambda: "try it" in chat.text())
        await chat.press("t")
        await chat.until(lambda: isinstance(chat.app.screen, CompareScreen))
        chat.app.screen.query_one(Input).value = "Who says what?"
        await chat.press("enter")
        await chat.until(lambda: "different answers" in chat.text())
        assert "The base [b]says[/b] this." in chat.text()
        assert "The adapter says that." in chat.text()
        engine = chat.app.bridge.engine
        assert engine.asides == [None, Path("/adapters/done")]  # type: ignore[attr-defined]
        assert chat.app.bridge.session.branch == []
        await chat.press("ctrl+r")
        await chat.until(lambda: "seed 1 · the same answer" in chat.text())


async def test_a_question_and_enter_typed_in_one_burst_are_asked(train_in_chat: Train) -> None:
    make_run("done", [*tale(300), finished()])
    workshop = FakeWorkshop()
    workshop.result = Made(Path("/models/smollm2-135m"), "smollm2-135m", Path("/adapters/done"))
    async with train_in_chat(workshop) as chat:
        await watch(chat, "done")
        await chat.until(lambda: "try it" in chat.text())
        await chat.press("t")
        await chat.until(lambda: isinstance(chat.app.focused, Input))
        for letter in "Who?":
            chat.app.post_message(events.Key(letter, letter))
        chat.app.post_message(events.Key("enter", "\r"))
        await chat.until(lambda: "different answers" in chat.text())
        field = chat.app.screen.query_one(Input)
        assert (field.placeholder, field.value) == ("Who?", "")


async def test_an_adapter_of_another_model_is_not_tried(train_in_chat: Train) -> None:
    make_run("done", [*tale(300), finished()])
    workshop = FakeWorkshop()
    workshop.result = Made(Path("/models/other"), "other", Path("/adapters/done"))
    async with train_in_chat(workshop) as chat:
        await watch(chat, "done")
        await chat.until(lambda: "try it" in chat.text())
        await chat.press("t")
        await chat.until(lambda: "is for other, which is not loaded" in chat.text())


# ---------------------------------------------------------------- keys, and small things


async def test_every_key_of_the_screens_is_explained(train: Train) -> None:
    make_run("a-run", tale(30))
    async with train() as chat:
        assert (
            "Go on with this run" in dict(describe_keys(chat.app.screen.active_bindings)).values()
        )
        await watch(chat, "a-run")
        said = dict(describe_keys(chat.app.screen.active_bindings))
        assert "Stop after this step, and save" in said.values()
    owners = (RunsScreen, RunScreen, FormScreen, CompareScreen, LeavingScreen)
    ids = {action.id for action in list_actions(owners)}
    assert {"run.pause", "form.start", "runs.resume", "compare.again", "leaving.on"} <= ids


async def test_without_a_workshop_there_is_no_such_command(
    open_chat: Open,
) -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.idle()
        assert "train" not in {command.name for command in chat.app.chat.commands}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error: no room\nhint: free some\n", "no room; free some"),
        ("Traceback (most recent call last):\n  File\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("", ""),
        ("x" * 10_000, "x" * 4096),
        ("\x1b[31merror: red\x1b[0m", None),
    ],
)
def test_last_words_are_one_sentence(tmp_path: Path, text: str, said: str | None) -> None:
    assert last_words(tmp_path) == ""
    (tmp_path / WENT_WRONG).write_text(text)
    found = last_words(tmp_path)
    assert "\x1b" not in found
    assert said is None or found == said
