"""The zip archive that ``torch.save`` writes, checked member by member.

torch stores its records uncompressed, in one folder, one behind the other, the first at byte 0.
Whatever else zip allows is refused. So a record is a range of the file, no two share a byte, and
nothing can come out larger than it lies there.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mobilellm_mlx.errors import ConvertError

from .tensors import read_bytes

_MAX_MEMBERS = 100_000
_MAX_DIRECTORY_BYTES = 32_000_000
_MAX_NAME = 512

_END = struct.Struct("<4s4HIIH")
_WIDE_LOCATOR = struct.Struct("<4sIQI")
_WIDE_END = struct.Struct("<4sQ2H2I4Q")
_LOCAL = struct.Struct("<4s5H3I2H")
_HARMLESS_FLAGS = 0x80E  # sizes behind the data, a name in UTF-8, and how well it was deflated
_SIZES_BEHIND = 0x8
_UTF8 = 0x800
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

SAVE_AGAIN = (
    "save it again with a recent torch, `torch.save(model.state_dict(), path)`, or use safetensors"
)
DOWNLOAD_AGAIN = "download the file again, completely"
_NEVER_LIKE_THIS = (
    "`torch.save` writes no such file: do not trust it, and ask for safetensors instead"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One member of the archive."""

    name: str
    """Without the archive's folder, such as ``data/0``."""
    offset: int
    """Byte of the file at which its data begins."""
    size: int
    crc: int
    """CRC-32 of the data; 0 where it was saved without."""


def shown(text: str, most: int = 80) -> str:
    """Text out of a foreign file for a message: printable ASCII, and not too much of it."""
    plain = "".join(sign if " " <= sign <= "~" and sign != "`" else "?" for sign in text[:most])
    return plain + ("..." if len(text) > most else "")


def read_archive(path: Path) -> dict[str, Record]:
    """The records of a file of ``torch.save`` by name; ``data.pkl`` is among them.

    Raises:
        ConvertError: when it is another kind of file, or a zip that torch would not write.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(1024)
            if not start.startswith(b"PK\3\4"):
                raise _another_kind(path, start)
            records = _read_records(path, file, size)
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error.strerror or error}") from error
    _check_records(path, records)
    return records


def check_crc(path: Path, record: Record, data: memoryview) -> None:
    """Compare a whole record with the checksum that was saved with it.

    Raises:
        ConvertError: when they differ.
    """
    if record.crc and zlib.crc32(data) != record.crc:
        raise ConvertError(
            f"record `{record.name}` of `{path.name}` at byte {record.offset:,} is damaged: its "
            f"CRC-32 is {zlib.crc32(data):08x}, expected {record.crc:08x}",
            DOWNLOAD_AGAIN,
        )


def _read_records(path: Path, file: BinaryIO, size: int) -> dict[str, Record]:
    count, start = _find_directory(path, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members, found = archive.infolist(), archive.start_dir
    except (
        zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError, EOFError
    ) as error:  # fmt: skip
        raise ConvertError(
            f"`{path.name}` has a damaged zip directory at byte {start:,}: {shown(str(error))}",
            DOWNLOAD_AGAIN,
        ) from error
    if found != start or len(members) != count:
        raise ConvertError(
            f"`{path.name}` has {len(members):,} members in its zip directory at byte {start:,}, "
            f"but its end counts {count:,}",
            DOWNLOAD_AGAIN,
        )
    _refuse_programs(path, members)
    return _check_members(path, members, start)


def _refuse_programs(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """TorchScript archives; said before anything else that is odd about them."""
    for member in members:
        if member.orig_filename.split("/")[1:2] in (["code"], ["constants.pkl"]):
            raise ConvertError(
                f"`{path.name}` is a TorchScript archive: it holds a program beside the weights, "
                f"`{shown(member.orig_filename)}` at byte {member.header_offset:,}",
                "load it with `torch.jit.load` and save the weights alone, "
                "`torch.save(module.state_dict(), path)`",
            )


def _check_members(path: Path, members: list[zipfile.ZipInfo], start: int) -> dict[str, Record]:
    """The records, none of which shares a byte with another or with the directory at ``start``."""
    records: dict[str, Record] = {}
    end, folder = 0, ""
    for member in sorted(members, key=lambda member: member.header_offset):
        at = member.header_offset
        what = f"member `{shown(member.orig_filename)}` at byte {at:,}"
        if not end <= at <= start - _LOCAL.size or (not records and at):
            raise _odd(
                path, what, f"does not begin at {end:,}, where the one before ends, or later"
            )
        top, name = _split_name(path, member)
        folder = folder or top
        if top != folder:
            raise _odd(path, what, f"is not in the folder `{shown(folder)}` like the others")
        if name in records:
            raise _odd(path, what, "has the name of another one")
        records[name] = _locate(path, member, name)
        end = records[name].offset + records[name].size
        if end > start:
            raise _odd(path, what, f"reaches to {end:,}, into the zip directory at {start:,}")
    return records


def _find_directory(path: Path, size: int) -> tuple[int, int]:
    """Number of members and first byte of the zip's central directory.

    It is looked for where torch puts it, against the end of the file, and nowhere else.
    """
    end = size - _END.size
    if end < 0:
        raise _truncated(path, size)
    mark, *disks, here, count, length, start, comment = _unpack(path, _END, end)
    if mark != b"PK\5\6" or comment or any(disks) or here != count:
        raise _truncated(path, size)
    wide = end - _WIDE_LOCATOR.size - _WIDE_END.size
    if wide >= 0 and _unpack(path, _WIDE_LOCATOR, end - _WIDE_LOCATOR.size)[0] == b"PK\6\7":
        count, length, start = _read_wide_end(path, wide, (count, length, start))
        end = wide
    what = f"the zip directory at byte {start:,}"
    if start + length != end:
        raise _odd(path, what, f"does not end at {end:,} as it should")
    if count > _MAX_MEMBERS or length > _MAX_DIRECTORY_BYTES:
        why = f"has {count:,} members in {length:,} bytes; {_MAX_MEMBERS:,} are read at most"
        raise _odd(path, what, why)
    return count, start


def _read_wide_end(path: Path, at: int, narrow: tuple[int, int, int]) -> tuple[int, int, int]:
    """The zip64 record's members, length and start, which repeat the narrow ones that fit."""
    _, disk, place, _ = _unpack(path, _WIDE_LOCATOR, at + _WIDE_END.size)
    mark, _, _, _, *disks, here, count, length, start = _unpack(path, _WIDE_END, at)
    same = all(
        small in (large, full)
        for small, large, full in zip(
            narrow, (count, length, start), (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True
        )
    )
    if mark != b"PK\6\6" or place != at or here != count or disk or any(disks) or not same:
        raise _odd(path, f"the zip64 record at byte {at:,}", "does not fit the file")
    return count, length, start


def _split_name(path: Path, member: zipfile.ZipInfo) -> tuple[str, str]:
    """The folder at the top, and the rest of a member's name."""
    name = member.orig_filename  # `filename` is cut at a NUL and has its separators changed
    parts = name.split("/")
    drive = len(parts[0]) == 2 and parts[0][1] == ":"
    bad = drive or len(parts) < 2 or any(part in ("", ".", "..") for part in parts)
    if bad or len(name) > _MAX_NAME or "\\" in name or not name.isprintable():
        raise _odd(
            path,
            f"member `{shown(name)}` at byte {member.header_offset:,}",
            "has a name that is no plain path in a folder",
        )
    top, _, rest = name.partition("/")
    return top, rest


def _locate(path: Path, member: zipfile.ZipInfo, name: str) -> Record:
    """Where a member's data lies, by its local header, which must say what the directory says."""
    at = member.header_offset
    what = f"member `{shown(member.orig_filename)}` at byte {at:,}"
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise _odd(path, what, "is compressed")
    if member.flag_bits & ~_HARMLESS_FLAGS:
        raise _odd(path, what, f"is encrypted or of a rare kind (flags {member.flag_bits:#x})")
    mark, _, flags, method, _, _, crc, packed, size, letters, extra = _unpack(path, _LOCAL, at)
    if mark != b"PK\3\4":
        raise _odd(path, what, "has no header there")
    raw = read_bytes(path, at + _LOCAL.size, letters)
    encoding = "utf-8" if member.flag_bits & _UTF8 else "cp437"
    given = {packed, size} - {0xFFFFFFFF}  # then a zip64 field has it
    if flags & _SIZES_BEHIND:
        given -= {0}
    same_crc = crc == member.CRC or (flags & _SIZES_BEHIND and crc == 0)
    if (
        bytes(raw) != member.orig_filename.encode(encoding)
        or (flags, method) != (member.flag_bits, member.compress_type)
        or given - {member.file_size}
        or not same_crc
    ):
        raise _odd(path, what, "is described otherwise in the zip directory")
    return Record(name, at + _LOCAL.size + letters + extra, member.file_size, member.CRC)


def _unpack(path: Path, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
    return layout.unpack(read_bytes(path, offset, layout.size))


def _check_records(path: Path, records: Mapping[str, Record]) -> None:
    if "data.pkl" not in records:
        raise ConvertError(
            f"`{path.name}` is a zip of {len(records):,} members without the record `data.pkl`, so "
            "not one of `torch.save`",
            "name the weight file itself, or unpack the zip first",
        )
    if (order := records.get("byteorder")) is not None:
        value = bytes(read_bytes(path, order.offset, min(order.size, 16)))
        if value != b"little":
            raise ConvertError(
                f"`{path.name}` has the byte order `{shown(value.decode('latin-1'))}` in its "
                f"record `byteorder` at byte {order.offset:,}, expected `little`",
                "save it again on a little-endian machine (any PC or Mac), or use safetensors",
            )


def _another_kind(path: Path, start: bytes) -> ConvertError:
    """What a file is that does not begin like a zip."""
    if not start.strip(b"\0"):
        what = "begins with zeros at byte 0" if start else "is empty: it ends at byte 0"
        return ConvertError(f"`{path.name}` {what}", DOWNLOAD_AGAIN)
    text = start.lstrip().lower()
    kinds = (
        (
            text.startswith(b"version https://git-lfs"),
            "is a Git LFS pointer, not the file it stands for",
            "run `git lfs pull` in the repository, or download the file itself",
        ),
        (
            text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")),
            "is a web page, not a weight file",
            "use the link that downloads the file, not the page that shows it",
        ),
        (
            _LEGACY_MAGIC in start[:32],
            "has the format that torch wrote before version 1.6",
            SAVE_AGAIN,
        ),
        (
            start[257:262] == b"ustar",
            "is a tar archive, as very old versions of torch wrote",
            SAVE_AGAIN,
        ),
        (start.startswith(b"\x1f\x8b"), "is packed with gzip", "unpack it first with `gunzip`"),
        (
            start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5"),
            "is a bare pickle, not a file of `torch.save`",
            SAVE_AGAIN,
        ),
    )
    for found, what, hint in kinds:
        if found:
            return ConvertError(f"`{path.name}` {what} (byte 0)", hint)
    return ConvertError(
        f"`{path.name}` is not a file of `torch.save`: it begins with {start[:8].hex(' ')} at "
        "byte 0",
        "weights are read from safetensors, GGUF and `torch.save` files",
    )


def _truncated(path: Path, size: int) -> ConvertError:
    return ConvertError(
        f"`{path.name}` is truncated or damaged: no zip directory ends at its last byte, {size:,}",
        DOWNLOAD_AGAIN,
    )


def _odd(path: Path, what: str, why: str) -> ConvertError:
    return ConvertError(f"in `{path.name}` {what} {why}", _NEVER_LIKE_THIS)
