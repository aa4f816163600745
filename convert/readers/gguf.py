"""llama.cpp's GGUF, versions 2 and 3: the tables are parsed here, and nothing in them is believed.

Layout (ggml/docs/gguf.md): magic, version, two counts, key-value pairs, tensor table, padding,
data. Every count and length is compared with what is left of the file before anything of that size
is made, so a file of a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import Packing

from . import ggml
from .tensors import Entry, Reader, Tensor, read_bytes

_FIRST_READ_BYTES, _MAX_HEADER_BYTES = 1 << 20, 100_000_000
_MAX_TABLE = 65_536
"""Key-value pairs, and tensors, of one file; the largest known models have some thousands."""
_MAX_ITEMS = 1 << 23
"""Items of all arrays together: vocabularies have some 300,000 tokens and twice as many merges."""
_MAX_KEY_BYTES, _MAX_NAME_BYTES = 65_535, 255
_MAX_DEPTH = 4
_MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Value types that are numbers, by their struct formats."""
_BOOL, _STRING, _ARRAY, _LAST_KIND = 7, 8, 9, 12
_LEAST_PAIR, _LEAST_TENSOR = 8 + 1 + 4 + 1, 8 + 1 + 4 + 8 + 4 + 8
"""Bytes that the smallest possible entry of each table takes."""
_AGAIN = "download it again, or write it anew with llama.cpp's converter"


class Metadata:
    """Typed access to a GGUF file's key-value table."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def has(self, key: str) -> bool:
        """Whether there is a value that is not an empty list or text."""
        return self._values.get(key) not in (None, [], "")

    def text(self, key: str, default: str | None = "") -> Any:
        """A string."""
        value = self._values.get(key, default)
        if value is not None and not isinstance(value, str):
            raise ConvertError(f"GGUF key `{key}` is not a string")
        return value

    def number(self, key: str, default: Any = None) -> Any:
        """A scalar: int, float or bool."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise ConvertError(f"GGUF key `{key}` is missing")
            return default
        if not isinstance(value, int | float):
            raise ConvertError(f"GGUF key `{key}` is not a number")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """An integer."""
        value = self.number(key, default)
        if type(value) is not int:
            raise ConvertError(f"GGUF key `{key}` is {value}, expected a whole number")
        return value

    def numbers(self, key: str) -> list[Any]:
        """A list of integers or floats."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, int | float) for item in value):
            raise ConvertError(f"GGUF key `{key}` is not a list of numbers")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConvertError(f"GGUF key `{key}` is not a list of strings")
        return value


class GGUFReader(Reader):
    """One GGUF file, or one part of a split one. ``open_gguf`` makes it.

    Matrices arrive packed, with every code, scale and offset exact; those in K-quants with groups
    of 16, which MLX's affine form cannot say, arrive as floats.
    """

    format = "gguf"

    def __init__(self, path: Path, metadata: Metadata, entries: Mapping[str, Entry]):
        self.files = (path,)
        self.metadata = metadata
        self.entries = entries
        self.notices = ggml.notices(entries.values())

    def read(self, name: str) -> Tensor:
        entry = self.entries[name]
        offset = _offset(entry)
        data = read_bytes(self.files[0], offset, entry.nbytes)
        try:
            return ggml.unpack(data, entry)
        except ValueError as error:
            raise ConvertError(
                f"tensor `{name}` in `{self.files[0].name}`, at byte {offset:,}, {error}", _AGAIN
            ) from error


def open_gguf(path: Path) -> GGUFReader:
    """Read the tables of a GGUF file and check each of them against the file's length.

    Raises:
        ConvertError: when it is not GGUF, of another version or byte order, damaged, or has
            tensors of a type that cannot be read. The message names the byte.
    """
    cursor = _Cursor(path)
    tensor_count, pair_count = _preamble(cursor)
    values = _pairs(cursor, pair_count)
    alignment = _alignment(cursor, values)
    entries = _entries(cursor, tensor_count, alignment)
    return GGUFReader(path, Metadata(values), entries)


class _Cursor:
    """A place in the file's head, and the only way to take something from there.

    The head has no stated length, so it is read in growing steps; ``data`` always begins at the
    file's first byte.
    """

    def __init__(self, path: Path):
        try:
            status = path.stat()
        except OSError as error:
            raise ConvertError(f"`{path}` cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ConvertError(f"`{path}` is not a file")
        self.path = path
        self.size = status.st_size
        self.position = 0
        self.items = 0
        self.data = bytearray()

    def fail(self, reason: str, at: int, hint: str = _AGAIN) -> NoReturn:
        """Refuse the file for what stands at byte ``at``."""
        raise ConvertError(
            f"`{self.path.name}` cannot be read as GGUF: {reason} (byte {at:,})", hint
        )

    def skip(self, count: int, what: str) -> int:
        """Where the next ``count`` bytes begin; the cursor moves behind them."""
        start, end = self.position, self.position + count
        if end > len(self.data):
            if end > self.size:
                self.fail(f"{what} takes {count:,} bytes, {self.size - start:,} are left", start)
            if end > _MAX_HEADER_BYTES:
                self.fail(f"its tables are larger than {_MAX_HEADER_BYTES:,} bytes", start)
            step = max(end, 2 * len(self.data), _FIRST_READ_BYTES)
            wanted = min(step, self.size, _MAX_HEADER_BYTES)
            self.data += read_bytes(self.path, len(self.data), wanted - len(self.data))
        self.position = end
        return start

    def number(self, code: str, what: str) -> Any:
        """One number by its struct format."""
        start = self.skip(struct.calcsize("<" + code), what)
        return struct.unpack_from("<" + code, self.data, start)[0]

    def text(self, what: str, most: int = _MAX_HEADER_BYTES) -> str:
        """A string behind its length."""
        at = self.position
        length = self.number("Q", f"the length of {what}")
        if length > most:
            self.fail(f"{what} is {length:,} bytes long, expected at most {most:,}", at)
        start = self.skip(length, what)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8", start + error.start)

    def name(self, what: str, most: int) -> str:
        """A string fit to be shown: not empty, without control characters."""
        at = self.position
        text = self.text(what, most)
        if not text or not text.isprintable():
            self.fail(f"{what} is {text[:40]!r}, expected printable characters", at)
        return text

    def kind(self, what: str) -> int:
        """The number of a value's type."""
        at = self.position
        kind: int = self.number("I", f"the type of {what}")
        if kind > _LAST_KIND:
            self.fail(f"{what} is of type {kind}, expected 0 to {_LAST_KIND}", at)
        return kind

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        """A value of the key-value table."""
        if kind == _STRING:
            return self.text(what)
        if kind == _ARRAY:
            return self._array(what, depth + 1)
        at = self.position
        if kind != _BOOL:
            return self.number(_NUMBERS[kind], what)
        if (number := self.number("B", what)) > 1:
            self.fail(f"{what} is a truth value of {number}", at)
        return bool(number)

    def _array(self, what: str, depth: int) -> list[Any]:
        at = self.position
        kind, count = self.kind(what), self.number("Q", what)
        if depth > _MAX_DEPTH:
            self.fail(f"{what} has arrays within arrays, more than {_MAX_DEPTH} deep", at)
        self.items += count
        if self.items > _MAX_ITEMS:
            self.fail(f"{what} has {count:,} items, beyond {_MAX_ITEMS:,} in all arrays", at)
        if kind == _STRING:
            return [self.text(what) for _ in range(count)]
        if (code := _NUMBERS.get(kind)) is None:
            return [self.value(kind, what, depth) for _ in range(count)]
        start = self.skip(count * struct.calcsize("<" + code), what)
        return list(struct.unpack_from(f"<{count}{code}", self.data, start))


def _preamble(cursor: _Cursor) -> tuple[int, int]:
    """The counts of tensors and of key-value pairs."""
    cursor.skip(4, "the magic")
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        cursor.fail(f"it begins with {magic!r}, expected b'GGUF'", 0, "check the path")
    version = cursor.number("I", "the version")
    if version and not version & 0xFFFF:
        cursor.fail("its numbers are big-endian", 4, "convert it for a little-endian machine")
    if version not in (2, 3):
        hint = "write it anew with a newer llama.cpp" if version == 1 else "expected version 2 or 3"
        cursor.fail(f"it has version {version}", 4, hint)
    counts = []
    for what, least in (("tensors", _LEAST_TENSOR), ("key-value pairs", _LEAST_PAIR)):
        at = cursor.position
        count = cursor.number("Q", f"the number of {what}")
        if count > _MAX_TABLE:
            cursor.fail(f"it lists {count:,} {what}, expected at most {_MAX_TABLE:,}", at)
        if count * least > cursor.size - cursor.position:
            left = cursor.size - cursor.position
            cursor.fail(f"it lists {count:,} {what}, but only {left:,} bytes are left", at)
        counts.append(count)
    return counts[0], counts[1]


def _pairs(cursor: _Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        at = cursor.position
        key = cursor.name("a key", _MAX_KEY_BYTES)
        what = f"the value of `{key[:80]}`"
        if key in values:
            cursor.fail(f"the key `{key[:80]}` stands there twice", at)
        values[key] = cursor.value(cursor.kind(what), what)
    return values


def _alignment(cursor: _Cursor, values: Mapping[str, Any]) -> int:
    alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
    whole = type(alignment) is int and 0 < alignment <= _MAX_ALIGNMENT
    if not whole or alignment & (alignment - 1):
        cursor.fail(
            f"`general.alignment` is {str(alignment)[:40]}, expected a power of two up to "
            f"{_MAX_ALIGNMENT:,}",
            cursor.position,
        )
    return int(alignment)


def _entries(cursor: _Cursor, count: int, alignment: int) -> dict[str, Entry]:
    """The tensor table; data that lies outside the file, or twice in one place, is refused."""
    places: list[tuple[int, int]] = []  # where the table says it, where the data begins
    rows: dict[str, tuple[tuple[int, ...], str]] = {}
    for _ in range(count):
        at = cursor.position
        name = cursor.name("a tensor's name", _MAX_NAME_BYTES)
        if name in rows:
            cursor.fail(f"the tensor `{name}` stands there twice", at)
        shape = _shape(cursor, name)
        rows[name] = shape, _type(cursor, name, shape)
        at = cursor.position
        offset = cursor.number("Q", f"the offset of `{name}`")
        if offset % alignment:
            cursor.fail(f"tensor `{name}` lies at {offset:,}, no multiple of {alignment:,}", at)
        places.append((at, offset))
    begin = -(-cursor.position // alignment) * alignment
    entries = {}
    for (name, (shape, kind)), (at, offset) in zip(rows.items(), places, strict=True):
        entry = _entry(cursor.path, name, shape, kind, begin + offset)
        if (end := begin + offset + entry.nbytes) > cursor.size:
            cursor.fail(f"tensor `{name}` ends at byte {end:,}, the file at {cursor.size:,}", at)
        entries[name] = entry
    _refuse_overlaps(cursor, entries)
    return entries


def _shape(cursor: _Cursor, name: str) -> tuple[int, ...]:
    """The dimensions, slowest first; the file has the fastest first."""
    at = cursor.position
    count = cursor.number("I", f"the dimensions of `{name}`")
    if not 1 <= count <= 4:
        cursor.fail(f"tensor `{name}` has {count:,} dimensions, expected 1 to 4", at)
    sizes = [cursor.number("Q", f"a dimension of `{name}`") for _ in range(count)]
    # MLX counts elements along an axis in 32 bits, and all of them in 64.
    if not all(1 <= size < 2**31 for size in sizes) or prod(sizes) >= 2**63:
        cursor.fail(f"tensor `{name}` has impossible dimensions: {sizes}", at)
    return tuple(reversed(sizes))


def _type(cursor: _Cursor, name: str, shape: tuple[int, ...]) -> str:
    at = cursor.position
    number = cursor.number("I", f"the type of `{name}`")
    if (kind := ggml.TYPES.get(number)) is None:
        other = ggml.OTHER_TYPES.get(number)
        cursor.fail(
            f"tensor `{name}` has the {f'type {other}' if other else f'unknown type {number}'}",
            at,
            "take a file of another quantisation: F16, Q8_0 and Q4_1 are read without loss",
        )
    weights, _ = ggml.BLOCKS[kind]
    if shape[-1] % weights:
        cursor.fail(
            f"tensor `{name}` has rows of {shape[-1]:,}, no multiple of the {weights} weights "
            f"that make a block of {kind}",
            at,
        )
    return kind


def _entry(path: Path, name: str, shape: tuple[int, ...], kind: str, offset: int) -> Entry:
    weights, size = ggml.BLOCKS[kind]
    bits = ggml.PACKED_BITS.get(kind) if len(shape) == 2 else None
    packing = Packing(ggml.GROUP_SIZE, bits) if bits else None
    return Entry(name, shape, kind, prod(shape) // weights * size, (path, offset), packing)


def _refuse_overlaps(cursor: _Cursor, entries: Mapping[str, Entry]) -> None:
    last, end = "", 0
    for entry in sorted(entries.values(), key=_offset):
        start = _offset(entry)
        if start < end:
            cursor.fail(f"tensor `{entry.name}` overlaps `{last}`", start)
        last, end = entry.name, start + entry.nbytes


def _offset(entry: Entry) -> int:
    """Byte of the file at which the data begins; ``_entry`` wrote it there."""
    assert isinstance(entry.location, tuple)
    return int(entry.location[1])
