"""Reasoning before an answer: folded, and there when somebody wants it."""

from __future__ import annotations

from mobilellm_mlx.events import GenerationSummary
from tui.widgets.reasoning import ReasoningBlock
from tui.widgets.response import Response, describe_end

THOUGHTS = "They greet me.\nSo I [b]greet[/b] back.\n"


async def test_reasoning_is_one_line_above_the_answer_until_it_is_opened(open_chat, staged):
    async with open_chat(staged(["Hello!"], reasoning=THOUGHTS)) as chat:
        await chat.say("Hi")
        await chat.idle()
        assert "▸ thought for 10 tokens" in chat.text()
        assert "They greet me." not in chat.text()
        assert chat.all(Response)[0].text == "Hello!"
        await chat.press("ctrl+t")
        await chat.until(lambda: "They greet me." in chat.text())
        assert "▾ thought for 10 tokens" in chat.text()
        assert "So I [b]greet[/b] back." in chat.text()
        await chat.press("ctrl+t")
        await chat.until(lambda: "They greet me." not in chat.text())


async def test_a_click_opens_reasoning_and_leaves_the_prompt_in_focus(open_chat, staged):
    async with open_chat(staged(["Hello!"], reasoning=THOUGHTS)) as chat:
        await chat.say("Hi")
        await chat.idle()
        await chat.pilot.click(ReasoningBlock)
        await chat.until(lambda: "They greet me." in chat.text())
        assert chat.app.focused is chat.prompt


async def test_reasoning_on_the_way_is_counted(open_chat, staged):
    engine = staged(["Hello!"], reasoning=THOUGHTS, hold_thinking=5)
    async with open_chat(engine) as chat:
        await chat.say("Hi")
        await chat.until(lambda: "▸ thinking… 5 tokens" in chat.text())
        assert "answering" in chat.text()
        engine.may_speak.set()
        await chat.idle()
        assert "▸ thought for 10 tokens" in chat.text()


async def test_an_answer_stopped_in_its_reasoning_gives_the_message_back(open_chat, staged):
    engine = staged(["Hello!"], reasoning=THOUGHTS, hold_thinking=5)
    async with open_chat(engine) as chat:
        await chat.say("Hi")
        await chat.until(lambda: "thinking…" in chat.text())
        await chat.press("escape")
        await chat.idle()
        assert "▸ thought for 5 tokens" in chat.text()
        assert "stopped before the first word; not remembered" in chat.text()
        assert chat.prompt.text == "Hi"


async def test_without_reasoning_there_is_nothing_to_open(open_chat, staged):
    async with open_chat(staged(["Hello!"])) as chat:
        await chat.say("Hi")
        await chat.idle()
        assert "thought" not in chat.text()
        await chat.press("ctrl+t")
        await chat.until(lambda: "There is no reasoning to show" in chat.text())


async def test_what_could_steer_a_terminal_is_not_drawn(open_chat, staged):
    async with open_chat(staged(["Hello!"], reasoning="a\x1b[2Jb")) as chat:
        await chat.say("Hi")
        await chat.idle()
        await chat.press("ctrl+t")
        await chat.until(lambda: "a[2Jb" in chat.text())


def test_reasoning_that_led_to_nothing_is_said_so():
    summary = GenerationSummary(reasoning="Hm", reasoning_tokens=1)
    assert describe_end(summary, kept=False) == "no answer came of it"


async def test_an_answer_with_reasoning_looks_as_agreed(open_chat, staged, snapshot):
    answers, still = ["A short one.", "**Hello!** How can I help?"], {"clock": lambda: 0.0}
    async with open_chat(staged(answers, reasoning=THOUGHTS), (80, 24), **still) as chat:
        await chat.say("Say something")
        await chat.idle()
        await chat.say("Hi")
        await chat.idle()
        await chat.press("ctrl+t")
        await snapshot(chat, "reasoning-80x24")
