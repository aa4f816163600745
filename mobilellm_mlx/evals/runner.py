"""Runs a task: asks what was not answered yet, keeps every response, scores all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.journal import Journal, RunIsTaken, evals_dir
from mobilellm_mlx.evals.results import (
    EvalResult,
    Scores,
    make_result,
    result_path,
    same_result,
    save_result,
)
from mobilellm_mlx.evals.task import (
    Answerer,
    Request,
    Response,
    Subject,
    Task,
    Weighs,
    run_key,
    unanswered,
)
from mobilellm_mlx.events import EvalSummary, Event, Notice, Progress, Status


def run_task(
    task: Task,
    subject: Subject,
    answer: Answerer,
    *,
    limit: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    cancel: threading.Event | None = None,
) -> Iterator[Event]:
    """Judge a model by a task; ends with an ``EvalSummary``.

    What was answered by an earlier run with the same key is not asked again. A run that was
    stopped gives what it has, and writes no result.

    Args:
        task: what to ask and how to score.
        subject: who is judged.
        answer: asks.
        limit: at most so many requests.
        seed: of whatever is drawn.
        fresh: ask everything again.
        cancel: stops it after the present request.

    Raises:
        InvalidInput: when the task asks nothing, or asks two things under one name, or what an
            earlier run kept is no response to it.
        MobileLLMError: whatever asking raises.
    """
    started = time.perf_counter()
    name = _name(task, subject)
    cancel = cancel or threading.Event()
    requests = task.requests(limit, seed)
    _check(task, requests)
    path = journal_path(task, subject, seed)
    with Journal(path, fresh=fresh) as journal:
        yield from _notices(name, journal, requests)
        yield from _ask(name, requests, journal, answer, cancel)
        responses = journal.of([request.id for request in requests])
        spent_s = journal.spent_s(responses.keys())
    scores: Scores = {
        request.id: _score(task, request, responses[request.id], path)
        for request in requests
        if request.id in responses
    }
    weights: Scores = {
        request.id: task.weights(request, responses[request.id])
        for request in requests
        if isinstance(task, Weighs) and request.id in responses
    }
    result = make_result(task, subject, seed, requests, scores, spent_s, weights)
    is_whole = len(scores) == len(requests)
    if is_whole and (kept := same_result(result)):
        result, written = kept, str(result_path(kept))
    else:
        written = str(save_result(result)) if is_whole else ""
    yield from _nonfinite(name, result)
    yield EvalSummary(
        status="ok" if is_whole else "cancelled",
        elapsed_s=time.perf_counter() - started,
        model=subject.model,
        results=[{**result.brief(), "asked": len(requests), "path": written}],
    )


def run_tasks(
    runs: Iterable[tuple[str, Iterator[Event]]], model: str, cancel: threading.Event
) -> Iterator[Event]:
    """The events of several runs, then one ``EvalSummary`` of all.

    A run that another program writes is left out and said; then the summary's status is ``error``.

    Args:
        runs: what each is called, and its events; made when its turn comes.
        model: who is judged.
        cancel: was set when one is stopped; what comes after it is not begun.
    """
    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    status: Status = "ok"
    runs = iter(runs)
    for name, events in runs:
        try:
            for event in events:
                if isinstance(event, EvalSummary):
                    results += event.results
                    status = status if event.status == "ok" else event.status
                else:
                    yield event
        except RunIsTaken as error:
            yield Notice(f"{name} is left out: {error.message}; {error.hint}")
            status = "error"
        if cancel.is_set():
            break
    if left := [name for name, _ in runs]:
        yield Notice(f"not begun: {', '.join(left)}")
    yield EvalSummary(
        status="cancelled" if cancel.is_set() else status,
        elapsed_s=time.perf_counter() - started,
        model=model,
        results=results,
    )


def journal_path(task: Task, subject: Subject, seed: int) -> Path:
    """Where the responses of a run are kept."""
    return evals_dir() / "runs" / f"{task.name}-{run_key(task, subject, seed)}.jsonl"


def _check(task: Task, requests: Sequence[Request]) -> None:
    if not requests:
        raise InvalidInput(f"the task `{task.name}` has no requests", "raise `--limit`")
    if len({request.id for request in requests}) < len(requests):
        raise InvalidInput(f"the task `{task.name}` has two requests of one id")


def _name(task: Task, subject: Subject) -> str:
    """What a run is called where it is spoken of."""
    return f"{task.name}, {subject.mode}" if subject.mode else task.name


def _notices(name: str, journal: Journal, requests: Sequence[Request]) -> Iterator[Event]:
    if journal.dropped:
        lines = "1 line" if journal.dropped == 1 else f"{journal.dropped} lines"
        yield Notice(
            f"{name}: {lines} of `{journal.path.name}` could not be read; what is missing is asked "
            "again"
        )
    if done := len(journal.of([request.id for request in requests])):
        yield Notice(
            f"{name}: {done:,} of {len(requests):,} were answered by an earlier run (see --fresh)"
        )


def _ask(
    name: str,
    requests: Sequence[Request],
    journal: Journal,
    answer: Answerer,
    cancel: threading.Event,
) -> Iterator[Event]:
    """Ask what is open, and keep what comes."""
    open_ = list(unanswered(requests, journal.known))
    asked = {request.id for request in open_}
    done = len(requests) - len(open_)
    yield Progress(name, done, len(requests), "items")
    if not open_:
        return
    before = time.perf_counter()
    counts_itself = False
    for item in answer(open_):
        if isinstance(item, Event):
            counts_itself |= isinstance(item, Progress) and item.task == name
            yield item
            continue
        assert isinstance(item, Response) and item.id in asked, "an answer nobody asked for"
        now = time.perf_counter()
        journal.add(item, now - before)
        before = now
        done += 1
        if not counts_itself:
            yield Progress(name, done, len(requests), "items")
        if cancel.is_set():
            return


def _score(task: Task, request: Request, response: Response, path: Path) -> dict[str, float]:
    """The figures of a response; what lies in a file may be anything."""
    try:
        return task.score(request, response)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"the response to `{request.id}` in `{path.name}` cannot be scored: {error!r:.80}",
            "ask everything again with `--fresh`",
        ) from error


def _nonfinite(name: str, result: EvalResult) -> Iterator[Event]:
    """NaN and infinite figures are said, and are in no mean."""
    for label, metric in result.metrics.items():
        if metric.nonfinite:
            yield Notice(f"{name}: {metric.nonfinite} values of `{label}` are NaN or infinite")
