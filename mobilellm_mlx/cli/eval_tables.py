"""Results of ``mobilellm eval`` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.errors import printable

if TYPE_CHECKING:
    from mobilellm_mlx.evals.results import Difference, EvalResult

_ORDER = ("em_intent", "em_structure", "valid", "called", "restraint", "found")
"""Metrics that come first in a table."""


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """One table for each task, with a column for each of its results.

    Args:
        results: as ``EvalResult.brief`` gives them.
    """
    for task in dict.fromkeys(one["task"] for one in results):
        columns = [one for one in results if one["task"] == task]
        names = dict.fromkeys(name for one in columns for name in one["metrics"])
        ordered = sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else 99)
        heads = [str(one["settings"].get("mode") or one["model"]) for one in columns]
        counts = " / ".join(dict.fromkeys(str(one["requests"]) for one in columns))
        click.echo(f"{printable(task)}: {counts} requests, {printable(columns[0]['model'])}")
        rows = [_row(name, [one["metrics"].get(name) for one in columns]) for name in ordered]
        _print_table(["", *heads], rows)
        click.echo()


def print_list(results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each result; its id names task and mode.

    Args:
        results: as ``EvalResult.brief`` gives them.
    """
    rows = []
    for one in results:
        shown = [
            _cell(one["metrics"].get(name)).partition(" ")[0]
            for name in ("em_intent", "em_structure")
        ]
        rows.append([one["id"], str(one["model"]), str(one["requests"]), *shown])
    _print_table(["id", "model", "n", "intent", "structure"], rows)


def print_differences(
    before: EvalResult, after: EvalResult, differences: Sequence[Difference]
) -> None:
    """What changed between two results, a line for each metric."""
    for label, result in (("before", before), ("after", after)):
        click.echo(f"{label}: {printable(_described(result))}")
    rows = [
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
    _print_table(["metric", "before", "after", "change", "95 %", "n", "p"], rows)


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

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, head in enumerate(heads):
        # Whatever does not fit goes on in the next line: an id that was cut is of no use.
        side: Any = "left" if at == 0 else "right"
        table.add_column(Text(printable(head)), justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(table)
