"""Safetensors headers: MLX trusts them, so nothing impossible may get that far."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import WeightsError
from mobilellm_mlx.weights import load_tensors, read_safetensors_header

GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def write(path: Path, header: Any, data: bytes = bytes(64), length: int | None = None) -> Path:
    """A file of a header (JSON or raw bytes), with a header length that may be a lie."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refused(path: Path) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        mx.eval(load_tensors([path]))
    assert path.name in caught.value.message
    return caught.value


def test_a_good_file_is_read_as_it_was_written(file: Path) -> None:
    written = {"a": mx.arange(6.0).reshape(2, 3), "b": mx.array([1, 2], dtype=mx.uint32)}
    mx.save_safetensors(str(file), written, {"format": "mlx"})
    read = load_tensors([file])
    assert read.keys() == written.keys()
    assert all(mx.array_equal(read[name], written[name]) for name in written)
    assert read["b"].dtype == mx.uint32


def test_the_header_says_where_every_tensor_lies(file: Path) -> None:
    second = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [16, 28]}
    header = read_safetensors_header(write(file, {"a": GOOD, "b": second}))
    begin = file.stat().st_size - 64  # behind the header, as `write` makes it
    assert (header["a"].dtype, header["a"].shape) == ("F32", (4,))
    assert (header["b"].start, header["b"].stop) == (begin + 16, begin + 28)


@pytest.mark.parametrize("content", [b"", b"\x10", bytes(7), bytes(8), bytes(100)])
def test_a_file_without_a_header_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "truncated or damaged" in refused(file).message


@pytest.mark.parametrize("length", [1, 10**6, 10**9, 2**63, 2**64 - 1])
def test_an_impossible_header_length_is_refused(file: Path, length: int) -> None:
    assert "truncated or damaged" in refused(write(file, {"a": GOOD}, length=length)).message


def test_a_header_longer_than_any_real_one_is_refused_before_it_is_read(file: Path) -> None:
    with file.open("wb") as out:  # sparse: takes no room
        out.write(struct.pack("<Q", 100_000_001))
        out.truncate(200_000_000)
    assert "truncated or damaged" in refused(file).message


@pytest.mark.parametrize("lost", [1, 16, 48, 63, 64])
def test_a_file_that_lost_its_end_is_refused(file: Path, lost: int) -> None:
    entry = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
    whole = write(file, {"a": entry}).read_bytes()
    file.write_bytes(whole[: len(whole) - lost])
    assert "`a`" in refused(file).message


def test_every_possible_truncation_of_a_file_is_refused(file: Path) -> None:
    mx.save_safetensors(str(file), {"a": mx.arange(4.0), "b": mx.arange(3.0)})
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        refused(file)


@pytest.mark.parametrize(
    "raw", [b"[]", b'"a"', b"12", b"null", b"{", b"{}}", b"\xff\xfe\xfd", b'{"a": }', b"not json"]
)
def test_a_header_that_is_no_json_object_is_refused(file: Path, raw: bytes) -> None:
    refused(write(file, raw))


@pytest.mark.parametrize("raw", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000])
def test_a_deeply_nested_header_is_refused(file: Path, raw: bytes) -> None:
    refused(write(file, raw))


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [-16, 0]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [0, 17]},
        {"data_offsets": [0, 15]},
        {"data_offsets": [56, 72]},
        {"data_offsets": [2**63, 2**63 + 16]},
        {"data_offsets": [0.0, 16.0]},
        {"data_offsets": [False, 16]},
        {"data_offsets": ["0", "16"]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 16, 32]},
        {"data_offsets": None},
        {"data_offsets": {"0": 16}},
        {"shape": [5]},
        {"shape": [-4]},
        {"shape": [-2, -2]},
        {"shape": [2**62, 4]},
        {"shape": [4.0]},
        {"shape": [True, 4]},
        {"shape": 4},
        {"shape": "4"},
        {"shape": None},
        {"dtype": "F16"},
        {"dtype": "F64"},
        {"dtype": "F8_E4M3"},
        {"dtype": "float32"},
        {"dtype": ["F32"]},
        {"dtype": None},
    ],
    ids=str,
)
def test_an_impossible_entry_is_refused_by_its_tensors_name(
    file: Path, change: dict[str, Any]
) -> None:
    assert "`evil`" in refused(write(file, {"evil": {**GOOD, **change}})).message


@pytest.mark.parametrize("entry", [None, [], 5, "F32", {}, {"dtype": "F32"}])
def test_an_entry_that_is_no_table_is_refused(file: Path, entry: Any) -> None:
    assert "`evil`" in refused(write(file, {"evil": entry})).message


@pytest.mark.parametrize("second", [[0, 16], [12, 28], [8, 24], [15, 31]])
def test_overlapping_tensors_are_refused(file: Path, second: list[int]) -> None:
    message = refused(write(file, {"a": GOOD, "b": {**GOOD, "data_offsets": second}})).message
    assert "inside another one" in message and "at byte" in message


def test_tensors_side_by_side_are_not_overlapping(file: Path) -> None:
    write(file, {"b": {**GOOD, "data_offsets": [16, 32]}, "a": GOOD})
    assert load_tensors([file]).keys() == {"a", "b"}


def test_a_type_that_mlx_does_not_have_is_refused(file: Path) -> None:
    refused(write(file, {"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}}))


@pytest.mark.parametrize("metadata", [{"format": 5}, [1], {"a": {"b": 1}}])
def test_metadata_that_mlx_cannot_read_is_refused(file: Path, metadata: Any) -> None:
    refused(write(file, {"__metadata__": metadata, "a": GOOD}))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":NaN}}',
        json.dumps({"a": GOOD}).encode("utf-16"),
    ],
)
def test_a_header_that_only_python_can_read_is_refused(file: Path, raw: bytes) -> None:
    with pytest.raises(WeightsError):
        load_tensors([write(file, raw)])


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_safetensors_header(tmp_path / "model.safetensors")


_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "U32", "BF16", "I64", "F64", "X"]),
        "shape": st.lists(st.integers(-1, 6), max_size=3),
        "data_offsets": st.lists(st.integers(-4, 80), min_size=2, max_size=2),
    }
)


@given(st.dictionaries(st.text(max_size=4), _entries, max_size=4))
def test_any_header_is_either_refused_or_read_within_the_file(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "model.safetensors", header)
    try:
        tensors = load_tensors([path])
    except WeightsError:
        return
    mx.eval(list(tensors.values()))
    assert sum(array.nbytes for array in tensors.values()) <= 64


def test_huge_shapes_are_refused_at_once(file: Path) -> None:
    """Multiplying numbers of a hundred thousand digits would take minutes."""
    shape = [10**4000] * 200
    refused(write(file, {"evil": {"dtype": "F32", "shape": shape, "data_offsets": [0, 16]}}))


def test_a_name_listed_twice_among_many_is_found_at_once(file: Path) -> None:
    entry = json.dumps({**GOOD, "shape": [0], "data_offsets": [0, 0]})
    pairs = [f'"t{i}": {entry}' for i in range(30_000)]
    header = "{" + ", ".join([*pairs, pairs[-1]]) + "}"
    assert "listed twice" in refused(write(file, header.encode())).message
