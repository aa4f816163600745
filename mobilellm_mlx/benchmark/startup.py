"""Process start to first token, beside ``mlx_lm.generate``.

Runs in alternation, all with the same prompt, the same BLAS and greedy decoding:

- ours and mlx-lm's from the same files, weights as float32: about start-up and nothing else;
- ours from the model's own files, as people have them: unpacking included where that is done.

What is timed is the first byte of the answer on stdout.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mobilellm_mlx.benchmark.child import run_child
from mobilellm_mlx.benchmark.spread import spread
from mobilellm_mlx.benchmark.twins import write_dense
from mobilellm_mlx.errors import EngineError, InvalidInput

TARGET = 0.4
"""Of mlx-lm's time from the same files, at most."""
PROMPT, TOKENS, REPEATS, LIMIT_S = "What is the capital of France?", 8, 7, 600.0

Case = Literal[
    "mobilellm, float32 files", "mobilellm", "mlx-lm, float32 files", "mlx-lm, as installed"
]
DENSE: Case = "mobilellm, float32 files"
OURS: Case = "mobilellm"
PEER: Case = "mlx-lm, float32 files"
AS_INSTALLED: Case = "mlx-lm, as installed"


@dataclass(frozen=True, slots=True)
class StartupTimes:
    """One start of one program."""

    case: Case
    repeat: int
    """From 1; 0 only brings the files into memory and counts for nothing."""
    seconds: float
    """From starting the process to the first byte of its answer."""


@dataclass(frozen=True, slots=True)
class StartupResult:
    """What all starts say together."""

    blas: str
    target: float = TARGET
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Each with ``case``, ``what`` (``seconds``, or ``ratio`` to mlx-lm from the float32 files),
    ``median``, ``min``, ``max`` and ``repeats``."""

    @property
    def ratio(self) -> float | None:
        """Of ours to mlx-lm's, from the same files; None where mlx-lm was not asked."""
        wanted = (row for row in self.rows if (row["case"], row["what"]) == (DENSE, "ratio"))
        return next((float(row["median"]) for row in wanted), None)

    @property
    def is_met(self) -> bool | None:
        """Whether ours is fast enough; None where nobody can say."""
        return None if self.ratio is None else self.ratio <= self.target


def iter_startup(
    directory: Path,
    *,
    repeats: int = REPEATS,
    with_mlx_lm: bool = True,
    as_installed: bool = False,
    limit_s: float = LIMIT_S,
) -> Iterator[StartupTimes | StartupResult]:
    """Start the programs in turn; gives every start as it ends, and a ``StartupResult`` last.

    Args:
        directory: of the model.
        repeats: of each program, after a first one that does not count.
        with_mlx_lm: also start mlx-lm, with the same BLAS.
        as_installed: also start mlx-lm as a user finds it, once: its own kernels for packed
            weights, its own BLAS. On a Linux CPU that takes minutes.
        limit_s: a start that takes longer is stopped.

    Raises:
        InvalidInput: when there is nothing to repeat.
        EngineError: when a program fails, says nothing or takes too long.
    """
    from mobilellm_mlx.backend import BLAS

    if repeats < 1:
        raise InvalidInput(f"`repeats` is {repeats}, expected at least 1")
    with TemporaryDirectory(prefix="mobilellm-bench-") as scratch:
        env = make_environment(Path(scratch) / "bytecode")
        commands: dict[Case, tuple[list[str], int]] = {}
        if with_mlx_lm:
            dense = write_dense(directory, Path(scratch) / directory.name)
            commands[DENSE] = (our_command(dense), 0)
            commands[PEER] = (peer_command(dense, same_blas=True), 1)
        commands[OURS] = (our_command(directory), 0)
        times: list[StartupTimes] = []
        for repeat in range(repeats + 1):
            for case, (command, skip) in commands.items():
                elapsed = first_byte_s(command, skip=skip, env=env, limit_s=limit_s)
                times.append(StartupTimes(case, repeat, elapsed))
                yield times[-1]
        if as_installed:
            command = peer_command(directory, same_blas=False)
            elapsed = first_byte_s(command, skip=1, env=env, limit_s=limit_s)
            times.append(StartupTimes(AS_INSTALLED, 1, elapsed))
            yield times[-1]
    yield StartupResult(BLAS.name, rows=list(make_rows(times)))


def make_environment(bytecode: Path) -> dict[str, str]:
    """Of all programs: their modules are compiled once, as an installed program's are.

    The first start, which does not count, does that. Otherwise it would depend on who has run
    which program before, and whether he was allowed to write beside it, who is compiled each time.

    Args:
        bytecode: a directory for what is compiled.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **env,
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }


def our_command(directory: Path) -> list[str]:
    """Our one-shot verb."""
    command = [sys.executable, "-m", "mobilellm_mlx", "generate", "-m", str(directory)]
    return [*command, "-p", PROMPT, "--temp", "0", "--max-tokens", str(TOKENS)]


def peer_command(directory: Path, *, same_blas: bool) -> list[str]:
    """mlx-lm's one-shot verb, with our BLAS loaded first or as it is.

    Before its answer it prints a line.
    """
    arguments = ["--model", str(directory), "--prompt", PROMPT]
    arguments += ["--temp", "0", "--max-tokens", str(TOKENS)]
    first = "import mobilellm_mlx.backend; " if same_blas else ""
    code = f"{first}from mlx_lm.generate import main; main()"  # what its console script does
    return [sys.executable, "-c", code, *arguments]


def first_byte_s(
    command: Sequence[str],
    *,
    skip: int = 0,
    env: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> float:
    """Seconds from starting a process to the first byte after ``skip`` lines of its stdout.

    Raises:
        EngineError: when it fails, says nothing or takes too long.
    """
    what = f"`{_short(command)}`"
    started = time.perf_counter()
    with run_child(command, what, limit_s, env) as out:
        for _ in range(skip):
            out.readline()
        got = out.read(1)
        elapsed = time.perf_counter() - started
        out.read()
    if not got:
        raise EngineError(f"{what} said nothing")
    return elapsed


def _short(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:4]])


def make_rows(times: Sequence[StartupTimes]) -> Iterator[dict[str, Any]]:
    """Seconds of each case, and its ratio to the peer in the same repeat."""
    counted: dict[Case, dict[int, float]] = {}
    for time_ in times:
        if time_.repeat:
            counted.setdefault(time_.case, {})[time_.repeat] = time_.seconds
    for case, seconds in counted.items():
        yield {"case": case, "what": "seconds", **spread(list(seconds.values()))}
    theirs = counted.get(PEER, {})
    for case in (DENSE, OURS):
        if theirs and case in counted:
            ratios = [seconds / theirs[repeat] for repeat, seconds in counted[case].items()]
            yield {"case": case, "what": "ratio", **spread(ratios)}
