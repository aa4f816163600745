"""Asking on a plain terminal whether a call may be made."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import termios
import threading
from typing import Any

from mobilellm_mlx.plain import STEERING, UNSEEN, printable
from mobilellm_mlx.tools.approval import objection
from mobilellm_mlx.tools.tool import Answer, Duration, Request, deny

TERMINAL = "/dev/tty"
POLL_S = 0.1
LONGEST_WORDS = 1000
CUT = " …"
LONGEST_CALL = 4000
"""Characters of arguments that somebody reads before they say yes; what is longer is denied."""
LONGEST_ANSWER = 100

_ALLOWS: dict[bytes, Duration] = {
    **dict.fromkeys((b"y", b"yes", b"once"), "once"),
    **dict.fromkeys((b"s", b"session"), "session"),
    **dict.fromkeys((b"a", b"always"), "always"),
    **dict.fromkeys((b"r", b"read", b"reading"), "reading"),
}


def ask_on_terminal(request: Request, cancel: threading.Event) -> Answer:
    """Ask the person at the terminal, whatever stdin and stdout are; an ``Approve``.

    Only a clear yes allows. Without a terminal, or where nobody would see the question, it is no.

    Args:
        request: the call.
        cancel: ends the wait, which is a no.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return deny(request, cancel)
    try:
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return deny(request, cancel)
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background: reading would stop us
            return deny(request, cancel)
        return _ask(terminal, request, cancel)
    except OSError:  # it was closed
        return deny(request, cancel)
    except KeyboardInterrupt:
        return Answer(False, reason="you")
    finally:
        os.close(terminal)


def _ask(terminal: int, request: Request, cancel: threading.Event) -> Answer:
    if sum(map(len, arguments := _arguments(request))) > LONGEST_CALL:
        why = "the call is too long to be read on this terminal"
        _write(terminal, f"\nNot allowed: {_one_line(request.tool.name)}, {why}.\n")
        return Answer(False, reason=why)
    lasts, reads = objection(request.scope) is None, request.tool.reads_only
    _write(terminal, _question(request, arguments, lasts, reads))
    termios.tcflush(terminal, termios.TCIFLUSH)  # what was typed before the question is no answer
    while not cancel.is_set():
        if select.select([terminal], [], [], POLL_S)[0]:
            # The terminal gives a line at a time; one that is longer is no answer either.
            said = os.read(terminal, LONGEST_ANSWER).strip().lower()
            duration = _ALLOWS.get(said)
            if duration == "reading" and reads:
                return Answer(True, duration)
            if duration in (None, "reading") or (duration != "once" and not lasts):
                return Answer(False, reason="you")
            return Answer(True, duration)
    _write(terminal, "\n")
    return Answer(False, reason="you")


def _question(request: Request, arguments: list[str], lasts: bool, reads: bool) -> str:
    """What is asked: the call, where it comes from, and the answers with what they allow."""
    tool = request.tool
    lines = [
        f"\nAllow this? {_one_line(request.words)}",
        f"  {_one_line(tool.name)}, {_one_line(tool.source)}",
        *(f"  {argument}" for argument in arguments),
    ]
    if lasts:
        lines += [f"  “always” allows: {_one_line(request.rule)}"]
    answers = ["[y]es, once", *(("this [s]ession", "[a]lways") if lasts else ())]
    answers += ["all that only [r]ead"] if reads else []
    return "\n".join([*lines, f"{' / '.join(answers)} / [N]o: "])


def _arguments(request: Request) -> list[str]:
    """The arguments of which the words do not tell all, one on a line, with nothing left out."""
    told = _one_line(request.words)
    if told.endswith(CUT):  # what is short may stand in the rest by chance
        told = ""
    said = {name: _json(value) for name, value in request.call.arguments.items()}
    untold = set()
    for name, value in sorted(said.items(), key=lambda item: -len(item[1])):
        words = re.escape(value.strip('"') or value)
        # Taken out, so that it tells of no other argument.
        told, count = re.subn(rf"(?<!\w){words}(?!\w)", "\n", told, count=1)
        if not count:
            untold.add(name)
    return [f"{_json(name)[1:-1]} = {value}" for name, value in said.items() if name in untold]


def _json(value: Any) -> str:
    return _spelled(json.dumps(value, ensure_ascii=False))


def _spelled(text: str) -> str:
    """With what cannot be seen, or would steer the terminal, as JSON writes it."""

    def escape(found: re.Match[str]) -> str:
        return json.dumps(found[0])[1:-1]

    return UNSEEN.sub(escape, STEERING.sub(escape, text)).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    text = " ".join(_spelled(printable(text)).split())
    return text if len(text) <= LONGEST_WORDS else text[:LONGEST_WORDS] + CUT


def _write(terminal: int, text: str) -> None:
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(terminal, data) :]
