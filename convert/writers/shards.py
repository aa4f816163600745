"""The output's weight files: planned, then filled tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mobilellm_mlx.backend import mx

from ..plan import TensorPlan
from ..readers.tensors import PackedTensor, Tensor
from .safetensors_file import SafetensorsWriter

SHARD_BYTES = 512_000_000
"""Largest weight file, unless a single tensor is larger."""


def split(tensors: Sequence[TensorPlan], most: int = SHARD_BYTES) -> list[list[TensorPlan]]:
    """The tensors in files of at most ``most`` bytes, in their order."""
    shards: list[list[TensorPlan]] = [[]]
    room = most
    for tensor in tensors:
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(tensor)
        room -= tensor.nbytes
    return shards


def write_shards(
    directory: Path, tensors: Sequence[TensorPlan], values: Iterable[tuple[TensorPlan, Tensor]]
) -> Iterator[TensorPlan]:
    """Write every tensor; gives back each once it is in its file.

    Args:
        directory: exists; gets ``model.safetensors``, or numbered files and their index.
        tensors: all of them, planned.
        values: the same tensors in the same order, with what is to be written.

    Raises:
        OSError: when the disk is full or cannot be written.
    """
    shards = split(tensors)
    waiting = iter(values)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        layout = {key: entry for tensor in shard for key, entry in tensor.layout().items()}
        index |= dict.fromkeys(layout, name)
        with SafetensorsWriter(directory / name, layout, {"format": "mlx"}) as file:
            for tensor in shard:
                planned, value = next(waiting)
                assert planned is tensor
                for key, array in _parts(tensor, value).items():
                    file.write(key, array)
                yield tensor
    if len(shards) > 1:
        table = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": dict(sorted(index.items())),
        }
        text = json.dumps(table, indent=2) + "\n"
        (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _parts(tensor: TensorPlan, value: Tensor) -> dict[str, mx.array]:
    if not isinstance(value, PackedTensor):
        return {tensor.name: value}
    return {f"{tensor.module}.{part}": array for part, array in value.parts().items()}
