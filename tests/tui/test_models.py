"""The picker: what it shows, what it refuses, and what it asks before it does anything."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from mobilellm_mlx.cli.shelf import Shelf
from mobilellm_mlx.errors import DownloadError
from tests.tui.conftest import PATIENCE_S, POLL_S
from tests.tui.shelves import FITS, TOO_BIG, FakeShelf
from tui.pulls import Pull, PullBoard, Verdict
from tui.screens.help import describe_keys
from tui.screens.models import CONSENT_AFTER_S, ModelsScreen
from tui.shelf import Memory, ModelChoice, ModelRow
from tui.themes import DARK
from tui.widgets.models import (
    ModelList,
    actions_line,
    describe_model,
    model_line,
    shorten,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Picker(App[None]):
    """An app that is nothing but the picker."""

    def __init__(self, board: PullBoard, current: Path | None, held_bytes: int):
        super().__init__()
        self.board = board
        self.options = (board, current, held_bytes)
        self.chosen: list[ModelChoice | None] = []
        self.ended: list[Pull] = []
        self.register_theme(DARK)
        self.theme = DARK.name

    def on_mount(self) -> None:
        self.board.attach(self)
        self.open()

    def open(self) -> None:
        self.push_screen(ModelsScreen(*self.options), self.chosen.append)

    def on_pull_board_ended(self, event: PullBoard.Ended) -> None:
        self.ended.append(event.pull)


class Eyes:
    """What a test sees of the picker, and its hands."""

    def __init__(self, app: Picker, pilot: Pilot[None], clock: Clock):
        self.app, self.pilot, self.clock = app, pilot, clock
        self.press = pilot.press

    @property
    def screen(self) -> ModelsScreen:
        assert isinstance(self.app.screen, ModelsScreen)
        return self.app.screen

    @property
    def list(self) -> ModelList:
        return self.screen.query_one(ModelList)

    def text(self) -> str:
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)

    @property
    def flat(self) -> str:
        """The text without borders and line ends."""
        return " ".join(self.text().replace("│", " ").split())

    async def until(self, predicate: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE_S / POLL_S)):
            if predicate():
                return
            await self.pilot.pause(POLL_S)
        pytest.fail(f"still not so after {PATIENCE_S} s\n{self.text()}")

    async def sees(self, text: str) -> None:
        await self.until(lambda: text in self.flat)

    async def point_at(self, name: str) -> None:
        """Highlight a model, as arrow keys would."""
        path = next(path for path, row in self.screen._shown.items() if row.name == name)
        self.list.highlighted = self.list.get_option_index(path)
        await self.pilot.pause()

    async def click_on(self, text: str) -> None:
        lines = self.text().splitlines()
        y = next(at for at, line in enumerate(lines) if text in line)
        await self.pilot.click(offset=(lines[y].index(text) + 1, y))

    async def consent(self) -> None:
        self.clock.now += 2 * CONSENT_AFTER_S
        await self.press("enter")


Open = Callable[..., AbstractAsyncContextManager[Eyes]]


@pytest.fixture
def shelf(tmp_path):
    shelf = FakeShelf(tmp_path / "models")
    yield shelf
    shelf.may_pull.set()


@pytest.fixture
def open_picker(shelf, monkeypatch) -> Open:
    monkeypatch.setattr("tui.pulls.UPDATES_PER_S", 60)

    @asynccontextmanager
    async def run(
        size: tuple[int, int] = (80, 24),
        current: str | None = "small-chat",
        held_bytes: int = 0,
        other: object = None,
    ) -> AsyncIterator[Eyes]:
        clock = Clock()
        board = PullBoard(other or shelf, clock)
        app = Picker(board, shelf.home / current if current else None, held_bytes)
        async with app.run_test(size=size, tooltips=True, notifications=True) as pilot:
            eyes = Eyes(app, pilot, clock)
            await eyes.until(lambda: eyes.screen._shown)
            await pilot.pause()
            yield eyes
            shelf.may_pull.set()
            board.close(1)

    return run


async def test_the_list_shows_what_is_here_first_and_folds_what_does_not_chat(open_picker):
    async with open_picker() as eyes:
        text = eyes.text()
        assert text.index("Here") < text.index("MobileLLM-R1") < text.index("To start with")
        for part in ("● small-chat", "140M", "2,048", "98 MB", "~124 MB", "360 MB", "Apache-2.0",
                     "NC, gated", "7.90 GB of memory free", "1 more complete text"):  # fmt: skip
            assert part in text
        assert "base-125m" not in text
        await eyes.press("end", "enter")
        await eyes.sees("base-125m")


async def test_it_opens_on_the_model_in_use_and_tells_about_it(open_picker):
    async with open_picker() as eyes:
        assert eyes.screen._pointed.name == "small-chat"
        assert "SMALL-CHAT · chats · in use" in eyes.flat
        assert "0.36 GB = weights 0.27 + context 0.09; 7.90 GB free: fits" in eyes.flat
        await eyes.point_at("r1-140m")
        for part in ("FAIR Noncommercial Research License (NC): no commercial use",
                     "accept its terms, then `hf auth login`", "https://huggingface.co/x/r1-140m",
                     "280 MB from the Hugging Face Hub; ~124 MB on disk"):  # fmt: skip
            assert part in eyes.flat


async def test_enter_chooses_a_model_that_is_here(open_picker, shelf):
    async with open_picker() as eyes:
        await eyes.point_at("other-chat")
        await eyes.press("enter")
        await eyes.until(lambda: eyes.app.chosen)
        assert eyes.app.chosen == [ModelChoice("other-chat", shelf.home / "other-chat")]


async def test_enter_on_the_model_in_use_changes_nothing(open_picker):
    async with open_picker() as eyes:
        await eyes.press("enter")
        await eyes.until(lambda: eyes.app.chosen)
        assert eyes.app.chosen == [None]


async def test_what_does_not_fit_is_refused_with_the_arithmetic(open_picker, shelf):
    shelf.plan = TOO_BIG
    async with open_picker() as eyes:
        assert "too big" in eyes.text()
        await eyes.point_at("other-chat")
        await eyes.press("enter")
        await eyes.sees(
            "other-chat is not loaded: it needs 12.30 GB = weights 4.00 + context 8.30; "
            "7.90 GB free, of which 0.26 stay free: does not fit"
        )
        assert eyes.app.chosen == []


async def test_what_the_model_in_use_holds_counts_as_free(open_picker, shelf):
    shelf.plan = replace(TOO_BIG, available_bytes=12_000_000_000)
    async with open_picker(held_bytes=1_000_000_000) as eyes:
        await eyes.point_at("other-chat")
        await eyes.press("enter")
        await eyes.until(lambda: eyes.app.chosen)


async def test_a_model_without_a_chat_template_is_refused(open_picker, shelf):
    shelf.put("base-125m")
    async with open_picker() as eyes:
        await eyes.point_at("base-125m")
        await eyes.press("enter")
        await eyes.sees("base-125m has no chat template: it completes text")
        assert eyes.app.chosen == []


async def test_a_fetch_is_announced_and_a_second_enter_is_the_consent(open_picker, shelf):
    async with open_picker() as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.sees("its licence is for non-commercial use only.")
        assert "Enter fetches it Esc does not" in eyes.flat
        await eyes.press("enter")  # the same key, still held down
        await eyes.pilot.pause()
        assert "pull r1-140m" not in shelf.asked
        await eyes.consent()
        await eyes.until(lambda: eyes.app.ended)
        assert "pull r1-140m" in shelf.asked
        await eyes.until(lambda: eyes.screen._pointed and eyes.screen._pointed.installed)
        assert eyes.screen._pointed.name == "r1-140m"


@pytest.mark.parametrize("key", ["escape", "down"])
async def test_an_announced_fetch_can_be_declined(open_picker, shelf, key):
    async with open_picker() as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.sees("Enter fetches it")
        await eyes.press(key)
        await eyes.until(lambda: "Enter fetches it" not in eyes.flat)
        assert isinstance(eyes.app.screen, ModelsScreen)
        assert not any(call.startswith("pull") for call in shelf.asked)


async def test_a_pull_can_be_paused_resumed_and_cancelled(open_picker, shelf):
    shelf.may_pull.clear()
    async with open_picker() as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.sees("Enter fetches it")
        await eyes.consent()
        await eyes.sees("50 % · 100 MB of 200 MB")
        assert "p pause x cancel" in eyes.flat and "━━━━━─────" in eyes.text()
        await eyes.press("p")
        await eyes.sees("What came is kept, and it goes on from there")
        assert "paused at 50 %" in eyes.text() and shelf.closed == ["r1-140m"]
        await eyes.press("p")
        await eyes.sees("50 % · 100 MB of 200 MB")
        await eyes.press("x")
        await eyes.until(lambda: not eyes.app.board.pulls)
        await eyes.sees("Enter fetch")
        assert shelf.closed == ["r1-140m", "r1-140m"]


async def test_a_pull_outlives_the_screen_and_is_still_there_when_it_opens_again(
    open_picker, shelf
):
    shelf.may_pull.clear()
    async with open_picker() as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.sees("Enter fetches it")
        await eyes.consent()
        await eyes.until(lambda: eyes.app.board.current)
        await eyes.press("escape")
        await eyes.until(lambda: not isinstance(eyes.app.screen, ModelsScreen))
        eyes.app.open()
        await eyes.until(lambda: isinstance(eyes.app.screen, ModelsScreen))
        await eyes.sees("50 %")
        await eyes.press("escape")
        shelf.may_pull.set()
        await eyes.until(lambda: eyes.app.ended)
        assert eyes.app.ended[0].phase == "done"


async def test_a_failed_pull_says_why(open_picker, shelf):
    shelf.failing = DownloadError("the [hub] is \x1b[31mgated", "accept its terms")
    async with open_picker() as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.sees("Enter fetches it")
        await eyes.consent()
        await eyes.sees("It failed: the [hub] is [31mgated (accept its terms).")
        assert "p try again x cancel" in eyes.flat


async def test_removing_asks_first_and_says_what_it_frees(open_picker, shelf):
    async with open_picker() as eyes:
        await eyes.point_at("other-chat")
        await eyes.press("d")
        await eyes.sees("Remove other-chat? It frees 98 MB")
        assert shelf.removed == []
        await eyes.consent()
        await eyes.until(lambda: shelf.removed == ["other-chat"])
        await eyes.sees("other-chat removed, 98 MB freed")


async def test_the_model_in_use_is_never_removed(open_picker, shelf):
    async with open_picker() as eyes:
        await eyes.press("d")
        await eyes.sees("small-chat is in use")
        await eyes.consent()
        assert shelf.removed == []


async def test_a_directory_of_ones_own_can_be_used_and_is_never_removed(
    open_picker, shelf, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    async with open_picker() as eyes:
        await eyes.press("o")
        eyes.screen.query_one(Input).value = str(own)
        await eyes.sees(f"look up {own}"[:40])
        await eyes.press("enter")
        await eyes.sees("A directory of yours")
        assert eyes.screen._pointed.name == "mine" and eyes.list.has_focus
        await eyes.press("d")
        await eyes.sees("is yours: remove it by hand")
        await eyes.press("enter")
        await eyes.until(lambda: eyes.app.chosen)
        assert eyes.app.chosen == [ModelChoice("mine", own)] and shelf.removed == []


async def test_a_directory_that_is_none_is_a_sentence(open_picker):
    async with open_picker() as eyes:
        await eyes.press("slash")
        eyes.screen.query_one(Input).value = "/no/where"
        await eyes.sees("look up /no/where")
        await eyes.press("enter")
        await eyes.sees("there is no directory `/no/where` name another")


async def test_typing_finds_also_what_is_folded_away(open_picker):
    async with open_picker() as eyes:
        await eyes.press("slash", *"base")
        await eyes.until(lambda: [row.name for row in eyes.screen._shown.values()] == ["base-125m"])
        await eyes.press("escape")
        await eyes.until(lambda: len(eyes.screen._shown) == 5)
        assert eyes.list.has_focus
        await eyes.press("slash")
        eyes.screen.query_one(Input).value = "nc r1"
        await eyes.until(lambda: len(eyes.screen._shown) == 2)
        await eyes.press("down", "enter")
        await eyes.sees("r1-360m is fetched from the Hub")
        assert eyes.list.has_focus
        await eyes.consent()
        await eyes.until(lambda: eyes.app.ended)


async def test_a_check_is_said_in_words(open_picker, shelf):
    async with open_picker() as eyes:
        assert "not checked yet: v compares every file with its SHA-256" in eyes.flat
        await eyes.press("v")
        await eyes.sees("every file matches its SHA-256, checked just now")
        shelf.damage = "`model.safetensors` has changed"
        await eyes.press("v")
        await eyes.sees("damaged: `model.safetensors` has changed; remove it and fetch it again")


async def test_a_click_points_and_a_click_on_the_words_acts(open_picker, shelf):
    async with open_picker() as eyes:
        await eyes.click_on("other-chat")
        await eyes.until(lambda: eyes.screen._pointed.name == "other-chat")
        assert "memory other-chat" not in shelf.asked
        await eyes.click_on("v check")
        await eyes.sees("every file matches its SHA-256")
        await eyes.click_on("Enter use")
        await eyes.until(lambda: eyes.app.chosen)


@pytest.mark.parametrize("size", [(40, 10), (20, 5), (200, 60)])
async def test_it_can_be_used_at_any_size(open_picker, shelf, size):
    async with open_picker(size) as eyes:
        await eyes.point_at("r1-140m")
        await eyes.press("enter")
        await eyes.until(lambda: eyes.screen._asked)
        await eyes.pilot.pause()
        if size >= (40, 10):
            assert "non-commercial use only" in eyes.flat and "Enter fetches it" in eyes.flat
        await eyes.consent()
        await eyes.until(lambda: eyes.app.ended)


async def test_a_question_without_room_for_the_list_is_read_by_pages(open_picker):
    async with open_picker(size=(40, 10)) as eyes:
        await eyes.point_at("other-chat")
        await eyes.press("d")
        await eyes.until(lambda: eyes.screen._asked and eyes.list.size.height == 0)
        detail = eyes.screen.query_one("#detail")
        detail.styles.height = 1  # else all of it fits
        # Pages are as long as what is shown, so both have to be turned after that has shrunk.
        await eyes.until(lambda: detail.scrollable_content_region.height == 1)
        await eyes.press("pagedown")
        await eyes.until(lambda: detail.scroll_y > 0)
        await eyes.press("pageup")
        await eyes.until(lambda: detail.scroll_y == 0)
        assert eyes.screen._asked is not None  # still the question about the same model
        assert eyes.screen._pointed.name == "other-chat"


async def test_without_a_question_pages_turn_the_list(open_picker):
    async with open_picker(size=(40, 10)) as eyes:
        before = eyes.list.highlighted
        await eyes.press("pagedown")
        await eyes.until(lambda: eyes.list.highlighted != before)


async def test_every_key_has_a_name_and_a_word_for_the_help(open_picker):
    async with open_picker() as eyes:
        said = dict((what, keys) for keys, what in describe_keys(eyes.screen.active_bindings))
        for what in ("Use the model; fetch it if needed", "Find a model by its name",
                     "Remove a model", "Compare files with their hash", "Cancel a pull",
                     "Pause a pull, or go on with it", "Use a directory of yours"):  # fmt: skip
            assert what in said
    bindings = [*ModelsScreen.BINDINGS, *ModelList.BINDINGS]
    assert all(binding.id for binding in bindings)


async def test_opening_it_reaches_for_no_network(open_picker, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    async with open_picker(current=None, other=Shelf()) as eyes:
        for name in ("connect", "connect_ex", "sendto"):
            monkeypatch.setattr(socket.socket, name, fail)
        monkeypatch.setattr(socket, "getaddrinfo", fail)
        eyes.screen._load()
        before = eyes.screen._rows
        await eyes.until(lambda: eyes.screen._rows is not before)
        await eyes.press("end", "enter")
        for at in range(eyes.list.option_count):  # every model is looked at
            eyes.list.highlighted = at
            eyes.screen._describe()
        eyes.screen.query_one(Input).value = "some/model"
        await eyes.sees("look up some/model")
        eyes.screen.action_choose()
        await eyes.sees("On the Hugging Face Hub")
        await eyes.press("enter")
        await eyes.sees("Enter fetches it")


def test_a_line_is_never_wider_than_the_window_and_names_keep_their_ends(tmp_path):
    row = ModelRow(
        "mobilellm-paretoq-1.5b-1.58-bit", tmp_path, "x", memory=FITS, context=131_072,
        licence="a very long licence", parameters=1_500_000_000, bytes=1_100_000_000,
    )  # fmt: skip
    pull = Pull(row, "running", "x", 1, 3, per_s=2e6)
    for width in range(24, 130):
        assert model_line(row, width).cell_length == width
        assert model_line(row, width, pull, True).cell_length <= max(width, 30)
    assert model_line(row, 70).plain.split()[0].endswith("5b-1.58-bit")
    assert shorten("abcdef", 6) == "abcdef" and len(shorten("abcdefg", 6)) == 6


def test_text_from_files_is_neither_markup_nor_steering(tmp_path):
    row = ModelRow("[b]x\x1b[31m", tmp_path, "x", licence="[red]\x07MIT", installed=True)
    assert "[b]x[31m" in model_line(row, 80).plain
    assert ("licence", "[red]MIT") in describe_model(row)


def test_words_for_a_check_that_was_long_ago_or_was_not_possible(tmp_path):
    row = ModelRow("x", tmp_path, "x", installed=True)
    words = {
        "every file matches its SHA-256, checked 2 min ago": Verdict(None, 0.0),
        "not possible: it has no manifest": Verdict("it has no manifest", 0.0, compared=False),
    }
    for said, verdict in words.items():
        assert ("check", said) in describe_model(row, verdict, now=120.0)


def test_memory_at_the_edge_counts_what_must_stay_free():
    edge = Memory(600, 200, 200, 1000)
    assert edge.fits and not replace(edge, available_bytes=999).fits
    assert replace(edge, is_estimate=True).arithmetic.startswith("~0.00 GB = ")


def test_the_last_words_give_way_first():
    actions = [("Enter", "use", "choose"), ("v", "check", "check"), ("Esc", "back", "back")]
    assert actions_line(actions, 40).plain.split() == ["Enter", "use", "v", "check", "Esc", "back"]
    assert actions_line(actions, 12).plain.split() == ["Enter", "use"]
