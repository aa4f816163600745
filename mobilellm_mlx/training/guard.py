"""Notices when a training goes wrong: a loss that is no number, or one that climbs for long."""

from __future__ import annotations

import math

_SMOOTHED = 0.9
_PATIENCE = 8
"""Steps in a row that have to be far too high: single batches may be hard."""
_FACTOR, _MARGIN = 1.5, 0.5


class Guard:
    """Looks at every step's loss and gradient."""

    def __init__(self) -> None:
        self._smooth: float | None = None
        self._lowest = math.inf
        self._high = 0

    def complaint(self, loss: float, gradient_norm: float) -> str | None:
        """What is wrong at this step; None where nothing is.

        Args:
            loss: of the step, in nats.
            gradient_norm: before clipping.
        """
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient is {gradient_norm}"
        before = self._smooth
        self._smooth = loss if before is None else _SMOOTHED * before + (1 - _SMOOTHED) * loss
        self._lowest = min(self._lowest, self._smooth)
        limit = _FACTOR * self._lowest + _MARGIN
        self._high = self._high + 1 if self._smooth > limit else 0
        if self._high >= _PATIENCE:
            return f"the loss has climbed from {self._lowest:.3g} to {self._smooth:.3g}"
        return None
