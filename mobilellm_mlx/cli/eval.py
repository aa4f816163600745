"""``mobilellm eval``: how good a model is at something, measured so that results compare."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import (
    debug_option,
    load_options,
    loading_options,
    require_text,
    resolve_model,
)
from mobilellm_mlx.evals.calls.asking import FORMAT, MODES
from mobilellm_mlx.events import EvalSummary, Event, Status

if TYPE_CHECKING:
    from mobilellm_mlx.engine import ChatEngine
    from mobilellm_mlx.evals.results import EvalResult
    from mobilellm_mlx.evals.task import Task
    from mobilellm_mlx.tools.asking import Style

DATA = ("home", "bfcl")
_LIMIT = 100
_ORDER = ("em_intent", "em_structure", "valid", "called", "restraint", "found")
"""Metrics that come first in a table."""

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="eval")
def eval_() -> None:
    """Measure what a model can do, and compare the results."""


@eval_.command("calls")
@click.option("-m", "--model", metavar="MODEL", help="Name or directory; default smollm2-135m.")
@click.option(
    "--data",
    type=click.Choice([*DATA, "all"]),
    default="all",
    show_default=True,
    help="Home Assistant's sentences, Berkeley's function-calling cases, or both.",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(MODES),
    multiple=True,
    help="How to ask; repeatable, all when none is given.",
)
@click.option(
    "--format",
    "format_",
    default=FORMAT,
    show_default=True,
    callback=require_text,
    metavar="NAME",
    help="How calls are written in the modes free and one-step.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=_LIMIT,
    show_default=True,
    metavar="N",
    help="Requests of each data set; 0 asks all of them.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of what is drawn.",
)
@click.option(
    "--offer",
    type=click.IntRange(1, 40),
    default=5,
    show_default=True,
    metavar="N",
    help="Tools on offer for a sentence of Home Assistant's.",
)
@click.option(
    "--offered-by",
    "choice",
    type=click.Choice(["drawn", "filter"]),
    default="drawn",
    show_default=True,
    help="The right tool and others by chance, or what the filter of a chat finds.",
)
@click.option("--reply", is_flag=True, help="Also score what is said after the right call.")
@click.option("--resume/--fresh", default=True, help="Go on with an earlier run (default), or not.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@loading_options
@debug_option
def calls(
    model: str | None,
    data: str,
    modes: tuple[str, ...],
    as_json: bool,
    context: int | None,
    compute: str,
    **values: Any,
) -> int:
    """Measure how well a model calls tools.

    em_intent is the share of requests with the right tool, or none where none is wanted;
    em_structure the share with all arguments right as well. Nothing that is called is run. An
    interrupted run goes on where it stopped.
    """
    from mobilellm_mlx.engine import Engine
    from mobilellm_mlx.evals.calls.wheel import ensure_wheel

    chosen = DATA if data == "all" else (data,)
    cancel = threading.Event()

    def events() -> Iterator[Event]:
        if "bfcl" in chosen:
            yield from ensure_wheel()
        tasks = [_task(name, values["offer"], values["choice"]) for name in chosen]
        with Engine(resolve_model(model), load_options(context, compute)) as engine:
            yield from call_events(engine, tasks, modes or MODES, values, cancel)

    if as_json:
        return console.print_json(events(), "eval")
    summary = console.show_progress(events())
    if not isinstance(summary, EvalSummary):
        return 0
    print_results(summary.results)
    for result in summary.results:
        if result["path"]:
            click.echo(f"kept as {printable(result['id'])}", err=True)
    return console.EXIT_CODES[summary.status]


def _task(name: str, offer: int, choice: Any) -> Task:
    """A task by the name of its data."""
    if name == "home":
        from mobilellm_mlx.evals.calls.home import Home, HomeTask

        return HomeTask(Home(), offer=offer, choice=choice)
    from mobilellm_mlx.evals.calls.bfcl import BfclTask
    from mobilellm_mlx.evals.calls.wheel import Wheel, wheel_path

    return BfclTask(Wheel(wheel_path()))


def call_events(
    engine: ChatEngine,
    tasks: Sequence[Task],
    modes: Sequence[str],
    values: Mapping[str, Any],
    cancel: threading.Event,
) -> Iterator[Event]:
    """The events of measuring calls: every task in every mode, then one summary of all.

    Args:
        engine: not loaded yet.
        tasks: what to ask.
        modes: how to ask.
        values: ``format_``, ``limit``, ``seed``, ``reply`` and ``resume``, as the options say them.
        cancel: stops it.
    """
    from mobilellm_mlx.evals.calls.asking import style_of

    started = time.perf_counter()
    styles = {mode: style_of(mode, values["format_"]) for mode in modes}
    yield from engine.load()
    assert engine.info is not None
    results: list[dict[str, Any]] = []
    status: Status = "ok"
    with console.interrupts(cancel):
        for task, (mode, style) in product(tasks, styles.items()):
            if cancel.is_set():
                break
            for event in _one_run(engine, task, mode, style, values, cancel):
                if isinstance(event, EvalSummary):
                    results += event.results
                    status = event.status
                else:
                    yield event
    elapsed = time.perf_counter() - started
    yield EvalSummary(
        status="cancelled" if cancel.is_set() else status,
        elapsed_s=elapsed,
        model=engine.info.model,
        results=results,
    )


def _one_run(
    engine: ChatEngine,
    task: Task,
    mode: str,
    style: Style,
    values: Mapping[str, Any],
    cancel: threading.Event,
) -> Iterator[Event]:
    """The events of one task in one mode."""
    from mobilellm_mlx.evals.calls.asking import CallAnswerer, asking_settings
    from mobilellm_mlx.evals.runner import run_task
    from mobilellm_mlx.evals.task import Subject

    assert engine.info is not None
    limit, seed, reply = values["limit"] or None, values["seed"], values["reply"]
    settings = asking_settings(mode, style, task.requests(limit, seed), reply=reply)
    yield from run_task(
        task,
        Subject(engine.info.model, engine.info.fingerprint, settings=settings),
        CallAnswerer(engine, style, cancel, reply=reply),
        limit=limit,
        seed=seed,
        fresh=not values["resume"],
        cancel=cancel,
    )


@eval_.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@_json_option
@debug_option
def list_results(limit: int | None, as_json: bool) -> None:
    """List the results that were kept, the newest first."""
    from mobilellm_mlx.evals.results import stored_results

    found, wrong = stored_results()
    for problem in wrong:
        click.echo(f"note: {printable(problem)}", err=True)
    briefs = [result.brief() for result in found[:limit]]
    if as_json:
        click.echo(json.dumps({"results": briefs}, indent=2))
    elif not briefs:
        click.echo("there are no results yet; `mobilellm eval calls` makes some", err=True)
    else:
        print_results(briefs, with_id=True)


@eval_.command("compare")
@click.argument("before", callback=require_text)
@click.argument("after", callback=require_text)
@_json_option
@debug_option
def compare_results(before: str, after: str, as_json: bool) -> None:
    """Compare two results, request by request: what AFTER does better or worse than BEFORE.

    Each is a file or the beginning of an id of `mobilellm eval list`.
    """
    from dataclasses import asdict

    from mobilellm_mlx.evals.results import compare, find_result

    first, second = find_result(before), find_result(after)
    differences = compare(first, second)
    if as_json:
        rows = [asdict(one) for one in differences]
        click.echo(json.dumps({"before": first.id, "after": second.id, "metrics": rows}, indent=2))
        return
    for label, result in (("before", first), ("after", second)):
        click.echo(f"{label}: {printable(_described(result))}")
    rows_shown = [
        [
            one.metric,
            _figure(one.before),
            _figure(one.after),
            f"{one.change.mean or 0:+.3f}",
            f"{_figure(one.change.low)} to {_figure(one.change.high)}",
            str(one.change.n),
            f"{one.p:.3f}",
        ]
        for one in differences
    ]
    _print_table(["metric", "before", "after", "change", "95 %", "n", "p"], rows_shown)


def print_results(results: Sequence[Mapping[str, Any]], *, with_id: bool = False) -> None:
    """Results as one table for each task, a column for each of them.

    Args:
        results: as ``EvalResult.brief`` gives them.
        with_id: name each by its id too.
    """
    if with_id:
        rows = []
        for one in results:
            shown = [
                f"{name} {_figure(one['metrics'][name]['mean'])}"
                for name in ("em_intent", "em_structure")
                if name in one["metrics"]
            ]
            mode = str(one["settings"].get("mode", ""))
            rows.append(
                [one["id"], one["model"], one["task"], mode, str(one["requests"]), ", ".join(shown)]
            )
        _print_table(["id", "model", "task", "mode", "n", "figures"], rows)
        return
    for task in dict.fromkeys(one["task"] for one in results):
        columns = [one for one in results if one["task"] == task]
        names = dict.fromkeys(name for one in columns for name in one["metrics"])
        heads = [str(one["settings"].get("mode") or one["model"]) for one in columns]
        ordered = sorted(
            names, key=lambda name: (_ORDER.index(name) if name in _ORDER else 99, name)
        )
        rows = [_row(name, [one["metrics"].get(name) for one in columns]) for name in ordered]
        counts = " / ".join(dict.fromkeys(str(one["requests"]) for one in columns))
        click.echo(f"{printable(task)}: {counts} requests, {printable(columns[0]['model'])}")
        _print_table(["", *heads], rows)


def _row(name: str, metrics: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """A metric of several results; what it is the mean of, once where that is the same."""
    counts = {one["n"] for one in metrics if one}
    if len(counts) == 1:
        return [f"{name} (n={counts.pop()})", *map(_cell, metrics)]
    return [name, *(f"{_cell(one)} n={one['n']}" if one else "-" for one in metrics)]


def _cell(metric: Mapping[str, Any] | None) -> str:
    """A mean and its interval; shares in per cent."""
    if metric is None or metric["mean"] is None:
        return "-"
    if metric["interval"] == "wilson":
        low, mean, high = (f"{100 * metric[name]:.0f}" for name in ("low", "mean", "high"))
        return f"{mean}% ({low}-{high})"
    low, high = _figure(metric["low"]), _figure(metric["high"])
    return f"{_figure(metric['mean'])} ({low}-{high})"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _described(result: EvalResult) -> str:
    mode = f" {result.mode}" if result.mode else ""
    return f"{result.id} ({result.model}, {result.task}{mode}, {len(result.scores)} requests)"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; its cells are text and nothing else."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(Text(printable(head)), justify="left" if at == 0 else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(table)
