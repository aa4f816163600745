"""Tools on the screen, as they are meant to look."""

from __future__ import annotations

import pytest

from tests.tui.calls import SUM, asks, made, make_kit, scripted
from tests.tui.test_demo import Run
from tui.house import House
from tui.screens import approval
from tui.screens.approval import ApprovalScreen
from tui.screens.demo import DemoScreen
from tui.screens.tools import ToolsScreen

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
STILL = {"clock": lambda: 0.0, "title": "SmolLM2-135M-Instruct"}
NOTE = made(
    "add_note",
    description="Write down a note.",
    describe=lambda arguments: f"Write the note “{arguments['text']}”",
)
SUMS = made("calculator", description="Work out a sum.", reads_only=True)
LOGS = made("git_log", description="Show commits.", source="mcp:git")
SHORTCUT = made(
    "run_shortcut", description="Run a shortcut.", missing="shortcuts are a part of macOS"
)
ALL = (SUMS, NOTE, LOGS, SHORTCUT)


def label(name, size):
    return f"{name}-{size[0]}x{size[1]}"


@SIZES
async def test_an_answer_with_its_tool_looks_as_agreed(
    open_chat, staged, monkeypatch, snapshot, size
):
    with scripted(monkeypatch, *SUM):
        house = House(tools=make_kit(*ALL))
        async with open_chat(staged(["It is **51**."]), size, house=house, **STILL) as chat:
            await chat.say("What is 17*3?")
            await chat.idle()
            await snapshot(chat, label("tool-folded", size))
            chat.app.chat.action_to_messages()
            await chat.press("o")
            await chat.until(lambda: "forward passes" in chat.text())
            await snapshot(chat, label("tool-open", size))


@SIZES
async def test_a_question_for_leave_looks_as_agreed(open_chat, staged, monkeypatch, snapshot, size):
    monkeypatch.setattr(approval, "QUIET_S", 0.02)
    with scripted(monkeypatch, asks(NOTE, text="buy oat milk")):
        house = House(tools=make_kit(*ALL))
        async with open_chat(staged(["Done."]), size, house=house, **STILL) as chat:
            await chat.say("Take a note: buy oat milk")
            await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
            await chat.until(lambda: chat.app.screen.focused is not None)
            await snapshot(chat, label("leave", size))


async def test_the_list_of_tools_looks_as_agreed(open_chat, staged, snapshot):
    house = House(tools=make_kit(*ALL))
    async with open_chat(staged(), (80, 24), house=house, **STILL) as chat:
        await chat.idle()
        await chat.say("/tools")
        await chat.until(lambda: isinstance(chat.app.screen, ToolsScreen))
        await snapshot(chat, label("tools", (80, 24)))


@SIZES
async def test_the_demo_looks_as_agreed(open_chat, staged, snapshot, size):
    engine = staged(["It is **51**."])
    run = Run(engine, *SUM)
    house = House(tools=make_kit(*ALL), demo=lambda: run)
    async with open_chat(engine, size, house=house, **STILL) as chat:
        await chat.idle()
        await chat.say("/demo")
        await chat.until(lambda: isinstance(chat.app.screen, DemoScreen))
        await chat.press("enter")
        await chat.until(lambda: chat.app.screen.trials[0].stage == "over")
        await chat.until(lambda: "passes" in chat.text())
        await snapshot(chat, label("demo", size))
