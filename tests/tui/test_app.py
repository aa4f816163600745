"""Keys that work everywhere, themes, the way in and the way out."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

import tui
from mobilellm_mlx.errors import InsufficientMemory, InvalidOption
from mobilellm_mlx.testing import ScriptedEngine
from tui.app import MobileLLMApp
from tui.screens.help import HelpScreen
from tui.themes import DARK, LIGHT
from tui.widgets.response import Response


def test_importing_the_package_is_cheap():
    code = "import sys, tui; print(any(m in sys.modules for m in ('textual', 'mlx', 'rich')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_an_impossible_override_is_said_before_anything_is_drawn():
    with pytest.raises(InvalidOption):
        tui.run_chat(ScriptedEngine(), overrides={"temperature": -1})


def test_run_chat_raises_what_kept_the_model_from_loading(monkeypatch):
    error = InsufficientMemory("too big")
    run = MobileLLMApp.run

    def leave_when_explained(self):
        async def leave(pilot):
            while self.failure is None:
                await pilot.pause(0.01)
            await pilot.press("ctrl+q")

        return run(self, headless=True, auto_pilot=leave)

    monkeypatch.setattr(MobileLLMApp, "run", leave_when_explained)
    with pytest.raises(InsufficientMemory):
        tui.run_chat(ScriptedEngine(loading_error=error))


def test_run_chat_returns_when_the_person_leaves(monkeypatch):
    run = MobileLLMApp.run

    async def leave(pilot):
        await pilot.press("ctrl+q")

    monkeypatch.setattr(
        MobileLLMApp, "run", lambda self: run(self, headless=True, auto_pilot=leave)
    )
    engine = ScriptedEngine()
    tui.run_chat(engine)
    assert not engine.closed  # that is the caller's


async def test_instructions_and_overrides_reach_the_engine(open_chat, staged):
    engine = staged()
    async with open_chat(engine, instructions="Be brief.", overrides={"max_tokens": 7}) as chat:
        await chat.say("Hi")
        await chat.idle()
        assert [m.content for m in engine.conversations[0]] == ["Be brief.", "Hi"]


async def test_ctrl_y_copies_the_last_answer_as_the_model_wrote_it(open_chat, staged):
    async with open_chat(staged(["It is **small**."])) as chat:
        await chat.idle()
        await chat.press("ctrl+y")
        await chat.until(lambda: "no answer to copy" in chat.text())
        await chat.say("Hi")
        await chat.idle()
        await chat.press("ctrl+y")
        await chat.until(lambda: "Copied the last answer" in chat.text())
        assert chat.app.clipboard == "It is **small**."


@pytest.fixture
def pbcopy(monkeypatch, tmp_path):
    """Makes this machine a Mac whose ``pbcopy`` is a shell script; gives the end of all copying."""
    monkeypatch.setattr("tui.terminal.sys.platform", "darwin")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)

    def write(script: str, mode: int = 0o755):
        tool = tmp_path / "pbcopy"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(mode)
        monkeypatch.setattr("tui.terminal.shutil.which", lambda name: str(tmp_path / name))

    def wait():
        copying = [t for t in threading.enumerate() if t.name == "mobilellm-pbcopy"]
        for thread in copying:
            thread.join(5)
            assert not thread.is_alive()
        return len(copying)

    yield write, wait
    wait()


@pytest.mark.parametrize("ssh", [False, True])
def test_on_a_mac_the_system_clipboard_is_filled_unless_over_ssh(
    pbcopy, monkeypatch, tmp_path, ssh
):
    write, wait = pbcopy
    copied = tmp_path / "copied"
    write(f'(printf "%s %s|" "$LC_CTYPE" "$LC_ALL"; cat) > {copied}')
    monkeypatch.setenv("LC_ALL", "C")
    if ssh:
        monkeypatch.setenv("SSH_CONNECTION", "a b c d")
    MobileLLMApp(ScriptedEngine()).copy_to_clipboard("ä")
    wait()
    assert copied.exists() != ssh
    assert ssh or copied.read_text("utf-8") == "UTF-8 |ä"


@pytest.mark.parametrize(("script", "mode"), [("exec sleep 9", 0o755), ("true", 0o644)])
def test_a_system_clipboard_that_hangs_or_fails_is_not_waited_for(
    pbcopy, monkeypatch, script, mode
):
    write, wait = pbcopy
    write(script, mode)
    monkeypatch.setattr("tui.terminal.PBCOPY_TIMEOUT_S", 0.5)
    app = MobileLLMApp(ScriptedEngine())
    began = time.monotonic()
    app.copy_to_clipboard("x" * 200_000)  # more than a pipe holds
    assert time.monotonic() - began < 0.5
    assert app.clipboard.startswith("x")
    wait()  # an exception in the thread would be a warning, and so an error


async def test_ctrl_c_stops_an_answer_and_otherwise_says_how_to_quit(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.press("ctrl+c")
        await chat.until(lambda: "Ctrl+C once more quits" in chat.text())
        await chat.say("go")
        await chat.until(lambda: chat.all(Response)[0].text)
        await chat.press("ctrl+c")
        await chat.idle()
        assert "stopped" in chat.text()


async def test_ctrl_c_empties_the_prompt_and_up_brings_it_back(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        await chat.write("half a thought")
        await chat.press("ctrl+c")
        assert chat.prompt.text == ""
        await chat.press("up")
        assert chat.prompt.text == "half a thought"
        assert chat.app.is_running


async def test_ctrl_c_twice_leaves(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        await chat.press("ctrl+c")
        assert chat.app.is_running
        await chat.press("ctrl+c")
        await chat.until(lambda: not chat.app.is_running)
    assert chat.app.return_code == 0


async def test_ctrl_c_copies_a_selection_and_stops_nothing(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        await chat.write("selected")
        chat.prompt.select_all()
        await chat.press("ctrl+c")
        assert chat.app.clipboard == "selected"
        assert chat.app.chat.is_answering
        chat.prompt.clear()
        chat.app.chat.query_one("UserMessage").text_select_all()
        await chat.press("ctrl+c")
        assert chat.app.clipboard == "go"
        assert chat.app.chat.is_answering


async def test_f1_shows_every_key_that_has_a_meaning_here(open_chat, staged):
    async with open_chat(staged(), (100, 120)) as chat:
        await chat.idle()
        await chat.press("f1")
        await chat.until(lambda: "Commands" in chat.text())
        shown = chat.text()
        for key in ("Enter", "Ctrl+J", "Esc", "Ctrl+N", "Ctrl+Y", "Ctrl+P", "Ctrl+Q", "F1", "PgUp"):
            assert key in shown
        assert "On a message (Shift+Tab)" in shown and "Another answer" in shown
        for command in chat.app.chat.commands:
            assert command.usage in shown
        await chat.press("escape")
        await chat.until(lambda: not isinstance(chat.app.screen, HelpScreen))
        await chat.press("x")
        assert chat.prompt.text == "x"


@pytest.mark.parametrize("first", ["f1", "ctrl+o"])
async def test_the_pages_of_keys_and_of_settings_do_not_spoil_each_other(open_chat, staged, first):
    """Styles of one screen count in all: what both call the same must be told apart."""
    async with open_chat(staged()) as chat:
        await chat.idle()
        for key in (first, "f1", "ctrl+o"):
            await chat.press(key)
            words = "New line" if key == "f1" else "always takes the likeliest"
            await chat.until(lambda words=words: words in chat.text())
            await chat.press("escape")
            await chat.until(lambda: chat.app.screen is chat.app.chat)


async def test_f1_works_on_every_screen(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        await chat.press("ctrl+o")
        await chat.until(lambda: chat.app.screen is not chat.app.chat)
        settings = chat.app.screen
        await chat.press("f1")
        await chat.until(lambda: "The next page" in chat.text())
        await chat.press("f1")
        await chat.until(lambda: chat.app.screen is settings)


async def test_the_palette_has_what_a_chat_needs(open_chat, staged):
    engine = staged(["A long answer that goes on"], hold_after=2)
    async with open_chat(engine) as chat:
        await chat.idle()
        await chat.say("go")
        titles = [c.title for c in chat.app.get_system_commands(chat.app.screen)]
        assert titles[0] == "Stop"
        for command in chat.app.chat.commands:
            assert any(f"(/{command.name})" in title for title in titles)
        await chat.press("ctrl+p")
        await chat.until(lambda: "Search for commands" in chat.text())
        await chat.pilot.press(*"theme")
        await chat.until(lambda: "Change the colours" in chat.text())
        await chat.press("enter")
        await chat.until(lambda: "List of chats" in chat.text())  # in the settings
        await chat.press("escape")
        chat.app.action_toggle_theme()
        assert chat.app.theme == LIGHT.name
        chat.app.action_toggle_theme()
        assert chat.app.theme == DARK.name


async def test_a_window_too_small_shows_one_sentence_and_keeps_what_was_written(open_chat, staged):
    async with open_chat(staged()) as chat:
        await chat.idle()
        for width, height in ((39, 24), (80, 9), (10, 4)):
            await chat.press("x")
            await chat.pilot.resize_terminal(width, height)
            await chat.until(lambda: "too" in chat.text())
            assert "2,048" not in chat.text()
            assert "╭" not in chat.text()
        await chat.press("y")
        await chat.pilot.resize_terminal(40, 10)
        await chat.until(lambda: "xxxy" in chat.text())
        assert "too small" not in chat.text()


async def test_without_colour_everything_is_still_said(open_chat, staged, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_chat(staged(["Grey."], hold_after=1)) as chat:
        await chat.idle()
        await chat.say("one")
        await chat.say("two")
        assert "queued" in chat.text()
        await chat.press("escape")
        await chat.idle()
        assert "stopped" in chat.text()


async def test_changing_the_theme_keeps_code_readable(open_chat, staged):
    async with open_chat(staged(["```python\nx = 1\n```"])) as chat:
        await chat.say("code")
        await chat.idle()
        chat.app.action_toggle_theme()
        await chat.pilot.pause()
        assert "x = 1" in chat.text()
