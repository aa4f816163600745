"""Adapters with random values for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm_mlx.adapters import AdapterInfo, model_sha256
from mobilellm_mlx.adapters.files import write_adapter
from mobilellm_mlx.backend import mx
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import (
    LoraSpec,
    adapter_parameters,
    attach,
    detach,
    find_modules,
)


def random_tensors(model: LanguageModel, spec: LoraSpec, seed: int = 0) -> dict[str, mx.array]:
    """Values for an adapter, large enough that it matters what they are."""
    rng = np.random.default_rng(seed)
    attach(model, spec)
    shapes = {name: array.shape for name, array in adapter_parameters(model).items()}
    detach(model)
    return {
        name: mx.array(
            (rng.uniform(0.5, 3.0, shape) if name.endswith(".m") else rng.normal(0, 0.4, shape))
            .astype(np.float32)
        )
        for name, shape in shapes.items()
    }  # fmt: skip


def write_random_adapter(
    directory: Path,
    base: Path,
    *,
    method: Any = "lora",
    rank: int = 4,
    modules: Sequence[str] = ("*_proj",),
    layers: str = "all",
    per_run: bool = False,
    seed: int = 0,
    template: str | None = None,
    **told: Any,
) -> AdapterInfo:
    """An adapter for the model in ``base``, of which it knows the hash.

    Args:
        directory: made.
        base: of the model.
        method: ``lora`` or ``dora``.
        rank: of its matrices.
        modules: which get one.
        layers: in which blocks.
        per_run: one for each run of a shared block.
        seed: of the values.
        template: a chat template of its own.
        told: other fields of ``AdapterInfo``.
    """
    model = load_model(base).model
    paths = find_modules(model, modules, layers)
    spec = LoraSpec(method, rank, 1.5, paths, per_run=per_run)
    info = AdapterInfo(
        directory.name,
        method=method,
        rank=rank,
        scale=spec.scale,
        keys=paths,
        per_run=per_run,
        base_name=base.name,
        base_sha256=model_sha256(base),
    )
    tensors = random_tensors(model, spec, seed)
    return write_adapter(directory, replace(info, **told), tensors, model.config, template)
