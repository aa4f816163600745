"""Files of torch.save: read bit for bit as torch wrote them, and never beyond their records."""

import os
import random
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.readers.tensors import Reader
from convert.readers.torch_file import open_torch
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from tests.convert.readers.hostile_pickles import (
    FLOATS,
    GOOD,
    ORDERED,
    PAYLOADS,
    name,
    number,
    pickled,
    storage,
    table,
    tensor,
    text,
    torch_file,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "torch"
STATE_FILES = (
    "plain.pt",
    "protocol4.pt",
    "protocol5.pt",
    "nested_model.pt",
    "nested_state_dict.pth",
)
FILES = dict.fromkeys(STATE_FILES, "state") | {
    f"{group}.pt": group for group in ("types", "parameters", "marked", "views", "no_crc")
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def expected(group: str) -> dict[str, tuple[str, np.ndarray]]:
    """Name to type and values."""
    with np.load(GOLDEN / "expected.npz") as arrays:
        keys = [key.split(":") for key in arrays.files]
        return {key[1]: (key[2], arrays[":".join(key)]) for key in keys if key[0] == group}


def raw(array: mx.array) -> bytes:
    return bytes(memoryview(array.reshape(-1).view(mx.uint8))) if array.size else b""


def opened(path: Path, pickle: bytes, records: Mapping[str, bytes] | None = None) -> Reader:
    path.write_bytes(torch_file(pickle, records))
    return open_torch(path)


def refused(path: Path, pickle: bytes, records: Mapping[str, bytes] | None = None) -> ConvertError:
    """The error of opening, or else of reading everything."""
    with pytest.raises(ConvertError) as caught:
        reader = opened(path, pickle, records)
        for tensor_name in reader.entries:
            reader.read(tensor_name)
    error = caught.value
    assert type(error) is ConvertError and error.hint
    assert re.fullmatch(r"[ -~]+", error.message) and ". " not in error.message
    assert re.search(r"byte [\d,]+|record `|tensor", error.message)
    return error


# What torch wrote


@pytest.mark.parametrize("name", FILES)
def test_a_file_by_torch_is_read_bit_for_bit(name: str) -> None:
    reader, values = open_torch(GOLDEN / name), expected(FILES[name])
    assert values and list(reader.entries) == list(values)
    assert (reader.format, reader.files) == ("pytorch", (GOLDEN / name,))
    for tensor_name, (dtype, value) in values.items():
        entry, array = reader.entries[tensor_name], reader.read(tensor_name)
        assert (entry.dtype, entry.shape) == (dtype, value.shape)
        assert array.shape == value.shape
        assert raw(array) == value.tobytes()


def test_types_arrive_as_they_are_stored() -> None:
    reader = open_torch(GOLDEN / "types.pt")
    kinds = {name: reader.read(name).dtype for name in reader.entries}
    assert kinds == {
        "f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16, "f64": mx.float32,
        "i64": mx.int64, "i32": mx.int32, "i16": mx.int16, "i8": mx.int8, "u8": mx.uint8,
        "u16": mx.uint16, "bool": mx.bool_,
    }  # fmt: skip
    assert reader.notices == ("float64 is read as float32 (1 of 11 tensors)",)


def test_tied_views_and_they_alone_have_one_location() -> None:
    entries = open_torch(GOLDEN / "views.pt").entries
    places: dict[object, list[str]] = {}
    for entry in entries.values():
        if entry.size:
            places.setdefault(entry.location, []).append(entry.name)
    assert [names for names in places.values() if len(names) > 1] == [
        ["base", "tied", "tied_again"]
    ]


def test_a_view_counts_the_bytes_it_spans() -> None:
    entries = open_torch(GOLDEN / "views.pt").entries
    spans = {"base": 96, "rows": 48, "column": 76, "expanded": 8, "scalar_inside": 4, "empty": 0}
    assert {name: entries[name].nbytes for name in spans} == spans


def test_what_stands_beside_the_weights_is_left_out() -> None:
    reader = open_torch(GOLDEN / "nested_model.pt")
    assert set(reader.entries) == set(expected("state"))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("whole_model", "`torch.nn.modules.linear.Linear`"), ("quantized", "_rebuild_qtensor"),
        ("sparse", "_rebuild_sparse_tensor"), ("meta", "_rebuild_meta_tensor"),
        ("attribute", "_rebuild_from_type_v2"), ("numpy", "`numpy."), ("negated", "negated"),
    ],
)  # fmt: skip
def test_what_torch_writes_beyond_plain_tensors_is_refused(kind: str, says: str) -> None:
    with pytest.raises(ConvertError, match=re.escape(says)):
        open_torch(GOLDEN / f"refused_{kind}.pt")


def test_types_without_a_place_in_mlx_are_listed_and_refused_when_read() -> None:
    reader = open_torch(GOLDEN / "unreadable_types.pt")
    assert raw(reader.read("w")) == struct.pack("<4f", 0, 1, 2, 3)
    for dtype in ("complex64", "float8_e4m3fn"):
        assert reader.entries[dtype].dtype == dtype
        with pytest.raises(ConvertError, match=f"unsupported type {dtype}"):
            reader.read(dtype)


# Where the table is


def test_a_table_by_itself_or_under_a_usual_name_is_found(file: Path) -> None:
    state = table(w=tensor())
    for value in (
        state, table(model=state), table(state_dict=state, epoch=number(3)),
        table(model_state_dict=state), table(rng=tensor((6,), (1,)), model=state),
        table(model=state + b"q\0", state_dict=b"h\0"),
    ):  # fmt: skip
        assert list(opened(file, pickled(value)).entries) == ["w"]


@pytest.mark.parametrize(
    "value",
    [b"N", b"}", b"]", tensor(), table(a=number(1)), b"]" + table(w=tensor()) + b"a",
     table(weights=table(w=tensor())), table(model=number(1)), storage(), ORDERED],
)  # fmt: skip
def test_a_file_without_tensors_by_name_is_refused(file: Path, value: bytes) -> None:
    assert "no tensors by name" in _message(file, pickled(value))


def _message(path: Path, pickle: bytes) -> str:
    with pytest.raises(ConvertError) as caught:
        opened(path, pickle)
    assert caught.value.hint
    return caught.value.message


def test_two_tables_are_refused(file: Path) -> None:
    both = table(model=table(w=tensor()), state_dict=table(w=tensor()))
    assert "`model` and `state_dict`" in _message(file, pickled(both))


def test_the_prefix_of_a_wrapper_is_taken_off(file: Path) -> None:
    state = b"}(" + text("module.a.weight") + tensor() + text("n") + tensor() + b"u"
    assert list(opened(file, pickled(state)).entries) == ["a.weight", "n"]


def test_names_that_become_one_without_their_prefix_are_refused(file: Path) -> None:
    state = b"}(" + text("module.a") + tensor() + text("a") + tensor() + b"u"
    assert "`a` twice" in _message(file, pickled(state))


@pytest.mark.parametrize(
    "key", [text(""), text("a\nb"), text("\x1b[2J"), text("x" * 600), number(5)]
)
def test_a_tensor_with_an_impossible_name_is_refused(file: Path, key: bytes) -> None:
    assert "no name of a weight" in _message(file, pickled(b"}" + key + tensor() + b"s"))


def test_values_that_are_no_tensors_are_mentioned(file: Path) -> None:
    reader = opened(file, pickled(table(w=tensor(), note=text("x"))))
    assert reader.notices == ("values that are no tensors are left out (1 of 2)",)


# Hostile files


@pytest.mark.parametrize("label", PAYLOADS)
def test_a_file_that_would_run_something_is_refused_at_its_byte(
    label: str, file: Path, tmp_path: Path
) -> None:
    make, says = PAYLOADS[label]
    canary = tmp_path / "harm"
    pickle = make(str(canary))
    message = refused(file, pickle).message
    assert says in message and not canary.exists()
    at = int(message.rpartition("byte ")[2].replace(",", ""))
    opcode = file.read_bytes()[at : at + 1]
    assert opcode in (b"c", b"\x93", b"i", b"\x82", b"\x83", b"\x84")
    assert at >= file.read_bytes().index(pickle)


VIEWS: dict[str, tuple[bytes, str]] = {
    "a storage that claims more": (tensor(source=storage(7)), "expects 28 bytes"),
    "a storage that claims less": (tensor((1,), (1,), source=storage(5)), "expects 20 bytes"),
    "a storage that claims 2**61": (tensor(source=storage(2**61)), "expects 9,223,372"),
    "a storage of another type": (
        tensor(source=storage(6, kind=name("torch", "DoubleStorage"))), "expects 48 bytes",
    ),
    "a missing record": (tensor(source=storage(key="1")), "`data/1`, which is missing"),
    "a record outside": (tensor(source=storage(key="../data.pkl")), "which is missing"),
    "a record with an odd name": (tensor(source=storage(key="\x1b[2J")), "`data/?[2J`"),
    "one element too many": (tensor((7,), (1,)), "reaches to byte 28"),
    "an offset beyond": (tensor((1,), (1,), 6), "reaches to byte 28"),
    "an offset of 2**62": (tensor((1,), (1,), 2**62), "reaches to byte"),
    "a stride too long": (tensor((2, 3), (4, 1)), "reaches to byte 28"),
    "a stride of 2**63": (tensor((2,), (2**63,)), "reaches to byte"),
    "a shape whose product overflows": (tensor((2**31 - 1,) * 3, (1, 1, 1)), "reaches to byte"),
    "a shape whose product is 0 mod 2**64": (tensor((2**22,) * 3, (0, 0, 1)), "reaches"),
    "an expanded monster": (tensor((2**31 - 1,) * 8, (0,) * 8), "repeats 1 values"),
    "an expanded view": (tensor((10**6,), (0,)), "repeats 1 values"),
    "bytes as another type": (
        tensor(
            (4,), (1,), function=name("torch._utils", "_rebuild_tensor_v3"),
            source=storage(24, kind=name("torch", "UntypedStorage")),
            extras=(b"\x89", ORDERED, name("torch", "float64")),
        ),
        "reaches to byte 32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", VIEWS)
def test_a_view_that_does_not_fit_its_record_is_refused_before_it_is_read(
    label: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, says = VIEWS[label]
    real, touched = os.preadv, []

    def watched(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        touched.append(offset)
        return int(real(descriptor, buffers, offset))

    monkeypatch.setattr("os.preadv", watched)
    error = refused(file, pickled(table(evil=value)))
    assert says in error.message and "tensor `evil`" in error.message
    assert touched and file.read_bytes().index(FLOATS) not in touched


def test_sizes_of_one_may_have_any_stride(file: Path) -> None:
    reader = opened(file, pickled(table(w=tensor((1, 6, 1), (2**90, 1, 2**80)))))
    assert reader.read("w").tolist() == [[[float(i)] for i in range(6)]]


def test_a_size_of_one_may_have_any_stride_in_a_view_that_is_not_contiguous(file: Path) -> None:
    reader = opened(file, pickled(table(w=tensor((3, 1, 2), (1, 2**90, 3)))))
    assert reader.read("w").tolist() == [[[0.0, 3.0]], [[1.0, 4.0]], [[2.0, 5.0]]]


def test_a_view_of_nothing_may_have_any_offset(file: Path) -> None:
    reader = opened(file, pickled(table(w=tensor((0, 3), (3, 1), 2**70))))
    assert reader.read("w").shape == (0, 3)


def test_a_small_view_may_repeat_one_value(file: Path) -> None:
    reader = opened(file, pickled(table(w=tensor((100, 50), (0, 0), 5))))
    assert mx.array_equal(reader.read("w"), mx.full((100, 50), 5.0))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((6,), (1,), 0), ((2, 3), (2, 1), 1), ((3, 2), (1, 3), 0)]
)
def test_views_are_read_as_numpy_reads_them(
    file: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    values = np.arange(6, dtype=np.float32)[offset:]
    view = np.lib.stride_tricks.as_strided(values, shape, [4 * stride for stride in strides])
    reader = opened(file, pickled(table(w=tensor(shape, strides, offset))))
    assert np.array_equal(np.array(reader.read("w")), view)


@pytest.mark.parametrize("kind", ["plain", "views", "protocol4"])
def test_a_flipped_bit_in_a_record_is_noticed(kind: str, file: Path) -> None:
    source = GOLDEN / f"{kind}.pt"
    first = next(iter(open_torch(source).entries.values()))
    data = bytearray(source.read_bytes())
    assert isinstance(first.location, tuple)
    data[first.location[1]] ^= 1
    file.write_bytes(data)
    reader = open_torch(file)
    with pytest.raises(ConvertError, match=r"`data/0` .* at byte [\d,]+ is damaged: its CRC-32"):
        reader.read(first.name)


def test_a_flipped_bit_in_the_pickle_is_noticed(file: Path) -> None:
    data = bytearray((GOLDEN / "plain.pt").read_bytes())
    data[data.index(b"0.weight")] ^= 1
    file.write_bytes(data)
    with pytest.raises(ConvertError, match=r"`data\.pkl` .* is damaged"):
        open_torch(file)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(file: Path) -> None:
    reader = opened(file, GOOD)
    file.write_bytes(b"")
    with pytest.raises(ConvertError, match="ends at byte"):
        reader.read("w")


def test_a_pickle_that_is_too_large_is_refused_unread(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.readers.torch_file.MAX_BYTES", len(GOOD) - 1)
    monkeypatch.setattr("convert.readers.torch_file.unpickle", None)
    assert f"has {len(GOOD)} bytes" in refused(file, GOOD).message


SEEDS = [(GOLDEN / f"{name}.pt").read_bytes() for name in ("plain", "protocol4", "views", "no_crc")]


@settings(max_examples=150)
@given(
    seed=st.sampled_from(range(len(SEEDS))),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.floats(0, 1),
)
def test_random_bytes_in_a_file_give_values_or_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    edits: list[tuple[float, int]],
    cut: float | None,
) -> None:
    data = bytearray(SEEDS[seed])
    for where, value in edits:
        data[int(where * len(data))] = value
    _read_all(tmp_path_factory.getbasetemp() / "mutant.bin", bytes(data[: _cut(data, cut)]))


def _cut(data: bytearray, cut: float | None) -> int:
    return len(data) if cut is None else int(cut * len(data))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_random_bytes_in_a_pickle_whose_checksum_is_right_do_so_too(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    pickle = bytearray(pickled(table(a=tensor(), b=tensor((3, 2), (1, 3)), n=number(2**40)), 4))
    for _ in range(rng.randint(1, 4)):
        pickle[rng.randrange(len(pickle))] = rng.choice(
            [rng.randrange(256), *b"(tR}]uscq0h.\x85\x94"]
        )
    _read_all(tmp_path_factory.getbasetemp() / "mutant.bin", torch_file(bytes(pickle)))


def _read_all(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        reader = open_torch(path)
        for tensor_name, entry in reader.entries.items():
            array = reader.read(tensor_name)
            assert isinstance(array, mx.array) and array.shape == entry.shape
    except ConvertError as error:
        assert type(error) is ConvertError and "\n" not in error.message
