"""Writing GGUF, version 3, one tensor at a time, and the blocks that llama.cpp computes with.

Sources: ggml/docs/gguf.md for the file, ggml/src/ggml-quants.c for blocks and their rounding. A row
of a matrix is cut into blocks of 32 values. Each holds its codes and one or two float16 numbers:
Q4_1 and Q5_1 are ``d * code + m``; Q4_0, Q5_0 and Q8_0 have no ``m``, their codes are counted from
the middle.

Everything runs on the CPU, where float arithmetic keeps subnormal numbers on every machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mobilellm_mlx.backend import mx

from ..readers.tensors import PackedTensor
from .ordered import OrderedWriter

ALIGNMENT = 32
"""Bytes: every tensor begins at a multiple of it."""
BLOCK = 32
"""Values that share a scale."""

Metadata = Mapping[str, "str | bool | int | float | list[str] | list[int] | list[float]"]
"""Keys and values of the head; whole numbers take 32 bits, signed in lists."""


@dataclass(frozen=True, slots=True)
class BlockType:
    """One of GGML's types."""

    name: str
    number: int
    """Its number in a tensor's entry."""
    file_type: int
    """What ``general.file_type`` says of a file that is mostly this."""
    values: int
    """Values in one block."""
    nbytes: int
    """Bytes of one block."""

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a whole tensor."""
        return prod(shape) // self.values * self.nbytes


F32 = BlockType("F32", 0, 0, 1, 4)
F16 = BlockType("F16", 1, 1, 1, 2)
BF16 = BlockType("BF16", 30, 32, 1, 2)
Q4_0 = BlockType("Q4_0", 2, 2, BLOCK, 18)
Q4_1 = BlockType("Q4_1", 3, 3, BLOCK, 20)
Q5_0 = BlockType("Q5_0", 6, 8, BLOCK, 22)
Q5_1 = BlockType("Q5_1", 7, 9, BLOCK, 24)
Q8_0 = BlockType("Q8_0", 8, 7, BLOCK, 34)

TYPES = {kind.name.lower(): kind for kind in (F16, BF16, F32, Q8_0, Q4_0, Q4_1)}
"""What values can be rounded to, by the names on the command line."""
FLOATS = {F32: mx.float32, F16: mx.float16, BF16: mx.bfloat16}

Layout = Mapping[str, tuple[BlockType, tuple[int, ...]]]
"""Name to type and shape (rows, columns), in the order of writing."""


class GgufWriter(OrderedWriter):
    """One file: the head at once, then the tensors in the layout's order.

    Args:
        path: made or overwritten.
        metadata: the file's keys and values.
        layout: every tensor that will be written.

    Raises:
        OSError: when the disk is full or the path cannot be written.
    """

    def __init__(self, path: Path, metadata: Metadata, layout: Layout):
        self._layout = dict(layout)
        super().__init__(path, self._layout, lambda: _head(metadata, self._layout))

    def write(self, name: str, pieces: Iterable[mx.array]) -> None:
        """Append the next tensor.

        Args:
            name: the one that the layout has next.
            pieces: its blocks as bytes (uint8), in any shape; joined they are the tensor.

        Raises:
            ValueError: when another tensor is due, or its size is another.
        """
        due, written = self._due(), 0
        if name != due:
            raise ValueError(f"`{name}` is written where `{due}` is due")
        for data in pieces:
            if data.dtype != mx.uint8:
                raise ValueError(f"`{name}` comes as {data.dtype}, expected bytes")
            self._write(memoryview(mx.contiguous(data).reshape(-1)))  # type: ignore[arg-type]
            written += data.size
        kind, shape = self._layout[name]
        if written != kind.tensor_bytes(shape):
            raise ValueError(f"`{name}` has {written} bytes, expected {kind.tensor_bytes(shape)}")
        self._write(bytes(-written % ALIGNMENT))


def _head(metadata: Metadata, layout: Layout) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(layout), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _typed(value)]
    offset = 0
    for name, (kind, shape) in layout.items():
        dims = shape[::-1]  # the fastest first
        parts += [_text(name), struct.pack(f"<I{len(dims)}Q", len(dims), *dims)]
        parts.append(struct.pack("<IQ", kind.number, offset))
        nbytes = kind.tensor_bytes(shape)
        offset += nbytes + -nbytes % ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % ALIGNMENT)


_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _typed(value: str | bool | int | float | list[str] | list[int] | list[float]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    texts = [item for item in value if isinstance(item, str)]
    if len(texts) == len(value):  # an empty list is one of strings: only merges can be empty
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, texts))
    kind, code = (_INT32, "i") if isinstance(value[0], int) else (_FLOAT32, "f")
    return struct.pack(f"<IIQ{len(value)}{code}", _ARRAY, kind, len(value), *value)


def to_blocks(values: mx.array, kind: BlockType) -> mx.array:
    """Values as a type's bytes, rounded as llama.cpp's reference functions do.

    Args:
        values: (rows, columns) or, for the plain types, any shape; the columns of a type with
            blocks are a multiple of 32.
        kind: what to write.

    Returns:
        The bytes, (..., bytes of a row).
    """
    with mx.stream(mx.cpu):
        if kind in FLOATS:
            return mx.contiguous(values.astype(FLOATS[kind])).view(mx.uint8)
        blocks = values.astype(mx.float32).reshape(-1, BLOCK)
        return _ROUND[kind](blocks).reshape(len(values), -1)


def _round_q4_0(x: mx.array) -> mx.array:
    """Blocks (n, 32) to bytes (n, 18): the value farthest from 0 becomes code 0."""
    peak = mx.take_along_axis(x, mx.argmax(mx.abs(x), axis=1, keepdims=True), axis=1)  # (n, 1)
    scale = peak / -8
    codes = mx.floor(x * _inverse(scale) + 8.5)  # never below 0.5: floor cuts as the cast does
    return mx.concatenate([_half(scale), _nibbles(codes)], axis=1)


def _round_q4_1(x: mx.array) -> mx.array:
    """Blocks (n, 32) to bytes (n, 20): the least value becomes code 0, the greatest 15."""
    least = mx.min(x, axis=1, keepdims=True)  # (n, 1)
    scale = (mx.max(x, axis=1, keepdims=True) - least) / 15
    codes = mx.floor((x - least) * _inverse(scale) + 0.5)
    return mx.concatenate([_half(scale), _half(least), _nibbles(codes)], axis=1)


def _round_q8_0(x: mx.array) -> mx.array:
    """Blocks (n, 32) to bytes (n, 34): the value farthest from 0 becomes code 127 or -127."""
    scale = mx.max(mx.abs(x), axis=1, keepdims=True) / 127  # (n, 1)
    scaled = x * _inverse(scale)
    size = mx.abs(scaled)
    whole = mx.floor(size)
    codes = mx.sign(scaled) * (whole + mx.floor(2 * (size - whole)))  # halves go away from 0
    return mx.concatenate([_half(scale), codes.astype(mx.int8).view(mx.uint8)], axis=1)


_ROUND = {Q4_0: _round_q4_0, Q4_1: _round_q4_1, Q8_0: _round_q8_0}


def _inverse(scale: mx.array) -> mx.array:
    return mx.where(scale == 0, 0, 1 / scale)


def _half(numbers: mx.array) -> mx.array:
    """Numbers (n, 1) to the bytes of float16, (n, 2)."""
    return mx.contiguous(numbers.astype(mx.float16)).view(mx.uint8)


def _nibbles(codes: mx.array) -> mx.array:
    """Codes (n, 32) to bytes (n, 16): code i in the low half of byte i, code i + 16 in the high."""
    whole = mx.minimum(codes, 15).astype(mx.uint8)
    return whole[:, :16] | (whole[:, 16:] << 4)


def find_lossless(packed: PackedTensor) -> BlockType | str:
    """The type whose blocks hold exactly what is packed, or why there is none.

    Scales and offsets have to be float16 numbers. Groups of 64 become two blocks with the same
    scale, and codes of 2 or 3 bits fit where there is room for 4.
    """
    bits = packed.packing.bits
    if packed.biases is None:
        return f"no type that is written holds `{packed.packing.mode}`"
    with mx.stream(mx.cpu):
        scales, biases = packed.scales.astype(mx.float32), packed.biases.astype(mx.float32)
        middle = mx.array_equal(biases, scales * -(2 ** (bits - 1))).item()
        if not _fits_half(scales) or not (middle or _fits_half(biases)):
            return "their scales or offsets are no float16 numbers, as blocks need them"
    if middle and bits in _FROM_MIDDLE:
        return _FROM_MIDDLE[bits]
    return _WITH_OFFSET.get(bits, f"no type has codes of {bits} bits with an offset of their own")


_FROM_MIDDLE = {4: Q4_0, 5: Q5_0, 8: Q8_0}
_WITH_OFFSET = {2: Q4_1, 3: Q4_1, 4: Q4_1, 5: Q5_1}


def _fits_half(numbers: mx.array) -> bool:
    return bool(mx.array_equal(numbers, numbers.astype(mx.float16).astype(mx.float32)).item())


def packed_blocks(packed: PackedTensor, kind: BlockType) -> mx.array:
    """The same codes, scales and offsets in llama.cpp's blocks.

    Args:
        packed: affine, such that ``find_lossless`` gives ``kind`` (Q4_1 holds what Q4_0 does).
        kind: the type to write.

    Returns:
        The bytes, (rows, bytes of a row).
    """
    assert packed.biases is not None
    bits, group = packed.packing.bits, packed.packing.group_size
    with mx.stream(mx.cpu):
        one = mx.ones(packed.scales.shape, mx.float32)
        codes = mx.dequantize(packed.codes, one, 0 * one, group_size=group, bits=bits)
        codes = codes.astype(mx.uint8).reshape(-1, BLOCK)  # (blocks, 32)
        scales, biases = (
            _half(mx.repeat(numbers, group // BLOCK, axis=1).reshape(-1, 1))
            for numbers in (packed.scales, packed.biases)
        )
        parts = [scales, biases] if kind in (Q4_1, Q5_1) else [scales]
        if kind in (Q5_0, Q5_1):
            fifth = mx.sum((codes >> 4).astype(mx.uint32) << mx.arange(BLOCK, dtype=mx.uint32), 1)
            parts += [fifth[:, None].view(mx.uint8), _nibbles(codes & 15)]
        elif kind is Q8_0:
            parts.append(codes ^ 128)  # two's complement, counted from the middle
        else:
            parts.append(_nibbles(codes))
        return mx.concatenate(parts, axis=1).reshape(packed.codes.shape[0], -1)
