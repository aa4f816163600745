"""Makes wheels for tests, and the pins that fit them."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.evals.wheels import Wheel


def pin(path: Path) -> PackageFile:
    """The pin of a file as it is."""
    data = path.read_bytes()
    return PackageFile(
        package="test-data",
        version="1.0",
        wheel_bytes=len(data),
        wheel_sha256=hashlib.sha256(data).hexdigest(),
        member="",
        member_bytes=0,
        member_sha256="",
        licence_member="",
    )


def write_wheel(
    path: Path,
    members: Mapping[str, bytes],
    *,
    packing: int = zipfile.ZIP_DEFLATED,
    change: Callable[[zipfile.ZipInfo], None] | None = None,
) -> PackageFile:
    """A wheel with these files.

    Args:
        path: of the wheel.
        members: by name.
        packing: of the members.
        change: spoils what the table of the archive says of each.
    """
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if change:
            for info in archive.infolist():
                change(info)  # the table is written last
    return pin(path)


def make_wheel(directory: Path, members: Mapping[str, bytes]) -> Wheel:
    """A sound wheel with these files, opened."""
    path = directory / "data.whl"
    return Wheel(write_wheel(path, members), path)


def lines(rows: Iterable[Any]) -> bytes:
    """JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def packed(data: bytes) -> bytes:
    """As a ``.gz`` file holds it; the same every day."""
    return gzip.compress(data, mtime=0)
