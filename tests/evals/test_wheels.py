"""Wheels that are read and not installed: pinned, and hostile all the same."""

from __future__ import annotations

import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import ChecksumError, MobileLLMError, StorageError
from mobilellm_mlx.evals import wheels
from mobilellm_mlx.evals.wheels import Wheel
from tests.evals.tiny_wheels import lines, make_wheel, packed, pin, write_wheel

ZEROS = bytes(30_000_000)


def test_texts_and_rows_are_read_packed_or_not(tmp_path: Path) -> None:
    data = lines([{"a": "é"}, {"a": 2}])
    wheel = make_wheel(tmp_path, {"d/plain.jsonl": data, "d/packed.jsonl.gz": packed(data)})
    for member in ("d/plain.jsonl", "d/packed.jsonl.gz"):
        assert wheel.text(member).encode() == data
        assert list(wheel.rows(member)) == [{"a": "é"}, {"a": 2}]
    assert wheel.read("d/packed.jsonl.gz") == packed(data)


def test_lines_end_where_json_says_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"a.jsonl": '{"a": "x\u2028y\x85z"}\r\n\n  \n{"a": 1}'.encode()})
    assert list(wheel.rows("a.jsonl")) == [{"a": "x\u2028y\x85z"}, {"a": 1}]


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    source = write_wheel(path, {"a": b"1"})
    write_wheel(path, {"a": b"2"})
    with pytest.raises(ChecksumError, match="not the file that was pinned") as caught:
        Wheel(source, path)
    assert "delete it" in str(caught.value.hint)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_wheel_that_cannot_be_opened_is_said(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "w.whl"
    source = write_wheel(path, {"a": b"1"})
    path.unlink()
    if is_folder:
        path.mkdir()
    with pytest.raises(StorageError, match=r"w\.whl` cannot be read"):
        Wheel(source, path)


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x05\x06" + b"\xff" * 18])
def test_a_pinned_file_that_is_no_archive_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.whl"
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="is no wheel"):
        Wheel(pin(path), path)


def test_what_was_verified_is_what_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "w.whl", tmp_path / "other.whl"
    wheel = Wheel(write_wheel(path, {"a": b"verified"}), path)
    write_wheel(other, {"a": b"another!"})
    other.replace(path)
    assert wheel.text("a") == "verified"


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {"a": b""})
    with pytest.raises(ChecksumError, match="the wheel of `test-data` has no `b`"):
        wheel.read("b")


def test_no_more_is_unpacked_than_the_table_says(tmp_path: Path) -> None:
    def lie(info: zipfile.ZipInfo) -> None:
        info.file_size = 100

    path = tmp_path / "w.whl"
    wheel = Wheel(write_wheel(path, {"a": ZEROS}, change=lie), path)
    tracemalloc.start()
    try:
        with pytest.raises(ChecksumError, match="`a` of `test-data` cannot be used"):
            wheel.read("a")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def claims(size: int) -> Callable[[zipfile.ZipInfo], None]:
    return lambda info: setattr(info, "file_size", size)


def locks(info: zipfile.ZipInfo) -> None:
    info.flag_bits |= 1


def wants_a_later_format(info: zipfile.ZipInfo) -> None:
    info.flag_bits |= 0x20


def packs_oddly(info: zipfile.ZipInfo) -> None:
    info.compress_type = 99


def sums_wrongly(info: zipfile.ZipInfo) -> None:
    info.CRC ^= 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (claims(500_000_000), "500,000,000 bytes"),
        (claims(12), "it is cut off"),
        (locks, "password"),
        (wants_a_later_format, "patched data"),
        (packs_oddly, "method 99"),
        (sums_wrongly, "CRC"),
    ],
)
def test_damage_is_said_with_the_name_of_the_file(
    tmp_path: Path, change: Callable[[zipfile.ZipInfo], None], why: str
) -> None:
    path = tmp_path / "w.whl"
    wheel = Wheel(write_wheel(path, {"d/a.txt": b"some text"}, change=change), path)
    for read in (wheel.read, wheel.text, lambda member: list(wheel.rows(member))):
        with pytest.raises(ChecksumError, match=r"`d/a\.txt` of `test-data` cannot be used") as e:
            read("d/a.txt")
        assert why in e.value.message


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_packing_that_knows_no_bound_is_refused(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "w.whl"
    wheel = Wheel(write_wheel(path, {"a": b"text"}, packing=packing), path)
    with pytest.raises(ChecksumError, match="packed by method"):
        wheel.read("a")


def test_bytes_that_were_changed_inside_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    write_wheel(path, {"a": os.urandom(1) * 10 + bytes(range(256)) * 40})
    for at in range(30, 60):
        data = bytearray(path.read_bytes())
        data[at] ^= 0x55
        spoiled = tmp_path / f"{at}.whl"
        spoiled.write_bytes(data)
        with pytest.raises(ChecksumError, match=r"`a` of `test-data`"):
            Wheel(pin(spoiled), spoiled).read("a")


@pytest.mark.parametrize("data", [b"", b"no gzip", packed(b"text" * 99)[:-9], packed(b"x") + b"!"])
def test_a_packed_file_that_is_damaged_is_said(tmp_path: Path, data: bytes) -> None:
    wheel = make_wheel(tmp_path, {"a.gz": data})
    if not data:  # what is empty unpacks to nothing
        assert wheel.text("a.gz") == ""
        return
    for read in (wheel.text, lambda member: list(wheel.rows(member))):
        with pytest.raises(ChecksumError, match=r"`a\.gz` of `test-data` cannot be used"):
            read("a.gz")


def test_a_packed_file_unpacks_to_no_more_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "MAX_MEMBER", 100_000)
    monkeypatch.setattr(wheels, "MAX_LINE", 30_000)
    rows = packed(b'{"a": 1}\n' * 20_000)
    wheel = make_wheel(tmp_path, {"zeros.gz": packed(ZEROS), "rows.gz": rows})
    tracemalloc.start()
    try:
        for member, why in (("zeros.gz", "100,000 bytes"), ("rows.gz", "100,000 bytes")):
            with pytest.raises(ChecksumError, match=why):
                wheel.text(member)
        for member, why in (("zeros.gz", "line 1 has more"), ("rows.gz", "100,000 bytes")):
            with pytest.raises(ChecksumError, match=why):
                for _ in wheel.rows(member):
                    pass
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"1", b"nul", b'{"a": "\xff"}', b'{"a":' * 200_000, b"\xef\xbb\xbf{}"]
)
def test_a_line_that_is_no_object_is_said_with_its_number(tmp_path: Path, line: bytes) -> None:
    wheel = make_wheel(tmp_path, {"a.jsonl": b'{"a": 1}\n\n' + line + b"\n"})
    rows = wheel.rows("a.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(ChecksumError, match=r"`a\.jsonl` of `test-data` .*line 3 is no JSON"):
        next(rows)


def test_any_byte_of_the_table_may_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    write_wheel(path, {"a": b"some text"})
    whole = path.read_bytes()
    for at in range(whole.index(b"PK\x01\x02"), len(whole)):
        data = bytearray(whole)
        data[at] ^= 0xFF
        path.write_bytes(data)
        with suppress(MobileLLMError):
            assert Wheel(pin(path), path).text("a") == "some text"


def test_a_wheel_in_the_cache_is_found_by_its_name() -> None:
    source = PackageFile("a-b", "2.0", 0, "", "", 0, "", "")
    assert wheels.wheel_path(source).name == "a-b-2.0.whl"
    wheels.wheel_path(source).parent.mkdir(parents=True)
    shutil.copy(__file__, wheels.wheel_path(source))
    assert not list(wheels.ensure_wheel(source))
    with pytest.raises(ChecksumError, match="not the file that was pinned"):
        Wheel(source)
