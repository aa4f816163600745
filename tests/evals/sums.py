"""A task that needs no model: sums, and answers to them of any quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm_mlx.evals.task import Request, Response, Subject

SUBJECT = Subject("abacus", "fp-1", settings={"mode": "exact"})


@dataclass
class Sums:
    """``1 + 1`` and so on; the category says whether the sum is odd."""

    name: str = "sums"
    version: int = 1
    data_sha256: str = "d" * 64
    settings: dict[str, Any] = field(default_factory=dict)
    scored: Callable[[float], float] = float

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        numbers = range(seed, seed + 10)[:limit]
        return [Request(f"r{n}", (n, 1), n + 1, "odd" if n % 2 == 0 else "even") for n in numbers]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        value = response.values["sum"]
        return {"right": float(value == request.gold), "size": self.scored(value)}


@dataclass
class Abacus:
    """Answers every sum, and remembers what it was asked.

    Args:
        wrong: ids that it gets wrong.
        dies_after: so many answers, by an error.
    """

    wrong: set[str] = field(default_factory=set)
    dies_after: int | None = None
    asked: list[str] = field(default_factory=list)

    def __call__(self, requests: Sequence[Request]) -> Iterator[Response]:
        for request in requests:
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise RuntimeError("the power is gone")
            self.asked.append(request.id)
            yield Response(request.id, {"sum": sum(request.payload) + (request.id in self.wrong)})
