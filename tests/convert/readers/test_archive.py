"""The zip of torch.save: only what torch writes is believed, and every lie has its byte."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.readers.archive import read_archive
from mobilellm_mlx.errors import ConvertError
from tests.convert.readers.hostile_pickles import GOOD, Member, members_of, write_zip

GOLDEN = Path(__file__).parents[2] / "golden" / "torch"
WHOLE = write_zip(members_of(GOOD))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def refused(path: Path, data: bytes) -> ConvertError:
    path.write_bytes(data)
    with pytest.raises(ConvertError) as caught:
        read_archive(path)
    error = caught.value
    assert type(error) is ConvertError and error.hint
    assert path.name in error.message and re.search(r"\d", error.message)
    assert re.fullmatch(r"[ -~]+", error.message) and ". " not in error.message
    return error


def test_the_records_of_a_file_by_torch_are_found_where_they_lie() -> None:
    path = GOLDEN / "plain.pt"
    data = path.read_bytes()
    records = read_archive(path)
    with zipfile.ZipFile(path) as archive:
        assert [f"plain/{name}" for name in records] == archive.namelist()
        for name, record in records.items():
            value = archive.read(f"plain/{name}")
            assert data[record.offset : record.offset + record.size] == value
            assert record.crc == zlib.crc32(value)


def test_the_hand_written_zip_is_read_by_python_and_by_us(file: Path) -> None:
    file.write_bytes(WHOLE.data)
    with zipfile.ZipFile(io.BytesIO(WHOLE.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"archive/{name}" for name in read_archive(file)]


def test_a_file_zipped_again_without_compression_is_read(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", GOOD)
        archive.writestr("archive/data/0", bytes(24))
    assert read_archive(file)["data/0"].size == 24


class Pipe:
    """What cannot be written to twice at the same place."""

    data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def flush(self) -> None:
        pass


def test_sizes_behind_the_data_are_taken_from_the_directory(file: Path) -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[arg-type]
        archive.writestr("archive/data.pkl", GOOD)
    assert pipe.data[6] & 8
    file.write_bytes(pipe.data)
    assert read_archive(file)["data.pkl"].size == len(GOOD)


# Cut off


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("where", WHOLE.begins)
def test_a_file_cut_at_a_structure_is_refused(file: Path, where: str, shift: int) -> None:
    cut = WHOLE.begins[where] + shift
    if cut >= 4:
        assert f"{cut:,}" in refused(file, WHOLE.data[:cut]).message
    else:
        refused(file, WHOLE.data[: max(cut, 0)])


def test_truncations_of_a_file_by_torch_are_refused(file: Path) -> None:
    data = (GOLDEN / "no_crc.pt").read_bytes()
    for length in [*range(0, len(data), 11), *range(len(data) - 100, len(data))]:
        refused(file, data[:length])


def test_bytes_behind_the_end_are_refused(file: Path) -> None:
    assert "no zip directory ends" in refused(file, WHOLE.data + b"\0").message


# Zips that torch would not write


def _changed(number: int, **lies: object) -> list[Member]:
    members = members_of(GOOD)
    for field, value in lies.items():
        setattr(members[number], field, value)
    return members


def _deflated() -> list[Member]:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(10_000_000)) + packer.flush()
    return [*members_of(GOOD), Member("archive/data/1", bomb, method=8, size=10_000_000)]


_hidden = write_zip([Member("archive/hidden", b"x")])
HIDDEN = _hidden.data[: _hidden.begins["directory"]]
ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a zip bomb": (lambda: write_zip(_deflated()).data, "`archive/data/1` at byte"),
    "a stored member of two sizes": (
        lambda: write_zip(_changed(2, packed=10)).data, "is compressed",
    ),
    "an encrypted member": (lambda: write_zip(_changed(2, flags=1)).data, "encrypted"),
    "a patched member": (lambda: write_zip(_changed(2, flags=0x20)).data, "flags 0x820"),
    "a name that climbs": (
        lambda: write_zip(_changed(2, name="archive/../data/0")).data, "no plain path",
    ),
    "a name that begins by climbing": (
        lambda: write_zip(_changed(2, name="../data/0")).data, "no plain path",
    ),
    "an absolute name": (lambda: write_zip(_changed(2, name="/archive/0")).data, "no plain path"),
    "a name with a drive": (lambda: write_zip(_changed(2, name="C:/data/0")).data, "no plain"),
    "a name with a backslash": (
        lambda: write_zip(_changed(2, name="archive\\data/0")).data, "no plain path",
    ),
    "a name with a NUL": (
        lambda: write_zip(_changed(2, name="archive/data/0\0.txt")).data, "no plain path",
    ),
    "a name with an escape": (
        lambda: write_zip(_changed(2, name="archive/\x1b[2J")).data, "`archive/?[2J`",
    ),
    "a name with a dot": (lambda: write_zip(_changed(2, name="archive/./0")).data, "no plain"),
    "a name with nothing": (lambda: write_zip(_changed(2, name="archive//0")).data, "no plain"),
    "an empty name": (lambda: write_zip(_changed(2, name="")).data, "no plain path"),
    "a folder": (lambda: write_zip(_changed(2, name="archive/data/", data=b"")).data, "no plain"),
    "a long name": (lambda: write_zip(_changed(2, name="archive/" + "a" * 999)).data, "no plain"),
    "a member outside the folder": (
        lambda: write_zip(_changed(2, name="other/data/0")).data, "not in the folder `archive`",
    ),
    "a member at the top": (lambda: write_zip(_changed(2, name="data")).data, "no plain path"),
    "two members of one name": (
        lambda: write_zip([*members_of(GOOD), Member("archive/data/0", bytes(24))]).data,
        "name of another",
    ),
    "two data.pkl": (
        lambda: write_zip([*members_of(GOOD), Member("archive/data.pkl", GOOD)]).data,
        "name of another",
    ),
    "a data.pkl in a second folder": (
        lambda: write_zip([*members_of(GOOD), Member("evil/data.pkl", GOOD)]).data,
        "not in the folder",
    ),
    "another local name": (
        lambda: write_zip(_changed(2, local_name="archive/data/9")).data, "otherwise",
    ),
    "a longer local name": (
        lambda: write_zip(_changed(2, local_name="archive/data/0\0")).data, "otherwise",
    ),
    "another local size": (lambda: write_zip(_changed(2, local_size=20)).data, "otherwise"),
    "no local header": (lambda: write_zip(_changed(2, local_mark=b"PK\3\5")).data, "no header"),
    "members that overlap": (
        lambda: write_zip(_changed(2, size=60, packed=60)).data, "does not begin at",
    ),
    "members at the same place": (
        lambda: write_zip(_changed(2, header_at=WHOLE.begins["archive/byteorder header"])).data,
        "does not begin at",
    ),
    "a member inside another one": (
        lambda: write_zip(_changed(2, header_at=WHOLE.begins["archive/data.pkl data"])).data,
        "does not begin at",
    ),
    "a last member that reaches into the directory": (
        lambda: write_zip(_changed(-1, size=40, packed=40)).data, "into the zip directory",
    ),
    "a member of 4 GB": (
        lambda: write_zip(_changed(-1, size=2**32 - 2, packed=2**32 - 2)).data, "directory",
    ),
    "a header beyond the directory": (
        lambda: write_zip(_changed(-1, header_at=2**32 - 2)).data, "does not begin at",
    ),
    "a member that is not in the directory": (
        lambda: write_zip(members_of(GOOD), lead=HIDDEN).data, "does not begin at 0",
    ),
    "a comment": (lambda: write_zip(members_of(GOOD), comment=b"PK\5\6").data, "truncated"),
    "a wrong count": (lambda: write_zip(members_of(GOOD), count=3).data, "counts 3"),
    "a count of 65,535": (lambda: write_zip(members_of(GOOD), count=65_535).data, "65,535"),
    "no members": (lambda: b"PK\3\4" + bytes(60) + write_zip([]).data, "directory"),
    "big-endian numbers": (lambda: write_zip(_changed(1, data=b"big")).data, "order `big`"),
    "numbers in no order": (
        lambda: write_zip(_changed(1, data=b"\xff" * 99)).data, "expected `little`",
    ),
    "no data.pkl": (lambda: write_zip(members_of(GOOD)[1:]).data, "`data.pkl`"),
    "another program's zip": (
        lambda: write_zip([Member("word/document.xml", b"<x/>")]).data, "`data.pkl`",
    ),
    "TorchScript's constants": (
        lambda: write_zip([*members_of(GOOD), Member("archive/constants.pkl", b"")]).data,
        "TorchScript",
    ),
    "TorchScript's code": (
        lambda: write_zip([*members_of(GOOD), Member("archive/code/__torch__.py", b"")]).data,
        "TorchScript",
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", ODD)
def test_a_zip_that_torch_would_not_write_is_refused(label: str, file: Path) -> None:
    make, says = ODD[label]
    assert says in refused(file, make()).message


def test_the_byte_in_a_message_is_that_of_the_member(file: Path) -> None:
    error = refused(file, write_zip(_changed(2, local_name="archive/data/9")).data)
    assert f"at byte {WHOLE.begins['archive/data/0 header']:,} " in error.message


def test_a_zip_with_a_damaged_directory_is_refused(file: Path) -> None:
    at = WHOLE.begins["directory"]
    data = WHOLE.data[:at] + b"PK\0\0" + WHOLE.data[at + 4 :]
    assert f"damaged zip directory at byte {at:,}" in refused(file, data).message


def test_a_name_that_is_no_text_is_refused(file: Path) -> None:
    refused(file, WHOLE.data.replace(b"byteorder", b"byte\xffrder"))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (24, 3), (24, 2**63), (32, 3), (32, 200_000), (40, 1), (40, 2**64 - 1), (48, 0),
        (48, 2**63), (48, 2**64 - 1), (0, 0), (64, 0), (64, 2**64 - 1), (56, 0),
    ],
)  # fmt: skip
def test_a_zip64_record_that_lies_is_refused(file: Path, offset: int, value: int) -> None:
    data = bytearray((GOLDEN / "plain.pt").read_bytes())
    record = len(data) - 22 - 20 - 56
    assert data[record : record + 4] == b"PK\6\6"
    struct.pack_into("<Q", data, record + offset, value)
    refused(file, bytes(data))


def test_the_two_ends_of_a_zip64_file_must_agree(file: Path) -> None:
    data = bytearray((GOLDEN / "plain.pt").read_bytes())
    struct.pack_into("<HH", data, len(data) - 14, 3, 3)
    assert "zip64 record" in refused(file, bytes(data)).message


def test_bytes_between_the_directory_and_the_end_are_refused(file: Path) -> None:
    end = WHOLE.begins["end"]
    data = WHOLE.data[:end] + b"hidden" + WHOLE.data[end:]
    assert f"does not end at {end + 6:,}" in refused(file, data).message


def test_more_members_than_any_checkpoint_has_are_refused_before_they_are_listed(
    file: Path,
) -> None:
    data = bytearray((GOLDEN / "plain.pt").read_bytes())
    record = len(data) - 22 - 20 - 56
    struct.pack_into("<QQ", data, record + 24, 100_001, 100_001)
    struct.pack_into("<HH", data, len(data) - 14, 0xFFFF, 0xFFFF)
    assert "100,001 members" in refused(file, bytes(data)).message


# Files of other kinds


@pytest.mark.parametrize(
    ("data", "says", "advice"),
    [
        (b"", "empty", "download"),
        (bytes(4000), "zeros", "download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>", "web page", "link"),
        (b"<html><head>", "web page", "link"),
        (bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + b".", "before version 1.6", "torch.save("),
        (bytes(257).replace(b"\0", b"a") + b"ustar\0" + bytes(500), "tar archive", "torch.save("),
        (b"\x1f\x8b\x08" + bytes(90), "gzip", "gunzip"),
        (GOOD, "bare pickle", "torch.save("),
        (b"\x89HDF\r\n\x1a\n", "89 48 44 46", "safetensors"),
        (b"PK\5\6" + bytes(18), "50 4b 05 06", "safetensors"),
        (b"\x80", "begins with 80", "safetensors"),
    ],
)
def test_a_file_of_another_kind_is_named(file: Path, data: bytes, says: str, advice: str) -> None:
    error = refused(file, data)
    assert says in error.message
    assert error.hint is not None and advice in error.hint


@pytest.mark.parametrize(
    ("name", "says"), [("legacy", "before version 1.6"), ("script", "TorchScript")]
)
def test_other_kinds_of_file_that_torch_writes_are_named(name: str, says: str) -> None:
    with pytest.raises(ConvertError, match=says):
        read_archive(GOLDEN / f"refused_{name}.pt")


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.bin", tmp_path / ("a" * 300)):
        with pytest.raises(ConvertError, match="cannot be read"):
            read_archive(path)
