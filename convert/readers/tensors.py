"""What every reader gives: a table of entries, and one tensor at a time.

Nothing is mapped into memory and nothing is read ahead: a conversion holds one tensor, whatever the
size of the file.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import ITEM_BYTES as ITEM_BYTES
from mobilellm_mlx.weights import Packing, unpack

_BUFFER_FORMATS = {
    "BOOL": "?", "U8": "B", "I8": "b", "U16": "H", "I16": "h", "F16": "H", "BF16": "H",
    "U32": "I", "I32": "i", "F32": "f", "U64": "Q", "I64": "q", "F64": "d",
}  # fmt: skip

_PIECE_BYTES = 1 << 30
_HALVES = {"F16": mx.float16, "BF16": mx.bfloat16}  # no buffer format names these


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file, by the file's own tables."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """A safetensors name (``F32``, ``BF16``, ...) or a GGML block type (``Q4_1``, ...). For
    what MLX packed it is the type of the scales."""
    nbytes: int
    """Bytes of data in the file; a view of a shared storage counts what it spans."""
    location: Hashable = None
    """Where the data lies. Two entries with the same location hold the same values."""
    packing: Packing | None = None
    """How it is packed, where ``read`` gives it packed."""
    exact: bool = False
    """Whether packed it is to the bit what was trained: its scales then keep their type."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A matrix in MLX's packed form; row r of every part belongs to row r of the matrix."""

    codes: mx.array
    """(rows, words), uint32."""
    scales: mx.array
    """(rows, groups)."""
    biases: mx.array | None
    """(rows, groups); None for the modes that have none."""
    packing: Packing

    def parts(self) -> dict[str, mx.array]:
        """The arrays by the names that MLX stores them under."""
        parts = {"weight": self.codes, "scales": self.scales}
        return parts if self.biases is None else {**parts, "biases": self.biases}

    def dense(self, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The weights it stands for, (rows, columns)."""
        return unpack(self.codes, self.scales, self.biases, self.packing, dtype)

    def map_rows(self, function: Callable[[mx.array], mx.array]) -> PackedTensor:
        """The same with ``function``, which moves rows, applied to every part."""
        biases = None if self.biases is None else function(self.biases)
        return replace(
            self, codes=function(self.codes), scales=function(self.scales), biases=biases
        )


Tensor = mx.array | PackedTensor


class Reader(ABC):
    """One weight file, or several that belong together."""

    format: str
    """``pytorch``, ``safetensors`` or ``gguf``."""
    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    is_readable: bool = True
    """Whether ``read`` gives anything: of a checkpoint elsewhere only the tables may be here."""
    notices: tuple[str, ...] = ()
    """What the person should know about the file, such as types that lose something."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The values of one entry: an evaluated array in its stored type, or packed.

        float64 arrives as float32, the widest type MLX computes in.

        Raises:
            ConvertError: when the file changed or cannot be read.
        """


class MergedReader(Reader):
    """The shards of one checkpoint as one reader.

    Raises:
        ConvertError: when two shards hold the same name.
    """

    def __init__(self, parts: Iterable[Reader]):
        parts = tuple(parts)
        self.format = parts[0].format
        self.files = tuple(path for part in parts for path in part.files)
        self.notices = tuple(dict.fromkeys(notice for part in parts for notice in part.notices))
        self.entries = {}
        self._homes: dict[str, Reader] = {}
        for part in parts:
            if twice := self.entries.keys() & part.entries.keys():
                raise ConvertError(
                    f"tensor `{min(twice)}` is stored in two files, one of them "
                    f"`{part.files[0].name}`"
                )
            self.entries.update(part.entries)
            self._homes.update(dict.fromkeys(part.entries, part))

    def read(self, name: str) -> Tensor:
        return self._homes[name].read(name)


def read_bytes(path: Path, offset: int, count: int) -> memoryview:
    """``count`` bytes of a file from ``offset``.

    Raises:
        ConvertError: when the file ends before.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error.strerror}") from error
    try:
        view = memoryview(bytearray(count))
        done = 0
        while done < count:
            # A piece at a time: macOS refuses to read 2 GiB at once.
            got = os.preadv(descriptor, [view[done : done + _PIECE_BYTES]], offset + done)
            if got == 0:
                raise ConvertError(
                    f"`{path.name}` ends at byte {offset + done:,}, "
                    f"expected data up to {offset + count:,}"
                )
            done += got
        return view
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def to_array(data: memoryview, dtype: str, shape: tuple[int, ...]) -> mx.array:
    """Raw little-endian values as an array.

    Args:
        data: exactly ``prod(shape)`` elements.
        dtype: a key of ``ITEM_BYTES``; float64 is rounded to float32.
        shape: of the array.
    """
    # An empty buffer cannot be cast, so one element stands in for what is then cut to nothing.
    count = prod(shape)
    raw = data if count else memoryview(bytearray(ITEM_BYTES[dtype]))
    array = mx.array(raw.cast(_BUFFER_FORMATS[dtype]))  # type: ignore[call-overload]
    if kind := _HALVES.get(dtype):
        array = array.view(kind)
    return array[:count].reshape(shape)
