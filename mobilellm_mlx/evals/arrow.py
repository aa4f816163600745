"""Tables in Arrow's stream format: texts, numbers, truths, lists and records, uncompressed.

Just enough to read the columns of a data set as its makers published them without a library of
fifty megabytes. The layout is that of the Arrow columnar format 1.x: messages, each with metadata
as a flatbuffer and a body of buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_CONTINUES = 0xFFFFFFFF
_SCHEMA, _BATCH = 1, 3
_INT, _UTF8, _BOOL, _LIST, _RECORD = 2, 5, 6, 12, 13
_FORMATS = {(bits, signed): code for bits, codes in ((8, "Bb"), (16, "Hh"), (32, "Ii"), (64, "Qq"))
            for signed, code in enumerate(codes)}  # fmt: skip
_MAX_DEPTH = 8
_MAX_FIELDS = 1000


def read_table(data: bytes) -> list[dict[str, Any]]:
    """The rows of a table.

    Raises:
        ValueError: when it is damaged, or has a type that is not known here.
    """
    fields: list[_Field] = []
    rows: list[dict[str, Any]] = []
    try:
        for kind, header, body in _messages(memoryview(data)):
            if kind == _SCHEMA:
                left = iter(range(_MAX_FIELDS))
                fields = [_field(one, left) for one in header.tables(1)]
            elif kind == _BATCH:
                rows += _Batch(header, body).rows(fields)
            else:
                raise ValueError(f"it has a message of kind {kind}")
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged: {error}") from None
    return rows


class _Table:
    """A table of a flatbuffer: fields by number, each there or not."""

    def __init__(self, data: memoryview, at: int):
        self._data, self._at = data, at
        self._fields = at - _get(data, at, "i")
        self._size = _get(data, self._fields, "H")

    def number(self, field: int, code: str, default: int = 0) -> int:
        at = self._place(field)
        return _get(self._data, at, code) if at else default

    def table(self, field: int) -> _Table:
        at = self._place(field)
        if not at:
            raise ValueError(f"it is damaged: field {field} is missing")
        return _Table(self._data, at + _get(self._data, at, "I"))

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def text(self, field: int) -> str:
        start, count = self._vector(field)
        return str(self._data[start : start + count], "utf-8")

    def tables(self, field: int) -> list[_Table]:
        start, count = self._vector(field)
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, at + _get(self._data, at, "I")) for at in places]

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of records of two 64-bit numbers."""
        start, count = self._vector(field)
        return list(struct.iter_unpack("<qq", self._data[start : start + 16 * count]))

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._place(field)
        if not at:
            return 0, 0
        at += _get(self._data, at, "I")
        count = _get(self._data, at, "I")
        if count > len(self._data):
            raise ValueError(f"it is damaged: a vector of {count:,}")
        return at + 4, count

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = _get(self._data, self._fields + slot, "H") if slot < self._size else 0
        return self._at + offset if offset else 0


@dataclass(frozen=True, slots=True)
class _Field:
    """A column, and those that it is made of."""

    name: str
    kind: int
    code: str
    children: tuple[_Field, ...]


def _field(table: _Table, left: Iterator[int], depth: int = 0) -> _Field:
    """A column and those in it; several may be described in one place, so they are counted."""
    if next(left, None) is None:
        raise ValueError(f"it has more than {_MAX_FIELDS:,} columns")
    name, kind, code = table.text(0), table.number(2, "B"), ""
    if kind == _INT:
        bits, signed = table.table(3).number(0, "i"), table.table(3).number(1, "B")
        code = _FORMATS.get((bits, signed), "")
    if kind not in (_INT, _UTF8, _BOOL, _LIST, _RECORD) or (kind == _INT) != bool(code):
        raise ValueError(f"the column `{name[:40]}` has a type that is not known ({kind})")
    if depth > _MAX_DEPTH or table.has(4):
        raise ValueError(f"the column `{name[:40]}` is nested too deep or a dictionary")
    children = tuple(_field(one, left, depth + 1) for one in table.tables(5))
    if kind == _LIST and len(children) != 1:
        raise ValueError(f"the column `{name[:40]}` is a list of {len(children)} types")
    return _Field(name, kind, code, children)


class _Batch:
    """Some rows: the sizes of columns and their buffers, in the order of the columns."""

    def __init__(self, header: _Table, body: memoryview):
        if header.has(3):
            raise ValueError("it is compressed")
        self._length = header.number(0, "q")
        self._nodes = iter(header.pairs(1))
        self._buffers = iter(header.pairs(2))
        self._body = body

    def rows(self, fields: list[_Field]) -> list[dict[str, Any]]:
        columns = [self._column(field) for field in fields]
        if any(len(column) != self._length for column in columns):
            raise ValueError("it is damaged: columns are not equally long")
        names = [field.name for field in fields]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _column(self, field: _Field) -> list[Any]:
        length, nulls = next(self._nodes, (-1, 0))
        if not 0 <= length <= len(self._body):
            raise ValueError(f"it is damaged: {length:,} values of `{field.name[:40]}`")
        valid = self._buffer()
        values = self._values(field, length)
        if nulls:
            values = [value if _bit(valid, at) else None for at, value in enumerate(values)]
        return values

    def _values(self, field: _Field, length: int) -> list[Any]:
        if field.kind == _RECORD:
            parts = [self._column(one) for one in field.children]
            names = [one.name for one in field.children]
            made = [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=False)]
            if len(made) < length:
                raise ValueError("it is damaged: a record is too short")
            return made[:length]
        if field.kind == _INT:
            return list(self._numbers(field.code, length))
        if field.kind == _BOOL:
            bits = self._buffer()
            return [_bit(bits, at) for at in range(length)]
        # A column without values may have no ends at all.
        ends = self._numbers("i", length + 1 if length else 0)
        if field.kind == _UTF8:
            data = self._buffer()
            return [str(_cut(data, a, b), "utf-8") for a, b in pairwise(ends)]
        items = self._column(field.children[0])
        return [_cut(items, a, b) for a, b in pairwise(ends)]

    def _numbers(self, code: str, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}{code}", self._buffer())

    def _buffer(self) -> memoryview:
        start, size = next(self._buffers, (-1, 0))
        if start < 0 or size < 0 or start + size > len(self._body):
            raise ValueError("it is damaged: a buffer is not in it")
        return self._body[start : start + size]


def _messages(data: memoryview) -> Iterator[tuple[int, _Table, memoryview]]:
    at = 0
    while at < len(data):
        if _get(data, at, "I") != _CONTINUES:
            raise ValueError("it is no stream of tables")
        size = _get(data, at + 4, "I")
        if size == 0:
            return
        meta = data[at + 8 : at + 8 + size]
        message = _Table(meta, _get(meta, 0, "I"))
        at += 8 + size
        length = message.number(3, "q")
        if not 0 <= length <= len(data) - at:
            raise ValueError("it is damaged: it is cut off")
        yield message.number(1, "B"), message.table(2), data[at : at + length]
        at += length


def _get(data: memoryview, at: int, code: str) -> int:
    if at < 0:
        raise ValueError("it is damaged: a place before its beginning")
    value: int = struct.unpack_from(f"<{code}", data, at)[0]
    return value


def _bit(bits: memoryview, at: int) -> bool:
    return bool(bits[at >> 3] >> (at & 7) & 1)


def _cut(values: Any, start: int, end: int) -> Any:
    if not 0 <= start <= end <= len(values):
        raise ValueError("it is damaged: a list ends where none can")
    return values[start:end]
