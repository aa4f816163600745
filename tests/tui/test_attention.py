"""Calling a person who looks elsewhere: the exact sequences, and when they are sent."""

from __future__ import annotations

import pytest
from textual import events
from textual.app import App

from tui import attention
from tui.attention import Attention, find_way

NASTY = "a\x1b]0;evil\x07\nb\x9b31m\u202ec;d"


@pytest.mark.parametrize(
    ("environ", "platform", "way"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "darwin", "osc9"),
        ({"TERM_PROGRAM": "ghostty"}, "linux", "osc9"),
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "linux", "osc9"),
        ({"WT_SESSION": "x"}, "linux", "osc9"),
        ({"TERM": "rxvt-unicode-256color"}, "linux", "osc777"),
        ({"TERM": "foot"}, "linux", "osc777"),
        ({"TERM_PROGRAM": "Apple_Terminal"}, "darwin", "osascript"),
        ({"TERM_PROGRAM": "Apple_Terminal", "SSH_CONNECTION": "x"}, "darwin", "bell"),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app", "TMUX": "x"}, "darwin", "bell"),
        ({"TERM": "xterm-256color"}, "linux", "bell"),
        ({}, "linux", "bell"),
    ],
)
def test_the_terminal_is_asked_in_the_way_it_understands(environ, platform, way):
    assert find_way(environ, platform) == way


def test_the_sequences_to_the_letter():
    assert attention.osc9("the pull is over") == "\x1b]9;MobileLLM: the pull is over\x07"
    assert attention.osc777("the pull is over") == "\x1b]777;notify;MobileLLM;the pull is over\x07"
    assert attention.mark_title("MobileLLM") == "\x1b[22;2t\x1b]2;● MobileLLM\x07"
    assert attention.unmark_title() == "\x1b]2;\x07\x1b[23;2t"


@pytest.mark.parametrize("make", [attention.osc9, attention.osc777])
def test_a_text_cannot_end_its_sequence_or_start_another(make):
    sequence = make(NASTY)
    assert sequence.startswith("\x1b]") and sequence.endswith("\x07")
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in sequence[1:-1])
    assert sequence.endswith("a]0;evil b31mc;d\x07")


def test_a_text_cannot_be_a_progress_bar():
    assert attention.osc9("4;1;50").startswith("\x1b]9;MobileLLM: ")


def test_a_text_is_one_short_line():
    assert attention.plain("a\n\n\tb  c ") == "a b c"
    assert len(attention.plain("x" * 5000)) == attention.MAX_TEXT


def test_a_mac_gets_the_text_as_an_argument_and_never_as_script():
    text = '" & (do shell script "touch /tmp/x") & "'
    command = attention.osascript(text)
    assert command[0] == "osascript" and command[-2:] == ["MobileLLM", text]
    scripts = [command[i + 1] for i, part in enumerate(command) if part == "-e"]
    assert scripts == [
        "on run argv",
        "display notification (item 2 of argv) with title (item 1 of argv)",
        "end run",
    ]


class Ears:
    """An attention whose terminal and commands are lists."""

    def __init__(self, app: App[None], **options):
        self.sent: list[str] = []
        self.ran: list[list[str]] = []
        options.setdefault("environ", {"TERM_PROGRAM": "iTerm.app"})
        options.setdefault("platform", "linux")
        self.attention = Attention(app, write=self.sent.append, run=self.ran.append, **options)
        self.attention.attach()


async def test_a_long_job_calls_who_looks_elsewhere_and_focus_takes_the_mark_away():
    app = App[None]()
    async with app.run_test() as pilot:
        ears = Ears(app)
        app.post_message(events.AppBlur())
        await pilot.pause()
        ears.attention.job_ended("done", 30)
        ears.attention.job_ended("done again", 30)
        assert ears.sent == [
            attention.mark_title("MobileLLM"), attention.osc9("done"), attention.osc9("done again"),
        ]  # fmt: skip
        app.post_message(events.AppFocus())
        await pilot.pause()
        assert ears.sent[3:] == [attention.unmark_title()]
        ears.attention.close()
        assert len(ears.sent) == 4


async def test_nobody_is_called_who_is_there_or_waited_briefly_or_does_not_want_it():
    app = App[None]()
    async with app.run_test() as pilot:
        ears, unwanted = Ears(app), Ears(app, is_wanted=lambda: False)
        ears.attention.job_ended("done", 30)
        app.post_message(events.AppBlur())
        await pilot.pause()
        ears.attention.job_ended("done", 9.9)
        unwanted.attention.job_ended("done", 30)
        assert ears.sent == ears.ran == unwanted.sent == []


async def test_a_mac_without_such_sequences_runs_the_command():
    app = App[None]()
    async with app.run_test() as pilot:
        ears = Ears(app, environ={"TERM_PROGRAM": "Apple_Terminal"}, platform="darwin")
        app.post_message(events.AppBlur())
        await pilot.pause()
        ears.attention.job_ended("done", 30)
        assert ears.ran == [attention.osascript("done")]
        assert ears.sent == [attention.mark_title("MobileLLM")]


async def test_leaving_takes_the_mark_away():
    app = App[None]()
    async with app.run_test() as pilot:
        ears = Ears(app, environ={})
        app.post_message(events.AppBlur())
        await pilot.pause()
        ears.attention.job_ended("done", 30)
        ears.attention.close()
        assert ears.sent[1:] == ["\x07", attention.unmark_title()]
