"""How much of an adapter's change is left after packing, matrix by matrix.

With W the base's weights, dW the adapter's change and Q what packing makes of weights, what is left
is ``Q(W + dW) - Q(W)``. Its share along dW says how strong the change still is; its cosine with dW
says how much of what changed is the change, and how much is noise from rounding anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt

from mobilellm_mlx.backend import mx

from ..export.source import iter_rows
from ..readers.tensors import Tensor
from ..transform import dense, number


@dataclass(frozen=True, slots=True)
class Survival:
    """Sums over weights, so that those of several matrices add up."""

    weights: float = 0.0
    """Squares of the base's weights."""
    wanted: float = 0.0
    """Squares of the adapter's change."""
    along: float = 0.0
    """Products of what is left with the change."""
    left: float = 0.0
    """Squares of what is left."""

    @property
    def size(self) -> float | None:
        """Norm of the change over the norm of the weights."""
        return _quotient(sqrt(self.wanted), sqrt(self.weights))

    @property
    def share(self) -> float | None:
        """Of the change, along itself: 1 is all of it, 0 none. None when nothing changes."""
        return _quotient(self.along, self.wanted)

    @property
    def cosine(self) -> float | None:
        """Between the change and what is left of it: 0 also where nothing is left."""
        if self.left == 0:
            return 0.0 if self.wanted else None
        return _quotient(self.along, sqrt(self.wanted) * sqrt(self.left))


def survival(base: Tensor, changed: Tensor, plain: Tensor, fused: Tensor) -> Survival:
    """Measure one tensor, some rows at a time.

    Args:
        base: the base's weights, W.
        changed: with the adapter, W + dW.
        plain: what packing makes of the base, Q(W).
        fused: what it makes of both, Q(W + dW).
    """
    sums = Survival()
    for rows in zip(*map(iter_rows, (base, changed, plain, fused)), strict=True):
        was, is_, packed, got = (dense(part).reshape(-1) for part in rows)
        change, left = is_ - was, got - packed
        sums = total(
            [
                sums,
                Survival(
                    number(mx.inner(was, was)),
                    number(mx.inner(change, change)),
                    number(mx.inner(left, change)),
                    number(mx.inner(left, left)),
                ),
            ]
        )
    return sums


def total(parts: Iterable[Survival]) -> Survival:
    """Of several matrices together."""
    parts = tuple(parts)
    return Survival(
        sum(part.weights for part in parts),
        sum(part.wanted for part in parts),
        sum(part.along for part in parts),
        sum(part.left for part in parts),
    )


def _quotient(above: float, below: float) -> float | None:
    value = above / below if below else float("nan")
    return value if isfinite(value) else None
