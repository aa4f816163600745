"""What is measured: which cases, how often, with how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from mobilellm_mlx.errors import InvalidOption

PROMPTS, GENERATE, REPEATS = (32, 256), 64, 5
MOST = 1_000_000
"""Of anything that is counted here: more is a slip of the finger."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to do: read a prompt behind a context, then go on from it."""

    prompt: int
    """Tokens that are read."""
    depth: int = 0
    """Tokens that were read before, whose keys and values are there."""
    batch: int = 1
    """Sequences at once."""

    @property
    def title(self) -> str:
        """What it is called in a table."""
        depth = f" at {self.depth:,}" if self.depth else ""
        batch = f" x {self.batch}" if self.batch > 1 else ""
        return f"{self.prompt:,}{depth}{batch}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All cases: every prompt at every depth in every batch."""

    prompts: tuple[int, ...] = PROMPTS
    depths: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (1,)
    generate: int = GENERATE
    """Tokens after the first one."""
    repeats: int = REPEATS
    """Of each case, after a first time that does not count."""
    threads: int | None = None
    """Of every program, all on the same cores; None leaves each to itself."""

    def __post_init__(self) -> None:
        for flag, values, least in (
            ("prompt", self.prompts, 1),
            ("depth", self.depths, 0),
            ("batch", self.batches, 1),
        ):
            for value in values:
                _require(flag, value, least)
        _require("generate", self.generate, 1)
        _require("repeats", self.repeats, 1)
        if self.threads is not None:
            _require("threads", self.threads, 1)
            cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
            if cores and self.threads > cores:
                raise InvalidOption(
                    f"`threads` is {self.threads:,}, and this machine has {cores} cores for it",
                    f"pass {cores} or fewer with `--threads`",
                )

    @property
    def cases(self) -> list[Case]:
        """In the order in which they are measured, each once."""
        return list(dict.fromkeys(self._iter_cases()))

    @property
    def longest(self) -> int:
        """Tokens that the context has to hold."""
        return max(self.depths) + max(self.prompts) + self.generate + 1

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        plain = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}

    def _iter_cases(self) -> Iterator[Case]:
        for batch, depth, prompt in product(self.batches, self.depths, self.prompts):
            yield Case(prompt, depth, batch)


def _require(flag: str, value: int, least: int) -> None:
    if not least <= value <= MOST:
        raise InvalidOption(
            f"`{flag}` is {value:,}, expected {least} to {MOST:,}",
            f"pass another value with `--{flag}`",
        )
