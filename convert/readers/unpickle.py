"""The pickle inside a file of ``torch.save``, read by an interpreter that can build a table only.

Python's own unpickler imports what a file names and calls it. This one has the few opcodes that a
state dict is written with (protocols 2 to 5; torch cannot use an older one) and the names of
``torch_names``. All else is refused, with its byte in the file.

Values may be nested deeply or contain themselves; nothing here follows them. Only keys, strings and
integers, are ever hashed or compared.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from mobilellm_mlx.errors import ConvertError

from . import torch_names
from .archive import shown

MAX_BYTES = 64_000_000
"""Of the pickle: a table of names and shapes. The numbers lie elsewhere."""
_MAX_STEPS = 1_000_000
"""Opcodes. A tensor takes about thirty; each may take some hundred bytes of memory."""
_MAX_STACK = 100_000
_MAX_MARKS = 100
_MAX_TEXT_BYTES = 1_000_000
_MAX_NAME_BYTES = 256
_MAX_INTEGER_BYTES = 32
_MAX_KEY = 2**60
"""Up to here Python's hashes of integers differ; larger keys could be chosen to collide."""

# Opcodes by their byte. None, true, false, the empty tuple:
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x29: ()}
# BININT1, BININT2, BININT, BINFLOAT:
_NUMBERS = {0x4B: "<B", 0x4D: "<H", 0x4A: "<i", 0x47: ">d"}
# SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, then the same for bytes, with the width of the length:
_TEXTS = {0x8C: 1, 0x58: 4, 0x8D: 8}
_BYTES = {0x43: 1, 0x42: 4, 0x8E: 8}
_STOP = 0x2E

_REFUSED = {
    0x69: "INST", 0x6F: "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2",
    0x84: "EXT4", 0x50: "PERSID", 0x30: "POP", 0x31: "POP_MARK", 0x32: "DUP", 0x49: "INT",
    0x4C: "LONG", 0x46: "FLOAT", 0x53: "STRING", 0x54: "BINSTRING", 0x55: "SHORT_BINSTRING",
    0x56: "UNICODE", 0x6C: "LIST", 0x64: "DICT", 0x67: "GET", 0x70: "PUT", 0x8F: "EMPTY_SET",
    0x90: "ADDITEMS", 0x91: "FROZENSET", 0x96: "BYTEARRAY8", 0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER", 0x80: "PROTO",
}  # fmt: skip
"""Opcodes that exist and that no state dict has."""


def unpickle(data: bytes, start: int, file: str) -> object:
    """The value of a pickle.

    Args:
        data: the whole pickle.
        start: byte of the file at which it begins.
        file: its name, for messages.

    Returns:
        Plain values, and ``torch_names.View`` for tensors. It may contain itself.

    Raises:
        ConvertError: naming what is not allowed, or damaged, and the byte of the file.
    """
    return _Machine(data, start, file).run()


class _Machine:
    """A stack, marks on it, and the memo: values that were numbered to be used again."""

    def __init__(self, data: bytes, start: int, file: str):
        self._data, self._start, self._file = data, start, file
        self._next = 0
        """Of the byte to be read."""
        self._step = 0
        """Of the opcode that is being done, for messages."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        if len(self._data) < 2 or self._data[0] != 0x80 or self._data[1] not in (2, 3, 4, 5):
            self._refuse("does not begin as a pickle of protocols 2 to 5")
        self._next = 2
        for _ in range(_MAX_STEPS):
            self._step = self._next
            opcode = self._take(1)[0]
            if opcode == _STOP:
                return self._result()
            self._do(opcode)
        self._refuse(f"goes on after {_MAX_STEPS:,} steps")

    def _result(self) -> object:
        if len(self._stack) != 1 or self._marks:
            self._refuse("ends with values left over")
        if self._next != len(self._data):
            self._refuse("goes on after its end")
        return self._stack[0]

    def _do(self, opcode: int) -> None:
        if opcode in _CONSTANTS:
            self._push(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            layout = _NUMBERS[opcode]
            self._push(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])
        elif opcode in _TEXTS:
            self._push_text(self._take_sized(_TEXTS[opcode]))
        elif opcode in _BYTES:
            self._push(self._take_sized(_BYTES[opcode]))
        elif (action := _ACTIONS.get(opcode)) is not None:
            action(self)
        elif opcode in _REFUSED:
            self._refuse(f"uses the opcode {_REFUSED[opcode]}, which no state dict needs")
        else:
            self._refuse(f"uses the unknown opcode {opcode:#04x}")

    def _refuse(self, what: str, hint: str | None = None) -> NoReturn:
        raise ConvertError(
            f"the pickle in `{self._file}` {what}, at byte {self._start + self._step:,}",
            hint or torch_names.hint(""),
        )

    # What is read

    def _take(self, count: int) -> bytes:
        data = self._data[self._next : self._next + count]
        if len(data) != count:
            self._refuse("is cut off", "download the file again, completely")
        self._next += count
        return data

    def _take_number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take_sized(self, width: int) -> bytes:
        count = self._take_number(width)
        if count > _MAX_TEXT_BYTES:
            self._refuse(f"has a text of {count:,} bytes, at most {_MAX_TEXT_BYTES:,} are read")
        return self._take(count)

    def _push_text(self, data: bytes) -> None:
        try:
            self._push(data.decode())
        except UnicodeDecodeError:
            self._refuse("has a text that is not UTF-8")

    def _push_integer(self, size: int) -> None:
        count = self._take_number(size)
        if count > _MAX_INTEGER_BYTES:
            self._refuse(f"has an integer of {count:,} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _take_line(self) -> str:
        end = self._data.find(b"\n", self._next, self._next + _MAX_NAME_BYTES)
        if end < 0:
            self._refuse(f"has a name that does not end within {_MAX_NAME_BYTES} bytes")
        line = self._take(end - self._next)
        self._next += 1
        return line.decode("latin-1")

    def _skip_frame(self) -> None:
        if self._take_number(8) > len(self._data) - self._next:
            self._refuse("has a frame that reaches beyond its end")

    # The stack: nothing below the last mark can be taken

    def _push(self, value: object) -> None:
        if len(self._stack) >= _MAX_STACK:
            self._refuse(f"puts more than {_MAX_STACK:,} values on its stack")
        self._stack.append(value)

    def _check_depth(self, count: int) -> None:
        if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
            self._refuse("uses a value that is not there")

    def _pop(self) -> Any:
        self._check_depth(1)
        return self._stack.pop()

    def _top(self) -> Any:
        self._check_depth(1)
        return self._stack[-1]

    def _mark(self) -> None:
        if len(self._marks) >= _MAX_MARKS:
            self._refuse(f"is nested more than {_MAX_MARKS} deep")
        self._marks.append(len(self._stack))

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            self._refuse("uses a mark that is not there")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    # The memo

    def _put(self, index: int) -> None:
        if index > _MAX_STEPS:
            self._refuse(f"uses the memo's number {index:,}")
        self._memo[index] = self._top()

    def _get(self, size: int) -> None:
        index = self._take_number(size)
        if index not in self._memo:
            self._refuse(f"uses the memo's number {index:,}, which was never set")
        self._push(self._memo[index])

    # Containers

    def _make_tuple(self, count: int) -> None:
        self._check_depth(count)
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push(items)

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            self._refuse("appends to something that is no list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            self._refuse("sets items of something that is no dict")
        if len(items) % 2:
            self._refuse("sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            small = type(key) is int and -_MAX_KEY <= key <= _MAX_KEY
            if not small and type(key) is not str:
                self._refuse("has a key that is neither a text nor an integer below 2**60")
            if key in target:
                self._refuse(f"sets the key `{shown(str(key))}` twice")
            target[key] = value

    def _set_item(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    # Names and calls

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self._refuse("imports something whose name is no text")
        found = torch_names.find(module, name)
        if found is None:
            dotted = f"{module}.{name}"
            self._refuse(
                f"imports `{shown(dotted)}`, which no state dict needs", torch_names.hint(dotted)
            )
        self._push(found)

    def _stack_global(self) -> None:
        name = self._pop()
        self._push_name(self._pop(), name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        try:
            self._push(torch_names.call(function, arguments))
        except torch_names.WrongArguments as error:
            self._refuse(f"calls {error}", error.hint)

    def _persistent(self) -> None:
        try:
            self._push(torch_names.storage(self._pop()))
        except torch_names.WrongArguments as error:
            self._refuse(f"asks for {error}")

    def _build(self) -> None:
        """Attributes of an OrderedDict: torch keeps version numbers of modules there."""
        state = self._pop()
        if not isinstance(self._top(), torch_names.OrderedDict):
            self._refuse("sets attributes of something that has none (BUILD)")
        if not isinstance(state, dict) or state.keys() != {"_metadata"}:
            self._refuse("sets attributes other than `_metadata` (BUILD)")


_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x95: _Machine._skip_frame,
    0x8A: lambda machine: machine._push_integer(1),  # LONG1
    0x8B: lambda machine: machine._push_integer(4),  # LONG4
    0x28: _Machine._mark,
    0x85: lambda machine: machine._make_tuple(1),  # TUPLE1 to TUPLE3
    0x86: lambda machine: machine._make_tuple(2),
    0x87: lambda machine: machine._make_tuple(3),
    0x74: lambda machine: machine._push(tuple(machine._pop_to_mark())),  # TUPLE
    0x5D: lambda machine: machine._push([]),  # EMPTY_LIST
    0x61: lambda machine: machine._append([machine._pop()]),  # APPEND
    0x65: lambda machine: machine._append(machine._pop_to_mark()),  # APPENDS
    0x7D: lambda machine: machine._push({}),  # EMPTY_DICT
    0x73: _Machine._set_item,
    0x75: lambda machine: machine._set_items(machine._pop_to_mark()),  # SETITEMS
    0x71: lambda machine: machine._put(machine._take_number(1)),  # BINPUT
    0x72: lambda machine: machine._put(machine._take_number(4)),  # LONG_BINPUT
    0x94: lambda machine: machine._put(len(machine._memo)),  # MEMOIZE
    0x68: lambda machine: machine._get(1),  # BINGET
    0x6A: lambda machine: machine._get(4),  # LONG_BINGET
    0x63: lambda machine: machine._push_name(machine._take_line(), machine._take_line()),  # GLOBAL
    0x93: _Machine._stack_global,
    0x52: _Machine._reduce,
    0x51: _Machine._persistent,
    0x62: _Machine._build,
}
"""The opcodes that work on the machine, by their byte."""
