"""Results of ``mobilellm eval`` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.eval_text import (
    SHARES,
    figure,
    nonfinite,
    print_table,
    say,
    share,
    with_error,
)

if TYPE_CHECKING:
    from mobilellm_mlx.evals.published import PublishedRow
    from mobilellm_mlx.evals.suites import Average

_CHOICE = ("acc", "acc_norm")


def print_results(results: Sequence[Mapping[str, Any]]) -> None:
    """One table of a model's choice tasks, and one for each other, with a column for each result.

    Of a run that was stopped nothing is in a table: a line below says how far it came.

    Args:
        results: as ``EvalResult.brief`` gives them, or as the summary of a run does.
    """
    from mobilellm_mlx.evals.suites import is_choice

    stopped = [one for one in results if one["requests"] < one.get("asked", 0)]
    results = [one for one in results if one not in stopped]
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
        ordered = sorted(names, key=lambda name: SHARES.index(name) if name in SHARES else 99)
        heads = [str(one["settings"].get("mode") or one["model"]) for one in columns]
        counts = " / ".join(dict.fromkeys(map(asked, columns)))
        say(f"{task}: {counts} requests, {columns[0]['model']}")
        rows = [_row(name, [one["metrics"].get(name) for one in columns]) for name in ordered]
        print_table(["", *heads], rows)
        click.echo()
    for one in stopped:
        print_stopped(one)


def print_stopped(result: Mapping[str, Any], unit: str = "requests") -> None:
    """How far a run came that was stopped.

    Args:
        result: as the summary of a run has it.
        unit: what it asks.
    """
    mode = result["settings"].get("mode")
    name = f"{result['task']}, {mode}" if mode else result["task"]
    say(
        f"{name}: stopped at {result['requests']:,} of {result['asked']:,} {unit}, no result kept; "
        "the same command goes on"
    )


def tell_kept(results: Sequence[Mapping[str, Any]]) -> None:
    """Which results were kept, on stderr: ids may be copied from there whole.

    Args:
        results: as the summary of a run has them.
    """
    if ids := [one["id"] for one in results if one["path"]]:
        say(f"kept as {', '.join(ids)}", err=True)


def asked(result: Mapping[str, Any]) -> str:
    """How many requests a result is of, and of how many where those are more."""
    from mobilellm_mlx.evals.suites import available

    count, whole = result["requests"], available(result)
    return f"{count:,} of {whole:,}" if whole and count < whole else f"{count:,}"


def print_choices(results: Sequence[Mapping[str, Any]]) -> None:
    """Choice tasks in the paper's order, their average, and what was published of the model.

    Args:
        results: of one model, as ``EvalResult.brief`` gives them.
    """
    from mobilellm_mlx.evals.published import rows_for
    from mobilellm_mlx.evals.suites import average, place

    results = sorted(results, key=lambda one: place(one["task"]))
    found = average(results)
    own = _own_figures(results, found)
    published = [
        row for row in rows_for(results[0]["model"], "choice") if own.keys() & row.values.keys()
    ]
    heads = ["published"] if len(published) == 1 else _numbered("published", len(published))
    rows = [
        [
            one["task"],
            asked(one),
            *(share(one["metrics"].get(name)) for name in _CHOICE),
            figure(one["metrics"]["bits_per_byte"]["mean"]),
            *(_published(row, one["task"], own) for row in published),
        ]
        for one in results
    ]
    foot = []
    if found and len(found.tasks) > 1:
        pair = [with_error(one.mean, one.stderr) for one in (found.acc, found.headline)]
        name = f"average of {len(found.tasks)}"
        last = [_published(row, "average", own) for row in published]
        foot = [[name, "", *pair, "", *last]]
    say(_asked(results[0]))
    print_table(["", "n", *_CHOICE, "bits/byte", *heads], rows, foot)
    _print_choice_notes(results, found if foot else None)
    for head, row in zip(heads, published, strict=True):
        _print_published(head, row, results[0], own)
    click.echo()


def _own_figures(results: Sequence[Mapping[str, Any]], found: Average | None) -> dict[str, float]:
    """What may stand beside published figures, in per cent: whole tasks, and the average of the
    paper's eight if all of them are whole."""
    from mobilellm_mlx.evals.suites import headline, is_whole

    whole = [one for one in results if is_whole(one)]
    metrics = {one["task"]: one["metrics"][headline(one["metrics"])]["mean"] for one in whole}
    if found and found.is_paper and set(found.tasks) <= set(metrics):
        metrics["average"] = found.headline.mean
    return {name: 100 * mean for name, mean in metrics.items() if mean is not None}


def _print_choice_notes(results: Sequence[Mapping[str, Any]], found: Average | None) -> None:
    """What a reader of the table has to know."""
    if found and any("acc_norm" not in one["metrics"] for one in results):
        say("The average of acc_norm takes acc of a task that has no other.")
    shares = [one["metrics"][name] for one in results for name in _CHOICE if name in one["metrics"]]
    if any(one["mean"] in (0.0, 1.0) for one in shares):
        say("± of 0 % and of 100 % is read from Wilson's interval.")
    for one in results:
        if cut := one["metrics"].get("cut"):
            were = "1 question was" if cut["n"] == 1 else f"{cut['n']} questions were"
            say(f"{one['task']}: {were} longer than the context and lost the beginning.")
        if lost := max(metric["nonfinite"] for metric in one["metrics"].values()):
            is_out = any(
                one["metrics"][name]["nonfinite"] for name in one["metrics"].keys() & _CHOICE
            )
            end = ", so it is in no average" if is_out else ""
            say(f"{one['task']}: {nonfinite(lost)}{end}.")


def _print_published(
    head: str, row: PublishedRow, result: Mapping[str, Any], own: Mapping[str, float]
) -> None:
    """Where a published row is from, how far what was measured is from it, and why it may be."""
    from mobilellm_mlx.catalogue import CATALOGUE
    from mobilellm_mlx.evals.published import kind_of

    table, model = row.table, result["model"]
    kinds = {"base": "a base model", "instruct": "tuned to follow instructions"}
    say(f"{head}: {row.model}, {kinds[table.models]}. {table.source}.")
    far = [f"{name} {own[name] - row.values[name]:+.1f}" for name in own if name in row.values]
    say(f"Measured (acc_norm where a task has it) less {head}, in points: {', '.join(far)}.")
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
    low, high = figure(metric["low"]), figure(metric["high"])
    return f"{figure(metric['mean'])} ({low}-{high})"


def _published(row: PublishedRow, column: str, own: Mapping[str, float]) -> str:
    """A published figure beside one that it may be compared with."""
    return f"{row.values[column]:.1f}" if column in row.values and column in own else ""


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
