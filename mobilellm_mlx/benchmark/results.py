"""What many runs say together: a row for each program and case, ratios, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from mobilellm_mlx.benchmark.peers import OURS
from mobilellm_mlx.benchmark.plan import Case
from mobilellm_mlx.benchmark.spread import spread
from mobilellm_mlx.events import BenchRun

_DRIFT = 0.10
"""From the first to the last repeat: more looks like a machine that gets warm."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so great a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def make_rows(runs: Sequence[BenchRun]) -> list[dict[str, Any]]:
    """A row for each program and case, from the runs of it that count."""
    rows = []
    for (engine, case), own in _grouped(runs).items():
        token_s = [seconds for run in own for seconds in run.token_s]
        rows.append({
            "engine": engine,
            "prompt": case.prompt,
            "depth": case.depth,
            "batch": case.batch,
            "repeats": len(own),
            "ttft_s": spread([run.ttft_s for run in own]),
            "prefill_tok_per_s": spread([prefill_speed(run) for run in own]),
            "decode_tok_per_s": spread([decode_speed(run) for run in own]),
            "token_s": {"median": median(token_s), "p95": percentile(token_s, 0.95)},
        })  # fmt: skip
    return rows


def make_ratios(runs: Sequence[BenchRun]) -> list[dict[str, Any]]:
    """How many times as fast ours is as each peer, from the runs of the same repeat.

    A row has ``peer``, the case, ``what`` (``prefill`` or ``decode``), ``median``, ``min``,
    ``max`` and ``repeats``. Above 1 ours is the faster one.
    """
    grouped = _grouped(runs)
    rows = []
    for (peer, case), theirs in grouped.items():
        ours = {run.repeat: run for run in grouped.get((OURS, case), [])}
        if peer == OURS or not ours:
            continue
        pairs = [(ours[run.repeat], run) for run in theirs if run.repeat in ours]
        if not pairs:  # theirs is a first time that had to do
            pairs = [(run, theirs[0]) for run in ours.values()]
        for what, speed in (("prefill", prefill_speed), ("decode", decode_speed)):
            ratios = [speed(own) / speed(other) for own, other in pairs]
            label = {"prompt": case.prompt, "depth": case.depth, "batch": case.batch}
            rows.append({"peer": peer, **label, "what": what, **spread(ratios)})
    return rows


def prefill_speed(run: BenchRun) -> float:
    """Tokens of the prompt a second, those of all sequences."""
    return run.batch * run.prompt / max(run.ttft_s, 1e-9)


def decode_speed(run: BenchRun) -> float:
    """Tokens a second after the first one, those of all sequences."""
    return run.batch * len(run.token_s) / max(sum(run.token_s), 1e-9)


def _grouped(runs: Sequence[BenchRun]) -> dict[tuple[str, Case], list[BenchRun]]:
    grouped: dict[tuple[str, Case], list[BenchRun]] = {}
    for run in runs:
        grouped.setdefault((run.engine, Case(run.prompt, run.depth, run.batch)), []).append(run)
    return grouped


def add_bandwidth(
    rows: Sequence[dict[str, Any]],
    step_bytes: int,
    kv_bytes: Mapping[int, int],
    bandwidth: float,
    generate: int,
) -> None:
    """Say in our own rows what a decode step reads and what share of the bandwidth that is.

    Args:
        rows: of ``make_rows``.
        step_bytes: of weights.
        kv_bytes: of keys and values of one sequence, by how many tokens are behind it.
        bandwidth: bytes a second; 0 is unknown.
        generate: tokens of a run.
    """
    for row in rows:
        if row["engine"] == OURS:
            behind = middle(row["prompt"], row["depth"], generate)
            moved = step_bytes + row["batch"] * kv_bytes[behind]
            rate = moved / max(row["token_s"]["median"], 1e-9)
            row["step_bytes"] = moved
            row["bandwidth_share"] = rate / bandwidth if bandwidth else None


def middle(prompt: int, depth: int, generate: int) -> int:
    """Tokens behind the middle one of a run."""
    return prompt + depth + generate // 2


def iter_notes(
    runs: Sequence[BenchRun], rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> Iterator[str]:
    """What a reader of the rows has to know.

    Args:
        runs: that count.
        rows: made of them.
        about: our own program.
    """
    if any((row.get("bandwidth_share") or 0) > 1 for row in rows):
        yield (
            "More than 100 % of the bandwidth: a part of the weights stays in the processor's "
            "caches, or memory was busier when its bandwidth was measured."
        )
    if drifted := list(_iter_drifts(runs)):
        yield (
            f"The last repeat was not like the first: {'; '.join(drifted)}. The machine gets warm, "
            "or something else runs on it."
        )
    if about.get("compiled_calls"):
        yield (
            "One compiled call computes all blocks at once and stands for none of the primitives; "
            "what it takes is no host time."
        )


def _iter_drifts(runs: Sequence[BenchRun]) -> Iterator[str]:
    for (engine, case), own in _grouped(runs).items():
        drift = decode_speed(own[-1]) / decode_speed(own[0]) - 1
        if abs(drift) > _DRIFT:
            change = "slower" if drift < 0 else "faster"
            yield f"{engine}, prompt {case.title}: {abs(drift):.0%} {change}"
