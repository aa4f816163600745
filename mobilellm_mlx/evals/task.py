"""What a measure consists of: a task asks requests, something answers, the task scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mobilellm_mlx.events import Event


@dataclass(frozen=True, slots=True)
class Request:
    """One thing that a model is asked.

    Attributes:
        id: its own within the task, and the same on every day.
        payload: what is asked; only the task and who answers it know its form.
        gold: the right answer, in the task's form.
        category: results are also given for each of these.
    """

    id: str
    payload: Any
    gold: Any = None
    category: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back.

    Attributes:
        id: of the request.
        values: all that scoring needs, as JSON can say it: it is kept, and scored again from there.
    """

    id: str
    values: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A set of requests and the way to score what comes back.

    Attributes:
        name: what it is called in results.
        version: goes up when requests or scores change; results of other versions do not compare.
        data_sha256: of the data that the requests are made from.
        settings: choices that change the requests, as JSON can say them.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def data_sha256(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        """The requests in order. A smaller limit gives the beginning of what a larger one gives.

        Args:
            limit: at most so many; None for as many as the task has.
            seed: of whatever is drawn.
        """

    def score(self, request: Request, response: Response) -> dict[str, float]:
        """Figures by the name of the metric; one that does not apply is left out."""


@runtime_checkable
class Weighs(Protocol):
    """A task whose requests are not all as large: its figures are weighted means."""

    def weights(self, request: Request, response: Response) -> dict[str, float]:
        """How much the request counts, by the name of the metric; 1 where it is left out."""


@runtime_checkable
class Counted(Protocol):
    """A task that knows how many requests it has, so that a part of them is told from all.

    Attributes:
        available: how many ``requests`` gives without a limit.
    """

    @property
    def available(self) -> int: ...


Answerer = Callable[[Sequence[Request]], Iterable[Event | Response]]
"""Answers requests in whatever order and batches suit it, and may tell of events between them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is judged, and how it is asked.

    Attributes:
        model: its name.
        fingerprint: of its files and the form they are computed in.
        adapter: that is on top of it.
        settings: of the asking, as JSON can say them; ``mode`` is among them where there are some.
    """

    model: str
    fingerprint: str
    adapter: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        return str(self.settings.get("mode", ""))


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready values, however their keys are ordered."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def run_key(task: Task, subject: Subject, seed: int) -> str:
    """Names a run: the same task, data, model and settings give the same.

    How many requests are asked is no part of it: a longer run goes on from a shorter one.
    """
    said = [
        [task.name, task.version, task.data_sha256, dict(task.settings), seed],
        [subject.fingerprint, subject.adapter, dict(subject.settings)],
    ]
    return digest(said)[:16]


def unanswered(requests: Sequence[Request], known: Mapping[str, Response]) -> Iterator[Request]:
    """The requests that have no response yet."""
    return (request for request in requests if request.id not in known)
