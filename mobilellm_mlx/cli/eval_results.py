"""``mobilellm eval list`` and ``compare``: results that were kept."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.eval_tables import print_differences, print_list, print_model_differences
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import InvalidInput

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
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
        click.echo("there are no results yet; `mobilellm eval choice` makes some", err=True)
    else:
        print_list(briefs)


@click.command("compare")
@click.argument("before", callback=require_text)
@click.argument("after", callback=require_text)
@_json_option
@debug_option
def compare_results(before: str, after: str, as_json: bool) -> None:
    """Compare two results or two models: what AFTER does better or worse than BEFORE.

    A result is a file or the beginning of an id of `mobilellm eval list`; two of them are compared
    request by request. A model is named as there, MODEL+ADAPTER with an adapter; two of them are
    compared in every task that both have, and on average.
    """
    from mobilellm_mlx.evals.results import compare, find_result, stored_results
    from mobilellm_mlx.evals.suites import compare_models, is_measured

    try:
        first, second = find_result(before), find_result(after)
    except InvalidInput:
        kept, _ = stored_results()
        if not (is_measured(before, kept) or is_measured(after, kept)):
            raise
        comparison = compare_models(before, after, kept)
        if as_json:
            click.echo(json.dumps(asdict(comparison), indent=2))
        else:
            print_model_differences(comparison)
        return
    differences = compare(first, second)
    if as_json:
        rows = [asdict(one) for one in differences]
        click.echo(json.dumps({"before": first.id, "after": second.id, "metrics": rows}, indent=2))
        return
    print_differences(first, second, differences)
