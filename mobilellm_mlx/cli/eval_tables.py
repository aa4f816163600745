"""Results of ``mobilellm eval`` as tables for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.errors import printable

if TYPE_CHECKING:
    from mobilellm_mlx.evals.published import PublishedRow
    from mobilellm_mlx.evals.results import Difference, EvalResult
    from mobilellm_mlx.evals.statistics import Metric
    from mobilellm_mlx.evals.suites import Average, Comparison

_Row = Sequence[str | Sequence[str]]
"""Cells of a table; one of several lines is a list."""
_WIDTH = 80
_CHOICE = ("acc", "acc_norm")
_ORDER = ("em_intent", "em_structure", "valid", "called", "restraint", "found")
"""Metrics that come first in a table."""


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """One table of a model's choice tasks, and one for each other, with a column for each result.

    Args:
        results: as ``EvalResult.brief`` gives them.
    """
    from mobilellm_mlx.evals.suites import is_choice

    choices: dict[str, list[Mapping[str, Any]]] = {}
    for one in results:
        if is_choice(one["metrics"]):
            choices.setdefault(_asked(one), []).append(one)
    for own in choices.values():
        print_choices(own)
    results = [one for one in results if not is_choice(one["metrics"])]
    for task in dict.fromkeys(one["task"] for one in results):
        columns = [one for one in results if one["task"] == task]
        names = dict.fromkeys(name for one in columns for name in one["metrics"])
        ordered = sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else 99)
        heads = [str(one["settings"].get("mode") or one["model"]) for one in columns]
        counts = " / ".join(dict.fromkeys(str(one["requests"]) for one in columns))
        click.echo(f"{printable(task)}: {counts} requests, {printable(columns[0]['model'])}")
        rows = [_row(name, [one["metrics"].get(name) for one in columns]) for name in ordered]
        print_table(["", *heads], rows)
        click.echo()


def print_choices(results: Sequence[Mapping[str, Any]]) -> None:
    """Choice tasks in the paper's order, their average, and what was published of the model.

    Args:
        results: of one model, as ``EvalResult.brief`` gives them.
    """
    from mobilellm_mlx.evals.published import rows_for
    from mobilellm_mlx.evals.suites import average, place

    results = sorted(results, key=lambda one: place(one["task"]))
    found = average(results)
    # The paper's eight have the published average beside theirs, and no other average has.
    columns = {one["task"] for one in results} | (
        {"average"} if found and found.is_paper else set()
    )
    published = [
        row for row in rows_for(results[0]["model"], "choice") if columns & set(row.values)
    ]
    heads = ["published"] if len(published) == 1 else _numbered("published", len(published))
    rows = [
        [
            one["task"],
            str(one["requests"]),
            *(_share(one["metrics"].get(name)) for name in _CHOICE),
            _figure(one["metrics"]["bits_per_byte"]["mean"]),
            *(_published(row, one["task"]) for row in published),
        ]
        for one in results
    ]
    foot = []
    if found and len(found.tasks) > 1:
        pair = [with_error(one.mean, one.stderr) for one in (found.acc, found.headline)]
        name = f"average of {len(found.tasks)}"
        last = [_published(row, "average") if found.is_paper else "" for row in published]
        foot = [[name, "", *pair, "", *last]]
    click.echo(printable(_asked(results[0])))
    print_table(["", "n", *_CHOICE, "bits/byte", *heads], rows, foot)
    _print_choice_notes(results, found if foot else None)
    for head, row in zip(heads, published, strict=True):
        _print_published(head, row, results[0])
    click.echo()


def _print_choice_notes(results: Sequence[Mapping[str, Any]], found: Average | None) -> None:
    """What a reader of the table has to know."""
    from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE

    if found and any("acc_norm" not in one["metrics"] for one in results):
        say("The average of acc_norm takes acc of a task that has no other.")
    whole = {one.name: one.documents for one in COMMONSENSE}
    cut = [one["task"] for one in results if one["requests"] < whole.get(one["task"], 0)]
    if cut:
        some = "every task" if len(cut) == len(results) else ", ".join(cut)
        say(f"Only the first questions were asked of {some}.")
    for one in results:
        if cut := one["metrics"].get("cut"):
            were = "1 question was" if cut["n"] == 1 else f"{cut['n']} questions were"
            say(f"{one['task']}: {were} longer than the context and lost the beginning.")
        if lost := max(metric["nonfinite"] for metric in one["metrics"].values()):
            is_out = any(
                one["metrics"][name]["nonfinite"] for name in one["metrics"].keys() & _CHOICE
            )
            end = ", so it is in no average" if is_out else ""
            say(f"{one['task']}: {_nonfinite(lost)}{end}.")


def _print_published(head: str, row: PublishedRow, result: Mapping[str, Any]) -> None:
    """Where a published row is from, and why it need not agree with what was measured."""
    from mobilellm_mlx.catalogue import CATALOGUE
    from mobilellm_mlx.evals.published import kind_of

    table, model = row.table, result["model"]
    kinds = {"base": "a base model", "instruct": "tuned to follow instructions"}
    say(f"{head}: {row.model}, {kinds[table.models]}. {table.source}.")
    differs = []
    if (kind := kind_of(model)) != table.models:
        differs.append(f"{model} is {kinds[kind]}" if kind else f"{model} may be tuned otherwise")
    if model in CATALOGUE:
        differs.append(f"{model} has {CATALOGUE[model].packing}")
    if result["adapter"]:
        differs.append(f"it has the adapter {result['adapter']} on")
    if differs:
        say(f"What differs: {'; '.join(differs)}.")
    if table.unknown:
        say(f"Not said, and perhaps other than here: {'; '.join(table.unknown)}.")


def print_list(results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each result; its id names task and mode.

    Args:
        results: as ``EvalResult.brief`` gives them.
    """
    rows = [
        [
            one["id"],
            [one["model"], f"+ {one['adapter']}"] if one["adapter"] else one["model"],
            str(one["requests"]),
            _main_figures(one["metrics"]),
        ]
        for one in results
    ]
    print_table(["id", "model", "n", "figure"], rows)


def _main_figures(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What stands for a result where there is little room: a figure, or the two of calls."""
    from mobilellm_mlx.evals.suites import headline

    name = headline(metrics)
    if name is None:
        return []
    names = [name, "em_structure"] if name == "em_intent" else [name]
    return [f"{name} {_short(name, metrics[name])}" for name in names if name in metrics]


def _short(name: str, metric: Mapping[str, Any]) -> str:
    """A mean alone."""
    if metric["mean"] is None or metric["interval"] != "wilson":
        return _figure(metric["mean"])
    return f"{100 * metric['mean']:.{1 if name in _CHOICE else 0}f}%"


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
    print_table(["metric", "before", "after", "change", "95 %", "n", "p"], rows)


def print_model_differences(comparison: Comparison) -> None:
    """Two models side by side: a line for each task that compares, and the averages."""
    click.echo(f"before: {printable(comparison.before)}")
    click.echo(f"after:  {printable(comparison.after)}")
    several = len({one.form for one in comparison.averages}) > 1
    rows = []
    for one in comparison.tasks:
        form = f" {_form(one.settings)}" if several else ""
        name = f"{one.task}{form} {one.difference.metric}"
        found = one.difference
        rows.append([name, *_changes(found.before, found.after, found.change, found.p, name)])
    foot = []
    for mean in comparison.averages:
        name = f"average of {len(mean.tasks)}" + (f" {mean.form}" if several else "")
        cells = _changes(mean.before, mean.after, mean.change, mean.p, "acc")
        foot.append([name, "", *cells[1:]])
    print_table(["", "n", "before", "after", "change", "95 %", "p"], rows, foot)
    say("acc and em figures in %; paired over the questions that both were asked.")
    for one in comparison.tasks:
        if one.asked:
            asked = f"{one.asked[0]} and {one.asked[1]}"
            say(f"{one.task}: of {asked} questions those that both have.")
        if one.lost:
            say(f"{one.task}: {_nonfinite(one.lost)}, so it is in no average.")
    for sentence in comparison.refused:
        say(f"Left out: {sentence}.")


def _changes(
    before: float, after: float, change: Metric, p: float | None, metric: str
) -> list[str]:
    """The cells behind the name of what changed; shares in per cent."""
    is_share = metric.rpartition(" ")[2] in (*_CHOICE, *_ORDER)
    times, digits = (100, 1) if is_share else (1, 3)
    low, high = (scaled(value, times, digits, "+") for value in (change.low, change.high))
    return [
        str(change.n),
        scaled(before, times, digits),
        scaled(after, times, digits),
        scaled(change.mean, times, digits, "+"),
        "-" if change.low is None else f"{low} to {high}",
        chance(p),
    ]


def scaled(value: float | None, times: int, digits: int, sign: str = "-") -> str:
    return "-" if value is None else f"{times * value:{sign}.{digits}f}"


def chance(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


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


def _share(metric: Mapping[str, Any] | None) -> str:
    """A share in per cent with its standard error."""
    from mobilellm_mlx.evals.statistics import error_of, metric_from

    if metric is None or metric["mean"] is None:
        return "-"
    return with_error(metric["mean"], error_of(metric_from(metric)))


def with_error(mean: float, error: float | None) -> str:
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} ±{100 * error:.1f}"


def _nonfinite(count: int) -> str:
    return "1 value is NaN or infinite" if count == 1 else f"{count} values are NaN or infinite"


def _published(row: PublishedRow, column: str) -> str:
    return f"{row.values[column]:.1f}" if column in row.values else ""


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word} {number}" for number in range(1, count + 1)]


def _form(settings: Mapping[str, Any]) -> str:
    from mobilellm_mlx.evals.suites import form_of

    return form_of(settings)


def _asked(result: Mapping[str, Any]) -> str:
    """Who was asked, and in whose words."""
    name = "+".join(filter(None, (result["model"], result["adapter"])))
    form = _form(result["task_settings"])
    return f"{name}: {f'in the words of {form}, ' if form else ''}% with standard error"


def say(sentence: str) -> None:
    """A line below a table, folded like it."""
    click.echo(textwrap.fill(printable(sentence), _WIDTH, subsequent_indent="  "))


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _described(result: EvalResult) -> str:
    mode = f" {result.mode}" if result.mode else ""
    return f"{result.id} ({result.model}, {result.task}{mode}, {len(result.scores)} requests)"


def print_table(heads: Sequence[str], rows: Sequence[_Row], foot: Sequence[_Row] = ()) -> None:
    """A table on stdout; its cells are text and nothing else.

    Args:
        heads: of the columns.
        rows: their cells.
        foot: rows below a line.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(cell: str | Sequence[str]) -> Text:
        return Text("\n".join(map(printable, [cell] if isinstance(cell, str) else cell)))

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, head in enumerate(heads):
        # Whatever does not fit goes on in the next line: an id that was cut is of no use.
        side: Any = "left" if at == 0 else "right"
        table.add_column(Text(printable(head)), justify=side, overflow="fold")
    for part in (rows, foot):
        for row in part:
            table.add_row(*map(text, row))
        table.add_section()
    Console(highlight=False).print(table)
