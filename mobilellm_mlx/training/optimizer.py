"""Optimisers, and how fast they go at which step."""

from __future__ import annotations

import math
from typing import Any

from mobilellm_mlx.backend import mx, optim, tree_flatten, tree_map
from mobilellm_mlx.training.config import TrainConfig


def build_optimizer(config: TrainConfig) -> Any:
    """The optimiser of MLX that a configuration names; its rate is set at every step."""
    rate, decay = config.rate, config.weight_decay
    match config.optimizer:
        case "adamw":
            return optim.AdamW(rate, weight_decay=decay, bias_correction=True)
        case "adam":
            return optim.Adam(rate, bias_correction=True)
        case "lion":
            return optim.Lion(rate, weight_decay=decay)
        case "adafactor":
            return optim.Adafactor(
                rate, relative_step=False, scale_parameter=False, weight_decay=decay
            )
        case "muon":
            return optim.Muon(rate, weight_decay=decay)
        case "sgd":
            return optim.SGD(rate, momentum=0.9, weight_decay=decay)


def state_copies(config: TrainConfig) -> float:
    """How many numbers the optimiser remembers of each trained one."""
    return {"adamw": 2, "adam": 2, "lion": 1, "muon": 1, "sgd": 1, "adafactor": 0.1}[
        config.optimizer
    ]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate of a step.

    Args:
        config: with the highest rate, the warm-up and the shape of the fall.
        step: from 1 on.
        steps: of the whole run.
    """
    top = config.rate
    warm = config.warmup * steps if config.warmup < 1 else config.warmup
    if step <= warm:
        return top * step / (warm + 1)
    if config.schedule == "constant":
        return top
    share = (step - warm) / max(1.0, steps - warm)  # 0 to 1
    fallen = 0.5 * (1 + math.cos(math.pi * share)) if config.schedule == "cosine" else 1 - share
    return top * (config.final_rate + (1 - config.final_rate) * fallen)


def gradient_norm(gradients: Any) -> mx.array:
    """The length of all gradients together, a scalar."""
    squares = [mx.square(g.astype(mx.float32)).sum() for _, g in tree_flatten(gradients)]
    return mx.sqrt(mx.stack(squares).sum())


def scaled(gradients: Any, factor: mx.array | float) -> Any:
    """All gradients times a number, each in its own type."""
    return tree_map(lambda g: (g * factor).astype(g.dtype), gradients)
