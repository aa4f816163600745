"""A runner that runs nothing: it remembers what it was asked and gives what was recorded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.command import Ran


class Asked(NamedTuple):
    argv: tuple[str, ...]
    stdin: str
    may_stay: bool


class RecordedRunner:
    """Programs are those that have recordings, by the words that a command begins with."""

    def __init__(self, recorded: dict[str, Ran | Exception], programs: Sequence[str] = ()):
        self.recorded = recorded
        self.programs = {*programs, *(words.split()[0] for words in recorded)}
        self.asked: list[Asked] = []

    def find(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self.programs else None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout_s: float = 10,
        max_bytes: int = 200_000,
        cancel: threading.Event | None = None,
        may_stay: bool = False,
    ) -> Ran:
        assert not isinstance(argv, str) and all(isinstance(word, str) for word in argv)
        self.asked.append(Asked(tuple(argv), stdin, may_stay))
        if self.find(argv[0]) is None:
            raise ToolError(f"there is no program {argv[0]!r} on this machine")
        line = " ".join(argv)
        for words, answer in self.recorded.items():
            if line.startswith(words):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return Ran(0)


def by_name(tools: Sequence[Any]) -> dict[str, Any]:
    return {tool.name: tool for tool in tools}
