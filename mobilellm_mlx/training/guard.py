"""Notices when a training goes wrong: a loss that is no number, or one that climbs for long."""

from __future__ import annotations

import math

from mobilellm_mlx.training.checkpoint import TrainState

_SMOOTHED = 0.9
_PATIENCE = 8
"""Steps in a row that have to be far too high: single batches may be hard."""
_FACTOR, _MARGIN = 1.5, 0.5


def complaint(state: TrainState, loss: float, gradient_norm: float) -> str | None:
    """What is wrong at a step; None where nothing is.

    Args:
        state: remembers how it went before, over a kill too.
        loss: of the step, in nats.
        gradient_norm: before clipping.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"the gradient is {gradient_norm}"
    before = state.smooth
    state.smooth = loss if before is None else _SMOOTHED * before + (1 - _SMOOTHED) * loss
    state.lowest = state.smooth if state.lowest is None else min(state.lowest, state.smooth)
    limit = _FACTOR * state.lowest + _MARGIN
    state.high = state.high + 1 if state.smooth > limit else 0
    if state.high >= _PATIENCE:
        return f"the loss has climbed from {state.lowest:.3g} to {state.smooth:.3g}"
    return None


def forget(state: TrainState) -> None:
    """Begin anew, after an accident."""
    state.smooth, state.lowest, state.high = None, None, 0
