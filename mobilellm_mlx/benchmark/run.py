"""The benchmark as a job: every program in a process of its own, asked in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from mobilellm_mlx.backend import available_memory_bytes
from mobilellm_mlx.benchmark.machine import describe_machine, iter_busy, thermal_state
from mobilellm_mlx.benchmark.peers import OURS, PEERS, NotInstalled, Place, our_command
from mobilellm_mlx.benchmark.plan import Case, Plan
from mobilellm_mlx.benchmark.results import (
    add_bandwidth,
    iter_notes,
    make_ratios,
    make_rows,
    middle,
    percentile,
)
from mobilellm_mlx.benchmark.spread import spread
from mobilellm_mlx.benchmark.wire import Child, number, numbers
from mobilellm_mlx.errors import EngineError, InsufficientMemory, InvalidOption, format_bytes
from mobilellm_mlx.events import BenchRun, BenchSummary, Event, Notice, Progress

START_S = 120.0
"""What another program may take to load the weights and for its first tokens. Threads that wait by
spinning take for ever on a machine where something else runs."""
SLOW_S = 30.0
"""A program that takes longer for one case is asked for it once: the first time counts."""


_OURS = ("context", "step_bytes", "weight_bytes", "item_bytes", "kv_bytes_per_token")
"""What ours says of itself besides, in whole numbers."""


@dataclass(slots=True)
class Asked:
    """A program and what it has said."""

    child: Child
    about: dict[str, Any]
    is_ours: bool
    slow: set[Case] = field(default_factory=set)


def iter_bench(
    place: Place,
    plan: Plan,
    prompt: Sequence[int],
    *,
    name: str,
    peers: Sequence[str] = (),
    limit_s: float = 600.0,
) -> Iterator[Event]:
    """Measure a model; gives every run that counts, and a ``BenchSummary`` last.

    Args:
        place: where the model and the programs are.
        plan: what to measure.
        prompt: ids to read, at least as many as the longest context and prompt together.
        name: of the model.
        peers: names of ``PEERS`` to measure beside ours, in turn.
        limit_s: no answer may take longer.

    Raises:
        InvalidOption: when the model's context does not hold the longest case.
        InsufficientMemory: when a case has more keys and values than memory holds.
        EngineError: when ours fails. A peer that fails is left out, with a notice.
    """
    started, machine = time.perf_counter(), describe_machine()
    with ExitStack() as stack:
        scratch = stack.enter_context(TemporaryDirectory(prefix="mobilellm-bench-"))
        place = replace(
            place, scratch=Path(scratch), threads=plan.threads, context=plan.longest + 64
        )
        yield Progress("loading", 0, len(peers) + 1, "items")
        ours = start(stack, OURS, our_command(place), plan.threads, limit_s, is_ours=True)
        if plan.longest > ours.about["context"]:
            raise InvalidOption(
                f"the longest case needs {plan.longest:,} tokens of context, and the model has "
                f"{ours.about['context']:,}",
                "take shorter prompts, a smaller depth or fewer tokens",
            )
        _require_room(plan, ours.about["kv_bytes_per_token"])
        asked = [ours]
        place = replace(place, on_gpu=ours.about.get("backend") != "cpu")
        for peer in peers:
            yield Progress("loading", len(asked), len(peers) + 1, "items")
            try:
                limit = min(limit_s, START_S)
                asked.append(start(stack, peer, PEERS[peer](place), plan.threads, limit))
                asked[-1].child.limit_s = limit_s
            except NotInstalled as error:
                yield Notice(f"without {peer}: {error}")
            except EngineError as error:
                yield Notice(
                    f"without {peer}: {error}" + (f" ({error.hint})" if error.hint else "")
                )
        before = thermal_state()
        runs: list[BenchRun] = []
        for event in iter_runs(asked, plan, prompt):
            if isinstance(event, BenchRun):
                runs.append(event)
            yield event
        yield from _finish(asked, plan)
        elapsed_s = time.perf_counter() - started
        yield _summary(asked, plan, runs, place, name, machine, before, elapsed_s)


def _require_room(plan: Plan, kv_bytes: int) -> None:
    """Refuse what would have the system end a program for want of memory.

    Args:
        plan: all cases.
        kv_bytes: keys and values of one token.
    """
    held, case = max(
        ((case.depth + case.prompt + plan.generate) * case.batch * kv_bytes, case.title)
        for case in plan.cases
    )
    if held > (available := available_memory_bytes()):
        raise InsufficientMemory(
            f"keys and values of prompt {case} take {format_bytes(held)}, and "
            f"{format_bytes(available)} are free",
            "take a smaller batch or shorter prompts",
        )


def start(
    stack: ExitStack,
    name: str,
    command: list[str],
    threads: int | None,
    limit_s: float,
    *,
    is_ours: bool = False,
) -> Asked:
    """A program that has loaded its model.

    Args:
        stack: ends it.
        name: of the program, for people.
        command: its.
        threads: that it may use.
        limit_s: no answer may take longer.
        is_ours: whether it says more of itself.

    Raises:
        EngineError: when it does not.
    """
    child = Child(name, command, threads=threads, limit_s=limit_s)
    stack.callback(child.close)
    about = dict(child.greeting)
    for key in ("load_s", "init_s"):
        about[key] = number(about, key, name)
    about["execute_s"] = spread(numbers(about, "execute_s", name, None))
    for key in _OURS if is_ours else ():
        about[key] = int(number(about, key, name))
    return Asked(child, {**about, "engine": name}, is_ours)


def iter_runs(asked: list[Asked], plan: Plan, prompt: Sequence[int]) -> Iterator[Event]:
    """Every case of every program, in turn, so that all of them meet the same weather.

    The first time does not count, unless it took so long that there is no second one.
    """
    total = (plan.repeats + 1) * len(plan.cases)
    for repeat in range(plan.repeats + 1):
        for at, case in enumerate(plan.cases):
            yield Progress("measuring", repeat * len(plan.cases) + at, total, "steps")
            for one in list(asked):
                if case in one.slow:
                    continue
                begun = time.perf_counter()
                try:
                    run = _run(one, case, plan, prompt, repeat)
                except EngineError as error:
                    if one.is_ours:
                        raise
                    asked.remove(one)
                    yield Notice(f"without {one.child.name} from here on: {error}")
                    continue
                if repeat:
                    yield run
                elif time.perf_counter() - begun > SLOW_S:
                    one.slow.add(case)
                    yield Notice(
                        f"{one.child.name}, prompt {case.title}: measured once, without a warm-up, "
                        "for it is slow"
                    )
                    yield run
    yield Progress("measuring", total, total, "steps")


def _run(one: Asked, case: Case, plan: Plan, prompt: Sequence[int], repeat: int) -> BenchRun:
    name = one.child.name
    read = list(prompt[: case.depth + case.prompt])
    said = one.child.ask(
        "run",
        depth=read[: case.depth],
        prompt=read[case.depth :],
        batch=case.batch,
        generate=plan.generate,
    )
    return BenchRun(
        engine=name,
        repeat=repeat,
        prompt=case.prompt,
        depth=case.depth,
        batch=case.batch,
        ttft_s=number(said, "ttft_s", name, least=1e-9),
        token_s=numbers(said, "token_s", name, plan.generate),
    )


def _finish(asked: list[Asked], plan: Plan) -> Iterator[Event]:
    """What is asked when the clock does not run any more: costs of a step, peaks of memory."""
    for one in list(asked):
        name = one.child.name
        try:
            # The peaks first: reading memory to see how fast it is takes a lot of it.
            peaks = one.child.ask("peaks")
            for key in ("peak_memory_bytes", "device_peak_bytes"):
                one.about[key] = int(number(peaks, key, name))
            said = one.child.ask("count", depth=plan.cases[0].prompt)
            one.about |= _counted(said, one)
        except EngineError as error:
            if one.is_ours:
                raise
            yield Notice(f"{name} did not say what a step costs: {error}")


def _counted(said: dict[str, Any], one: Asked) -> dict[str, Any]:
    name = one.child.name
    found: dict[str, Any] = {}
    if "host_s" in said:
        seconds = numbers(said, "host_s", name, None)
        found["host_s"] = {"median": median(seconds), "p95": percentile(seconds, 0.95)}
        found["primitives"] = int(number(said, "primitives", name))
        if one.is_ours:
            found["compiled_calls"] = int(number(said, "compiled_calls", name))
    if "bandwidth_of" in said:
        found["bandwidth_bytes_per_s"] = number(said, "bandwidth_bytes_per_s", name)
        found["bandwidth_of"] = str(said["bandwidth_of"])
    return found


def _summary(
    asked: list[Asked],
    plan: Plan,
    runs: list[BenchRun],
    place: Place,
    name: str,
    machine: dict[str, Any],
    thermal_before: str | None,
    elapsed_s: float,
) -> BenchSummary:
    about, rows = asked[0].about, make_rows(runs)
    shares = _add_costs(rows, about, plan, place.directory)
    notes = [*iter_busy(machine), *iter_notes(runs, rows, about)]
    if (after := thermal_state()) and (thermal_before, after) != ("nominal", "nominal"):
        notes.append(f"The system's word on heat: {thermal_before} before, {after} after.")
    if shares:
        notes.append("Blocks that run twice count twice among the bytes of a token.")
    return BenchSummary(
        elapsed_s=elapsed_s,
        model=name,
        machine=machine,
        settings=plan.to_dict(),
        engines=[one.about for one in asked],
        rows=rows,
        ratios=make_ratios(runs),
        notes=notes,
    )


def _add_costs(
    rows: list[dict[str, Any]], about: dict[str, Any], plan: Plan, directory: Path
) -> bool:
    """Put bytes and bandwidth into our own rows; whether blocks are shared."""
    from mobilellm_mlx.loading import read_json
    from mobilellm_mlx.models import build_config

    config = build_config(read_json(directory / "config.json"))
    behind = {middle(case.prompt, case.depth, plan.generate) for case in plan.cases}
    kv_bytes = {tokens: config.kv_bytes(tokens, about["item_bytes"]) for tokens in behind}
    bandwidth = about.get("bandwidth_bytes_per_s", 0.0)
    add_bandwidth(rows, about["step_bytes"], kv_bytes, bandwidth, plan.generate)
    return any(layer.runs > 1 for layer in config.layers)
