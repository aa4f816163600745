"""Tools on the way to an answer, calls that a person types, and which tools a chat may use."""

from __future__ import annotations

import threading
import time

import pytest

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import Settings
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.tools.approval import make_request
from mobilellm_mlx.tools.tool import Answer
from tests.tui.calls import (
    ALLOWED,
    CALLED,
    OFFERED,
    SUM,
    USE,
    Held,
    asks,
    broken,
    made,
    make_kit,
    scripted,
)
from tests.tui.test_bridge import Target
from tui import messages as say
from tui.bridge import Bridge
from tui.house import House
from tui.screens import approval
from tui.screens.approval import ApprovalScreen, ApprovalsScreen
from tui.screens.help import HelpScreen
from tui.screens.tools import ToolsScreen
from tui.widgets.response import Response
from tui.widgets.toolcard import CardHead, ToolCard
from tui.widgets.toolnote import ToolNote

NOTE = made("add_note", source="builtin", description="Take a note.")
SUMS = made("calculator", source="builtin", reads_only=True)
SERVED = made("git_log", source="mcp:git", reads_only=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A dialog may be answered at once."""
    monkeypatch.setattr(approval, "QUIET_S", 0.02)


def house(*tools, **more):
    return House(tools=make_kit(*(tools or (SUMS, NOTE, SERVED))), **more)


def cards(chat):
    return [card.use for answer in chat.all(Response) for card in answer.cards.cards]


# ------------------------------------------------------------------- on the way to an answer


async def test_a_call_is_a_line_above_the_answer_it_led_to(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, *SUM):
        async with open_chat(staged(["It is 51."]), house=house()) as chat:
            await chat.say("What is 17*3?")
            await chat.idle()
            assert cards(chat) == [USE]
            text = chat.text()
            assert text.index("▸ calculator  17*3 → 17*3 = 51 · 402 ms") < text.index("It is 51.")
            await chat.press("shift+tab", "o")
            await chat.until(lambda: "12 of 16 tokens were forced: 5 forward" in chat.text())
            await chat.press("t")
            assert chat.app.clipboard == "17*3 = 51"
            await chat.press("y")
            assert chat.app.clipboard == "It is 51."
            await chat.press("o")
            await chat.until(lambda: "were forced" not in chat.text())
            await chat.press("escape")
            await chat.pilot.click(CardHead)
            await chat.until(lambda: "were forced" in chat.text())


async def test_the_status_line_says_what_a_turn_waits_for(open_chat, staged, monkeypatch):
    gates = [threading.Event() for _ in range(3)]
    script = (OFFERED, gates[0], CALLED, ALLOWED, gates[1])
    with scripted(monkeypatch, *script):
        async with open_chat(staged(["So."]), house=house()) as chat:
            await chat.idle()
            await chat.say("go")
            await chat.until(lambda: "choosing a tool" in chat.text())
            assert "▸ choosing… calculator, add_note, or none" in chat.text()
            gates[0].set()
            await chat.until(lambda: "running calculator" in chat.text())
            assert "▸ calculator  17*3 running…" in chat.text()
            gates[1].set()
            await chat.idle()


@pytest.mark.parametrize("before", [(OFFERED,), (OFFERED, CALLED, ALLOWED)])
async def test_an_answer_can_be_stopped_while_a_tool_is_chosen_or_runs(
    open_chat, staged, monkeypatch, before
):
    with scripted(monkeypatch, *before, threading.Event()):
        async with open_chat(staged(["never said"]), house=house()) as chat:
            await chat.idle()
            await chat.say("go")
            await chat.until(lambda: chat.all(Response) and chat.all(Response)[0].cards.is_busy)
            await chat.press("escape")
            await chat.idle()
            assert not chat.all(Response)[0].cards.is_busy
            assert "choosing" not in chat.text()


# ------------------------------------------------------------------- leave


async def test_a_call_that_needs_leave_waits_for_it_and_then_runs(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, OFFERED, asks(NOTE, text="milk")) as session:
        async with open_chat(staged(["Noted."]), house=house()) as chat:
            await chat.idle()
            await chat.say("note milk")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            assert chat.app.chat.status.state.phase == "waiting"
            assert chat.all(ToolCard)[0].state == "waiting"
            await chat.until(lambda: chat.app.screen.check_action("allow", ("once",)))
            await chat.press("y")
            await chat.idle()
            assert [answer.allowed for answer in session.answers] == [True]
            assert cards(chat)[0].result == "add_note: milk"


async def test_a_no_is_a_card_and_the_answer_goes_on(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, OFFERED, asks(NOTE, text="milk")):
        async with open_chat(staged(["As you like."]), house=house()) as chat:
            await chat.idle()
            await chat.say("note milk")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.until(lambda: chat.app.screen.check_action("deny", ()))
            await chat.press("n")
            await chat.idle()
            assert "▸ add_note  milk ✗ denied" in chat.text()
            assert "As you like." in chat.text()


async def test_leave_for_all_that_only_reads_is_kept_as_a_setting(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, asks(SUMS, text="1")) as session:
        async with open_chat(staged(["1"]), house=house()) as chat:
            await chat.idle()
            await chat.say("sum")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.until(lambda: chat.app.screen.check_action("allow", ("reading",)))
            await chat.press("r")
            await chat.idle()
            assert session.answers[0].duration == "reading"
            assert chat.app.house.settings.get("tools.free_reading")
            room, kit = chat.app.chat.tools, chat.app.chat.session.tools
            room.apply()
            assert kit.reads_freely


async def test_leave_is_asked_for_on_top_of_any_screen(open_chat, staged, monkeypatch):
    gate = threading.Event()
    with scripted(monkeypatch, gate, asks(NOTE, text="milk")) as session:
        async with open_chat(staged(["Noted."]), house=house()) as chat:
            await chat.idle()
            await chat.say("note milk")
            chat.app.chat.tools.open_tools()
            gate.set()
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.until(lambda: chat.app.screen.check_action("deny", ()))
            await chat.press("n")
            await chat.until(lambda: session.answers)
            assert isinstance(chat.app.screen, ToolsScreen)


async def test_stopping_takes_the_question_back_even_from_below_another_page(
    open_chat, staged, monkeypatch
):
    with scripted(monkeypatch, asks(NOTE, text="milk")) as session:
        async with open_chat(staged(["never"]), house=house()) as chat:
            await chat.idle()
            await chat.say("note milk")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.press("f1")
            assert isinstance(chat.app.screen, HelpScreen)
            chat.app.chat.call_later(chat.app.chat.action_stop)  # as the palette does
            await chat.idle()
            assert [answer.allowed for answer in session.answers] == [False]
            assert isinstance(chat.app.screen, HelpScreen)
            await chat.press("escape")
            await chat.until(lambda: chat.app.screen is chat.app.chat)


async def test_leaving_is_a_no_and_does_not_hang(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, asks(NOTE, text="milk")) as session:
        async with open_chat(staged(["never"]), house=house()) as chat:
            await chat.idle()
            await chat.say("note milk")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.press("ctrl+q")
        assert chat.app.bridge.close(timeout_s=5)
        assert [answer.allowed for answer in session.answers] == [False]


def test_a_question_reaches_the_interface_behind_what_was_said_before_it():
    engine = ScriptedEngine(["So."])
    bridge = Bridge(engine, Session(engine, tools=make_kit(NOTE)), clock=lambda: 0.0)
    assert bridge.session.tools.approve == bridge.approve
    target = Target()
    bridge.attach(target)
    request = make_request("1", NOTE, {"text": "milk"})
    got = []

    def job(cancel):
        yield OFFERED
        yield CALLED
        got.append(bridge.approve(request, cancel))
        yield ALLOWED

    bridge.ask(job)
    while not any(isinstance(message, say.ApprovalWanted) for message in target.got):
        bridge.pump()
        time.sleep(0.005)
    kinds = [type(message) for message in target.got if not isinstance(message, say.Pace)]
    assert kinds == [say.ToolNews, say.ToolNews, say.ApprovalWanted]
    target.got[-1].answer(Answer(True))
    bridge._thread.join(5)
    assert got == [Answer(True)] and not target.got[-1].is_open
    target.got[-1].answer(Answer(False))  # too late, and harmless


# ------------------------------------------------------------------- calls that are typed


async def test_a_typed_call_is_answered_at_once_and_the_model_has_no_part_in_it(open_chat, staged):
    engine = staged(["And?"])
    async with open_chat(engine, house=house()) as chat:
        await chat.idle()
        await chat.say("/calc 3*17")
        await chat.until(lambda: chat.all(ToolNote) and not chat.all(ToolNote)[0].is_coming)
        await chat.until(lambda: "calculator: 3*17" in chat.text())
        assert "the model does not see this" in chat.text()
        assert engine.conversations == []
        await chat.say("hello")
        await chat.idle()
        assert [m.content for m in engine.conversations[0]] == ["hello"]


async def test_the_result_of_a_typed_call_can_be_copied_and_put_into_the_prompt(open_chat, staged):
    async with open_chat(staged(), house=house()) as chat:
        await chat.idle()
        await chat.say("/tool calculator text=3*17")
        await chat.until(lambda: chat.all(ToolNote) and chat.all(ToolNote)[0].text)
        await chat.press("shift+tab", "y")
        assert chat.app.clipboard == "calculator: 3*17"
        await chat.press("i")
        assert chat.prompt.text == "calculator 3*17: calculator: 3*17"
        assert chat.app.focused is chat.prompt


async def test_typing_is_leave_for_own_data_but_not_for_what_others_made(open_chat, staged):
    async with open_chat(staged(), house=house()) as chat:
        await chat.idle()
        await chat.say("/note buy milk")
        await chat.until(lambda: "add_note: buy milk" in chat.text())
        await chat.say("/tool git_log all")
        await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
        await chat.until(lambda: chat.app.screen.check_action("deny", ()))
        await chat.press("n")
        await chat.until(lambda: "▸ git_log  all ✗ denied" in chat.text())
        await chat.say("/tool git_log all")
        await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
        await chat.until(lambda: chat.app.screen.check_action("allow", ("session",)))
        await chat.press("s")
        await chat.until(lambda: "git_log: all" in chat.text())
        await chat.say("/tool git_log more")  # the rule of this session
        await chat.until(lambda: "git_log: more" in chat.text())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/tool calculater 1", "did you mean `calculator`?"),
        ("/tool calculator", "needs more than its name"),
        ("/tool far 1", "only on a Mac"),
        ("/tools what", "/tools does not know `what`"),
    ],
)
async def test_a_call_that_cannot_be_is_explained(open_chat, staged, typed, said):
    far = made("far", missing="it works only on a Mac")
    async with open_chat(staged(), house=house(SUMS, far)) as chat:
        await chat.idle()
        await chat.say(typed)
        await chat.until(lambda: said in " ".join(chat.text().split()))
        assert chat.all(ToolNote) == []


async def test_a_typed_call_that_fails_or_is_wrong_says_so_and_why(open_chat, staged):
    tools = made("calculator", broken, source="builtin", reads_only=True), NOTE
    async with open_chat(staged(), house=house(*tools)) as chat:
        await chat.idle()
        await chat.say("/calc 1")
        await chat.until(lambda: "✗ failed" in chat.text() and "the disk is full" in chat.text())
        await chat.say('/tool add_note {"txt": "a"}')
        await chat.until(lambda: "✗ wrong arguments" in chat.text())


async def test_esc_stops_a_typed_call(open_chat, staged):
    held = Held()
    async with open_chat(staged(), house=house(made("calculator", held, source="builtin", reads_only=True))) as chat:  # noqa: E501  # fmt: skip
        await chat.idle()
        await chat.say("/calc 1")
        await chat.until(lambda: "▸ calculator  1 running…" in chat.text())
        await chat.press("escape")
        await chat.until(lambda: "✗ stopped" in chat.text())
        await chat.until(lambda: held.was_stopped)


async def test_calc_alone_is_begun_in_the_prompt(open_chat, staged):
    async with open_chat(staged(), house=house()) as chat:
        await chat.idle()
        await chat.app.chat.dispatch.run("calc")
        assert chat.prompt.text == "/calc "


async def test_without_tools_there_are_no_such_commands(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        names = {command.name for command in chat.app.chat.commands}
        assert not names & {"calc", "time", "note", "tool", "tools", "demo"}


# ------------------------------------------------------------------- which tools there are


async def test_tools_are_switched_for_one_chat_and_count_from_the_next_question(open_chat, staged):
    far = made("far", missing="it works only on a Mac")
    async with open_chat(staged(["Hi"]), (100, 30), house=house(SUMS, NOTE, far)) as chat:
        await chat.idle()
        kit = chat.app.chat.session.tools
        await chat.say("/tools")
        await chat.until(lambda: isinstance(chat.app.screen, ToolsScreen))
        await chat.until(lambda: "2 of 2 offered in this chat" in chat.text())
        assert "● calculator" in chat.text() and "– far" in chat.text()
        await chat.press("space")
        await chat.until(lambda: "○ calculator" in chat.text())
        await chat.press("escape")
        await chat.say("hello")
        await chat.idle()
        assert [tool.name for tool in kit.toolbox.tools] == ["add_note", "far"]
        await chat.press("ctrl+n")
        await chat.say("hello")
        await chat.idle()
        assert [tool.name for tool in kit.toolbox.tools] == ["calculator", "add_note", "far"]


async def test_tools_can_be_switched_off_and_one_of_them_on_again(open_chat, staged):
    settings = Settings().replaced("tools.use", False)
    async with open_chat(staged(["Hi"]), house=house(settings=settings)) as chat:
        await chat.idle()
        kit, room = chat.app.chat.session.tools, chat.app.chat.tools
        room.apply()
        assert not kit.is_on
        await chat.say("/tools on")
        room.apply()
        assert kit.is_on and len(kit.toolbox.tools) == 3
        await chat.say("/tools off")
        room.apply()
        assert not kit.is_on
        room.switch("add_note", True)
        room.apply()
        assert kit.is_on and [tool.name for tool in kit.toolbox.tools] == ["add_note"]
        await chat.say("/tools list")
        await chat.until(lambda: "Offered in this chat: add_note" in chat.text())


async def test_the_page_of_tools_says_all_about_one_and_leads_to_the_rules(open_chat, staged):
    async with open_chat(staged(), house=house()) as chat:
        await chat.idle()
        await chat.say("/tools")
        await chat.until(lambda: isinstance(chat.app.screen, ToolsScreen))
        await chat.press("down", "down")
        await chat.until(lambda: "source     mcp:git" in chat.text())
        await chat.press("a")
        await chat.until(lambda: "0 of 3 offered" in chat.text())
        await chat.press("r")
        await chat.until(lambda: isinstance(chat.app.screen, ApprovalsScreen))


async def test_everything_fits_into_forty_columns(open_chat, staged, monkeypatch):
    with scripted(monkeypatch, *SUM):
        async with open_chat(staged(["It is 51."]), (40, 10), house=house()) as chat:
            await chat.say("What is 17*3?")
            await chat.idle()
            await chat.press("shift+tab", "o", "escape")
            await chat.say("/calc 1")
            await chat.until(lambda: "calculator: 1" in chat.text())
            await chat.say("/tools")
            await chat.until(lambda: "3 of 3 offered" in chat.text())
            assert "Enter switch off" in chat.text()


def test_a_broken_tool_is_a_tool_error():
    with pytest.raises(ToolError):
        broken()
