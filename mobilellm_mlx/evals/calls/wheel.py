"""The wheel of Berkeley's function-calling cases: fetched once, pinned, read, not installed."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilellm_mlx import hub, paths
from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import ChecksumError
from mobilellm_mlx.events import Event

BFCL = PackageFile(
    package="bfcl-eval",
    version="2026.3.23",
    wheel_bytes=1_925_664,
    wheel_sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    member="bfcl_eval/eval_checker/ast_eval/ast_checker.py",
    member_bytes=25_032,
    member_sha256="2aae7a68461a8f76c0be3894c8901b66b56967a1989d3ab066051e3fb97f1538",
    licence_member="bfcl_eval-2026.3.23.dist-info/METADATA",
)
"""Apache-2.0, as its metadata says."""

MAX_MEMBER = 4_000_000
"""Bytes of a file in the wheel that is read."""


def wheel_path() -> Path:
    """Where the wheel lies, or would."""
    return paths.cache_dir() / "evals" / f"{BFCL.package}-{BFCL.version}.whl"


def ensure_wheel() -> Iterator[Event]:
    """Fetch the wheel unless it is there.

    Raises:
        DownloadError: the package index does not give it.
        StorageError: no room, or no permission.
    """
    if not wheel_path().is_file():
        yield from hub.fetch_wheel(BFCL, wheel_path())


class Wheel:
    """A wheel whose bytes are those that were pinned.

    Args:
        path: of the file.

    Raises:
        ChecksumError: when it is another one, or damaged.
    """

    def __init__(self, path: Path):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != BFCL.wheel_sha256:
            raise ChecksumError(
                f"`{path}` is not the file that was pinned",
                "delete it and run again: it is then fetched anew",
            )
        self._archive = zipfile.ZipFile(io.BytesIO(data))

    def text(self, member: str) -> str:
        """A file in the wheel.

        Raises:
            ChecksumError: when there is none, or it is too large.
        """
        try:
            info = self._archive.getinfo(member)
            if info.file_size > MAX_MEMBER:
                raise ChecksumError(f"`{member}` has {info.file_size:,} bytes in the wheel")
            return self._archive.read(info).decode("utf-8")
        except (KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise ChecksumError(
                f"the wheel of `{BFCL.package}` has no `{member}`: {error}"
            ) from None

    def rows(self, member: str) -> list[dict[str, Any]]:
        """The lines of a file in the wheel as JSON."""
        return [json.loads(line) for line in self.text(member).splitlines() if line.strip()]
