"""Asking on a plain terminal: a real one, with nobody's yes but the person's."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mobilellm_mlx.cli.approval import ask_on_terminal
from mobilellm_mlx.tools.approval import make_request
from mobilellm_mlx.tools.tool import Tool

ASK = """
import os, signal, sys, threading
os.setsid()
os.open(os.ttyname(2), os.O_RDWR)  # becomes the terminal that /dev/tty stands for
from mobilellm_mlx.cli.approval import ask_on_terminal
from mobilellm_mlx.tools.approval import make_request
from mobilellm_mlx.tools.tool import Scope, Tool
folder = sys.argv[1]
tool = Tool("read_file", "Read.", {}, lambda _, __: "", source="mcp:evil\\x1b[2J",
            describe=lambda a: "Read\\n\\x1b[2Jthis", scope=lambda _: Scope("folder", folder))
cancel = threading.Event()
if len(sys.argv) > 2:
    threading.Timer(0.3, cancel.set).start()
answer = ask_on_terminal(make_request("1", tool, {}), cancel)
print(answer.allowed, answer.duration, answer.reason)
"""

Talk = Callable[..., tuple[str, str]]


@pytest.fixture
def talk() -> Iterator[Talk]:
    """Asks on a terminal of its own and types there; gives the answer and what was shown."""
    ours, theirs = os.openpty()

    def read_until(mark: str) -> str:
        seen, end = b"", time.monotonic() + 20
        while mark.encode() not in seen and time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096)
        return seen.decode()

    def talk(
        typed: bytes, *args: str, folder: str = "/srv/papers", before: bytes = b""
    ) -> tuple[str, str]:
        if before:
            os.write(ours, before)
        process = subprocess.Popen(
            [sys.executable, "-c", ASK, folder, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        shown = read_until("]o: ")
        time.sleep(0.1)  # the question is written before the keyboard is emptied
        os.write(ours, typed)
        said, _ = process.communicate(timeout=20)
        return said.decode().strip(), shown

    yield talk
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (b"y\n", "True once"),
        (b" Session \n", "True session"),
        (b"a\n", "True always"),
        (b"\n", "False once you"),
        (b"yess\n", "False once you"),
        (b"\x04", "False once you"),
        (b"\x03", "False once you"),
    ],
    ids=["once", "session", "always", "enter", "not quite", "end of file", "Ctrl-C"],
)
def test_only_a_clear_yes_allows(talk: Talk, typed: bytes, answer: str) -> None:
    assert talk(typed)[0] == answer


def test_the_question_says_what_is_asked_and_steers_nothing(talk: Talk) -> None:
    _, shown = talk(b"n\n")
    assert "Allow this? Read [2Jthis" in shown
    assert "“always” allows: read_file below /srv/papers" in shown
    assert "\x1b" not in shown


def test_what_was_typed_in_advance_is_no_answer(talk: Talk) -> None:
    assert talk(b"n\n", before=b"a\n")[0] == "False once you"


def test_a_rule_that_would_be_too_wide_is_not_offered(talk: Talk) -> None:
    said, shown = talk(b"a\n", folder="/")
    assert said == "False once you"
    assert "always" not in shown


def test_a_stopped_turn_is_not_waited_for(talk: Talk) -> None:
    assert talk(b"", "cancelled")[0] == "False once you"


def test_without_a_terminal_nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request("1", Tool("t", "T.", {}, lambda _, __: ""), {})
    monkeypatch.setattr("mobilellm_mlx.cli.approval.TERMINAL", "/nonexistent")
    answer = ask_on_terminal(request, threading.Event())
    assert (answer.allowed, answer.reason) == (False, "there is no terminal to ask on")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert not ask_on_terminal(request, threading.Event()).allowed
