"""Adapters in the chat: switching them, what is said of it, which one a chat goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.chat.records import Generation, StoredMessage
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import AdapterError
from mobilellm_mlx.events import Event, ModelLoaded
from mobilellm_mlx.settings import Settings
from mobilellm_mlx.testing import SCRIPTED_MODEL
from tests.tui.conftest import Chat, Open, StagedEngine
from tests.tui.shelves import FakeShelf
from tests.tui.wardrobe import Wardrobe
from tui.house import House
from tui.screens.adapters import AdaptersScreen
from tui.screens.compare import CompareScreen
from tui.widgets.messages import ProblemBlock, RemarkBlock
from tui.widgets.said import Said
from tui.widgets.status import State, status_line

MODEL = "SmolLM2-135M-Instruct"
INFO = replace(SCRIPTED_MODEL, model=MODEL)


class Engine(StagedEngine):
    """Notes what it is asked to put on, and refuses some of it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.worn: list[tuple[str | None, bool]] = []
        self.refuses: set[str] = set()

    def adapt(self, adapter: Path | None, *, force: bool = False) -> Iterator[Event]:
        name = adapter.name if adapter else None
        self.worn.append((name, force))
        if name in self.refuses:
            raise AdapterError(f"the adapter `{name}` is not for `{MODEL}`", "take another one")
        yield from super().adapt(adapter, force=force)


@pytest.fixture
def wardrobe(tmp_path: Path) -> Wardrobe:
    wardrobe = Wardrobe(tmp_path)
    wardrobe.put("pirate")
    wardrobe.put("poet")
    return wardrobe


@pytest.fixture
def make(wardrobe: Wardrobe) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(*args: Any, **options: Any) -> Engine:
        made.append(Engine(*args, info=wardrobe.info, **options))
        return made[-1]

    yield engine
    for one in made:
        one.may_load.set()
        one.may_speak.set()


@pytest.fixture
def house(wardrobe: Wardrobe) -> Iterator[House]:
    store = Store(None)
    yield House(store=store, adapters=wardrobe.registry)
    store.close()


def remarks(chat: Chat) -> list[str]:
    return [block.said.text for block in chat.all(RemarkBlock)]


async def obey(chat: Chat, command: str) -> None:
    """Run a command as if it had been typed, and wait for what it begins."""
    await chat.app.chat.dispatch.run(*command.partition(" ")[::2])
    await chat.pilot.pause(0)
    await chat.idle()


async def test_an_adapter_is_switched_on_between_two_answers(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make(["Hello!", "Ahoy!"])
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("hi")
        await chat.until(lambda: "Hello!" in chat.text())
        await chat.idle()
        await chat.say("/adapter pirate")
        await chat.until(lambda: remarks(chat))
        assert remarks(chat) == [f"{MODEL} answers with pirate from here on."]
        await chat.idle()
        assert "  with pirate  " in chat.text()  # in the status line
        await chat.say("hi again")
        await chat.until(lambda: "Ahoy!" in chat.text())
        await chat.idle()
        first, second = (m.made[-1] for m in chat.app.chat.session.branch if m.made)
        assert (first.adapter, second.adapter) == (None, "pirate")
        assert "tok/s · with pirate" in chat.text()
        assert chat.text().count("· with pirate") == 1
        assert engine.loads == 1


async def test_a_kept_chat_says_which_answers_were_made_with_an_adapter(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    async with open_chat(make(["Ahoy!"]), house=house) as chat:
        await chat.idle()
        await obey(chat, "adapter pirate")
        await chat.say("hi")
        await chat.until(lambda: "· with pirate" in chat.text())
        await chat.idle()
        await chat.app.chat.draw_chat()
        await chat.until(lambda: chat.app.chat.transcript.said[-1].adapter == "pirate")


async def test_switching_while_an_answer_comes_stops_it_as_a_change_of_model_does(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make(["One two three four five"], hold_after=2)
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("count")
        await chat.until(lambda: "One two" in chat.text())
        await chat.app.chat.dispatch.run("adapter", "pirate")
        await chat.until(lambda: engine.worn)
        await chat.until(lambda: remarks(chat))
        await chat.idle()
        answer = chat.app.chat.session.branch[-1]
        assert answer.status == "stopped"
        assert answer.made[-1].adapter is None
        assert "stopped" in chat.text()


async def test_what_waits_for_an_answer_gets_it_from_the_new_adapter(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make(["Ahoy!"], hold_load=True)
    async with open_chat(engine, house=replace(house, adapter="pirate")) as chat:
        await chat.say("hi")
        engine.may_load.set()
        await chat.until(lambda: "Ahoy!" in chat.text())
        await chat.idle()
        assert chat.app.chat.session.branch[-1].made[-1].adapter == "pirate"
        assert engine.worn == [("pirate", False)]


async def test_none_takes_the_adapter_off(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make()
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("hi")
        await chat.idle()
        await obey(chat, "adapter pirate")
        await obey(chat, "adapter none")
        await obey(chat, "adapter none")
        assert engine.worn == [("pirate", False), (None, False)]
        assert remarks(chat)[-1] == f"{MODEL} answers without pirate from here on."
        assert "  with pirate" not in chat.text()
        await chat.until(lambda: "No adapter is on" in chat.text())


async def test_an_adapter_that_is_refused_leaves_the_one_before_on(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make()
    engine.refuses = {"poet"}
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await obey(chat, "adapter pirate")
        await chat.app.chat.dispatch.run("adapter", "poet")
        await chat.until(lambda: chat.all(ProblemBlock))
        await chat.idle()
        assert "the adapter `poet` is not for" in chat.text()
        assert chat.app.chat.info.adapter == "pirate"
        await chat.say("hi")
        await chat.until(lambda: "with pirate" in chat.text())


async def test_a_name_that_is_not_there_is_met_with_the_nearest(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    async with open_chat(make(), house=house) as chat:
        await chat.idle()
        await chat.say("/adapter pirrate")
        await chat.until(lambda: "did you mean `pirate`?" in chat.text())


async def test_names_of_adapters_are_completed(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    async with open_chat(make(), house=house) as chat:
        await chat.idle()
        await chat.until(lambda: chat.app.chat.adapters.names == ["pirate", "poet"])
        await chat.write("/adapter ")
        await chat.until(lambda: "poet" in chat.text())
        assert "none" in chat.text()


async def test_without_a_registry_there_is_no_such_command(
    open_chat: Open, make: Callable[..., Engine]
) -> None:
    async with open_chat(make(), house=House()) as chat:
        await chat.idle()
        assert "adapter" not in [command.name for command in chat.app.chat.commands]


async def test_a_chat_goes_on_with_the_adapter_it_was_held_with(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make()
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await obey(chat, "adapter pirate")
        await chat.say("one")
        await chat.until(lambda: "with pirate" in chat.text())
        await chat.idle()
        held = chat.app.chat.session.chat.id
        await obey(chat, "adapter none")
        await obey(chat, "new")
        await chat.say("two")
        await chat.idle()
        await chat.until(lambda: len(chat.app.chat.session.branch) == 2)
        plain = chat.app.chat.session.chat.id
        await chat.app.chat.desk.open(held)
        await chat.until(lambda: chat.app.chat.info.adapter == "pirate")
        await chat.until(lambda: remarks(chat))
        await chat.app.chat.desk.open(plain)
        await chat.until(lambda: chat.app.chat.info.adapter is None)


async def test_a_new_chat_begins_with_what_was_chosen_last(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make()
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("one")
        await chat.idle()
        await chat.until(lambda: len(chat.app.chat.session.branch) == 2)
        plain = chat.app.chat.session.chat.id
        await obey(chat, "new")
        await obey(chat, "adapter poet")
        await chat.app.chat.desk.open(plain)
        await chat.until(lambda: chat.app.chat.info.adapter is None)
        await obey(chat, "new")
        await chat.until(lambda: chat.app.chat.info.adapter == "poet")


async def test_a_chat_whose_adapter_is_gone_goes_on_without_and_says_so(
    open_chat: Open, make: Callable[..., Engine], house: House, wardrobe: Wardrobe
) -> None:
    async with open_chat(make(), house=house) as chat:
        await chat.idle()
        await obey(chat, "adapter pirate")
        await chat.say("one")
        await chat.until(lambda: "with pirate" in chat.text())
        await chat.idle()
        held = chat.app.chat.session.chat.id
        await obey(chat, "adapter none")
        await obey(chat, "new")
        wardrobe.registry.remove("pirate")
        await chat.app.chat.desk.open(held)
        gone = "This chat was held with pirate, which is not here any more."
        await chat.until(lambda: remarks(chat) == [gone])
        assert chat.app.chat.info.adapter is None


async def test_a_path_in_a_kept_chat_is_never_followed(
    open_chat: Open, make: Callable[..., Engine], house: House, wardrobe: Wardrobe
) -> None:
    engine = make()
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("one")
        await chat.until(lambda: len(chat.app.chat.session.branch) == 2)
        await chat.idle()
        answer = chat.app.chat.session.branch[-1]
        outside = wardrobe.put("outside")
        made = replace(answer.made[-1], adapter=str(outside))
        chat.app.chat.session._put(replace(answer, made=(made,)))
        held = chat.app.chat.session.chat.id
        await obey(chat, "new")
        await chat.app.chat.desk.open(held)
        await chat.until(lambda: remarks(chat))
        assert engine.worn == []


async def test_what_was_asked_for_at_the_start_is_on_and_may_be_forced(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make()
    asked = replace(house, adapter="pirate", force_adapter=True)
    async with open_chat(engine, house=asked) as chat:
        await chat.until(lambda: chat.app.chat.info and chat.app.chat.info.adapter == "pirate")
        assert engine.worn == [("pirate", True)]
        await chat.until(lambda: f"{MODEL} with pirate" in chat.text())  # in the empty chat, too


async def test_a_setting_names_the_adapter_to_begin_with(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    settings = Settings().replaced("model.adapter", "poet")
    async with open_chat(make(), house=replace(house, settings=settings)) as chat:
        await chat.until(lambda: chat.app.chat.info and chat.app.chat.info.adapter == "poet")


async def test_a_setting_that_names_nothing_is_said_and_the_model_answers(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    settings = Settings().replaced("model.adapter", "lost")
    async with open_chat(make(), house=replace(house, settings=settings)) as chat:
        await chat.until(lambda: "there is no adapter named `lost`" in chat.text())
        await chat.say("hi")
        await chat.until(lambda: "Hello!" in chat.text())


async def test_the_list_switches_renames_and_keeps_the_setting_true(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    house = replace(house, settings=Settings().replaced("model.adapter", "poet"), save_setting=None)
    async with open_chat(make(), house=house) as chat:
        await chat.until(lambda: chat.app.chat.info and chat.app.chat.info.adapter == "poet")
        await chat.idle()
        await chat.say("/adapter")
        await chat.until(lambda: isinstance(chat.app.screen, AdaptersScreen))
        await chat.until(lambda: "● poet" in chat.text())
        await chat.press("up", "enter")
        await chat.until(lambda: chat.app.chat.info.adapter == "pirate")
        chat.app.chat.adapters.rename("poet", "bard")
        assert chat.app.chat.house.settings.get("model.adapter") == "bard"
        chat.app.chat.adapters.remove("bard")
        assert chat.app.chat.house.settings.get("model.adapter") is None


async def test_one_can_be_tried_without_touching_the_chat(
    open_chat: Open, make: Callable[..., Engine], house: House
) -> None:
    engine = make(["Ahoy!"])
    async with open_chat(engine, house=house) as chat:
        await chat.idle()
        await chat.say("/adapter")
        await chat.until(lambda: "pirate" in chat.text())
        await chat.until(lambda: "try it" in chat.text())
        await chat.press("t")
        await chat.until(lambda: isinstance(chat.app.screen, CompareScreen))
        assert "with pirate" in chat.text()
        await chat.press("escape")
        await chat.until(lambda: isinstance(chat.app.screen, AdaptersScreen))
        assert engine.worn == []


async def test_another_model_takes_the_adapter_off_and_that_is_said(
    open_chat: Open, make: Callable[..., Engine], house: House, tmp_path: Path
) -> None:
    shelf = FakeShelf(tmp_path / "shelf")
    async with open_chat(make(), house=replace(house, shelf=shelf)) as chat:
        await chat.idle()
        await obey(chat, "adapter pirate")
        await chat.say("hi")
        await chat.until(lambda: "with pirate" in chat.text())
        await chat.idle()
        await chat.app.chat.load_model(shelf.home / "other-chat")
        await chat.until(lambda: f"pirate is off: it is for {MODEL}." in remarks(chat))
        await obey(chat, "new")
        assert chat.app.chat.info.adapter is None


async def test_the_models_say_which_adapters_were_made_for_them(
    open_chat: Open, make: Callable[..., Engine], house: House, wardrobe: Wardrobe, tmp_path: Path
) -> None:
    wardrobe.put("house-style", base={"name": "other-chat"})
    shelf = FakeShelf(tmp_path / "shelf")
    async with open_chat(make(), (100, 40), house=replace(house, shelf=shelf)) as chat:
        await chat.until(lambda: "house-style" in chat.app.chat.adapters.names)
        chat.app.chat.rooms.open_models()
        await chat.until(lambda: "other-chat" in chat.text())
        assert "house-style" not in chat.text()
        await chat.press("down")
        await chat.until(lambda: "adapters house-style" in chat.text())


def test_a_name_out_of_a_file_cannot_spoil_the_line_below_an_answer() -> None:
    made = Generation(model="m", adapter="\x1b[2J\u202eevil\nname" + "x" * 9999)
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    message = StoredMessage("a", "c", "q", "assistant", "Hi", moment, made=(made,))
    odd: Any = replace(made, adapter=["a list"])
    assert Said.of(replace(message, made=(odd,))).footer == ""
    footer = Said.of(message).footer
    assert footer.startswith("with [2Jevil name")
    assert len(footer) < 80


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_of_model_and_adapter_the_adapter_is_named_longer(width: int) -> None:
    info: ModelLoaded = replace(INFO, adapter="pi\x1brate")
    line = status_line(State(phase="idle", info=info), width)
    assert line.cell_length <= width
    assert "with pirate" in line.plain or width == 40
    assert (MODEL in line.plain) <= ("with pirate" in line.plain)
