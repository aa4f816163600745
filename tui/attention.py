"""Telling a person who looks elsewhere that a long job has ended.

A desktop notification and a mark in the window's title, and only while the terminal says that it
has lost the focus. What is sent is made by pure functions; text in it can hold no sequence of its
own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

from textual.app import App

from .text import printable

Way = Literal["osc9", "osc777", "osascript", "bell"]

LONG_S = 10.0
"""What took less is not worth a notification."""
NAME = "MobileLLM"
MAX_TEXT = 200
TIMEOUT_S = 5.0

BELL = "\x07"
_OSC = "\x1b]"
_SPACES = re.compile(r"\s+")
_OSC9 = ("iTerm.app", "WezTerm", "ghostty", "WarpTerminal")
_OSC777 = ("foot", "rxvt", "urxvt")


def find_way(environ: Mapping[str, str], platform: str) -> Way:
    """How this terminal can be asked to notify, by what it says about itself.

    Inside tmux and screen the bell is what reaches the person: it marks the window.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if "TMUX" in environ or "STY" in environ or term.startswith(("tmux", "screen")):
        return "bell"
    if program in _OSC9 or "WT_SESSION" in environ or "KITTY_WINDOW_ID" in environ:
        return "osc9"
    if term.startswith(_OSC777):
        return "osc777"
    local = "SSH_CONNECTION" not in environ  # over SSH this machine's desktop is not the person's
    return "osascript" if platform == "darwin" and local else "bell"


def plain(text: str) -> str:
    """``text`` as one short line that no terminal can mistake for a sequence."""
    line = _SPACES.sub(" ", printable(text)).strip()
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def osc9(text: str) -> str:
    """A notification as iTerm2 has it. The name goes first: ``4;...`` would be a progress bar."""
    return f"{_OSC}9;{NAME}: {plain(text)}{BELL}"


def osc777(text: str) -> str:
    """A notification as urxvt has it, with the name as its title."""
    return f"{_OSC}777;notify;{NAME};{plain(text)}{BELL}"


def osascript(text: str) -> list[str]:
    """A Mac's command for a notification; the text is an argument, never a part of the script."""
    script = "display notification (item 2 of argv) with title (item 1 of argv)"
    return ["osascript", "-e", "on run argv", "-e", script, "-e", "end run", NAME, plain(text)]


def mark_title(text: str) -> str:
    """Keep the window's title on the terminal's stack and show this one, with a dot."""
    return f"\x1b[22;2t{_OSC}2;● {plain(text)}{BELL}"


def unmark_title() -> str:
    """Take the mark away: an empty title, then the kept one where the terminal has a stack."""
    return f"{_OSC}2;{BELL}\x1b[23;2t"


class Attention:
    """Knows whether somebody looks, and calls when nobody does.

    Args:
        app: whose focus counts.
        is_wanted: whether the person wants this; asked every time.
        write: sends a sequence to the terminal; by default through the app's driver.
        run: runs a command without waiting for it.
        environ: what the terminal says about itself.
        platform: as ``sys.platform``.
    """

    def __init__(
        self,
        app: App[Any],
        *,
        is_wanted: Callable[[], bool] = lambda: True,
        write: Callable[[str], None] | None = None,
        run: Callable[[list[str]], None] | None = None,
        environ: Mapping[str, str] = os.environ,
        platform: str = sys.platform,
    ) -> None:
        self._app = app
        self._is_wanted = is_wanted
        self._write = write or self._write_to_terminal
        self._run = run or run_aside
        self._way = find_way(environ, platform)
        self._is_marked = False

    def attach(self) -> None:
        """Watch the focus. Call it when the app is mounted."""
        self._app.watch(self._app, "app_focus", self._focus_changed, init=False)

    def job_ended(self, text: str, elapsed_s: float) -> None:
        """Notify and mark the title, if the job was long and the person is elsewhere.

        Args:
            text: what ended, in a few words; may hold anything.
            elapsed_s: how long it took.
        """
        if elapsed_s >= LONG_S:
            self.call(text)

    def call(self, text: str) -> None:
        """Notify and mark the title, if the person is elsewhere.

        Args:
            text: what for, in a few words; may hold anything.
        """
        if self._app.app_focus or not self._is_wanted():
            return
        if not self._is_marked:
            self._is_marked = True
            self._write(mark_title(NAME))
        match self._way:
            case "osc9":
                self._write(osc9(text))
            case "osc777":
                self._write(osc777(text))
            case "osascript":
                self._run(osascript(text))
            case "bell":
                self._write(BELL)

    def close(self) -> None:
        """Leave the title as it was found."""
        if self._is_marked:
            self._is_marked = False
            self._write(unmark_title())

    def _focus_changed(self, focused: bool) -> None:
        if focused:
            self.close()

    def _write_to_terminal(self, sequence: str) -> None:
        # Textual has no public way to write what it does not know; without one nothing is sent.
        driver = getattr(self._app, "_driver", None)
        if driver is not None and not self._app.is_headless:
            driver.write(sequence)


def run_aside(command: list[str]) -> None:
    """Run a command without waiting for it and without minding how it ends."""
    if tool := shutil.which(command[0]):
        arguments = [tool, *command[1:]]
        name = "mobilellm-notify"
        threading.Thread(target=_run, args=(arguments,), name=name, daemon=True).start()


def _run(arguments: list[str]) -> None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
