"""Results: one JSON file each, complete enough to be compared with others later."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobilellm_mlx import __version__
from mobilellm_mlx.errors import InvalidInput, StorageError
from mobilellm_mlx.evals.journal import evals_dir
from mobilellm_mlx.evals.statistics import Metric, measure, metric_from, sign_test, summarise
from mobilellm_mlx.evals.task import Counted, Request, Subject, Task
from mobilellm_mlx.paths import existing

FORMAT = 1
"""Of the files; another one is not read."""
MAX_BYTES = 200_000_000
"""Of a file that somebody names as a result."""

Scores = dict[str, dict[str, float]]
"""Metrics by request."""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What a run found, and everything that it depends on.

    Attributes:
        id: the name of its file.
        created: when it ended, in UTC.
        program: version of this program.
        task: name of the task.
        task_version: of its requests and scores.
        data_sha256: of its data.
        task_settings: what changed the requests.
        seed: of whatever was drawn.
        model: who was asked.
        fingerprint: of the model's files and computed form.
        adapter: on top of it.
        settings: of the asking.
        elapsed_s: of asking, over all runs that were stopped and went on; None where that of an
            earlier one was not kept.
        metrics: by name.
        categories: metrics of each category.
        scores: metrics of each request.
        weights: of each request in the means, by metric; empty where all count the same.
        available: requests that the task has; None where it does not say, as in older results.
    """

    id: str
    created: str
    program: str
    task: str
    task_version: int
    data_sha256: str
    task_settings: dict[str, Any]
    seed: int
    model: str
    fingerprint: str
    adapter: str | None
    settings: dict[str, Any]
    elapsed_s: float | None
    metrics: dict[str, Metric]
    categories: dict[str, dict[str, Metric]] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    weights: Scores = field(default_factory=dict)
    available: int | None = None

    @property
    def mode(self) -> str:
        """How the model was asked, where there are several ways."""
        return str(self.settings.get("mode", ""))

    def brief(self) -> dict[str, Any]:
        """The result as JSON-ready values, without the scores of single requests."""
        values = asdict(self)
        del values["scores"], values["weights"]
        return {**values, "requests": len(self.scores)}


def make_result(
    task: Task,
    subject: Subject,
    seed: int,
    requests: Iterable[Request],
    scores: Scores,
    elapsed_s: float | None,
    weights: Scores | None = None,
) -> EvalResult:
    """A result out of scores, dated now."""
    weights = weights or {}
    of_category: dict[str, Scores] = {}
    for request in requests:
        if request.category and request.id in scores:
            of_category.setdefault(request.category, {})[request.id] = scores[request.id]
    moment = datetime.now(UTC)
    words = [task.name, subject.mode, secrets.token_hex(2)]
    return EvalResult(
        id="-".join([f"{moment:%y%m%d-%H%M%S}", *filter(None, words)]),
        created=moment.isoformat(timespec="seconds"),
        program=__version__,
        task=task.name,
        task_version=task.version,
        data_sha256=task.data_sha256,
        task_settings=dict(task.settings),
        seed=seed,
        model=subject.model,
        fingerprint=subject.fingerprint,
        adapter=subject.adapter,
        settings=dict(subject.settings),
        elapsed_s=elapsed_s,
        metrics=summarise(scores, seed, weights),
        categories={
            name: summarise(some, seed, weights) for name, some in sorted(of_category.items())
        },
        scores=scores,
        weights=weights,
        available=task.available if isinstance(task, Counted) else None,
    )


def save_result(result: EvalResult) -> Path:
    """Write a result among those that are kept.

    Raises:
        StorageError: when it cannot be written.
    """
    path = result_path(result)
    scratch = path.with_suffix(f".{os.getpid()}.part")
    values = {"format": FORMAT, **_finite(asdict(result))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(json.dumps(values, indent=1))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StorageError(f"the result `{path}` cannot be written: {error.strerror}") from error
    return path


def result_path(result: EvalResult) -> Path:
    """Where a result is kept."""
    return results_dir() / f"{result.id}.json"


def same_result(result: EvalResult) -> EvalResult | None:
    """A result that was kept before and says the same; None where there is none.

    A run that was whole already gives its result again whenever it is asked for.
    """
    for path in sorted(results_dir().glob(f"*-{result.task}-*.json"), reverse=True):
        try:
            kept = load_result(path)
        except InvalidInput:
            continue
        # All but the moment, and what older results do not say; scores hold NaN, which equals
        # nothing, as null in the file.
        moment = {name: getattr(kept, name) for name in ("id", "created", "elapsed_s", "available")}
        told = replace(result, **moment)
        if _finite(asdict(told)) == _finite(asdict(kept)):
            return kept
    return None


def results_dir() -> Path:
    """Where results are kept."""
    return evals_dir() / "results"


def load_result(path: Path) -> EvalResult:
    """Read a result.

    Raises:
        InvalidInput: when the file is none.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"`{path}` is too large for a result")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise InvalidInput(f"`{path}` is not JSON, so it is no result") from None
    try:
        if values.pop("format") != FORMAT:
            raise InvalidInput(f"`{path}` is a result of another version of this program")
        values["metrics"] = _metrics(values["metrics"])
        named = values["categories"].items()
        values["categories"] = {str(name): _metrics(some) for name, some in named}
        values["scores"] = _scores(values["scores"])
        # Older results have neither weights nor a count, and the time of their last run alone.
        values["weights"] = _scores(values.get("weights", {}))
        if "available" not in values:
            values["elapsed_s"] = None
        return _typed(EvalResult(**values))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"`{path}` is not a result of an evaluation: {error}") from None


def stored_results() -> tuple[list[EvalResult], list[str]]:
    """The results that are kept, the newest first, and what is wrong with the others."""
    found, wrong = [], []
    for path in sorted(results_dir().glob("*.json"), reverse=True):
        try:
            found.append(load_result(path))
        except InvalidInput as error:
            wrong.append(error.message)
    return found, wrong


def find_result(name: str) -> EvalResult:
    """A result by its file, or by a beginning of its id that no other has.

    Raises:
        InvalidInput: when there is none, or there are several.
    """
    path = existing(name)
    return load_result(path if path is not None and path.is_file() else find_kept(name))


def find_kept(name: str) -> Path:
    """The file of a result that is kept, by a beginning of its id that no other has.

    Raises:
        InvalidInput: when there is none, or there are several.
    """
    safe = re.fullmatch(r"[A-Za-z0-9._-]+", name)
    close = [p for p in results_dir().glob("*.json") if p.stem.startswith(name)] if safe else []
    if len(close) == 1:
        return close[0]
    raise InvalidInput(
        f"{len(close)} results begin with `{name}`" if close else f"there is no result `{name}`",
        "`mobilellm eval list` shows all results with their ids",
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """How a metric differs between two runs, over the requests that both answered.

    Attributes:
        metric: its name.
        before: mean of the first run.
        after: mean of the second run.
        change: mean of the differences, with its interval.
        p: how likely so uneven a count of ups and downs is by chance.
    """

    metric: str
    before: float
    after: float
    change: Metric
    p: float


def compare(first: EvalResult, second: EvalResult, *, only: str | None = None) -> list[Difference]:
    """What the second run does better or worse than the first, request by request.

    Args:
        first: a result.
        second: another.
        only: this metric; all when None.

    Raises:
        InvalidInput: when they did not ask the same.
    """
    must_agree: tuple[tuple[str, object, object], ...] = (
        ("tasks", first.task, second.task),
        ("versions of the task", first.task_version, second.task_version),
        ("data", first.data_sha256[:16], second.data_sha256[:16]),
        ("settings of the task", first.task_settings, second.task_settings),
        ("seeds", first.seed, second.seed),
    )
    for label, one, other in must_agree:
        if one != other:
            raise InvalidInput(
                f"the results are of different {label}, so they do not compare: "
                f"{_said(one)} and {_said(other)}",
                "run both with the same data, settings, `--seed` and version of this program",
            )
    shared = [id for id in first.scores if id in second.scores]
    if not shared:
        raise InvalidInput("the results have no request in common, so they do not compare")
    names = dict.fromkeys(name for id in shared for name in first.scores[id])
    chosen = [name for name in names if only in (None, name)]
    found = (_difference(name, first, second, shared) for name in chosen)
    return [difference for difference in found if difference]


def _said(value: object) -> str:
    """A value as a sentence has it."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {one}" for name, one in sorted(value.items())) or "none"


def _difference(
    name: str, first: EvalResult, second: EvalResult, shared: list[str]
) -> Difference | None:
    """None when no request has the metric in both."""
    asked = [id for id in shared if name in first.scores[id] and name in second.scores[id]]
    rows = [
        (first.scores[id][name], second.scores[id][name], first.weights.get(id, {}).get(name, 1.0))
        for id in asked
    ]
    rows = [row for row in rows if all(map(math.isfinite, row[:2])) and row[2] > 0]
    if not rows:
        return None
    weights = [row[2] for row in rows]
    total = math.fsum(weights)
    before, after = (math.fsum(row[side] * row[2] for row in rows) / total for side in (0, 1))
    changes = [new - old for old, new, _ in rows]
    sizes = weights if first.weights else None
    change = measure(changes, first.seed, shares=False, weights=sizes)
    return Difference(name, before, after, change, sign_test(changes))


_TEXTS = ("id", "created", "program", "task", "data_sha256", "model", "fingerprint")


def _typed(result: EvalResult) -> EvalResult:
    """The same result, whose fields are what they are taken for.

    Raises:
        ValueError: when one is not.
    """
    fits = {name: isinstance(getattr(result, name), str) for name in _TEXTS}
    fits["adapter"] = result.adapter is None or isinstance(result.adapter, str)
    fits["elapsed_s"] = result.elapsed_s is None or isinstance(result.elapsed_s, int | float)
    fits["available"] = result.available is None or isinstance(result.available, int)
    for name in ("task_version", "seed"):
        fits[name] = isinstance(getattr(result, name), int)
    for name in ("task_settings", "settings"):
        fits[name] = isinstance(getattr(result, name), dict)
    for name, is_fit in fits.items():
        if not is_fit:
            raise ValueError(f"its `{name}` is {getattr(result, name)!r:.40}")
    return result


def _metrics(values: Mapping[str, Any]) -> dict[str, Metric]:
    return {str(name): metric_from(one) for name, one in values.items()}


def _scores(values: Mapping[str, Mapping[str, Any]]) -> Scores:
    return {
        str(id): {str(name): _number(value) for name, value in some.items()}
        for id, some in values.items()
    }


def _number(value: Any) -> float:
    """NaN and infinity are written as null, which is JSON."""
    return math.nan if value is None else float(value)


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
