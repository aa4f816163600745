"""The same weights in forms that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mobilellm_mlx.benchmark.twins import write_dense
from mobilellm_mlx.errors import EngineError
from mobilellm_mlx.loading import read_json


def as_llama(directory: Path, scratch: Path) -> Path:
    """A directory whose configuration names an architecture that everybody knows.

    MobileLLM's first models are Llamas by another name, but for those that share layers.

    Args:
        directory: of the model; given back when its name is fine as it is.
        scratch: gets another one, whose files are links, where it is not.

    Raises:
        EngineError: when no other program runs such a model.
    """
    config = read_json(directory / "config.json")
    if config.get("model_type") != "mobilellm":
        return directory
    to = scratch / "llama" / directory.name
    if not to.exists():
        to.mkdir(parents=True)
        for path in directory.iterdir():
            if path.name != "config.json":
                (to / path.name).symlink_to(path.resolve())
        (to / "config.json").write_text(json.dumps(_renamed(config)), encoding="utf-8")
    return to


def unpacked(directory: Path, scratch: Path) -> Path:
    """A directory that everybody reads, with its weights as float32.

    Raises:
        EngineError: when no other program runs such a model.
    """
    directory = as_llama(directory, scratch)
    to = scratch / "float32" / directory.name
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        write_dense(directory, to)
    return to


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("layer_sharing"):
        raise EngineError("no other program runs models that share layers with a cache")
    tied = config.get("share_embedding", config.get("tie_word_embeddings", False))
    return {
        **config,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": bool(tied),
    }
