"""``mobilellm eval list``, ``show``, ``rm`` and ``compare``: results that were kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx import paths
from mobilellm_mlx.catalogue import CATALOGUE
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.eval_comparisons import print_differences, print_model_differences
from mobilellm_mlx.cli.eval_tables import asked, print_results
from mobilellm_mlx.cli.eval_text import figure, print_table, say
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import InvalidInput, InvalidOption

if TYPE_CHECKING:
    from mobilellm_mlx.evals.results import EvalResult

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@click.option("--task", callback=require_text, metavar="NAME", help="Only of this task.")
@click.option(
    "-m",
    "--model",
    callback=require_text,
    metavar="MODEL",
    help="Only of this model, MODEL+ADAPTER with an adapter.",
)
@_json_option
@debug_option
def list_results(limit: int | None, task: str | None, model: str | None, as_json: bool) -> None:
    """List the results that were kept, the newest first."""
    from mobilellm_mlx.evals.results import stored_results
    from mobilellm_mlx.evals.suites import results_of

    found, wrong = stored_results()
    for problem in wrong:
        click.echo(f"note: {printable(problem)}", err=True)
    kept = found if model is None else results_of(_model_name(model), found)
    briefs = [one.brief() for one in kept if task in (None, one.task)][:limit]
    if as_json:
        click.echo(json.dumps({"results": briefs}, indent=2))
    elif briefs:
        print_list(briefs)
    elif found:
        click.echo("there are no such results; without options all are listed", err=True)
    else:
        click.echo("there are no results yet; `mobilellm eval choice` makes some", err=True)


def print_list(results: Sequence[Mapping[str, Any]]) -> None:
    """A line for each result; its id names task and mode.

    Args:
        results: as ``EvalResult.brief`` gives them.
    """
    rows = [
        [
            one["id"],
            [one["model"], f"+ {one['adapter']}"] if one["adapter"] else one["model"],
            asked(one),
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
        return figure(metric["mean"])
    return f"{100 * metric['mean']:.{1 if name.startswith('acc') else 0}f}%"


@click.command("show")
@click.argument("result", callback=require_text)
@click.option(
    "--wrong",
    type=click.IntRange(1),
    metavar="N",
    help="Also the first N questions that were answered wrong.",
)
@_json_option
@debug_option
def show_result(result: str, wrong: int | None, as_json: bool) -> None:
    """Show a result: RESULT is a file or the beginning of an id of `mobilellm eval list`."""
    from mobilellm_mlx.evals.results import find_result

    found = find_result(result)
    missed = _missed(found) if wrong else []
    if as_json:
        shown = {"wrong": missed[:wrong]} if wrong else {}
        click.echo(json.dumps({**found.brief(), **shown}, indent=2))
        return
    print_results([found.brief()])
    for line in _circumstances(found):
        say(line)
    if wrong:
        say(
            f"wrong: {len(missed):,} of {len(found.scores):,}; by id, of questions their numbers "
            f"from 0: {', '.join(missed[:wrong])}"
        )


def _missed(result: EvalResult) -> list[str]:
    """Requests that were answered wrong.

    Raises:
        InvalidInput: when nothing in the result is right or wrong.
    """
    names = [name for name in ("acc_norm", "acc", "em_structure") if name in result.metrics]
    if not names:
        raise InvalidInput(
            f"`{result.id}` has no answers that are right or wrong", "leave `--wrong` out"
        )
    return [id for id, scores in result.scores.items() if scores.get(names[0]) == 0]


def _circumstances(result: EvalResult) -> list[str]:
    """What a result depends on."""
    settings = {**result.task_settings, **result.settings}
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    took = "" if result.elapsed_s is None else f", {result.elapsed_s:,.0f} s"
    return [
        f"{result.id}: {result.created}, version {result.program}{took}",
        f"asked with {said}" if said else "asked with no settings",
        f"model {result.fingerprint[:16]}, data {result.data_sha256[:16]}, seed {result.seed}",
    ]


@click.command("rm")
@click.argument("results", nargs=-1, required=True, callback=require_text, metavar="RESULT...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def remove_results(results: tuple[str, ...], yes: bool) -> None:
    """Remove results for good: each RESULT is the beginning of an id of `mobilellm eval list`.

    What was answered stays, and asking the same again gives the result again at once.
    """
    from mobilellm_mlx.evals.results import find_kept

    found = dict.fromkeys(map(find_kept, results))
    count = "1 result" if len(found) == 1 else f"{len(found)} results"
    if not yes:
        say(", ".join(path.stem for path in found), err=True)
        click.confirm(f"Remove {count} for good?", abort=True, err=True)
    for path in found:
        path.unlink(missing_ok=True)
    click.echo(f"removed {count}", err=True)


@click.command("compare")
@click.argument("before", callback=require_text)
@click.argument("after", callback=require_text)
@_json_option
@debug_option
def compare_results(before: str, after: str, as_json: bool) -> None:
    """Compare two results or two models: what AFTER does better or worse than BEFORE.

    A result is a file or the beginning of an id of `mobilellm eval list`; two of them are compared
    request by request. A model is named as there, or by its directory, MODEL+ADAPTER with an
    adapter; two of them are compared in every task that both have, and on average where they have
    the paper's eight.
    """
    from mobilellm_mlx.evals.results import compare, find_result, stored_results
    from mobilellm_mlx.evals.suites import compare_models, results_of

    try:
        first, second = find_result(before), find_result(after)
    except InvalidInput:
        kept, _ = stored_results()
        names = [_model_name(name) for name in (before, after)]
        if not any(results_of(name, kept) for name in names):
            raise  # neither is a model, so what is wrong is about results
        _require_two(*names)
        comparison = compare_models(names[0], names[1], kept)
        if as_json:
            click.echo(json.dumps(asdict(comparison), indent=2))
        else:
            print_model_differences(comparison)
        return
    _require_two(first.id, second.id)
    differences = compare(first, second)
    if as_json:
        rows = [asdict(one) for one in differences]
        click.echo(json.dumps({"before": first.id, "after": second.id, "metrics": rows}, indent=2))
        return
    print_differences(first, second, differences)


def _require_two(before: str, after: str) -> None:
    if before == after:
        raise InvalidOption(
            f"both are `{before}`, so there is nothing to compare",
            "`mobilellm eval list` shows others",
        )


def _model_name(text: str) -> str:
    """What results call a model that somebody names; a directory is called as its own files say."""
    directory, plus, adapter = text, "", ""
    if not paths.existing(text) and "+" in text:
        directory, plus, adapter = text.rpartition("+")
    path = paths.existing(directory)
    if path is None or not path.is_dir() or directory in CATALOGUE:
        return text
    from mobilellm_mlx.loading import read_json

    name = read_json(path / paths.MANIFEST, missing={}).get("name")
    return f"{name or path.absolute().name}{plus}{adapter}"
