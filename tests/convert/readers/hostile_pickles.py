"""Files that pretend to be ``torch.save``'s: the zip and the pickle written by hand, knob by knob.

Nothing here is our reader's code, and torch is not needed. ``PAYLOADS`` are pickles that make a
file when Python's own unpickler reads them; a test proves that they do.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# A pickle, opcode by opcode


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(*values: int) -> bytes:
    return tuple_of(*map(number, values))


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(value: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + value + b"."


ORDERED = call(name("collections", "OrderedDict"))
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def storage(size: int = 6, key: str = "0", kind: bytes = name("torch", "FloatStorage")) -> bytes:
    return tuple_of(text("storage"), kind, text(key), text("cpu"), number(size)) + b"Q"


def tensor(
    shape: Sequence[int] = (2, 3),
    strides: Sequence[int] = (3, 1),
    offset: int = 0,
    source: bytes | None = None,
    function: bytes = REBUILD,
    extras: Sequence[bytes] = (b"\x89", ORDERED),
) -> bytes:
    """A call that rebuilds a tensor; by default it is good."""
    source = storage() if source is None else source
    return call(function, source, number(offset), numbers(*shape), numbers(*strides), *extras)


# A zip, member by member


@dataclass
class Member:
    """One member. The fields after the data are lies where they are given."""

    name: str
    data: bytes = b""
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    """In the central directory, uncompressed."""
    packed: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    local_mark: bytes = b"PK\3\4"
    header_at: int | None = None
    """Where the central directory says that the local header is."""
    gap: int = 0
    """Zeros before it."""


@dataclass
class Layout:
    """A zip file and the byte at which each of its structures begins."""

    data: bytes
    begins: dict[str, int] = field(default_factory=dict)


def write_zip(
    members: Sequence[Member], *, comment: bytes = b"", lead: bytes = b"", count: int | None = None
) -> Layout:
    """A zip as the specification has it (PKWARE's APPNOTE.TXT), with the members' lies."""
    body, directory, begins = lead, b"", {}
    for member in members:
        body += bytes(member.gap)
        at, raw = len(body), member.name.encode()
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        size = len(member.data) if member.size is None else member.size
        packed = len(member.data) if member.packed is None else member.packed
        local_raw = raw if member.local_name is None else member.local_name.encode()
        local_size = size if member.local_size is None else member.local_size
        flags = member.flags | 0x800
        begins[f"{member.name} header"] = at
        body += member.local_mark + struct.pack(
            "<5H3I2H", 0, flags, member.method, 0, 0, crc, packed, local_size, len(local_raw), 0
        )
        begins[f"{member.name} name"] = len(body)
        body += local_raw
        begins[f"{member.name} data"] = len(body)
        body += member.data
        header_at = at if member.header_at is None else member.header_at
        directory += b"PK\1\2" + struct.pack(
            "<6H3I5H2I", 0, 0, flags, member.method, 0, 0, crc, packed, size, len(raw), 0, 0, 0, 0,
            0, header_at,
        ) + raw  # fmt: skip
    begins["directory"] = len(body)
    begins["end"] = len(body) + len(directory)
    total = len(members) if count is None else count
    end = struct.pack("<4H2IH", 0, 0, total, total, len(directory), len(body), len(comment))
    return Layout(body + directory + b"PK\5\6" + end + comment, begins)


FLOATS = struct.pack("<6f", *range(6))


def members_of(pickle: bytes, records: Mapping[str, bytes] | None = None) -> list[Member]:
    """What torch would write for a pickle; by default with one storage of six float32."""
    records = {"data/0": FLOATS} if records is None else records
    rest = {"byteorder": b"little"} | dict(records) | {"version": b"3\n"}
    return [Member("archive/data.pkl", pickle)] + [
        Member(f"archive/{key}", data) for key, data in rest.items()
    ]


def torch_file(pickle: bytes, records: Mapping[str, bytes] | None = None) -> bytes:
    """A whole file around a pickle."""
    return write_zip(members_of(pickle, records)).data


GOOD = pickled(table(w=tensor()))


# Pickles that would do harm


def _touch(canary: str) -> bytes:
    return text(f"touch '{canary}'")


def _source(canary: str) -> bytes:
    return text(f"open({canary!r}, 'w').close()")


def _stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def _getattr_chain(canary: str) -> bytes:
    module = call(name("builtins", "__import__"), text("os"))
    system = call(name("builtins", "getattr"), module, text("system"))
    return pickled(call(system, _touch(canary)))


def _state_of_a_partial(canary: str) -> bytes:
    """``functools.partial.__setstate__`` swaps the function of a harmless partial, then a call."""
    partial = call(name("functools", "partial"), name("builtins", "len"))
    state = tuple_of(name("os", "system"), tuple_of(_touch(canary)), b"}", b"N")
    return pickled(partial + state + b"b)R")


def _hidden_names(canary: str) -> bytes:
    """The names come by the memo, from a list that looks harmless."""
    hide = b"](" + text("os") + b"q\x01" + text("system") + b"q\x02e"
    return pickled(hide + b"h\x01h\x02\x93" + tuple_of(_touch(canary)) + b"R", 4)


PAYLOADS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda c: pickled(call(name("os", "system"), _touch(c))), "`os.system`"),
    "posix.system": (lambda c: pickled(call(name("posix", "system"), _touch(c))), "`posix.system`"),
    "eval": (lambda c: pickled(call(name("builtins", "eval"), _source(c))), "`builtins.eval`"),
    "exec": (lambda c: pickled(call(name("builtins", "exec"), _source(c))), "`builtins.exec`"),
    "exec of Python 2": (
        lambda c: pickled(call(name("__builtin__", "eval"), _source(c))),
        "`__builtin__.eval`",
    ),
    "open": (
        lambda c: pickled(call(name("builtins", "open"), text(c), text("w"))),
        "`builtins.open`",
    ),
    "subprocess": (
        lambda c: pickled(call(name("subprocess", "getoutput"), _touch(c))),
        "`subprocess.getoutput`",
    ),
    "a chain of getattr": (_getattr_chain, "`builtins.getattr`"),
    "state of a partial": (_state_of_a_partial, "`functools.partial`"),
    "names by the stack": (
        lambda c: pickled(_stack_name("os", "system") + tuple_of(_touch(c)) + b"R", 4),
        "`os.system`",
    ),
    "names out of the memo": (_hidden_names, "`os.system`"),
    "a name with dots": (
        lambda c: pickled(_stack_name("os", "path.os.system") + tuple_of(_touch(c)) + b"R", 4),
        "`os.path.os.system`",
    ),
    "INST": (lambda c: pickled(b"(" + _touch(c) + b"ios\nsystem\n"), "INST"),
    "OBJ": (lambda c: pickled(b"(" + name("os", "system") + _touch(c) + b"o"), "`os.system`"),
    "EXT1": (lambda c: pickled(b"\x82\xf0" + tuple_of(_touch(c)) + b"R"), "EXT1"),
    "EXT2": (lambda c: pickled(b"\x83\xf0\x00" + tuple_of(_touch(c)) + b"R"), "EXT2"),
    "EXT4": (lambda c: pickled(b"\x84\xf0\0\0\0" + tuple_of(_touch(c)) + b"R"), "EXT4"),
    "beside the weights": (
        lambda c: pickled(table(w=ORDERED, x=call(name("os", "system"), _touch(c)))),
        "`os.system`",
    ),
    "as a key": (
        lambda c: pickled(b"}" + call(name("os", "system"), _touch(c)) + ORDERED + b"s"),
        "`os.system`",
    ),
    "as an argument of a call that is allowed": (
        lambda c: pickled(
            call(name("collections", "OrderedDict"), call(name("os", "system"), _touch(c)))
        ),
        "`os.system`",
    ),
    "nested calls": (
        lambda c: pickled(
            call(
                name("builtins", "eval"),
                call(name("builtins", "str"), call(name("builtins", "str"), _source(c))),
            )
        ),
        "`builtins.eval`",
    ),
    "a name that is a state's attribute": (
        lambda c: pickled(ORDERED + table(_metadata=call(name("os", "system"), _touch(c))) + b"b"),
        "`os.system`",
    ),
}
"""Name to what makes the pickle for the file that it would make, and what the refusal names.

EXT opcodes need the number 240 registered for ``os.system`` to do harm.
"""
