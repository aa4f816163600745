"""Tiny checkpoints to convert, and what a conversion left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny import LLAMA, MOBILELLM, write_json, write_model

from convert.job import ConvertOptions, convert
from mobilellm_mlx.backend import mx
from mobilellm_mlx.events import Event, Notice
from mobilellm_mlx.weights import ITEM_BYTES, load_tensors, weight_files

WIDE: dict[str, Any] = {**LLAMA, "hidden_size": 64, "intermediate_size": 128}
"""Every matrix divides into groups of 64."""
SHARED: dict[str, Any] = {**MOBILELLM, "hidden_size": 64, "intermediate_size": 128}
"""The same with every block run twice."""
UP = "model.layers.0.mlp.up_proj.weight"
FAST = ConvertOptions(verify=False)


def checkpoint(
    directory: Path,
    raw: Mapping[str, Any] = WIDE,
    changes: Mapping[str, mx.array | None] | None = None,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    **model: Any,
) -> Path:
    """A checkpoint's directory; ``changes`` are laid over its tensors, None takes one out."""
    write_model(directory, raw, dtype=dtype, **model)
    if changes:
        kept = {n: a for n, a in {**tensors(directory), **changes}.items() if a is not None}
        mx.save_safetensors(str(directory / "model.safetensors"), kept)
    return directory


def tensors(directory: Path) -> dict[str, mx.array]:
    """All arrays of a model directory, evaluated."""
    arrays = load_tensors(weight_files(directory))
    mx.eval(arrays)
    return arrays


def config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def set_config(directory: Path, **changes: Any) -> None:
    write_json(directory / "config.json", {**config(directory), **changes})


def run(source: Path, target: Path, options: ConvertOptions = FAST, **places: Any) -> list[Event]:
    """All events of a conversion."""
    return list(convert(source, target, options, **places))


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def proof(directory: Path) -> dict[str, Any]:
    """``conversion.json``, which must be JSON to the letter: no NaN."""
    return strict_json(directory / "conversion.json")


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{path.name} holds {word}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def same_bits(left: mx.array, right: mx.array) -> bool:
    """Whether two arrays are alike, NaNs included."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    left, right = (array.reshape(-1).view(mx.uint8) for array in (left, right))
    return bool(mx.array_equal(left, right).item())


def write_safetensors(path: Path, table: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A file with tensors of any type and name, all zeros."""
    header, size = {}, 0
    for name, (dtype, shape) in table.items():
        stop = size + ITEM_BYTES[dtype] * (shape[0] if shape else 1) * (shape[1:] or (1,))[0]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [size, stop]}
        size = stop
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


def leftovers(parent: Path) -> list[str]:
    """What a conversion must never leave beside its target."""
    return [path.name for path in parent.iterdir() if ".partial-" in path.name]
