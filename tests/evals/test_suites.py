"""Several tasks as one: averages, the result that stands for a task, two models side by side."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.results import EvalResult, make_result, save_result
from mobilellm_mlx.evals.statistics import Metric
from mobilellm_mlx.evals.suites import (
    PAPER,
    average,
    compare_models,
    headline,
    latest,
    results_of,
)
from mobilellm_mlx.evals.task import Request, Response, Subject
from tests.evals.sums import Sums


@dataclass
class Choices:
    """A task of choices whose scores are given, not found."""

    name: str
    form: str = "lm-eval"
    version: int = 1
    data_sha256: str = "d" * 64
    settings: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = {"form": self.form}

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        raise NotImplementedError

    def score(self, request: Request, response: Response) -> dict[str, float]:
        raise NotImplementedError


def result(
    task: str,
    right: str,
    normed: str = "",
    *,
    model: str = "m",
    at: int = 0,
    form: str = "lm-eval",
    **changes: Any,
) -> EvalResult:
    """A result whose questions are right (1), wrong (0) or NaN (n), made at a second of the day."""
    value = {"1": 1.0, "0": 0.0, "n": math.nan}
    scores: dict[str, dict[str, float]] = {}
    for at_, acc in enumerate(right):
        scores[str(at_)] = {"acc": value[acc], "bits_per_byte": 1.0}
        if normed:
            scores[str(at_)]["acc_norm"] = value[normed[at_]]
    requests = [Request(id, None) for id in scores]
    subject = Subject(model, f"fp-{model}", settings={"context": 8192})
    made = make_result(Choices(task, form), subject, 0, requests, scores, 1.0)
    return replace(made, created=f"2026-11-22T20:00:{at:02}+00:00", **changes)


def eight(share: int = 4, model: str = "m") -> list[EvalResult]:
    """All tasks of the paper, with so many of ten questions right."""
    return [result(task, ("1" * share).ljust(10, "0"), model=model) for task in PAPER]


def test_an_average_takes_the_normed_figure_where_a_task_has_one() -> None:
    found = average([result("boolq", "1110"), result("obqa", "1000", "1100")])
    assert found is not None
    assert (found.tasks, found.is_paper, found.lost) == (("boolq", "obqa"), False, ())
    assert found.acc.mean == pytest.approx(0.5)
    assert found.headline.mean == pytest.approx((0.75 + 0.5) / 2)


def test_the_error_of_an_average_is_that_of_independent_tasks() -> None:
    found = average([result("boolq", "1" * 60 + "0" * 40), result("piqa", "1" * 50 + "0" * 50)])
    assert found is not None
    assert found.acc.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 100 + 0.25 / 100) / 2)


def test_every_task_counts_the_same() -> None:
    found = average([result("boolq", "1" * 500), result("piqa", "0" * 5)])
    assert found is not None and found.acc.mean == 0.5


def test_the_paper_s_eight_are_averaged_whatever_else_is_there() -> None:
    found = average([*eight(4), result("sciq", "1111")])
    assert found is not None and found.is_paper
    assert (found.tasks, found.acc.mean) == (PAPER, pytest.approx(0.4))
    seven = average(eight()[1:])
    assert seven is not None and not seven.is_paper


def test_a_task_with_nan_is_named_and_not_averaged() -> None:
    found = average([*eight()[1:], result("arc_easy", "111n")])
    assert found is not None
    assert (found.lost, found.is_paper, len(found.tasks)) == (("arc_easy",), False, 7)
    assert average([result("arc_easy", "nn")]) is None


def test_briefs_are_averaged_as_results_are() -> None:
    results = eight()
    assert average([one.brief() for one in results]) == average(results)


def test_results_of_before_standard_errors_have_the_same_average() -> None:
    def old(metric: Metric) -> Metric:
        return replace(metric, stderr=None)

    results = eight()
    before = [
        replace(one, metrics={name: old(metric) for name, metric in one.metrics.items()})
        for one in results
    ]
    one, other = average(results), average(before)
    assert one is not None and other is not None
    assert other.acc.stderr == pytest.approx(one.acc.stderr)


def test_what_is_no_choice_is_in_no_average() -> None:
    task = Sums()
    requests = task.requests(2, 0)
    scores = {one.id: {"right": 1.0} for one in requests}
    other = make_result(task, Subject("m", "fp"), 0, requests, scores, 1.0)
    assert average([other]) is None
    assert headline(other.metrics) == "right"
    assert headline({}) is None


def test_the_newest_result_of_each_task_stands_for_it_in_the_paper_s_order() -> None:
    save_result(result("piqa", "00", at=1))
    save_result(result("piqa", "11", at=2))
    save_result(result("arc_easy", "10", at=3))
    save_result(result("arc_easy", "11", at=4, form="olmes"))
    save_result(result("arc_easy", "11", at=5, model="other"))
    save_result(result("arc_easy", "11", at=6, adapter="tools"))
    found = latest("m")
    assert [(one.task, one.metrics["acc"].mean) for one in found] == [
        ("arc_easy", 0.5),
        ("piqa", 1.0),
    ]
    assert [one.adapter for one in latest("m", "tools")] == ["tools"]
    assert [one.task_settings["form"] for one in latest("m", form="olmes")] == ["olmes"]
    assert len(latest("m", form=None)) == 3


def test_a_short_trial_does_not_hide_the_whole_run_before_it() -> None:
    whole, trial = result("piqa", "1010", at=1), result("piqa", "10", at=2)
    assert latest("m", results=[trial, whole]) == [whole]
    # Unless the model is another by now, or sees other contexts.
    assert latest("m", results=[replace(trial, fingerprint="new"), whole])[0].id == trial.id
    assert latest("m", results=[replace(trial, settings={}), whole])[0].id == trial.id


def test_of_other_data_the_newest_counts() -> None:
    old, new = result("piqa", "11", at=1), result("piqa", "00", at=2, data_sha256="e" * 64)
    assert latest("m", results=[new, old]) == [new]


def test_two_models_are_compared_task_by_task_and_on_average() -> None:
    before, after = eight(4), eight(7, "n")
    found = compare_models("m", "n", [*before, *after])
    assert tuple(one.task for one in found.tasks) == PAPER
    assert found.refused == []
    one = found.tasks[0]
    assert (one.difference.metric, one.difference.change.mean, one.asked) == (
        "acc",
        pytest.approx(0.3),
        None,
    )
    assert one.difference.p == pytest.approx(0.25)  # 3 up, none down
    (mean,) = found.averages
    assert (mean.form, mean.is_paper, mean.before, mean.after) == (
        "lm-eval",
        True,
        pytest.approx(0.4),
        pytest.approx(0.7),
    )
    error = math.sqrt(0.3 * 0.7 / 10)  # of each task's differences: three of ten are 1
    assert mean.change.stderr == pytest.approx(error / math.sqrt(8))
    assert mean.change.low == pytest.approx(0.3 - 1.96 * error / math.sqrt(8), abs=1e-4)
    assert mean.p is not None and mean.p < 1e-6


def test_what_two_models_share_does_not_widen_the_interval_of_their_difference() -> None:
    half = "10" * 50
    before = [result(task, half) for task in ("boolq", "piqa")]
    after = [result(task, half[:-1] + "1", model="n") for task in ("boolq", "piqa")]
    (mean,) = compare_models("m", "n", [*before, *after]).averages
    assert mean.change.mean == pytest.approx(0.01)
    assert mean.change.stderr is not None and mean.change.stderr < 0.008
    single = average(after)
    assert single is not None and single.acc.stderr is not None and single.acc.stderr > 0.03


def test_the_same_model_does_not_differ_from_itself() -> None:
    (mean,) = compare_models("m", "m", eight()).averages
    assert (mean.change.mean, mean.change.low, mean.change.high, mean.p) == (0.0, 0.0, 0.0, 1.0)


def test_different_limits_compare_on_the_questions_that_both_were_asked() -> None:
    (task,) = compare_models(
        "m", "n", [result("piqa", "110011"), result("piqa", "101", model="n")]
    ).tasks
    assert (task.asked, task.difference.change.n) == ((6, 3), 3)
    assert (task.difference.before, task.difference.after) == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_sha256": "e" * 64}, "of different data"),
        ({"task_version": 2}, "of different versions of the task"),
        ({"task_settings": {"form": "olmes"}}, "form lm-eval and form olmes"),
        ({"seed": 3}, "of different seeds"),
    ],
    ids=str,
)
def test_what_does_not_compare_is_left_out_and_said(change: dict[str, Any], said: str) -> None:
    same = [result("boolq", "10"), result("boolq", "11", model="n")]
    other = replace(result("piqa", "11", model="n"), **change)
    found = compare_models("m", "n", [*same, result("piqa", "10"), other])
    assert [one.task for one in found.tasks] == ["boolq"]
    (sentence,) = found.refused
    assert sentence.startswith("piqa: ") and said in sentence
    with pytest.raises(InvalidInput, match="no task in common that compares: piqa: ") as caught:
        compare_models("m", "n", [result("piqa", "10"), other])
    assert said in caught.value.message


def test_models_that_share_no_task_are_said_with_what_each_was_asked() -> None:
    kept = [result("piqa", "10"), result("boolq", "10"), result("obqa", "11", model="n")]
    with pytest.raises(InvalidInput) as caught:
        compare_models("m", "n", kept)
    assert "`m` was asked piqa, boolq; `n` was asked obqa" in caught.value.message


def test_an_older_result_that_compares_is_taken_before_a_newer_that_does_not() -> None:
    kept = [
        result("piqa", "10", at=1),
        result("piqa", "10", at=2, form="olmes"),
        result("piqa", "11", at=1, model="n"),
    ]
    found = compare_models("m", "n", kept)
    assert [dict(one.settings) for one in found.tasks] == [{"form": "lm-eval"}]
    assert found.refused == []


def test_each_form_has_an_average_of_its_own() -> None:
    kept = [
        result(task, "10", model=model, form=form)
        for task in ("boolq", "piqa")
        for model in ("m", "n")
        for form in ("lm-eval", "olmes")
    ]
    found = compare_models("m", "n", kept)
    assert len(found.tasks) == 4
    assert {one.form: one.tasks for one in found.averages} == {
        "lm-eval": ("boolq", "piqa"),
        "olmes": ("boolq", "piqa"),
    }


def test_a_task_whose_answers_are_all_nan_is_left_out_and_said() -> None:
    kept = [*eight(), *eight(5, "n")[1:], result("arc_easy", "nnnnnnnnnn", model="n")]
    found = compare_models("m", "n", [replace_bits(one) for one in kept])
    assert len(found.tasks) == 7 and not found.averages[0].is_paper
    assert found.refused == ["arc_easy: no question has a figure in both"]


def test_a_task_with_some_nan_is_compared_and_in_no_average() -> None:
    kept = [*eight(), *eight(5, "n")[1:], result("arc_easy", "nn11100000", model="n")]
    found = compare_models("m", "n", kept)
    first = found.tasks[0]
    assert (first.task, first.lost, first.difference.change.n) == ("arc_easy", 2, 8)
    assert found.averages[0].tasks == PAPER[1:]


def replace_bits(one: EvalResult) -> EvalResult:
    """A result without finite bits where its answers are NaN, as such a model gives it."""
    scores = {
        id: {**some, "bits_per_byte": some["bits_per_byte"] + 0 * some["acc"]}
        for id, some in one.scores.items()
    }
    return replace(one, scores=scores)


def test_a_model_with_an_adapter_is_named_with_a_plus() -> None:
    kept = [result("piqa", "10"), result("piqa", "11", adapter="tools")]
    (task,) = compare_models("m", "m+tools", kept).tasks
    assert task.difference.after == 1.0
    assert results_of("m+tools", kept) and not results_of("m+other", kept)


@pytest.mark.parametrize("name", ["nobody", "", "+", "m+", "a" * 5000])
def test_a_model_without_results_is_said(name: str) -> None:
    save_result(result("piqa", "10"))
    assert not results_of(name, [])
    with pytest.raises(InvalidInput, match="no results of a model"):
        compare_models("m", name)


def test_a_comparison_is_json_ready() -> None:
    found = asdict(compare_models("m", "n", [*eight(), *eight(5, "n")]))
    assert json.loads(json.dumps(found))["averages"][0]["is_paper"] is True
