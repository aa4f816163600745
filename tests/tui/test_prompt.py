"""Writing: lines, growth, paste, chips, history."""

from __future__ import annotations

import pytest
from textual import events
from textual.app import App

from tui.commands import COMMANDS
from tui.history import History
from tui.terminal import OPTION_ENTER
from tui.widgets.messages import UserMessage
from tui.widgets.prompt import Prompt, PromptBox


class Lone(App[None]):
    """A prompt and nothing else."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def compose(self):
        yield PromptBox(COMMANDS)

    def on_prompt_submitted(self, event):
        self.sent.append(event)


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


async def test_keys_that_come_all_at_once_are_taken_in_the_order_of_typing(open_chat, staged):
    """As after a moment in which the program was busy."""
    async with open_chat(staged()) as chat:
        await chat.idle()
        for character in "wrong":
            chat.app.post_message(events.Key(character, character))
        for _ in range(3):
            chat.app.post_message(events.Key("backspace", "\x7f"))
        chat.app.post_message(events.Key("left", None))
        for character in "ite":
            chat.app.post_message(events.Key(character, character))
        chat.app.post_message(events.Key("enter", "\r"))
        await chat.until(lambda: chat.all(UserMessage))
        assert chat.all(UserMessage)[0].text == "witer"


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


# ---------------------------------------------------------------- large pastes


async def test_a_large_paste_becomes_a_chip_and_goes_out_whole():
    async with Lone().run_test() as pilot:
        prompt = pilot.app.query_one(Prompt)
        await pilot.press(*"see", "space")
        pilot.app.post_message(events.Paste("a line of text\r\n" * 60_000))  # about a megabyte
        await pilot.pause()
        assert prompt.text == "see [pasted 1: 60,000 lines]"
        await pilot.press("enter")
        (sent,) = pilot.app.sent
        assert sent.text == "see " + "a line of text\n" * 60_000
        assert sent.shown == "see [pasted 1: 60,000 lines]"
        assert prompt.text == ""


async def test_control_characters_do_not_hide_in_a_chip(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.app.post_message(events.Paste("red\x1b[31m\r\n" * 50))
        await chat.until(lambda: chat.prompt.text)
        assert set(chat.prompt._pastes.contents.values()) == {"red[31m\n" * 50}


@pytest.mark.parametrize("key", ["backspace", "ctrl+w"])
async def test_a_chip_is_deleted_whole_and_comes_back_whole(open_chat, staged, key):
    async with open_chat(staged()) as chat:
        await chat.idle()
        await chat.press(*"see")
        chat.app.post_message(events.Paste("x" * 3000))
        chip = "[pasted 1: 3,000 characters]"
        await chat.until(lambda: chat.prompt.text == f"see{chip}")
        await chat.press(key)
        assert chat.prompt.text == "see"
        await chat.press("ctrl+z")
        assert chat.prompt.text == f"see{chip}"
        chat.prompt.move_cursor((0, 3))
        await chat.press("delete")
        assert chat.prompt.text == "see"


async def test_a_chip_is_set_off_for_as_long_as_it_stands_for_something(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.app.post_message(events.Paste("x" * 3000))
        await chat.until(lambda: chat.prompt.text)
        assert len(chat.prompt.get_line(0).spans) == 1
        await chat.press("left", "x")
        assert chat.prompt.get_line(0).spans == []


async def test_an_earlier_paste_comes_back_as_text_when_it_is_small(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        for pasted in ("short\n" * 50, "y" * 20_000):
            chat.app.post_message(events.Paste(pasted))
            await chat.until(lambda: chat.prompt.text)
            await chat.press("enter")
            await chat.idle()
        await chat.press("up")
        assert chat.prompt.text == "[pasted 2: 20,000 characters]"
        await chat.press("up")
        assert chat.prompt.text == "short\n" * 50


async def test_a_huge_text_that_is_given_back_is_a_chip_and_nothing_is_lost(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.prompt.put_back("z" * 1_000_000)
        assert chat.prompt.text == "[pasted 1: 1,000,000 characters]"
        assert list(chat.prompt._pastes.contents.values()) == ["z" * 1_000_000]


# ---------------------------------------------------------------- history of other days


async def test_up_walks_through_this_chat_and_then_through_all_others(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.prompt.load_history(["old", "here 1", "elsewhere", "here 2"], ["here 1", "here 2"])
        await chat.write("draft")
        seen = []
        for _ in range(5):
            await chat.press("up")
            seen.append(chat.prompt.text)
        assert seen == ["here 2", "here 1", "elsewhere", "old", "old"]
        await chat.press(*["down"] * 4)
        assert chat.prompt.text == "draft"


async def test_what_was_stored_cannot_steer_the_terminal(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        chat.prompt.load_history(["red\x1b[31m"])
        await chat.press("up")
        assert chat.prompt.text == "red[31m"


async def test_walking_past_a_command_does_not_stop_at_what_it_offers():
    async with Lone().run_test() as pilot:
        prompt = pilot.app.query_one(Prompt)
        prompt.load_history(["first", "/he", "last"])
        await pilot.press("up", "up")
        assert prompt.text == "/he"
        await pilot.press("up")
        assert prompt.text == "first"
        await pilot.press("down", "down")
        assert prompt.text == "last"
