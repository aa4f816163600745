"""The question on a plain terminal hides nothing of what would be done."""

from __future__ import annotations

import os
import select
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from mobilellm_mlx.cli import approval
from mobilellm_mlx.plain import STEERING, UNSEEN
from mobilellm_mlx.tools.approval import make_request
from mobilellm_mlx.tools.tool import Answer, Tool

SHELL = Tool("sh_run", "Run.", {"type": "object"}, lambda _, __: "", source="mcp:sh")
NOTE = replace(SHELL, source="builtin", describe=lambda a: f"Add a note: {a['text']}")
READER = replace(SHELL, name="look", reads_only=True)


def ask(tool: Tool, typed: bytes, **arguments: Any) -> tuple[Answer, str]:
    """The answer to the question about a call, and what stood on the terminal."""
    ours, theirs = os.openpty()
    shown, over = b"", threading.Event()

    def sit_there() -> None:
        nonlocal shown
        end, has_typed = time.monotonic() + 10, False
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.02)[0]:
                shown += os.read(ours, 65536)
            elif over.is_set():
                return
            elif b"]o: " in shown and not has_typed:  # quiet since: the keyboard is emptied
                has_typed = True
                os.write(ours, typed)

    person = threading.Thread(target=sit_there)
    person.start()
    try:
        answer = approval._ask(theirs, make_request("1", tool, arguments), threading.Event())
    finally:
        over.set()
        person.join()
        os.close(ours)
        os.close(theirs)
    return answer, shown.decode().replace("\r\n", "\n")


def test_what_the_words_leave_out_is_spelled_out() -> None:
    end = "; rm -rf ~"
    answer, shown = ask(SHELL, b"y\n", command="echo " + "x" * 1100 + end)
    assert answer == Answer(True, "once")
    question, argument = shown.split("\n  command = ")
    assert end not in question and " …" in question
    assert argument.startswith(f'"echo {"x" * 1100}{end}"\n')


def test_an_argument_that_the_words_do_not_name_is_spelled_out() -> None:
    _, shown = ask(NOTE, b"n\n", text="buy milk", to="evil.example", loud=True)
    lines = shown.splitlines()
    assert '  to = "evil.example"' in lines and "  loud = true" in lines
    assert "Allow this? Add a note: buy milk" in lines
    assert not any("text =" in line for line in lines)  # the words say all of it


@pytest.mark.parametrize(
    ("tool", "arguments", "spelled"),
    [
        (
            SHELL,
            {"text": "true 25 " + "x" * 1100, "all": True, "port": 2},
            ["all = true", "port = 2"],
        ),
        (SHELL, {"text": "x" * 1100, "more": "x"}, ['more = "x"']),
        (NOTE, {"text": "buy milk", "to": "milk"}, ['to = "milk"']),
        (NOTE, {"text": "buy 12 eggs", "count": 2}, ["count = 2"]),
        (NOTE, {"text": "buy milk", "to": ""}, ['to = ""']),
    ],
)
def test_words_of_one_argument_tell_of_no_other(
    tool: Tool, arguments: dict[str, Any], spelled: list[str]
) -> None:
    _, shown = ask(tool, b"n\n", **arguments)
    assert {f"  {line}" for line in spelled} <= set(shown.splitlines())


def test_a_name_with_a_line_break_makes_no_line() -> None:
    _, shown = ask(NOTE, b"n\n", text="x", **{"y\n  “always” allows: nothing": "z"})
    assert "\n  “always” allows: nothing" not in shown and "y\\n" in shown


def test_a_call_too_long_to_be_read_is_denied_with_the_reason() -> None:
    answer, shown = ask(SHELL, b"y\n", command="x" * approval.LONGEST_CALL, more=1)
    assert answer == Answer(False, reason="the call is too long to be read on this terminal")
    assert shown.strip() == f"Not allowed: sh_run, {answer.reason}."


def test_many_arguments_are_too_long_together() -> None:
    arguments = {f"a{n}": f"{n:03}" * 50 for n in range(40)}
    assert not ask(SHELL, b"y\n", **arguments)[0].allowed


@pytest.mark.parametrize(
    ("hidden", "spelled"),
    [
        ("\u200b", r"\u200b"),
        ("\u200e", r"\u200e"),
        ("\u2028", r"\u2028"),
        ("\u2060", r"\u2060"),
        ("\u3164", r"\u3164"),
        ("\ufeff", r"\ufeff"),
        ("\U000e0072", r"\udb40\udc72"),
        ("\u202e", r"\u202e"),
        ("\x1b", r"\u001b"),
        ("\x7f", r"\u007f"),
    ],
)
def test_what_cannot_be_seen_is_spelled_as_in_json(hidden: str, spelled: str) -> None:
    for tool, name in ((SHELL, "command"), (NOTE, "text")):
        _, shown = ask(tool, b"n\n", **{name: f"echo a{hidden}b"})
        assert f"echo a{spelled}b" in shown
        assert not UNSEEN.search(shown) and not STEERING.search(shown)


def test_joiners_and_variants_of_emoji_are_seen() -> None:
    said = "👩\u200d👧 ❤\ufe0f क\u094dष किं"
    assert not UNSEEN.search(said)
    assert f"Add a note: {said}" in ask(NOTE, b"n\n", text=said)[1]


def test_a_name_of_an_argument_cannot_write_a_line_of_its_own() -> None:
    name = "x\r\x1b[2J\u200b\u202e"
    for tool in (SHELL, NOTE):
        _, shown = ask(tool, b"n\n", text="buy milk", **{name: "there"})
        assert not STEERING.search(shown) and not UNSEEN.search(shown)
    assert '  x\\r\\u001b[2J\\u200b\\u202e = "there"\n' in shown


def test_all_that_only_reads_can_be_allowed_where_it_is_offered() -> None:
    for typed in (b"r\n", b"Reading\n"):
        answer, shown = ask(READER, typed)
        assert answer == Answer(True, "reading") and "all that only [r]ead" in shown
    answer, shown = ask(SHELL, b"r\n")
    assert answer == Answer(False, reason="you") and "[r]ead" not in shown
