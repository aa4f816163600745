"""Running an export and looking at what it said and wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.export.job import ExportOptions, export
from mobilellm_mlx.backend import mx
from mobilellm_mlx.events import Event, Notice
from mobilellm_mlx.weights import read_quantization, unpack_tensors


def run(
    directory: Path, target: Path, format_: Any = "gguf", type_: str = "auto", **options: Any
) -> list[Event]:
    """All events of an export."""
    return list(export(directory, target, ExportOptions(format_, type_, **options)))


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def stored(directory: Path) -> dict[str, mx.array]:
    """Everything in a model directory's safetensors files."""
    tensors: dict[str, mx.array] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= mx.load(str(path))
    mx.eval(tensors)  # before anything happens to the files
    return tensors


def unpacked(directory: Path) -> dict[str, mx.array]:
    """What a model directory's weights are, in float32."""
    raw = json.loads((directory / "config.json").read_text())
    return unpack_tensors(stored(directory), read_quantization(raw), mx.float32)


def same_bits(left: Mapping[str, mx.array], right: Mapping[str, mx.array]) -> bool:
    return left.keys() == right.keys() and all(
        array.dtype == right[name].dtype
        and mx.array_equal(array.view(mx.uint8), right[name].view(mx.uint8)).item()
        for name, array in left.items()
    )


def edit_weights(directory: Path, changes: Mapping[str, mx.array | None]) -> None:
    """Replace tensors of a model directory, or (None) take them out."""
    tensors = {**stored(directory), **changes}
    kept = {name: array for name, array in tensors.items() if array is not None}
    mx.save_safetensors(str(directory / "model.safetensors"), kept)
