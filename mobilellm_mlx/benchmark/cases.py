"""Start-up and conversations as jobs like the other ones: events, and a summary last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mobilellm_mlx.benchmark.machine import describe_machine
from mobilellm_mlx.benchmark.startup import StartupResult, iter_startup
from mobilellm_mlx.benchmark.turns import TurnsResult, iter_turns
from mobilellm_mlx.events import BenchSummary, Event, Progress


def iter_startup_events(
    directory: Path, repeats: int, with_mlx_lm: bool, as_installed: bool
) -> Iterator[Event]:
    """See ``iter_startup``."""
    started, done = time.perf_counter(), 0
    for one in iter_startup(
        directory, repeats=repeats, with_mlx_lm=with_mlx_lm, as_installed=as_installed
    ):
        if isinstance(one, StartupResult):
            note = _verdict(one.ratio, one.target, one.is_met, "of mlx-lm's time, same files")
            yield _summary("startup", directory, one, [note] if note else [], started)
        else:
            done += 1
            yield Progress("starting programs", done, None, "steps")


def iter_turns_events(directory: Path, repeats: int, with_mlx_lm: bool) -> Iterator[Event]:
    """See ``iter_turns``."""
    started, done = time.perf_counter(), 0
    for one in iter_turns(directory, repeats=repeats, with_mlx_lm=with_mlx_lm):
        if isinstance(one, TurnsResult):
            note = _verdict(one.ratio, one.target, one.is_met, "of the second turn's time")
            yield _summary("turns", directory, one, [note] if note else [], started)
        else:
            done += 1
            yield Progress("talking", done, None, "steps")


def _verdict(ratio: float | None, target: float, is_met: bool | None, of: str) -> str | None:
    if ratio is None:
        return None
    return f"{ratio:.2f} {of}; at most {target} is wanted: {'met' if is_met else 'missed'}."


def _summary(
    table: str,
    directory: Path,
    result: StartupResult | TurnsResult,
    notes: list[str],
    started: float,
) -> BenchSummary:
    from mobilellm_mlx.benchmark.weights import model_name

    settings = {name: value for name, value in asdict(result).items() if name != "rows"}
    return BenchSummary(
        elapsed_s=time.perf_counter() - started,
        model=model_name(directory),
        table=table,
        machine=describe_machine(),
        settings=settings,
        rows=result.rows,
        notes=notes,
    )
