"""Adapters on a disk of a test's own, for a model that is there as well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.adapters import Registry, model_sha256
from mobilellm_mlx.adapters.record import CONFIG, TENSORS
from mobilellm_mlx.events import ModelLoaded
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.testing import SCRIPTED_MODEL

CREATED = "2026-11-20T12:00:00+00:00"


class Wardrobe:
    """A model directory, and a registry that adapters can be put into.

    Attributes:
        info: of the model, as an engine would say it.
        registry: of the adapters.
    """

    def __init__(self, home: Path) -> None:
        self.model = home / "models" / "smollm2-135m"
        self.model.mkdir(parents=True)
        (self.model / "config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes(b"weights")
        self.info: ModelLoaded = replace(
            SCRIPTED_MODEL, model="SmolLM2-135M-Instruct", path=str(self.model)
        )
        self.shipped = home / "shipped"
        self.registry = Registry(home / "adapters", self.shipped)

    def put(self, name: str, *, shipped: bool = False, **known: Any) -> Path:
        """Keep an adapter; what is said of it goes before what is usual."""
        path = (self.shipped if shipped else self.registry.root) / name
        path.mkdir(parents=True)
        told: dict[str, Any] = {
            "format": 1,
            "created": CREATED,
            "made_by": "mobilellm 1.0",
            "base": {
                "name": "SmolLM2-135M-Instruct",
                "sha256": model_sha256(self.model),
                "licence": "Apache-2.0",
            },
            "data": {"name": "chats.jsonl", "sha256": "ab12cd34ef56" * 5},
            "training": {"rank": 8, "learning_rate": 5e-4, "modules": ["*_proj"], "epochs": 3.0},
            "scores": {"best_loss": 0.4321, "best_step": 120},
        }
        (path / MANIFEST).write_text(json.dumps(told | known))
        lora = {"rank": 8, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
        config = {"fine_tune_type": "lora", "num_layers": 30, "lora_parameters": lora}
        (path / CONFIG).write_text(json.dumps(config))
        (path / TENSORS).write_bytes(bytes(1_843_200))
        return path

    def put_elsewhere(self, name: str) -> Path:
        """Keep one that was made for another model."""
        base = {"name": "MobileLLM-R1-360M", "sha256": "0" * 64}
        return self.put(name, base=base, scores={})

    def put_damaged(self, name: str) -> Path:
        """Keep one whose files cannot be read."""
        path = self.put(name)
        (path / CONFIG).write_text("{ not")
        return path
