"""The demo of the tools: each task really asked, with all that happens, and nothing left behind."""

from __future__ import annotations

import threading

import pytest

from mobilellm_mlx.errors import ContextOverflow
from tests.tui.calls import ENDED, OFFERED, SUM, ScriptedCalls, asks, made, make_kit
from tui import DEMO_TASKS as TASKS
from tui.house import House
from tui.screens import approval
from tui.screens.approval import ApprovalScreen
from tui.screens.demo import DemoScreen, Trial, say_sum, trial_line

NOTE = made("add_note", source="builtin")


class Run:
    """A place for the demo whose model does what a test has it do."""

    def __init__(self, engine, *script):
        class Scripted(ScriptedCalls):
            pass

        Scripted.script, Scripted.answers = script, []
        self.session = Scripted(engine, tools=make_kit(NOTE))
        self.is_closed = False

    def close(self):
        self.is_closed = True


@pytest.fixture
def open_demo(open_chat, staged, monkeypatch):
    monkeypatch.setattr(approval, "QUIET_S", 0.02)
    engine = staged(["It is **51**."])

    class Opened:
        def __init__(self, *script):
            self.run = Run(engine, *script)

        async def __call__(self, chat):
            await chat.idle()
            await chat.say("/demo")
            await chat.until(lambda: isinstance(chat.app.screen, DemoScreen))
            return chat.app.screen

    def make(*script, size=(80, 24)):
        opened = Opened(*script)
        house = House(tools=make_kit(NOTE), demo=lambda: opened.run)
        return open_chat(engine, size, house=house), opened

    return make


async def test_a_task_is_run_for_real_and_all_of_it_is_told(open_demo):
    context, opened = open_demo(*SUM)
    async with context as chat:
        demo = await opened(chat)
        assert all(said in chat.text() for said in TASKS)
        await chat.press("enter")
        await chat.until(lambda: demo.trials[0].stage == "over")
        await chat.until(lambda: "passes" in chat.text())
        for words in (
            "✓ 1 What is 17% of 240?",
            "offered    calculator, add_note",
            "chose      calculator",
            "12 forced, 4 chosen; 5 passes, 11 saved",
            "allowed    not asked: it only reads",
            "result     17*3 = 51",
            "answer     It is **51**.",
            "400 ms to choose, 2 ms to run, 1.0 s to answer",
            "1 call: 5 forward passes for 16 tokens",
        ):
            assert words in chat.text(), words
        await chat.press("enter")
        await chat.until(lambda: demo.trials[1].stage == "over")
        assert chat.app.chat.session.branch == []  # nothing of it is in the chat


async def test_all_tasks_are_run_one_after_the_other_and_each_stands_for_itself(open_demo):
    context, opened = open_demo(*SUM)
    async with context as chat:
        demo = await opened(chat)
        await chat.press("a")
        await chat.until(lambda: all(trial.stage == "over" for trial in demo.trials))
        assert "8 calls: 40 forward passes for 128 tokens" in chat.text()
        asked = [[m.content for m in said] for said in chat.app.bridge.engine.conversations]
        assert asked == [[said] for said in TASKS]
        first = demo.trials[7]
        await chat.press("r")
        await chat.until(lambda: demo.trials[7] is not first and demo.trials[7].stage == "over")


async def test_the_program_can_begin_with_it_and_ends_when_it_is_left(open_chat, staged):
    engine = staged(hold_load=True)
    run = Run(engine)
    async with open_chat(engine, house=House(demo=lambda: run), is_demo=True) as chat:
        assert chat.app.screen is chat.app.chat
        engine.may_load.set()
        await chat.until(lambda: isinstance(chat.app.screen, DemoScreen))
        await chat.press("escape")
        await chat.until(lambda: run.is_closed)
    assert chat.app.return_code == 0


async def test_what_writes_asks_for_leave_and_a_no_is_told(open_demo):
    context, opened = open_demo(OFFERED, asks(NOTE, text="oat milk"))
    async with context as chat:
        demo = await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: isinstance(chat.app.screen, ApprovalScreen))
        assert demo.trials[0].stage == "asking"
        await chat.until(lambda: chat.app.screen.check_action("deny", ()))
        await chat.press("n")
        await chat.until(lambda: demo.trials[0].stage == "over")
        assert "✗ 1 What" in chat.text()


async def test_esc_stops_a_task_and_then_leaves_and_nothing_stays_behind(open_demo):
    context, opened = open_demo(OFFERED, threading.Event())
    async with context as chat:
        demo = await opened(chat)
        await chat.press("a")
        await chat.until(lambda: "choosing a tool…" in chat.text())
        await chat.press("escape")
        await chat.until(lambda: demo.trials[0].stage == "over")
        assert demo.trials[1].stage == "waits"  # no more of them are run
        assert not opened.run.is_closed
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.app.chat)
        await chat.until(lambda: opened.run.is_closed)


async def test_quitting_closes_it_too(open_demo):
    context, opened = open_demo(OFFERED, threading.Event())
    async with context as chat:
        await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: "choosing" in chat.text())
        await chat.press("ctrl+q")
    assert opened.run.is_closed


async def test_a_task_that_fails_says_why_and_the_next_can_be_run(open_demo):
    context, opened = open_demo(ContextOverflow(5120, 2048))
    async with context as chat:
        demo = await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: demo.trials[0].problem is not None)
        await chat.until(lambda: "5,120 tokens" in chat.text())
        await chat.press("enter")
        await chat.until(lambda: demo.trials[1].problem is not None)


async def test_no_tool_for_ordinary_talk_is_told_as_such(open_demo):
    context, opened = open_demo()
    async with context as chat:
        demo = await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: demo.trials[0].stage == "over")
        assert "nothing: no word of it hints at a tool" in chat.text()
        assert "no tool" in chat.text()


@pytest.mark.parametrize("size", [(40, 10), (120, 40)])
async def test_it_can_be_read_in_any_window(open_demo, size):
    context, opened = open_demo(*SUM, size=size)
    async with context as chat:
        demo = await opened(chat)
        await chat.press("enter")
        await chat.until(lambda: demo.trials[0].stage == "over")
        await chat.until(lambda: "chose      calculator" in chat.text())
        assert "Enter next" in chat.text()


def test_lines_keep_to_their_width():
    trial = Trial("Set a timer for 10 minutes called pasta", "over")
    for width in (10, 38, 60):
        assert trial_line(5, trial, width).cell_length <= width
    assert say_sum([trial]) == ""
    assert ENDED.status == "ok"
