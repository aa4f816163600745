"""Writing: lines, growth, paste, history."""

from __future__ import annotations

from textual import events

from tui.terminal import OPTION_ENTER
from tui.widgets.messages import UserMessage
from tui.widgets.prompt import History


async def test_line_breaks_are_typed_and_not_sent(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.press("a", "ctrl+j", "b", "shift+enter", "c", "alt+enter", "d", "shift+\r", "e")
        assert chat.prompt.text == "a\nb\nc\nd\ne"
        assert chat.all(UserMessage) == []


async def test_a_fast_enter_sends_every_character_before_it_and_none_after(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        for character in "hello":
            chat.app.post_message(events.Key(character, character))
        chat.app.post_message(events.Key("enter", "\r"))
        for character in "next":
            chat.app.post_message(events.Key(character, character))
        await chat.until(lambda: chat.prompt.text == "next")
        await chat.idle()
        assert [m.text for m in chat.all(UserMessage)] == ["hello"]


async def test_the_send_key_can_be_changed(open_chat, staged):
    async with open_chat(staged()) as chat:
        chat.app.set_keymap({"prompt.send": "ctrl+s", "prompt.newline": "enter"})
        await chat.press("a", "enter", "b")
        assert chat.prompt.text == "a\nb"
        await chat.press("ctrl+s")
        assert [m.text for m in chat.all(UserMessage)] == ["a\nb"]


async def test_option_enter_of_old_terminals_is_a_line_break(open_chat, staged):
    from textual._xterm_parser import XTermParser

    async with open_chat(staged()):
        assert [event.key for event in XTermParser(False).feed(OPTION_ENTER)] == ["ctrl+j"]


async def test_nothing_is_not_sent(open_chat, staged):
    async with open_chat(staged()) as chat:
        for blank in ("", "   ", "\n\n \t"):
            await chat.say(blank)
        assert chat.all(UserMessage) == []


async def test_the_prompt_grows_to_eight_lines_and_no_further(open_chat, staged):
    async with open_chat(staged()) as chat:
        frame = 2
        assert chat.prompt.outer_size.height == 1 + frame
        await chat.write("\n".join("abc"))
        assert chat.prompt.outer_size.height == 3 + frame
        await chat.write("\n" * 30)
        assert chat.prompt.outer_size.height == 8 + frame


async def test_many_pasted_lines_stay_one_message(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.app.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m\n"))
        await chat.until(lambda: chat.prompt.text)
        assert chat.all(UserMessage) == []
        await chat.press("enter")
        await chat.idle()
        assert [m.text for m in chat.all(UserMessage)] == ["one\ntwo\nthree[31m"]


async def test_up_and_down_walk_through_what_was_sent_and_keep_the_draft(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.say("first")
        await chat.say("second\nof two lines")
        await chat.idle()
        await chat.write("a draft")
        await chat.press("up")
        assert chat.prompt.text == "second\nof two lines"
        await chat.press("up")  # within the text: from its second line to its first
        assert chat.prompt.text == "second\nof two lines"
        await chat.press("up")
        assert chat.prompt.text == "first"
        await chat.press("up")
        assert chat.prompt.text == "first"
        await chat.press("down", "down")
        assert chat.prompt.text == "a draft"


async def test_up_moves_through_wrapped_lines_before_the_history(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.write("word " * 40)
        await chat.press("up")
        assert chat.prompt.text == "word " * 40


async def test_a_click_on_the_transcript_leaves_the_keys_with_the_prompt(open_chat, staged):
    async with open_chat(staged(["Answer."])) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.pilot.click("Response")
        await chat.press("x")
        assert chat.prompt.text == "x"


def test_history_keeps_no_repetition():
    history = History()
    for text in ("a", "b", "b"):
        history.add(text)
    assert [history.older("draft"), history.older("b"), history.older("a")] == ["b", "a", None]
    assert [history.newer(), history.newer(), history.newer()] == ["b", "draft", None]
