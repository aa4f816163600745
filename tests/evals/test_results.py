"""Results: kept, found again, and compared only with what asked the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidInput, StorageError
from mobilellm_mlx.evals.results import (
    EvalResult,
    compare,
    find_result,
    load_result,
    make_result,
    results_dir,
    save_result,
    stored_results,
)
from mobilellm_mlx.evals.task import Subject
from tests.evals.sums import SUBJECT, Sums


def result(right: str, subject: Subject = SUBJECT) -> EvalResult:
    """A result whose requests are right (1) or wrong (0)."""
    task = Sums()
    requests = task.requests(len(right), 0)
    scores = {r.id: {"right": float(c)} for r, c in zip(requests, right, strict=True)}
    return make_result(task, subject, 0, requests, scores, 1.0)


def test_a_result_comes_back_as_it_was() -> None:
    before = result("1011")
    assert load_result(save_result(before)) == before


def test_a_result_is_found_by_the_beginning_of_its_id_or_by_its_file() -> None:
    kept = result("10")
    path = save_result(kept)
    assert find_result(kept.id[:-2]) == kept
    assert find_result(str(path)) == kept


@pytest.mark.parametrize("name", ["20", "nonsense", "../../etc", "", "*", "a" * 5000])
def test_a_name_that_means_no_single_result_is_refused(name: str) -> None:
    save_result(result("10"))
    save_result(result("11"))
    with pytest.raises(InvalidInput, match="result"):
        find_result(name)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", '{"format": 1}', '{"format": 9}', "[" * 99_999],
    ids=lambda text: repr(text[:14]),
)
def test_a_file_that_is_no_result_is_said_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InvalidInput):
        load_result(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metrics", {"right": {"n": 1}}),
        ("metrics", 3),
        ("scores", {"a": 1}),
        ("scores", {"a": {"b": "x"}}),
        ("metrics", {"right": {"n": 1, "mean": "x", "low": 0, "high": 1, "interval": "none"}}),
        ("settings", 3),
        ("model", None),
        ("created", ["now"]),
        ("adapter", 7),
        ("task_version", "1"),
        ("elapsed_s", "long"),
    ],
)
def test_a_damaged_result_is_said_in_a_sentence(name: str, value: Any) -> None:
    path = save_result(result("10"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, name: value}))
    with pytest.raises(InvalidInput, match="not a result"):
        load_result(path)


def test_one_damaged_file_does_not_hide_the_others() -> None:
    save_result(result("10"))
    (results_dir() / "9.json").write_text("no")
    found, wrong = stored_results()
    assert (len(found), len(wrong)) == (1, 1)


def test_runs_are_compared_request_by_request() -> None:
    (one,) = compare(result("0000000011"), result("1111111101"))
    assert (one.metric, one.before, one.after, one.change.n) == ("right", 0.2, 0.9, 10)
    assert one.change.mean == pytest.approx(0.7)
    assert one.p == pytest.approx(0.0390625)  # 8 up, 1 down


def test_the_interval_of_a_difference_is_that_of_no_share() -> None:
    (one,) = compare(result("0000"), result("0001"))
    assert (one.change.interval, one.change.low) == ("bootstrap", 0.0)
    (same,) = compare(result("01"), result("01"))
    assert (same.change.low, same.change.high, same.p) == (0.0, 0.0, 1.0)


def test_only_what_both_were_asked_is_compared() -> None:
    (one,) = compare(result("11"), result("1000"))
    assert (one.change.n, one.before, one.after) == (2, 1.0, 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "products"},
        {"task_version": 2},
        {"data_sha256": "e" * 64},
        {"task_settings": {"hard": True}},
        {"seed": 1},
        {"scores": {"other": {"right": 1.0}}},
    ],
    ids=str,
)
def test_what_did_not_ask_the_same_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="do not compare"):
        compare(result("11"), replace(result("11"), **change))


def test_models_and_modes_may_differ() -> None:
    other = Subject("slide rule", "fp-9", "adapter", {"mode": "rough"})
    assert compare(result("11"), result("10", other))


def test_a_result_without_standard_errors_is_read_and_compared() -> None:
    path = save_result(result("1011"))
    values = json.loads(path.read_text())
    for metrics in (values["metrics"], *values["categories"].values()):
        for metric in metrics.values():
            del metric["stderr"]
    path.write_text(json.dumps(values))
    old = load_result(path)
    assert old.metrics["right"].stderr is None
    assert compare(old, result("1010"))[0].change.mean == pytest.approx(-0.25)


def test_other_settings_are_said_in_words() -> None:
    one, other = (replace(result("11"), task_settings={"form": form}) for form in ("a", "b"))
    with pytest.raises(InvalidInput, match=r"compare: form a and form b$"):
        compare(one, other)


def test_a_result_that_cannot_be_written_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobilellm_mlx.evals.results.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_result(result("10"))
    assert list(results_dir().iterdir()) == []


HUGE = 10**400
"""JSON has such whole numbers, floats have not."""


@pytest.mark.parametrize(
    "figures",
    [
        {"mean": HUGE},
        {"n": HUGE, "stderr": None},
        {"n": -1},
        {"nonfinite": -1},
        {"mean": 5.0, "stderr": None},
        {"mean": -1.0, "stderr": None},
        {"stderr": -0.1},
    ],
)
def test_a_result_with_figures_that_cannot_be_is_none(figures: dict[str, Any]) -> None:
    path = save_result(result("1011"))
    values = json.loads(path.read_text())
    values["metrics"]["right"].update(figures)
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidInput, match="is not a result of an evaluation"):
        load_result(path)


def test_a_result_with_a_score_beyond_any_float_is_none() -> None:
    path = save_result(result("1011"))
    values = json.loads(path.read_text())
    values["scores"]["0"] = {"right": HUGE}
    path.write_text(json.dumps(values))
    assert stored_results()[0] == []
    with pytest.raises(InvalidInput, match="is not a result of an evaluation"):
        load_result(path)
