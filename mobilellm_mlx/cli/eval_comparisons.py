"""What changed between two results or two models, as one table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mobilellm_mlx.cli.eval_text import changes, nonfinite, print_table, say

if TYPE_CHECKING:
    from mobilellm_mlx.evals.results import Difference, EvalResult
    from mobilellm_mlx.evals.suites import Comparison

_HEADS = ("", "n", "before", "after", "change", "95 %", "p")
_NOTE = "acc and em figures in %; paired over the questions that both were asked."


def print_differences(
    before: EvalResult, after: EvalResult, differences: Sequence[Difference]
) -> None:
    """What changed between two results, a line for each metric."""
    for label, result in (("before: ", before), ("after:  ", after)):
        mode = f" {result.mode}" if result.mode else ""
        name = "+".join(filter(None, (result.model, result.adapter)))
        say(f"{label}{result.id}, {name}, {result.task}{mode}, {len(result.scores):,} requests")
    print_table(_HEADS, [[one.metric, *_cells(one)] for one in differences])
    say(_NOTE)


def print_model_differences(comparison: Comparison) -> None:
    """Two models side by side: a line for each task that compares, and the paper's average."""
    say(f"before: {comparison.before}")
    say(f"after:  {comparison.after}")
    several = len({_form(one.settings) for one in comparison.tasks} - {""}) > 1
    rows = []
    for one in comparison.tasks:
        form = f" {_form(one.settings)}" if several else ""
        rows.append([f"{one.task}{form} {one.difference.metric}", *_cells(one.difference)])
    foot = []
    for mean in comparison.averages:
        if mean.is_paper:  # of other tasks it is the mean of whatever both happen to have
            name = f"average of {len(mean.tasks)}" + (f" {mean.form}" if several else "")
            cells = changes("acc", mean.before, mean.after, asdict(mean.change), mean.p)
            foot.append([name, "", *cells[1:]])
    print_table(_HEADS, rows, foot)
    say(_NOTE)
    asked = [(one.task, *one.asked) for one in comparison.tasks if one.asked]
    if asked:
        counts = ", ".join(f"{first:,} and {second:,} of {task}" for task, first, second in asked)
        say(f"They were asked {counts}; those that both have are compared.")
    for one in comparison.tasks:
        if one.lost:
            say(f"{one.task}: {nonfinite(one.lost)}, so it is in no average.")
    for sentence in comparison.refused:
        say(f"Left out: {sentence}.")


def _cells(one: Difference) -> list[str]:
    return changes(one.metric, one.before, one.after, asdict(one.change), one.p)


def _form(settings: Mapping[str, object]) -> str:
    from mobilellm_mlx.evals.suites import form_of

    return form_of(settings)
