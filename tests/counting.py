"""A small task for a tiny network: to go on counting."""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any

from tiny import LLAMA, make_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import LoraSpec, attach, find_modules
from mobilellm_mlx.training.checkpoint import Checkpoints
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.loop import Trainer


def counting(count: int, seed: int) -> list[Example]:
    """Sequences that go up by three, of 6 to 29 tokens; the first two are not learned."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        length, start = draw.randrange(6, 30), draw.randrange(100)
        tokens = array("i", [(start + 3 * at) % 250 for at in range(length)])
        found.append(Example(tokens, bytes([0, 0] + [1] * (length - 2))))
    return found


def build(config: TrainConfig, raw: dict[str, Any] = LLAMA) -> LanguageModel:
    """A tiny network, ready to be trained as a configuration says."""
    model = make_model(raw)
    mx.random.seed(config.seed)
    if config.method == "full":
        model.unfreeze()
    else:
        paths = find_modules(model, config.modules, config.layers)
        attach(
            model,
            LoraSpec(
                config.method, config.rank, config.scale, paths, config.dropout, config.per_run
            ),
        )
    return model


def make_trainer(config: TrainConfig, directory: Path, **changed: Any) -> Trainer:
    """A trainer of a fresh tiny network on 37 examples, judged by 9 others."""
    given = {"train": counting(37, 1), "valid": counting(9, 2), **changed}
    model = given.pop("model", None) or build(config)
    train, valid = given.pop("train"), given.pop("valid")
    return Trainer(model, config, train, valid, Checkpoints(directory), **given)
