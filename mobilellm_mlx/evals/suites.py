"""Several tasks as one thing: the average that tables give, and two models side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE
from mobilellm_mlx.evals.choice.more import MORE
from mobilellm_mlx.evals.results import Difference, EvalResult, compare, stored_results
from mobilellm_mlx.evals.statistics import (
    Z95,
    Metric,
    chance,
    error_of,
    error_of_mean,
    metric_from,
    shown_error,
)

PAPER = tuple(one.name for one in COMMONSENSE)
"""The eight tasks whose average MobileLLM's tables give, in their order."""
_DOCUMENTS = {one.name: one.documents for one in (*COMMONSENSE, *MORE)}
"""Of sets in results that do not say it themselves."""
HEADLINES = ("acc_norm", "acc", "em_intent", "bits_per_byte", "perplexity", "mean_kl")
"""Metrics that stand for a result where there is room for one; the first that it has."""

Results = Iterable[EvalResult | Mapping[str, Any]]
"""Results, or what ``EvalResult.brief`` makes of them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its standard error, which is None where it is not known."""

    mean: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Average:
    """The mean over tasks, each of which counts the same however many questions it has.

    Attributes:
        tasks: that it is the mean of.
        acc: of the accuracies by likelihoods as they are.
        headline: of ``acc_norm`` where a task gives it, else of ``acc``.
        lost: tasks that have no figure, or values that are NaN; they are in no mean.
        is_paper: whether these are MobileLLM's eight tasks and no other.
    """

    tasks: tuple[str, ...]
    acc: Figure
    headline: Figure
    lost: tuple[str, ...]
    is_paper: bool


def average(results: Results) -> Average | None:
    """The mean over the tasks of one model.

    Where MobileLLM's eight are all there, it is theirs, whatever else is there. The tasks are
    independent, so their standard errors are added as squares.

    Args:
        results: of choice; those without ``acc`` are left out, and of a task the first counts.

    Returns:
        None when no task is left.
    """
    found: dict[str, dict[str, Metric]] = {}
    for task, metrics in map(_task_and_metrics, results):
        if "acc" in metrics:
            found.setdefault(task, metrics)
    if set(PAPER) <= set(found):
        found = {task: found[task] for task in PAPER}
    lost = tuple(task for task, metrics in found.items() if not _is_sound(metrics))
    kept = {task: metrics for task, metrics in found.items() if task not in lost}
    if not kept:
        return None
    return Average(
        tasks=tuple(kept),
        acc=_mean([metrics["acc"] for metrics in kept.values()]),
        headline=_mean([metrics.get("acc_norm", metrics["acc"]) for metrics in kept.values()]),
        lost=lost,
        is_paper=set(kept) == set(PAPER),
    )


def headline(metrics: Mapping[str, Any]) -> str | None:
    """The name of the metric that stands for a result; None when it has none."""
    known = (name for name in HEADLINES if name in metrics)
    return next(known, next(iter(metrics), None))


def latest(
    model: str,
    adapter: str | None = None,
    form: str | None = "lm-eval",
    results: Sequence[EvalResult] | None = None,
) -> list[EvalResult]:
    """The result of each choice task that stands for a model, in the paper's order.

    That is a result of its files as they were last measured; of several the one with the most
    questions, and of those the newest.

    Args:
        model: its name.
        adapter: that was on it.
        form: in whose words the questions were put; None for any.
        results: to choose from, the newest first; those that are kept when None.
    """
    kept = stored_results()[0] if results is None else results
    own = [
        one
        for one in kept
        if is_choice(one.metrics)
        and (one.model, one.adapter) == (model, adapter)
        and form in (None, form_of(one.task_settings))
    ]
    by_task: dict[tuple[str, str], EvalResult] = {}
    for one in _foremost(own).values():  # of other data or versions the newest
        by_task.setdefault((one.task, form_of(one.task_settings)), one)
    return sorted(by_task.values(), key=lambda one: place(one.task))


def is_choice(metrics: Mapping[str, Any]) -> bool:
    """Whether these are metrics of questions with answers to choose from."""
    return "acc" in metrics and "bits_per_byte" in metrics


def available(result: Mapping[str, Any]) -> int | None:
    """How many requests the task of a result has; None where that is not known.

    Args:
        result: as ``EvalResult.brief`` gives it.
    """
    known: int | None = result.get("available")
    return _DOCUMENTS.get(result["task"]) if known is None else known


def is_whole(result: Mapping[str, Any]) -> bool:
    """Whether all requests of the task were asked, as far as is known.

    Args:
        result: as ``EvalResult.brief`` gives it.
    """
    return bool(result["requests"] >= (available(result) or 0))


def form_of(task_settings: Mapping[str, Any]) -> str:
    """In whose words questions were put; empty where they have no other."""
    return str(task_settings.get("form", ""))


def place(task: str) -> tuple[int, str]:
    """To sort by: the paper's tasks in its order, then the others by name."""
    return PAPER.index(task) if task in PAPER else len(PAPER), task


@dataclass(frozen=True, slots=True)
class TaskDifference:
    """How two models differ in a task, over the questions that both were asked.

    Attributes:
        task: its name.
        settings: of the task.
        before: id of the first model's result.
        after: id of the second model's result.
        difference: in the headline of the task.
        asked: questions that each was asked, where they are not the same; else None.
        lost: questions whose figure is NaN in one of them; the task is in no average then.
    """

    task: str
    settings: Mapping[str, Any]
    before: str
    after: str
    difference: Difference
    asked: tuple[int, int] | None
    lost: int


@dataclass(frozen=True, slots=True)
class AverageDifference:
    """How the averages of two models differ, over the tasks that both have in one form.

    Attributes:
        form: in whose words the questions were put.
        tasks: that are averaged.
        before: average of the first model.
        after: average of the second model.
        change: between them, with its interval; ``n`` counts tasks.
        p: how likely so large a change is by chance; None where it cannot be said.
        is_paper: whether the tasks are MobileLLM's eight.
    """

    form: str
    tasks: tuple[str, ...]
    before: float
    after: float
    change: Metric
    p: float | None
    is_paper: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models side by side.

    Attributes:
        before: name of the first model.
        after: name of the second model.
        tasks: that compare.
        averages: one for each form in which choice tasks were asked.
        refused: why other tasks that both have do not compare, a sentence each.
    """

    before: str
    after: str
    tasks: list[TaskDifference]
    averages: list[AverageDifference]
    refused: list[str]


def compare_models(
    before: str, after: str, results: Sequence[EvalResult] | None = None
) -> Comparison:
    """What the second model does better or worse than the first, in every task that both have.

    Args:
        before: name of a model, or ``MODEL+ADAPTER``.
        after: likewise.
        results: to choose from, the newest first; those that are kept when None.

    Raises:
        InvalidInput: when one of them has no results, or nothing compares.
    """
    kept = stored_results()[0] if results is None else results
    first, second = (_foremost(_of_model(name, kept)) for name in (before, after))
    shared = [key for key in first if key in second]
    found = [_task_difference(first[key], second[key]) for key in shared]
    tasks = [one for one in found if isinstance(one, TaskDifference)]
    tasks.sort(key=lambda one: place(one.task))
    refused = [one for one in found if isinstance(one, str)]
    refused += _unpaired(first, second, {first[key].task for key in shared})
    if not tasks:
        raise _nothing_shared((before, first), (after, second), refused)
    choices = {one.id for one in first.values() if is_choice(one.metrics)}
    averages = _averages([one for one in tasks if one.before in choices and not one.lost])
    return Comparison(before, after, tasks, averages, refused)


def results_of(name: str, results: Sequence[EvalResult]) -> list[EvalResult]:
    """Those of a model of this name, or of ``MODEL+ADAPTER``; none where there are none."""
    plain = [one for one in results if one.model == name and one.adapter is None]
    model, _, adapter = name.rpartition("+")
    return plain or [one for one in results if (one.model, one.adapter) == (model, adapter)]


# ---------------------------------------------------------------------- which results


def _of_model(name: str, results: Sequence[EvalResult]) -> list[EvalResult]:
    if found := results_of(name, results):
        return found
    raise InvalidInput(
        f"there are no results of a model `{name}`",
        "`mobilellm eval list` shows all results; a model with an adapter is MODEL+ADAPTER",
    )


_Key = tuple[object, ...]


def _key(result: EvalResult) -> _Key:
    """Results with the same key were asked the same, but for how much."""
    settings = repr(sorted(result.task_settings.items()))
    asked = (result.task, result.task_version, result.data_sha256, settings)
    return (*asked, result.seed, result.mode)


def _foremost(results: Sequence[EvalResult]) -> dict[_Key, EvalResult]:
    """The result that stands for each key, see ``latest``."""
    ordered = sorted(results, key=lambda one: one.created, reverse=True)
    found: dict[_Key, EvalResult] = {}
    for one in ordered:
        known = found.setdefault(_key(one), one)
        is_longer = len(one.scores) > len(known.scores)
        if is_longer and one.fingerprint == known.fingerprint and one.settings == known.settings:
            found[_key(one)] = one
    return found


def _unpaired(
    first: Mapping[_Key, EvalResult], second: Mapping[_Key, EvalResult], paired: set[str]
) -> list[str]:
    """Why tasks that both have under other circumstances do not compare."""
    found: dict[str, str] = {}
    for one in first.values():
        for other in second.values():
            if one.task == other.task and one.task not in (*paired, *found):
                found[one.task] = _refusal(one, other)
    return list(found.values())


def _nothing_shared(
    before: tuple[str, Mapping[_Key, EvalResult]],
    after: tuple[str, Mapping[_Key, EvalResult]],
    refused: Sequence[str],
) -> InvalidInput:
    """Why two models, each with its name, have nothing to compare."""
    if refused:
        more = f" (and {len(refused) - 1} more tasks alike)" if len(refused) > 1 else ""
        why = f"{refused[0]}{more}"
    else:
        asked = (
            f"`{name}` was asked {', '.join(dict.fromkeys(one.task for one in results.values()))}"
            for name, results in (before, after)
        )
        why = "; ".join(asked)
    return InvalidInput(
        f"`{before[0]}` and `{after[0]}` have no task in common that compares: {why}",
        "measure both with the same task, data and form: see `mobilellm eval list`",
    )


def _refusal(one: EvalResult, other: EvalResult) -> str:
    try:
        compare(one, other)
    except InvalidInput as error:
        return f"{one.task}: {error.message}"
    return f"{one.task}: they were asked in different ways: {one.mode} and {other.mode}"


# ---------------------------------------------------------------------- what they say


def _task_difference(one: EvalResult, other: EvalResult) -> TaskDifference | str:
    """The difference in a task, or why there is none."""
    both = [name for name, metric in one.metrics.items() if metric.mean is not None]
    name = headline({name: None for name in both if name in other.metrics})
    try:
        found = compare(one, other, only=name)
    except InvalidInput as error:
        return f"{one.task}: {error.message}"
    if name is None or not found:
        return f"{one.task}: no question has a figure in both"
    asked = (len(one.scores), len(other.scores))
    is_same = one.scores.keys() == other.scores.keys()
    return TaskDifference(
        task=one.task,
        settings=one.task_settings,
        before=one.id,
        after=other.id,
        difference=found[0],
        asked=None if is_same else asked,
        lost=_lost(name, one, other),
    )


def _lost(name: str, one: EvalResult, other: EvalResult) -> int:
    """Questions that both were asked whose figure is NaN or infinite in one of them."""
    shared = [id for id in one.scores if id in other.scores]
    pairs = [(one.scores[id].get(name), other.scores[id].get(name)) for id in shared]
    given = [pair for pair in pairs if None not in pair]
    return sum(not all(math.isfinite(value or 0.0) for value in pair) for pair in given)


def _averages(tasks: Sequence[TaskDifference]) -> list[AverageDifference]:
    found = []
    for form in dict.fromkeys(form_of(one.settings) for one in tasks):
        # Of several data sets of one name the first counts.
        own: dict[str, Difference] = {}
        for one in tasks:
            is_accuracy = one.difference.metric in ("acc", "acc_norm")
            if is_accuracy and form_of(one.settings) == form:
                own.setdefault(one.task, one.difference)
        if set(PAPER) <= set(own):
            own = {task: own[task] for task in PAPER}
        if len(own) > 1:
            found.append(_average_difference(form, own))
    return found


def _average_difference(form: str, tasks: Mapping[str, Difference]) -> AverageDifference:
    """The mean of paired differences: what both models share does not widen its interval."""
    changes = [one.change for one in tasks.values()]
    mean = math.fsum(change.mean or 0.0 for change in changes) / len(changes)
    error = error_of_mean([error_of(change) for change in changes])
    reach = None if error is None else Z95 * error
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    kind = "none" if reach is None else "normal"
    return AverageDifference(
        form=form,
        tasks=tuple(tasks),
        before=math.fsum(one.before for one in tasks.values()) / len(tasks),
        after=math.fsum(one.after for one in tasks.values()) / len(tasks),
        change=Metric(len(tasks), mean, low, high, kind, stderr=error),
        p=chance(mean, error),
        is_paper=set(tasks) == set(PAPER),
    )


def _mean(metrics: Sequence[Metric]) -> Figure:
    mean = math.fsum(metric.mean or 0.0 for metric in metrics) / len(metrics)
    return Figure(mean, error_of_mean([shown_error(metric) for metric in metrics]))


def _is_sound(metrics: Mapping[str, Metric]) -> bool:
    both = (metrics["acc"], metrics.get("acc_norm", metrics["acc"]))
    return all(metric.mean is not None and not metric.nonfinite for metric in both)


def _task_and_metrics(result: EvalResult | Mapping[str, Any]) -> tuple[str, dict[str, Metric]]:
    if isinstance(result, EvalResult):
        return result.task, result.metrics
    return result["task"], {name: metric_from(values) for name, values in result["metrics"].items()}
