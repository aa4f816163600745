"""The list of adapters: what it shows, what it refuses, and what it asks first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input

from mobilellm_mlx.adapters import AdapterInfo, model_sha256
from mobilellm_mlx.adapters.record import CONFIG, TENSORS
from mobilellm_mlx.paths import MANIFEST
from tests.tui.conftest import PATIENCE_S, POLL_S
from tests.tui.wardrobe import Wardrobe
from tui.screens.adapters import AdaptersScreen, Chosen
from tui.screens.help import describe_keys
from tui.themes import DARK
from tui.widgets.adapters import (
    AdapterList,
    AdapterRow,
    adapter_line,
    best_loss,
    columns_line,
    day,
    describe_adapter,
)


class Rack:
    """What the screen needs, on a wardrobe; ``is_on`` is what the model wears."""

    def __init__(self, wardrobe: Wardrobe, is_on: str = ""):
        self.wardrobe = wardrobe
        self.is_on = is_on

    def rows(self) -> list[AdapterRow]:
        digest, registry = model_sha256(self.wardrobe.model), self.wardrobe.registry
        rows = [
            AdapterRow(
                info,
                self.wardrobe.info.model,
                None if info.base_sha256 is None else info.base_sha256 == digest,
                info.name == self.is_on,
            )
            for info in registry.list()
        ]
        damaged = registry.damaged().items()
        return rows + [AdapterRow(AdapterInfo(name), damage=e.message) for name, e in damaged]

    def rename(self, name: str, new: str) -> None:
        self.wardrobe.registry.rename(name, new)

    def remove(self, name: str) -> None:
        self.wardrobe.registry.remove(name)


class Picker(App[None]):
    """An app that is nothing but the list."""

    def __init__(self, rack: Rack):
        super().__init__()
        self.rack = rack
        self.chosen: list[Chosen | None] = []
        self.tried: list[str] = []
        self.register_theme(DARK)
        self.theme = DARK.name

    def on_mount(self) -> None:
        screen = AdaptersScreen(self.rack, lambda info: self.tried.append(info.name))
        self.push_screen(screen, self.chosen.append)


class Eyes:
    """What a test sees of the list, and its hands."""

    def __init__(self, app: Picker, pilot: Pilot[None]):
        self.app, self.pilot = app, pilot
        self.press = pilot.press

    @property
    def list(self) -> AdapterList:
        return next(s for s in self.app.screen_stack if isinstance(s, AdaptersScreen)).query_one(
            AdapterList
        )

    def text(self) -> str:
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)

    @property
    def flat(self) -> str:
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
        self.list.highlighted = self.list.get_option_index(name)
        await self.sees(f"{name} ·")

    async def click_on(self, text: str) -> None:
        lines = self.text().splitlines()
        y = next(at for at, line in reversed(list(enumerate(lines))) if text in line)
        await self.pilot.click(offset=(lines[y].index(text) + 1, y))


Open = Callable[..., AbstractAsyncContextManager[Eyes]]


@pytest.fixture
def wardrobe(tmp_path: Path) -> Wardrobe:
    wardrobe = Wardrobe(tmp_path)
    wardrobe.put("pirate")
    wardrobe.put("tools", shipped=True, tools={"style": "paper", "only_calls": True})
    wardrobe.put_elsewhere("maths")
    return wardrobe


@pytest.fixture
def open_list(wardrobe: Wardrobe) -> Open:
    @asynccontextmanager
    async def run(
        is_on: str = "", size: tuple[int, int] = (80, 24), waits_for: str = "pirate"
    ) -> AsyncIterator[Eyes]:
        app = Picker(Rack(wardrobe, is_on))
        async with app.run_test(size=size) as pilot:
            eyes = Eyes(app, pilot)
            await eyes.sees(waits_for)
            yield eyes

    return run


async def test_every_adapter_is_listed_and_those_of_other_models_come_last(open_list: Open) -> None:
    async with open_list() as eyes:
        names = [option.id for option in eyes.list.options]
        assert names == ["pirate", "tools", None, "maths"]
        assert "Not for this model" in eyes.flat
        assert "LoRA 8 0.432 2 MB 2026-11-20" in eyes.flat
        assert "maths for MobileLLM-R1-360M" in eyes.flat
        await eyes.sees("3 adapters, 6 MB")


async def test_what_is_known_of_the_one_pointed_at_is_told(open_list: Open) -> None:
    async with open_list(size=(100, 40)) as eyes:
        await eyes.point_at("pirate")
        for fact in ("best loss 0.4321", "chats.jsonl (SHA-256 ab12cd34ef56…)", "Apache-2.0",
                     "by mobilellm 1.0", "rank 8 · learning rate 0.0005"):  # fmt: skip
            assert fact in eyes.flat
        await eyes.point_at("tools")
        assert "with this program" in eyes.flat
        assert "chooses tools" in eyes.flat


async def test_enter_switches_the_one_pointed_at_on(open_list: Open) -> None:
    async with open_list() as eyes:
        await eyes.point_at("pirate")
        await eyes.sees("Enter switch on")
        await eyes.press("enter")
        (chosen,) = eyes.app.chosen
        assert chosen is not None and chosen.adapter is not None
        assert chosen.adapter.name == "pirate"


async def test_enter_switches_the_one_that_is_on_off(open_list: Open) -> None:
    async with open_list(is_on="pirate") as eyes:
        assert "● pirate" in eyes.text()
        await eyes.sees("pirate · on")
        await eyes.click_on("switch off")
        await eyes.until(lambda: eyes.app.chosen == [Chosen(None)])


async def test_one_of_another_model_stays_off_and_the_reason_is_given(open_list: Open) -> None:
    async with open_list() as eyes:
        await eyes.point_at("maths")
        assert "made for MobileLLM-R1-360M, not for SmolLM2-135M-Instruct" in eyes.flat
        assert "switch on" not in eyes.flat
        await eyes.press("enter")
        await eyes.sees("maths stays off. `mobilellm chat --adapter maths --force-adapter`")
        await eyes.press("t")
        assert eyes.app.chosen == []
        assert eyes.app.tried == []


async def test_one_whose_base_is_not_known_can_be_switched_on(
    open_list: Open, wardrobe: Wardrobe
) -> None:
    wardrobe.put("foreign", base={})
    async with open_list() as eyes:
        await eyes.point_at("foreign")
        assert "does not say which model it was made for" in eyes.flat
        await eyes.press("enter")
        assert len(eyes.app.chosen) == 1


async def test_one_can_be_tried_before_it_is_switched_on(open_list: Open) -> None:
    async with open_list() as eyes:
        await eyes.point_at("pirate")
        await eyes.press("t")
        assert eyes.app.tried == ["pirate"]
        assert eyes.app.chosen == []


async def test_one_can_be_renamed(open_list: Open, wardrobe: Wardrobe) -> None:
    async with open_list() as eyes:
        await eyes.point_at("pirate")
        await eyes.press("r")
        await eyes.sees("Name for pirate")
        eyes.app.screen.query_one(Input).value = "corsair"
        await eyes.press("enter")
        await eyes.sees("corsair · off")
        assert "pirate" not in eyes.flat
        assert wardrobe.registry.find("corsair").base_name == "SmolLM2-135M-Instruct"


async def test_a_name_that_cannot_be_is_refused_with_the_reason(open_list: Open) -> None:
    async with open_list() as eyes:
        await eyes.point_at("pirate")
        await eyes.press("r")
        await eyes.sees("Name for pirate")
        eyes.app.screen.query_one(Input).value = "../x"
        await eyes.press("enter")
        await eyes.sees("cannot be the name of an adapter")
        assert eyes.list.options[0].id == "pirate"


async def test_one_is_deleted_after_a_yes_only(open_list: Open, wardrobe: Wardrobe) -> None:
    async with open_list() as eyes:
        await eyes.point_at("pirate")
        await eyes.press("d")
        await eyes.sees("Delete the adapter pirate?")
        await eyes.press("enter")  # on the button that does not
        await eyes.sees("pirate ·")
        assert (wardrobe.registry.root / "pirate").is_dir()
        await eyes.press("d")
        await eyes.sees("Delete the adapter pirate?")
        await eyes.press("y")
        await eyes.until(lambda: [o.id for o in eyes.list.options] == ["tools", None, "maths"])
        assert not (wardrobe.registry.root / "pirate").exists()


@pytest.mark.parametrize("key", ["r", "d"])
async def test_what_came_with_the_program_stays_as_it_is(open_list: Open, key: str) -> None:
    async with open_list() as eyes:
        await eyes.point_at("tools")
        assert "d delete" not in eyes.flat
        await eyes.press(key)
        await eyes.sees("tools came with this program and stays as it is")


async def test_what_is_on_is_neither_renamed_nor_deleted(open_list: Open) -> None:
    async with open_list(is_on="pirate") as eyes:
        await eyes.press("d")
        await eyes.sees("pirate is on: switch it off first")


async def test_a_damaged_one_is_shown_with_what_is_wrong_and_can_be_deleted(
    open_list: Open, wardrobe: Wardrobe
) -> None:
    wardrobe.put_damaged("broken")
    async with open_list(waits_for="broken") as eyes:
        await eyes.point_at("broken")
        assert "is not valid JSON" in eyes.flat
        await eyes.press("enter")
        await eyes.sees("broken cannot be read")
        await eyes.press("d")
        await eyes.sees("Delete the adapter broken?")
        await eyes.press("y")
        await eyes.until(lambda: not (wardrobe.registry.root / "broken").exists())


async def test_an_empty_list_says_how_an_adapter_is_made(tmp_path: Path) -> None:
    app = Picker(Rack(Wardrobe(tmp_path / "bare")))
    async with app.run_test(size=(80, 24)) as pilot:
        await Eyes(app, pilot).sees("There are no adapters yet.")
        await pilot.press("enter", "d", "r", "t")
        assert app.chosen == []
        await pilot.press("escape")
        assert app.chosen == [None]


async def test_the_details_take_all_the_room_and_give_it_back(open_list: Open) -> None:
    async with open_list(size=(40, 12)) as eyes:
        await eyes.point_at("pirate")
        assert "learning rate" not in eyes.flat
        await eyes.press("i")
        await eyes.until(lambda: eyes.list.size.height == 0)
        await eyes.press("pagedown", "pagedown", "pagedown", "pagedown")
        await eyes.sees("learning rate 0.0005")
        await eyes.press("down")
        await eyes.sees("tools · off")
        await eyes.press("escape")
        await eyes.until(lambda: eyes.list.size.height > 0)
        assert eyes.app.chosen == []


@pytest.mark.parametrize("width", [10, 30, 40, 50, 62, 88, 110])
def test_a_line_fits_and_its_columns_stand_below_their_titles(
    wardrobe: Wardrobe, width: int
) -> None:
    for info in wardrobe.registry.list():
        line = adapter_line(AdapterRow(info, "m", True), width)
        assert line.cell_length <= width
        assert columns_line(width).cell_length == width
    if width >= 50:
        line = adapter_line(AdapterRow(wardrobe.registry.find("pirate"), "m", True), width)
        assert columns_line(width).plain.index("size") + 4 == line.plain.index("2 MB") + 4


def test_what_an_adapters_files_say_steers_no_terminal(wardrobe: Wardrobe) -> None:
    evil = "\x1b[2J\u202eevil\n[bold]" + "x" * 5000
    path = wardrobe.put("evil", base={"name": evil}, data={"name": evil, "sha256": evil},
                        made_by=evil, scores={evil: evil}, training={evil: [evil]})  # fmt: skip
    row = AdapterRow(wardrobe.registry.find(path.name), evil, False)
    told = "".join(f"{label}{text}" for label, text in describe_adapter(row))
    for text in (told, adapter_line(row, 100).plain):
        assert "\x1b" not in text and "\u202e" not in text and "\n" not in text
    assert len(told) < 10_000


@pytest.mark.parametrize("loss", [None, "low", True, -1, 10**400, 1e300, [], {}])
def test_a_loss_that_is_none_is_not_shown(loss: object) -> None:
    assert best_loss(AdapterInfo("x", scores={"best_loss": loss})) == "?"


@pytest.mark.parametrize("created", ["", "yesterday", "0001-01-01T00:00:00+14:00", "9" * 400])
def test_a_date_that_is_none_is_not_shown(created: str) -> None:
    assert day(created) == ""


def test_whole_weights_and_what_is_not_known_have_words(tmp_path: Path) -> None:
    path = tmp_path / "adapters" / "whole"
    path.mkdir(parents=True)
    (path / CONFIG).write_text(json.dumps({"fine_tune_type": "full", "num_layers": -1}))
    (path / TENSORS).write_bytes(b"x")
    (path / MANIFEST).write_text("{}")
    wardrobe = Wardrobe(tmp_path)
    facts = dict(describe_adapter(AdapterRow(wardrobe.registry.find("whole"), "m")))
    assert facts["matrices"] == "whole weights in place of the base's"
    assert facts["for"] == "unknown model (no SHA-256)"
    assert facts["licence"] == "unknown"


async def test_every_key_is_explained_and_can_be_changed(open_list: Open) -> None:
    async with open_list() as eyes:
        told = {what for _, what in describe_keys(eyes.app.screen.active_bindings)}
        for what in ("Let the adapter answer, or no longer", "Ask with and without it",
                     "All that is known", "Give it another name", "Delete it"):  # fmt: skip
            assert what in told
    bindings = [*AdaptersScreen.BINDINGS, *AdapterList.BINDINGS]
    assert all(binding.id for binding in bindings)
