"""Reads GGUF files from the specification alone: nothing here uses MLX, NumPy or our own code.

The other half of ``gguf_writer``: what an exporter wrote is looked at with a second pair of eyes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
         6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
         30: ("BF16", 1, 2)}  # fmt: skip
"""Number to name, values and bytes of a block."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as it lies in the file."""

    kind: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> list[list[float]]:
        """What it stands for, by rows; a vector is one row."""
        columns = self.shape[-1]
        flat = [value for block in self._blocks() for value in block]
        return [flat[i : i + columns] for i in range(0, len(flat), columns)]

    def _blocks(self) -> list[list[float]]:
        size = next(size for name, _, size in TYPES.values() if name == self.kind)
        return [_decode(self.kind, self.data[i : i + size]) for i in range(0, len(self.data), size)]


def _decode(kind: str, block: bytes) -> list[float]:
    if kind == "F32":
        return list(struct.unpack("<f", block))
    if kind == "F16":
        return list(struct.unpack("<e", block))
    if kind == "BF16":
        return list(struct.unpack("<f", b"\0\0" + block))
    (scale,) = struct.unpack("<e", block[:2])
    if kind == "Q8_0":
        return [scale * code for code in struct.unpack("<32b", block[2:])]
    least = struct.unpack("<e", block[2:4])[0] if kind.endswith("_1") else 0.0
    codes = [byte & 15 for byte in block[-16:]] + [byte >> 4 for byte in block[-16:]]
    if kind.startswith("Q5"):
        (high,) = struct.unpack("<I", block[-20:-16])
        codes = [code | (high >> i & 1) << 4 for i, code in enumerate(codes)]
    middle = {"Q4_0": 8, "Q5_0": 16}.get(kind, 0)
    return [_single(scale * (code - middle) + least) for code in codes]


def _single(value: float) -> float:
    """The nearest float32: llama.cpp computes in it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@dataclass(frozen=True)
class Parsed:
    """A whole file."""

    version: int
    metadata: dict[str, Any]
    kinds: dict[str, int]
    """Key to the number of its value's type; of the items for a list."""
    tensors: dict[str, Tensor]


class _Cursor:
    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, code: str) -> Any:
        values = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return values[0] if len(values) == 1 else values

    def text(self) -> str:
        length = self.take("Q")
        self.place += length
        return self.data[self.place - length : self.place].decode()

    def value(self, kind: int) -> tuple[Any, int]:
        if kind == 8:
            return self.text(), kind
        if kind == 9:
            items, count = self.take("I"), self.take("Q")
            return [self.value(items)[0] for _ in range(count)], items
        return self.take(NUMBERS[kind]), kind


def parse(path: Path) -> Parsed:
    """Every key and tensor of a file; fails where the file breaks the specification."""
    data = path.read_bytes()
    cursor = _Cursor(data)
    assert data[:4] == b"GGUF"
    cursor.place = 4
    version, tensor_count, pair_count = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    metadata, kinds = {}, {}
    for _ in range(pair_count):
        key = cursor.text()
        assert key not in metadata, key
        metadata[key], kinds[key] = cursor.value(cursor.take("I"))
    infos = []
    for _ in range(tensor_count):
        name, dims = cursor.text(), cursor.take("I")
        sizes = [cursor.take("Q") for _ in range(dims)]
        infos.append((name, tuple(reversed(sizes)), cursor.take("I"), cursor.take("Q")))
    begin = cursor.place + -cursor.place % 32
    assert not any(data[cursor.place : begin])
    tensors, end = {}, begin
    for name, shape, number, offset in infos:
        kind, values, size = TYPES[number]
        count = 1
        for length in shape:
            count *= length
        assert offset % 32 == 0 and shape[-1] % values == 0, name
        start = begin + offset
        assert start == end + -end % 32, f"{name} does not follow the one before"
        end = start + count // values * size
        assert end <= len(data), name
        tensors[name] = Tensor(kind, shape, data[start:end])
    assert len(data) == end + -end % 32
    return Parsed(version, metadata, kinds, tensors)
