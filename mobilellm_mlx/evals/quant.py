"""What rounding costs: models of fewer bits beside the one that they were made from.

One model is in memory at a time, on the thread that runs the job, as in training. The reference
leaves behind its last hidden states and its head, which is what a comparison needs of it, so
nothing is computed twice and memory holds one model and a matrix.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from mobilellm_mlx.adapters.wearing import Wardrobe
from mobilellm_mlx.backend import allocation_errors, mx
from mobilellm_mlx.decoding import likelihood
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals import speed
from mobilellm_mlx.evals.budget import Budget, budget_of
from mobilellm_mlx.evals.choice.task import ChoiceAnswerer
from mobilellm_mlx.evals.divergence import (
    Distance,
    Divergence,
    DivergenceTask,
    Reference,
    comparing_bytes,
    distance,
    diverge,
    head_of,
    hidden,
    logits_of,
)
from mobilellm_mlx.evals.exam import Exam
from mobilellm_mlx.evals.journal import Journal
from mobilellm_mlx.evals.results import EvalResult, load_result
from mobilellm_mlx.evals.runner import journal_path, run_task, run_tasks
from mobilellm_mlx.evals.suites import average, compare_models
from mobilellm_mlx.evals.task import Answerer, Request, Response, Subject, Task
from mobilellm_mlx.events import EvalSummary, Event, Notice, Progress, Status
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.weights import weight_files


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the table.

    Attributes:
        model: its name, told from those of the others.
        path: its directory.
        is_reference: whether the others are compared with it.
        compute: packed or dense.
        bytes: of its files of weights.
        bits_per_weight: all that is in them, over its parameters.
        prefill_tok_per_s: median of several readings; None where it was not measured.
        prefill_range: least and most of them.
        decode_tok_per_s: likewise, of generating.
        decode_range: likewise.
        distance: of its next-token distributions from the reference's, as ``Distance``; of the
            reference only the perplexity.
        mean_kl: with its interval, as ``Metric``: windows are what it is drawn from.
        accuracy: mean and standard error over the tasks, as ``Figure``.
        change: of the accuracy from the reference's, paired, as ``Metric``.
        p: how likely so large a change is by chance.
        tasks: of each task its metric, the reference's mean, this one's, change and p.
        results: files of the results that were kept.
    """

    model: str
    path: str
    is_reference: bool
    compute: str
    bytes: int
    bits_per_weight: float
    prefill_tok_per_s: float | None = None
    prefill_range: tuple[float, float] | None = None
    decode_tok_per_s: float | None = None
    decode_range: tuple[float, float] | None = None
    distance: dict[str, Any] | None = None
    mean_kl: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    change: dict[str, Any] | None = None
    p: float | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


def measure_quant(
    candidates: Sequence[Path],
    against: Path,
    exam: Exam,
    options: LoadOptions | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Event]:
    """Measure models beside their reference; ends with an ``EvalSummary`` of ``Row`` values.

    What an earlier run found of a candidate is not computed again. A run that was stopped gives
    the rows that are whole.

    Args:
        candidates: model directories.
        against: directory of the reference.
        exam: from ``exam.make_exam`` with the same directories.
        options: how all of them are loaded.
        cancel: stops it after what is being read.

    Raises:
        InvalidInput: when the reference computes no numbers.
        MobileLLMError: whatever loading and reading raise.
    """
    started = time.perf_counter()
    bench = _Bench(exam, options, cancel or threading.Event())
    names = unique_names([against, *candidates])
    yield from bench.run_reference(names[0], against)
    for name, directory in zip(names[1:], candidates, strict=True):
        mx.clear_cache()  # the model before is gone; what it computed with should be, too
        if not bench.cancel.is_set():
            yield from bench.run_candidate(name, directory)
    if exam.measures_speed:
        yield from bench.measure_speeds()
    yield EvalSummary(
        status="cancelled" if bench.cancel.is_set() else bench.status,
        elapsed_s=time.perf_counter() - started,
        model=names[0],
        results=[asdict(row) for row in bench.rows],
    )


def unique_names(directories: Sequence[Path]) -> list[str]:
    """A name for each directory: its own, with those above it where two are called the same."""
    whole = [directory.absolute().parts for directory in directories]
    return [_short_name(parts, [other for other in whole if other != parts]) for parts in whole]


def _short_name(parts: Sequence[str], others: Sequence[Sequence[str]]) -> str:
    kept = 1
    while kept < len(parts) and any(other[-kept:] == parts[-kept:] for other in others):
        kept += 1
    return "/".join(parts[-kept:])


class _Bench:
    """Where models are measured, one after the other."""

    def __init__(self, exam: Exam, options: LoadOptions | None, cancel: threading.Event):
        self.cancel = cancel
        self.rows: list[Row] = []
        self.status: Status = "ok"
        self._exam, self._options = exam, options
        self._windows = exam.windows[: exam.limit]
        self._reference: Reference | None = None
        self._against = ""
        """Fingerprint of the reference."""
        self._choices: list[EvalResult] = []
        """What the reference chose."""

    def run_reference(self, name: str, directory: Path) -> Iterator[Event]:
        """Measure the reference and keep what comparisons need of it."""
        loaded = self._load(directory)
        row = _begun(name, loaded, is_reference=True)
        self._require_room(loaded)
        found = yield from self._read(name, loaded)
        self._choices = yield from self._chosen(name, loaded)
        if self.cancel.is_set():
            return
        answers = _compared([], self._choices)
        kept = [result.id for result in self._choices]
        self.rows.append(replace(row, distance=asdict(found), results=kept, **answers))

    def run_candidate(self, name: str, directory: Path) -> Iterator[Event]:
        """Measure a model beside the reference."""
        loaded = self._load(directory)
        row = _begun(name, loaded, is_reference=False)
        self._require_room(loaded)
        task = DivergenceTask(self._exam.windows, self._exam.data_sha256, self._against)
        subject = Subject(loaded.info.model, loaded.info.fingerprint, loaded.info.adapter)
        with allocation_errors("comparing"):
            result = yield from self._run(
                name, task, subject, self._answerer(loaded), len(self._windows)
            )
        choices = yield from self._chosen(name, loaded)
        if result is None or self.cancel.is_set():
            return
        with Journal(journal_path(task, subject, 0)) as journal:
            responses = journal.of(result.scores.keys()).values()
        found = distance(Divergence(**response.values) for response in responses)
        row = replace(
            row,
            distance=asdict(found),
            mean_kl=asdict(result.metrics["mean_kl"]),
            results=[result.id, *(one.id for one in choices)],
        )
        self.rows.append(replace(row, **_compared(self._choices, choices)))

    def _load(self, directory: Path) -> LoadedModel:
        """A model, the adapter on. It was made for one of them, and the others are its forms."""
        loaded = load_model(directory, self._options)
        if self._exam.adapter is None:
            return loaded
        wardrobe = Wardrobe(loaded)
        dressed = wardrobe.dressed(self._exam.adapter, force=True)
        wardrobe.wear(dressed)
        return dressed

    def _budget(self, loaded: LoadedModel) -> Budget | None:
        """What judging with a model may hold, if there is a bound; what stays of the reference is
        part of it."""
        if self._exam.max_memory is None:
            return None
        config = loaded.model.config
        states = sum(map(len, self._windows)) * config.hidden_size * loaded.model.dtype.size
        is_candidate = loaded.info.fingerprint != self._against
        head = self._reference.head_bytes if self._reference and is_candidate else 0
        return budget_of(loaded.info, self._exam.max_memory, states + head)

    def _require_room(self, loaded: LoadedModel) -> None:
        """Make sure that a model can read the windows within the budget.

        Raises:
            InsufficientMemory: when it cannot.
        """
        if (budget := self._budget(loaded)) is not None:
            window = likelihood.Row(tuple(self._windows[0]), 1)
            compared = comparing_bytes(len(window.tokens), loaded.model.config.vocab_size)
            budget.require_room_for_each([[window]], compared)

    def measure_speeds(self) -> Iterator[Event]:
        """Measure every model once, then all of them again: what else the machine is at in the
        meantime slows all of them down alike, and shows as a spread."""
        self._reference = None
        total = speed.TIMES * len(self.rows)
        found: list[list[tuple[float, float]]] = [[] for _ in self.rows]
        for number in range(total):
            yield Progress("speeds", number, total, "items")
            if self.cancel.is_set():
                return
            at = number % len(self.rows)
            loaded = self._load(Path(self.rows[at].path))
            with allocation_errors("measuring speed"):
                once = speed.measure_speed(loaded, self._windows[0])
            found[at] += [once] if once else []
            del loaded
        yield Progress("speeds", total, total, "items")
        for at, runs in enumerate(found):
            if runs:
                reads, writes = zip(*runs, strict=True)
                self.rows[at] = replace(
                    self.rows[at],
                    prefill_tok_per_s=median(reads),
                    prefill_range=(min(reads), max(reads)),
                    decode_tok_per_s=median(writes),
                    decode_range=(min(writes), max(writes)),
                )

    def _read(self, name: str, loaded: LoadedModel) -> Steps[Event, None, Distance]:
        """Have the reference read the text; how far it is from itself says its perplexity."""
        self._against = loaded.info.fingerprint
        self._reference = reference = Reference(loaded.model)
        parts = []
        for number, window in enumerate(self._windows):
            yield Progress(f"{name}: text", number, len(self._windows), "items")
            if self.cancel.is_set():
                break
            with allocation_errors("reading the text"):
                reference.add(hidden(loaded.model, window))
                own = reference.logits(number)
                parts.append(diverge(window, own, own, reference.vocab_size))
        found = distance(parts)
        if found.nonfinite:
            raise InvalidInput(
                f"`{name}` computes values that are not numbers: nothing compares with it",
                "convert it again, or compare with another model",
            )
        yield Progress(f"{name}: text", len(parts), len(self._windows), "items")
        return found

    def _answerer(self, loaded: LoadedModel) -> Answerer:
        """Compares windows with what the reference made of them."""
        model, head, reference = loaded.model, head_of(loaded.model), self._reference
        assert reference is not None

        def answer(requests: Sequence[Request]) -> Iterator[Response]:
            for request in requests:
                own = logits_of(head, hidden(model, request.payload))
                right = reference.logits(int(request.id))
                found = diverge(request.payload, right, own, reference.vocab_size)
                yield Response(request.id, asdict(found))

        return answer

    def _chosen(self, name: str, loaded: LoadedModel) -> Steps[Event, None, list[EvalResult]]:
        """Results of the tasks, which go on from those of ``mobilellm eval choice``."""
        info, exam, budget = loaded.info, self._exam, self._budget(loaded)
        subject = Subject(
            info.model, info.fingerprint, info.adapter, {"context": info.context_limit}
        )
        answer = ChoiceAnswerer(
            lambda groups, cancel: likelihood.judge_all(
                loaded.model, groups, cancel, budget.batch_tokens(groups) if budget else None
            ),
            loaded.tokenizer,
            info.context_limit,
            self.cancel,
        )
        found = []
        for task in exam.tasks:
            with allocation_errors("choosing answers"):
                result = yield from self._run(name, task, subject, answer, exam.questions)
            if self.cancel.is_set():
                break
            if result is not None:  # None: another program is at it
                found.append(result)
        return found

    def _run(
        self, name: str, task: Task, subject: Subject, answer: Answerer, limit: int | None
    ) -> Steps[Event, None, EvalResult | None]:
        """Run a task, its events under the model's name; the result, if it came to one."""
        result = None
        run = run_task(
            task, subject, answer, limit=limit, fresh=self._exam.fresh, cancel=self.cancel
        )
        for event in run_tasks([(task.name, run)], subject.model, self.cancel):
            if isinstance(event, Progress):
                yield replace(event, task=f"{name}: {event.task}")
            elif isinstance(event, Notice):
                yield Notice(f"{name}: {event.text}")
            elif isinstance(event, EvalSummary):
                path = event.results[0]["path"] if event.results else ""
                result = load_result(Path(path)) if path else None
                self.status = event.status if event.status == "error" else self.status
        return result


def _begun(name: str, loaded: LoadedModel, *, is_reference: bool) -> Row:
    """A row with what is known of a model before anything is asked of it."""
    info = loaded.info
    size = sum(file.stat().st_size for file in weight_files(Path(info.path)))
    return Row(
        model=name,
        path=info.path,
        is_reference=is_reference,
        compute=info.compute,
        bytes=size,
        bits_per_weight=8 * size / info.parameters,
    )


def _compared(before: Sequence[EvalResult], after: Sequence[EvalResult]) -> dict[str, Any]:
    """The fields of a row about choosing.

    Args:
        before: results of the reference; none where the row is its own.
        after: results of the row's model.
    """
    mean = average(after)
    found: dict[str, Any] = {"accuracy": asdict(mean.headline) if mean else None}
    # They are told apart by what they are here, for both may be called the same.
    sides = [replace(one, model="reference") for one in before]
    sides += [replace(one, model="candidate") for one in after]
    try:
        differences = compare_models("reference", "candidate", sides)
    except InvalidInput:  # nothing was asked, or there is no number to compare
        return found
    found["tasks"] = [
        {"task": one.task, "lost": one.lost, **asdict(one.difference)} for one in differences.tasks
    ]
    if differences.averages:
        whole = differences.averages[0]
        return {**found, "change": asdict(whole.change), "p": whole.p}
    only = differences.tasks[0].difference
    return {**found, "change": asdict(only.change), "p": only.p}
