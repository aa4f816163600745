"""The same model in another form, so that two programs can be asked the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mobilellm_mlx.loading import read_json

_CONFIGS = ("config.json", "generation_config.json")


def write_dense(packed: Path, directory: Path) -> Path:
    """A model with its weights as float32, for a program that cannot unpack them on loading.

    Args:
        packed: a model directory, its weights packed or not.
        directory: made; gets the same files but for the weights.
    """
    from mobilellm_mlx import weights
    from mobilellm_mlx.backend import mx

    config = read_json(packed / "config.json")
    table = weights.read_quantization(config)
    shutil.copytree(packed, directory, ignore=shutil.ignore_patterns("model*.safetensors*"))
    tensors = weights.load_tensors(weights.weight_files(packed))
    unpacked = weights.unpack_tensors(tensors, table, mx.float32)
    mx.save_safetensors(str(directory / "model.safetensors"), unpacked, {"format": "mlx"})
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    _write(directory / "config.json", {**config, "torch_dtype": "float32"})
    return directory


def write_endless(model: Path, directory: Path) -> Path:
    """A model whose answers end at a limit only: its end-of-text token is one that it lacks.

    Args:
        model: a model directory; its files are linked, not copied.
        directory: made.
    """
    directory.mkdir()
    for path in model.iterdir():
        if path.name not in _CONFIGS:
            (directory / path.name).symlink_to(path.resolve())
    never = int(read_json(model / "config.json")["vocab_size"])
    for name in _CONFIGS:
        config = read_json(model / name, missing={})
        _write(directory / name, {**config, "eos_token_id": never})
    return directory


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
