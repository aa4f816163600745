"""The bridge to everything else on a Mac: the person's own shortcuts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import named, trimmed
from mobilellm_mlx.tools.command import Runner, failure, operand
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Scope, Tool

MAX_SHORTCUTS = 200
REMEMBERED_S = 5.0
TIMEOUT_S = 60.0
Name = Annotated[str, Limits(min_length=1, max_length=200)]
Input = Annotated[str, Limits(max_length=2_000)]


class Shortcuts:
    """The shortcuts that exist; asked for again when the last answer is older than seconds."""

    def __init__(self, runner: Runner):
        self._runner = runner
        self._names: list[str] = []
        self._asked_at: float | None = None
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Their names as Shortcuts shows them; empty where it cannot be asked."""
        with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at > REMEMBERED_S:
                self._names, self._asked_at = self._ask(), now
            return list(self._names)

    def _ask(self) -> list[str]:
        try:
            ran = self._runner.run(["shortcuts", "list"], timeout_s=5)
        except ToolError:
            return []
        if ran.code != 0 and not ran.is_cut:
            return []
        lines = (line.strip() for line in ran.out.splitlines())
        # A name that would be an option cannot be run by name; one that steers a terminal is odd.
        names = [line for line in lines if line and line[0] != "-" and printable(line) == line]
        return list(dict.fromkeys(names))[:MAX_SHORTCUTS]

    def run(self, name: str, text: str, cancel: threading.Event) -> str:
        """What a shortcut says when it is given ``text``."""
        names = self.names()
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else "`shortcuts list` shows their names"
            raise ToolError(f"there is no shortcut {name!r}", hint)
        argv = ["shortcuts", "run", operand(name, "the shortcut")]
        if text:
            argv += ["--input-path", "-"]
        ran = self._runner.run(argv, stdin=text, timeout_s=TIMEOUT_S, cancel=cancel)
        if ran.code != 0 and not ran.is_cut:
            raise failure(f"the shortcut {name!r}", ran)
        return ran.out.strip() or f"The shortcut {name!r} has run; it said nothing."


def tools(around: Surroundings) -> list[Tool]:
    """``run_shortcut``."""
    shortcuts = Shortcuts(around.runner)

    def run_shortcut(name: Name, cancel: threading.Event, input: Input | None = None) -> str:
        """Run one of the person's shortcuts from the Shortcuts app.

        Args:
            name: the shortcut's name
            input: text that it is given, if it wants any
        """
        return shortcuts.run(name, input or "", cancel)

    return [
        tool_from(
            run_shortcut,
            live={"name": shortcuts.names},
            spoken={"input"},
            heard={"input": lambda said: _given(shortcuts.names(), said)},
            cues={"input": _WITH.pattern},
            examples=(
                Example("Run my Morning Routine shortcut", {"name": "Morning Routine"}),
                Example("Run Log Weight with 71.5 kg", {"name": "Log Weight", "input": "71.5 kg"}),
            ),
            keywords=("shortcut", "shortcuts", "run", "automation", "routine"),
            describe=_in_words,
            scope=lambda arguments: Scope("shortcut", str(arguments["name"])),
            timeout_s=TIMEOUT_S + 2,
            missing=_missing(around),
        )
    ]


_WITH = re.compile(r"\b(?:with|using|saying)\s+(?:the\s+(?:text|input|words?)\s+)?(\S.*)", re.I)


def _given(names: Iterable[str], said: str) -> list[str]:
    """What a shortcut is to be given; its own name may hold a "with"."""
    for name in named(names, said):
        at = said.casefold().find(name.casefold())
        said = said[:at] + said[at + len(name) :]
    given = _WITH.search(" ".join(said.split()))
    return [trimmed(given[1])] if given else []


def _in_words(arguments: Mapping[str, Any]) -> str:
    given = arguments.get("input")
    return f"Run the shortcut {arguments['name']!r}" + (f" with {given!r}" if given else "")


def _missing(around: Surroundings) -> str:
    if not around.is_mac:
        return "shortcuts are a part of macOS"
    if around.runner.find("shortcuts") is None:
        return "shortcuts need macOS 12 or later"
    return ""
