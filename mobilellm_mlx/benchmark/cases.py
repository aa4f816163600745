"""Start-up and conversations as jobs like the other ones: events, and a summary last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mobilellm_mlx.benchmark.machine import describe_machine, iter_busy
from mobilellm_mlx.benchmark.startup import StartupResult, iter_startup
from mobilellm_mlx.benchmark.turns import TurnsResult, iter_turns
from mobilellm_mlx.events import BenchSummary, Event, Progress


def iter_startup_events(
    directory: Path, repeats: int, with_mlx_lm: bool, as_installed: bool
) -> Iterator[Event]:
    """See ``iter_startup``."""
    started, machine, done = time.perf_counter(), describe_machine(), 0
    for one in iter_startup(
        directory, repeats=repeats, with_mlx_lm=with_mlx_lm, as_installed=as_installed
    ):
        if isinstance(one, StartupResult):
            notes = [] if one.ratio is None else [f"{one.ratio:.2f} of mlx-lm's time, same files."]
            yield _summary("startup", directory, one, notes, machine, started)
        else:
            done += 1
            yield Progress("starting programs", done, None, "steps")


def iter_turns_events(directory: Path, repeats: int, with_mlx_lm: bool) -> Iterator[Event]:
    """See ``iter_turns``."""
    started, machine, done = time.perf_counter(), describe_machine(), 0
    for one in iter_turns(directory, repeats=repeats, with_mlx_lm=with_mlx_lm):
        if isinstance(one, TurnsResult):
            notes = [] if one.ratio is None else [f"{one.ratio:.2f} of the second turn's time."]
            yield _summary("turns", directory, one, notes, machine, started)
        else:
            done += 1
            yield Progress("talking", done, None, "steps")


def _summary(
    table: str,
    directory: Path,
    result: StartupResult | TurnsResult,
    notes: list[str],
    machine: dict[str, Any],
    started: float,
) -> BenchSummary:
    from mobilellm_mlx.benchmark.weights import model_name

    settings = {name: value for name, value in asdict(result).items() if name != "rows"}
    return BenchSummary(
        elapsed_s=time.perf_counter() - started,
        model=model_name(directory),
        table=table,
        machine=machine,
        settings=settings,
        rows=result.rows,
        notes=[*notes, *iter_busy(machine)],
    )
