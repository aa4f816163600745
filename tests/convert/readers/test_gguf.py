"""GGUF's tables: what they say is given back, and a hostile file gets one sentence."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.readers.gguf import GGUFReader, open_gguf
from convert.readers.tensors import PackedTensor
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError

HEAD = 24
"""Bytes of magic, version and the two counts; the first key begins behind them."""


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def array(kind: int, count: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + payload


def info(
    name: str | bytes = "t", sizes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def gguf(
    *pairs: bytes,
    infos: tuple[bytes, ...] = (),
    data: bytes = b"",
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file; counts are told truly unless given."""
    counts = len(infos) if tensors is None else tensors, len(pairs) if keys is None else keys
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def opened(tmp_path: Path, content: bytes) -> GGUFReader:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return open_gguf(path)


U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

GOOD = gguf(
    pair("general.architecture", STRING, text("llama")),
    pair("tokens", ARRAY, array(STRING, 2, text("a") + text("\u2581b"))),
    pair("types", ARRAY, array(I32, 2, struct.pack("<2i", 1, -3))),
    pair("flags", ARRAY, array(BOOL, 2, b"\x01\x00")),
    pair("nested", ARRAY, array(ARRAY, 2, array(U8, 1, b"\x07") + array(U8, 0))),
    infos=(
        info("norm", (4,), 0, 0),
        info("matrix", (32, 2), 2, 32),
    ),
    data=struct.pack("<4f", 1, 2, 3, 4) + bytes(16) + (b"\x00\x3c" + b"\x98" * 16) * 2,
)


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (U8, b"\xff", 255),
        (I8, b"\xff", -1),
        (U16, b"\xff\xff", 65_535),
        (I16, b"\xfe\xff", -2),
        (U32, b"\xff" * 4, 2**32 - 1),
        (I32, b"\xff" * 4, -1),
        (F32, struct.pack("<f", 0.5), 0.5),
        (BOOL, b"\x01", True),
        (STRING, text("Gr\u00fc\u00dfe\n\0"), "Gr\u00fc\u00dfe\n\0"),
        (STRING, text(""), ""),
        (U64, b"\xff" * 8, 2**64 - 1),
        (I64, b"\xff" * 8, -1),
        (F64, struct.pack("<d", 0.1), 0.1),
        (ARRAY, array(F32, 2, struct.pack("<2f", 1, -2)), [1.0, -2.0]),
        (ARRAY, array(STRING, 0), []),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else repr(value),
)
@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_value_is_given_back(tmp_path, kind, payload, value, version) -> None:
    reader = opened(tmp_path, gguf(pair("key", kind, payload), version=version))
    got = reader.metadata._values["key"]
    assert got == value and type(got) is type(value)


def test_the_tables_of_a_whole_file_are_given_back(tmp_path) -> None:
    reader = opened(tmp_path, GOOD)
    meta = reader.metadata
    assert meta.text("general.architecture") == "llama" and meta.texts("tokens") == ["a", "\u2581b"]
    assert meta.numbers("types") == [1, -3] and meta.numbers("flags") == [True, False]
    assert meta._values["nested"] == [[7], []]
    assert [(e.name, e.shape, e.dtype, e.nbytes) for e in reader.entries.values()] == [
        ("norm", (4,), "F32", 16),
        ("matrix", (2, 32), "Q4_0", 36),
    ]
    assert reader.format == "gguf" and reader.files == (tmp_path / "model.gguf",)
    assert reader.read("norm").tolist() == [1, 2, 3, 4]
    matrix = reader.read("matrix")
    assert isinstance(matrix, PackedTensor) and matrix.packing.bits == 4
    assert matrix.dense().tolist() == [[0.0] * 16 + [1.0] * 16] * 2  # nibbles 8 and 9, less 8


@pytest.mark.parametrize(
    ("number", "code", "dtype"),
    [(0, "f", mx.float32), (1, "e", mx.float16), (24, "b", mx.int8), (25, "h", mx.int16),
     (26, "i", mx.int32), (27, "q", mx.int64), (28, "d", mx.float32)],
)  # fmt: skip
def test_plain_types_are_read(tmp_path, number, code, dtype) -> None:
    data = struct.pack(f"<6{code}", 1, -2, 3, 4, 5, 6)
    reader = opened(tmp_path, gguf(infos=(info("t", (3, 2), number),), data=data))
    values = reader.read("t")
    assert values.dtype == dtype and values.tolist() == [[1, -2, 3], [4, 5, 6]]


def test_bfloat16_is_read(tmp_path) -> None:
    data = struct.pack("<2f", 1.5, -2)
    upper = data[2:4] + data[6:8]
    values = opened(tmp_path, gguf(infos=(info("t", (2,), 30),), data=upper)).read("t")
    assert values.dtype == mx.bfloat16 and values.tolist() == [1.5, -2]


def test_another_alignment_moves_the_data(tmp_path) -> None:
    content = gguf(
        pair("general.alignment", U32, struct.pack("<I", 256)),
        infos=(info("a", (1,), 0, 0), info("b", (1,), 0, 256)),
        data=struct.pack("<f252xf", 1, 2),
        alignment=256,
    )
    reader = opened(tmp_path, content)
    assert [reader.read(name).item() for name in "ab"] == [1, 2]


def test_tensors_may_lie_in_any_order(tmp_path) -> None:
    infos = (info("a", (1,), 0, 64), info("b", (1,), 0, 0))
    reader = opened(tmp_path, gguf(infos=infos, data=struct.pack("<f60xf", 1, 2)))
    assert [reader.read(name).item() for name in "ab"] == [2, 1]


U32_KEY = pair("key", U32, bytes(4))
DEEP = pair("key", ARRAY, array(ARRAY, 1) * 1000)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the magic takes 4 bytes, 0 are left (byte 0)"),
    "a web page": (b"<html>" * 9, "it begins with b'<htm', expected b'GGUF' (byte 0)"),
    "version 1": (gguf(version=1), "it has version 1 (byte 4)"),
    "version 0": (gguf(version=0), "it has version 0 (byte 4)"),
    "version 4": (gguf(version=4), "it has version 4 (byte 4)"),
    "big-endian": (gguf(version=3 << 24), "its numbers are big-endian (byte 4)"),
    "many tensors": (gguf(tensors=2**64 - 1), "18,446,744,073,709,551,615 tensors, expected at"),
    "many keys": (gguf(keys=2**63), "9,223,372,036,854,775,808 key-value pairs, expected at mo"),
    "too many tensors for the file": (
        gguf(tensors=100),
        "it lists 100 tensors, but only 16 bytes are left (byte 8)",
    ),
    "too many keys for the file": (
        gguf(U32_KEY, keys=50),
        "it lists 50 key-value pairs, but only 40 bytes are left (byte 16)",
    ),
    "an endless key": (
        gguf(struct.pack("<Q", 2**63) + bytes(40), keys=1),
        "a key is 9,223,372,036,854,775,808 bytes long, expected at most 65,535 (byte 24)",
    ),
    "an endless string": (
        gguf(pair("key", STRING, struct.pack("<Q", 2**63 - 1))),
        "the value of `key` is 9,223,372,036,854,775,807 bytes long",
    ),
    "a string longer than the file": (
        gguf(pair("key", STRING, struct.pack("<Q", 5000))),
        "the value of `key` takes 5,000 bytes, ",
    ),
    "an empty key": (gguf(pair("", U32, bytes(4))), "a key is '', expected printable"),
    "a key with control characters": (
        gguf(pair("a\x1b[31m", U32, bytes(4))),
        "a key is 'a\\x1b[31m', expected printable characters (byte 24)",
    ),
    "a key in another encoding": (
        gguf(pair(b"a\xff", U32, bytes(4))),
        "a key is not UTF-8 (byte 33)",
    ),
    "a value in another encoding": (
        gguf(pair("key", STRING, text(b"\xc3"))),
        "the value of `key` is not UTF-8 (byte 47)",
    ),
    "an unknown kind of value": (
        gguf(pair("key", 13, bytes(8))),
        "the value of `key` is of type 13, expected 0 to 12 (byte 35)",
    ),
    "a truth value of 2": (gguf(pair("key", BOOL, b"\x02")), "a truth value of 2 (byte 39)"),
    "a key twice": (gguf(U32_KEY, U32_KEY), "the key `key` stands there twice (byte 43)"),
    "an endless array": (
        gguf(pair("key", ARRAY, array(U8, 2**62))),
        "4,611,686,018,427,387,904 items, beyond 8,388,608 in all arrays (byte 39)",
    ),
    "an array longer than the file": (
        gguf(pair("key", ARRAY, array(F64, 1000))),
        "the value of `key` takes 8,000 bytes, ",
    ),
    "an array of empty arrays": (
        gguf(pair("key", ARRAY, array(ARRAY, 9_000_000))),
        "9,000,000 items, beyond",
    ),
    "an array of an unknown kind": (
        gguf(pair("key", ARRAY, array(99, 1))),
        "the value of `key` is of type 99, expected 0 to 12 (byte 39)",
    ),
    "arrays 1000 deep": (gguf(DEEP), "has arrays within arrays, more than 4 deep (byte 87)"),
    **{
        f"alignment {value}": (
            gguf(pair("general.alignment", U32, struct.pack("<I", value))),
            f"`general.alignment` is {value}, expected a power of two up to 1,048,576 (byte 57)",
        )
        for value in (0, 3, 2**21, 2**31)
    },
    "an alignment in words": (
        gguf(pair("general.alignment", STRING, text("32"))),
        "`general.alignment` is 32, expected a power of two",
    ),
    "a tensor without a name": (gguf(infos=(info(""),)), "a tensor's name is ''"),
    "a tensor with an endless name": (
        gguf(infos=(info("n" * 256),)),
        "a tensor's name is 256 bytes long, expected at most 255 (byte 24)",
    ),
    "a tensor's name in another encoding": (
        gguf(infos=(info(b"\xff\xfe"),)),
        "a tensor's name is not UTF-8 (byte 32)",
    ),
    "a tensor twice": (
        gguf(infos=(info(offset=0), info(offset=32)), data=bytes(64)),
        "the tensor `t` stands there twice (byte 57)",
    ),
    "no dimensions": (gguf(infos=(info(sizes=()),), data=bytes(9)), "has 0 dimensions, expected"),
    "five dimensions": (gguf(infos=(info(sizes=(1,) * 5),)), "has 5 dimensions, expected 1 to 4"),
    "a size of nothing": (gguf(infos=(info(sizes=(4, 0)),)), "impossible dimensions: [4, 0]"),
    "a negative size": (gguf(infos=(info(sizes=(2**64 - 1,)),)), "impossible dimensions: ["),
    "sizes whose product is 2^64": (
        gguf(infos=(info(sizes=(2**30, 2**30, 16)),)),
        "tensor `t` has impossible dimensions: [1073741824, 1073741824, 16] (byte 33)",
    ),
    "a size beyond the file": (
        gguf(infos=(info(sizes=(2**30,)),)),
        "tensor `t` ends at byte 4,294,967,360, the file at 64 (byte 49)",
    ),
    "rows that are no whole blocks": (
        gguf(infos=(info(sizes=(48, 2), kind=8),), data=bytes(99)),
        "rows of 48, no multiple of the 32 weights that make a block of Q8_0 (byte 53)",
    ),
    "an unknown type": (gguf(infos=(info(kind=77),)), "has the unknown type 77 (byte 45)"),
    "a type without support": (gguf(infos=(info(kind=39),)), "has the type MXFP4 (byte 45)"),
    "an offset between": (
        gguf(infos=(info(offset=8),), data=bytes(64)),
        "tensor `t` lies at 8, no multiple of 32 (byte 49)",
    ),
    "an offset beyond the end": (
        gguf(infos=(info(offset=2**40),), data=bytes(64)),
        "ends at byte 1,099,511,627,856, the file at 128 (byte 49)",
    ),
    "the greatest offset": (gguf(infos=(info(offset=2**64 - 32),)), "ends at byte 18,446,744,"),
    "overlapping tensors": (
        gguf(infos=(info("a", (16,)), info("b", (4,), 0, 32)), data=bytes(64)),
        "tensor `b` overlaps `a` (byte 128)",
    ),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD.keys())
def test_a_hostile_file_is_refused_with_the_reason_and_the_byte(tmp_path, content, said) -> None:
    with pytest.raises(ConvertError) as caught:
        opened(tmp_path, content)
    message = caught.value.message
    assert message.startswith("`model.gguf` cannot be read as GGUF: ") and said in message
    assert "\n" not in message and "(byte " in message and len(message) < 300
    assert caught.value.hint


def test_a_file_that_ends_early_is_refused_wherever_it_ends(tmp_path) -> None:
    opened(tmp_path, GOOD)
    for length in range(len(GOOD)):
        with pytest.raises(ConvertError, match=r"byte [0-9,]+\)"):
            opened(tmp_path, GOOD[:length])


def test_a_file_cut_after_it_was_opened_is_refused_on_reading(tmp_path) -> None:
    reader = opened(tmp_path, GOOD)
    os.truncate(reader.files[0], len(GOOD) - 1)
    with pytest.raises(ConvertError, match=r"`model\.gguf` ends at byte [0-9,]+, expected data"):
        reader.read("matrix")


def test_a_scale_that_is_no_number_is_refused_on_reading(tmp_path) -> None:
    reader = opened(tmp_path, GOOD[:-18] + b"\x00\x7e" + GOOD[-16:])
    with pytest.raises(ConvertError, match=r"`matrix` in `model\.gguf`, at byte [0-9,]+, has a sc"):
        reader.read("matrix")


def test_tables_longer_than_one_read_are_put_together(tmp_path) -> None:
    words = [f"word {i}" for i in range(100_000)]
    long = pair("long", STRING, text("\u00e9" * 2_000_000))
    many = pair("many", ARRAY, array(STRING, len(words), b"".join(map(text, words))))
    content = gguf(long, many, infos=(info(),), data=struct.pack("<4f", 1, 2, 3, 4))
    reader = opened(tmp_path, content)
    assert reader.metadata.text("long") == "\u00e9" * 2_000_000
    assert reader.metadata.texts("many") == words
    assert reader.read("t").tolist() == [1, 2, 3, 4]


def test_tables_of_impossible_size_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("convert.readers.gguf._MAX_HEADER_BYTES", 100)
    with pytest.raises(ConvertError, match=r"its tables are larger than 100 bytes \(byte 100\)"):
        opened(tmp_path, gguf(pair("key", U32, bytes(4)), pair("k" * 49, U32, bytes(400))))


def test_the_items_of_all_arrays_count_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("convert.readers.gguf._MAX_ITEMS", 5)
    three = array(U8, 3, bytes(3))
    opened(tmp_path, gguf(pair("a", ARRAY, three)))
    with pytest.raises(ConvertError, match="`b` has 3 items, beyond 5 in all arrays"):
        opened(tmp_path, gguf(pair("a", ARRAY, three), pair("b", ARRAY, three)))


def test_what_is_no_file_is_refused(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ConvertError, match="is not a file"):
            open_gguf(path)
    with pytest.raises(ConvertError, match="cannot be read: No such file"):
        open_gguf(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda meta: meta.text("number"), "`number` is not a string"),
        (lambda meta: meta.number("text"), "`text` is not a number"),
        (lambda meta: meta.number("absent"), "`absent` is missing"),
        (lambda meta: meta.whole("float"), "`float` is 0.5, expected a whole number"),
        (lambda meta: meta.whole("truth"), "`truth` is True, expected a whole number"),
        (lambda meta: meta.numbers("texts"), "`texts` is not a list of numbers"),
        (lambda meta: meta.numbers("number"), "`number` is not a list of numbers"),
        (lambda meta: meta.texts("absent"), "`absent` is not a list of strings"),
    ],
)
def test_metadata_of_another_kind_is_refused(tmp_path, ask, said) -> None:
    pairs: dict[str, tuple[int, bytes]] = {
        "number": (U32, bytes(4)),
        "float": (F32, struct.pack("<f", 0.5)),
        "truth": (BOOL, b"\x01"),
        "text": (STRING, text("a")),
        "texts": (ARRAY, array(STRING, 1, text("a"))),
    }
    meta = opened(tmp_path, gguf(*(pair(key, *rest) for key, rest in pairs.items()))).metadata
    with pytest.raises(ConvertError) as caught:
        ask(meta)
    assert said in caught.value.message


@st.composite
def mutated(draw: Any) -> bytes:
    """The good file with a few bytes changed, dropped or put in, most of them in the tables."""
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        what = draw(st.sampled_from(["change", "drop", "insert", "number"]))
        if what == "change":
            content[at] = draw(st.integers(0, 255))
        elif what == "drop":
            del content[at : at + draw(st.integers(1, 9))]
        elif what == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            number = draw(st.sampled_from([0, 1, 2, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            content[at : at + 8] = struct.pack("<Q", number)
        if not content:
            break
    return bytes(content)


@settings(max_examples=300, deadline=None)
@given(content=mutated())
def test_any_damage_gives_a_reader_or_one_sentence(tmp_path_factory, content) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content)
    try:
        reader = open_gguf(path)
        for name, entry in reader.entries.items():
            value = reader.read(name)
            shape = value.dense().shape if isinstance(value, PackedTensor) else value.shape
            assert shape == entry.shape
    except ConvertError as error:
        assert error.message and "\n" not in error.message
