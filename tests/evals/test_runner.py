"""Running a task: every request once, whatever happens between."""

import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.journal import Journal
from mobilellm_mlx.evals.results import load_result
from mobilellm_mlx.evals.runner import journal_path, run_task, run_tasks
from mobilellm_mlx.evals.task import Request, Response, Subject, run_key
from mobilellm_mlx.events import EvalSummary, Event, Notice, Progress
from tests.evals.sums import SUBJECT, Abacus, Sums


def run(task: Sums, answer: Any, **values: Any) -> list[Event]:
    return list(run_task(task, values.pop("subject", SUBJECT), answer, **values))


def summary(events: list[Event]) -> EvalSummary:
    assert isinstance(events[-1], EvalSummary)
    return events[-1]


def test_a_run_ends_with_a_summary_and_leaves_a_result() -> None:
    events = run(Sums(), Abacus(wrong={"r3"}))
    (result,) = summary(events).results
    assert summary(events).status == "ok"
    assert (result["requests"], result["metrics"]["right"]["mean"]) == (10, 0.9)
    kept = load_result(Path(result["path"]))
    assert kept.scores["r3"] == {"right": 0.0, "size": 5.0}
    assert kept.metrics["right"].n == 10
    assert kept.categories["even"]["right"].mean == 0.8
    json.loads(summary(events).to_json())


def test_progress_counts_requests() -> None:
    done = [event.done for event in run(Sums(), Abacus(), limit=3) if isinstance(event, Progress)]
    assert done == [0, 1, 2, 3]


def test_a_killed_run_goes_on_where_it_was() -> None:
    with pytest.raises(RuntimeError, match="power"):
        run(Sums(), Abacus(dies_after=4))
    rest = Abacus()
    events = run(Sums(), rest)
    assert rest.asked == [f"r{n}" for n in range(4, 10)]
    assert any(isinstance(event, Notice) and "4 of 10" in event.text for event in events)
    assert summary(events).results[0]["requests"] == 10


def test_a_longer_run_goes_on_from_a_shorter_one() -> None:
    run(Sums(), Abacus(), limit=6)
    rest = Abacus()
    run(Sums(), rest, limit=8)
    assert rest.asked == ["r6", "r7"]


def test_a_shorter_run_counts_only_its_own() -> None:
    run(Sums(), Abacus())
    nobody = Abacus()
    events = run(Sums(), nobody, limit=2)
    assert nobody.asked == []
    assert summary(events).results[0]["requests"] == 2


def test_a_fresh_run_asks_everything_again() -> None:
    run(Sums(), Abacus())
    again = Abacus()
    run(Sums(), again, fresh=True)
    assert len(again.asked) == 10


@pytest.mark.parametrize(
    ("task", "subject"),
    [
        (Sums(version=2), SUBJECT),
        (Sums(data_sha256="e" * 64), SUBJECT),
        (Sums(settings={"hard": True}), SUBJECT),
        (Sums(), Subject("abacus", "fp-2", settings={"mode": "exact"})),
        (Sums(), Subject("abacus", "fp-1", "adapter", {"mode": "exact"})),
        (Sums(), Subject("abacus", "fp-1", settings={"mode": "rough"})),
    ],
)
def test_whatever_changes_an_answer_makes_another_run(task: Sums, subject: Subject) -> None:
    assert run_key(task, subject, 0) != run_key(Sums(), SUBJECT, 0)
    run(Sums(), Abacus())
    other = Abacus()
    run(task, other, subject=subject)
    assert len(other.asked) == 10


def test_a_stopped_run_gives_what_it_has_and_no_result() -> None:
    cancel = threading.Event()

    def answer(requests: Sequence[Request]) -> Iterator[Response]:
        for response in Abacus()(requests):
            if response.id == "r2":
                cancel.set()
            yield response

    events = run(Sums(), answer, cancel=cancel)
    (result,) = summary(events).results
    assert (summary(events).status, result["requests"], result["path"]) == ("cancelled", 3, "")
    assert journal_path(Sums(), SUBJECT, 0).read_bytes().count(b"\n") == 3


def test_nan_is_named_and_the_result_is_still_json() -> None:
    events = run(Sums(scored=lambda value: math.nan if value == 3 else value), Abacus())
    assert any(isinstance(event, Notice) and "NaN" in event.text for event in events)
    (result,) = summary(events).results
    assert result["metrics"]["size"]["nonfinite"] == 1
    assert "NaN" not in Path(result["path"]).read_text()
    assert math.isnan(load_result(Path(result["path"])).scores["r2"]["size"])


def test_events_of_answering_are_passed_on() -> None:
    def answer(requests: Sequence[Request]) -> Iterator[Event | Response]:
        yield Notice("hm")
        yield from Abacus()(requests)

    assert Notice("hm") in run(Sums(), answer)


def test_a_task_without_requests_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no requests"):
        run(Sums(), Abacus(), limit=0)


def test_a_run_that_was_whole_already_keeps_its_result_once() -> None:
    first, again = (summary(run(Sums(), Abacus(), limit=4)).results[0] for _ in range(2))
    assert (first["id"], first["path"]) == (again["id"], again["path"])
    longer = summary(run(Sums(), Abacus(), limit=5)).results[0]
    assert longer["id"] != first["id"] and Path(longer["path"]).is_file()


def test_a_result_says_how_long_all_runs_took_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("mobilellm_mlx.evals.runner.time.perf_counter", lambda: float(next(clock)))
    with pytest.raises(RuntimeError, match="power"):
        run(Sums(), Abacus(dies_after=4))
    events = run(Sums(), Abacus())
    assert summary(events).results[0]["elapsed_s"] == 10.0
    assert summary(events).elapsed_s < 10.0


def test_time_of_an_older_run_is_not_made_up() -> None:
    run(Sums(), Abacus(), limit=4)
    path = journal_path(Sums(), SUBJECT, 0)
    path.write_text(re.sub(r', "spent_s": [^}]+', "", path.read_text()))
    assert summary(run(Sums(), Abacus())).results[0]["elapsed_s"] is None


def test_every_notice_names_its_task() -> None:
    run(Sums(), Abacus(), limit=4)
    with journal_path(Sums(), SUBJECT, 0).open("a") as file:
        file.write("half a li")
    events = run(Sums(scored=lambda value: math.nan if value == 3 else value), Abacus())
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 3
    assert all(text.startswith("sums, exact: ") for text in notices)


def several(cancel: threading.Event, *tasks: Sums) -> list[Event]:
    runs = ((task.name, run_task(task, SUBJECT, Abacus(), cancel=cancel)) for task in tasks)
    return list(run_tasks(runs, "abacus", cancel))


def test_a_run_that_another_program_writes_is_left_out_and_said() -> None:
    with Journal(journal_path(Sums("b"), SUBJECT, 0)):
        events = several(threading.Event(), Sums("a"), Sums("b"), Sums("c"))
    assert summary(events).status == "error"
    assert [one["task"] for one in summary(events).results] == ["a", "c"]
    (said,) = [event.text for event in events if isinstance(event, Notice)]
    assert said.startswith("b is left out: another program is at this run")


def test_after_a_stop_nothing_is_begun_and_that_is_said() -> None:
    cancel = threading.Event()
    cancel.set()
    events = several(cancel, Sums("a"), Sums("b"), Sums("c"))
    (result,) = summary(events).results
    assert (result["task"], result["requests"], result["asked"]) == ("a", 1, 10)
    assert summary(events).status == "cancelled"
    assert Notice("not begun: b, c") in events


def test_whoever_counts_itself_is_not_counted() -> None:
    def answer(requests: Sequence[Request]) -> Iterator[Event | Response]:
        for response in Abacus()(requests):
            yield Progress("sums, exact", 5, 50, "tokens")
            yield response

    units = [event.unit for event in run(Sums(), answer) if isinstance(event, Progress)]
    assert units == ["items", *["tokens"] * 10]


def test_a_result_says_how_many_requests_there_are() -> None:
    class Counted(Sums):
        available = 10

    assert summary(run(Counted(), Abacus(), limit=3)).results[0]["available"] == 10
    assert summary(run(Sums("other"), Abacus(), limit=3)).results[0]["available"] is None
