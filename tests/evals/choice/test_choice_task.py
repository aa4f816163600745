"""Choosing as a task: what is asked, what is kept, what is scored."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mobilellm_mlx.decoding.likelihood import Row
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.choice import task as tasks
from mobilellm_mlx.evals.choice.question import Question
from mobilellm_mlx.evals.choice.task import ChoiceAnswerer, ChoiceTask
from mobilellm_mlx.evals.runner import journal_path, run_task
from mobilellm_mlx.evals.task import Response, Subject
from mobilellm_mlx.events import EvalSummary, Event, Judged, Notice, Progress
from mobilellm_mlx.testing import ByteTokenizer

LONGEST = [
    Question((("Which?", f" {'x' * n}"), ("Which?", " yyy")), 0, (n, 3)) for n in (1, 2, 4, 5, 9)
]
"""A judge that likes long answers is right in the last three."""


def task(questions: Sequence[Question] = LONGEST) -> ChoiceTask:
    return ChoiceTask("longest", questions, "0" * 64, {"form": "lm-eval"})


class LikesLength:
    """Finds an answer the likelier the more tokens of it are judged; answers from the last."""

    def __init__(self, value: float | None = None) -> None:
        self.value = value
        self.groups: list[list[list[Row]]] = []

    def __call__(self, groups: Sequence[Sequence[Row]], cancel: threading.Event) -> Iterator[Event]:
        self.groups.append([list(rows) for rows in groups])
        yield Notice("reading")
        for number in reversed(range(len(groups))):
            if cancel.is_set():
                return
            tokens = [row.judged for row in groups[number]]
            values = [float(n) - 99 if self.value is None else self.value for n in tokens]
            yield Judged(number, values, [False] * len(tokens), tokens)


def answered(
    judge: Any, limit: int = 99, cancel: threading.Event | None = None
) -> list[Event | Response]:
    answerer = ChoiceAnswerer(judge, ByteTokenizer(), limit, cancel or threading.Event())
    return list(answerer(task().requests(None, 0)))


def test_a_limit_takes_the_first_questions_whatever_the_seed() -> None:
    assert [one.id for one in task().requests(2, 0)] == ["0", "1"]
    assert task().requests(2, 5) == task().requests(None, 0)[:2]


def test_answers_are_scored_by_the_right_one() -> None:
    request = task().requests(None, 0)[3]
    found = task().score(request, Response("3", {"log_likelihoods": [-1, -2]}))
    assert found["acc"] == 1.0
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2) / len(" xxxxx"))


def test_every_response_belongs_to_its_request_and_other_events_pass() -> None:
    found = answered(LikesLength())
    assert isinstance(found[0], Notice)
    responses = {one.id: one.values for one in found if isinstance(one, Response)}
    assert sorted(responses) == ["0", "1", "2", "3", "4"]
    assert responses["4"]["tokens"] == [10, 4]
    assert set(responses["4"]) == {"log_likelihoods", "greedy", "tokens", "cut"}


def test_what_does_not_fit_the_context_is_left_out_at_the_beginning_and_counted() -> None:
    judge = LikesLength()
    found = {one.id: one.values for one in answered(judge, 8) if isinstance(one, Response)}
    # "Which?" has 6 tokens, answers have 2 to 10; 9 are held, for the last is not read.
    assert [found[id]["cut"] for id in "01234"] == [1, 1, 3, 4, 8]
    longest = judge.groups[0][4][0]
    assert (bytes(longest.tokens), longest.judged) == (b"x" * 9, 8)


def test_a_result_says_how_many_questions_did_not_fit() -> None:
    _, summary = run(LikesLength(), context=10)
    cut = summary.results[0]["metrics"]["cut"]
    assert (cut["n"], cut["mean"]) == (2, pytest.approx((1 + 5) / 2))
    assert "cut" not in run(LikesLength())[1].results[0]["metrics"]


def test_questions_become_tokens_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SLICE", 2)
    judge = LikesLength()
    found = [one.id for one in answered(judge) if isinstance(one, Response)]
    assert found == ["1", "0", "3", "2", "4"]
    assert [len(groups) for groups in judge.groups] == [2, 2, 1]


def test_nothing_more_is_asked_once_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "SLICE", 2)
    judge, cancel = LikesLength(), threading.Event()
    answerer = ChoiceAnswerer(judge, ByteTokenizer(), 99, cancel)
    for event in answerer(task().requests(None, 0)):
        if isinstance(event, Response):
            cancel.set()
    assert len(judge.groups) == 1


def run(judge: Any, limit: int | None = None, context: int = 99) -> tuple[list[Event], EvalSummary]:
    answerer = ChoiceAnswerer(judge, ByteTokenizer(), context, threading.Event())
    subject = Subject("m", "f" * 16, None, {"context": context})
    *events, summary = run_task(task(), subject, answerer, limit=limit)
    assert isinstance(summary, EvalSummary)
    return events, summary


def test_a_longer_run_asks_only_what_a_shorter_one_did_not() -> None:
    first, second = LikesLength(), LikesLength()
    run(first, 2)
    events, summary = run(second)
    assert [len(groups) for groups in second.groups] == [3]
    assert any(isinstance(one, Notice) and "2 of 5" in one.text for one in events)
    assert summary.results[0]["metrics"]["acc"]["mean"] == pytest.approx(3 / 5)
    last = [one for one in events if isinstance(one, Progress)][-1]
    assert (last.done, last.total) == (5, 5)


def test_a_model_that_gives_nan_is_named_and_in_no_mean() -> None:
    events, summary = run(LikesLength(math.nan))
    notices = [one.text for one in events if isinstance(one, Notice)]
    assert "longest: 5 values of `acc` are NaN or infinite" in notices
    metric = summary.results[0]["metrics"]["acc"]
    assert (metric["nonfinite"], metric["mean"]) == (5, None)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"log_likelihoods": None},
        {"log_likelihoods": [-1]},
        {"log_likelihoods": [-1, -2, -3]},
        {"log_likelihoods": ["x", "y"]},
        {"log_likelihoods": [-(10**400), -1]},
        {"log_likelihoods": "12"},
        {"log_likelihoods": {"1": -1, "2": -2}},
    ],
)
def test_a_kept_response_that_is_none_is_named(values: dict[str, Any]) -> None:
    path = journal_path(task(), Subject("m", "f" * 16, None, {"context": 99}), 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"id": "3", "response": values}) + "\n")
    with pytest.raises(InvalidInput, match=f"response to `3` in `{path.name}` cannot be scored"):
        run(LikesLength())
