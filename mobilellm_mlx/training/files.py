"""Files of a training: replaced as a whole or lengthened by whole lines, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, cast

from mobilellm_mlx.errors import StorageError


def storage_error(doing: str, path: Path, error: OSError) -> StorageError:
    """What a disk refused, in a sentence; ``doing`` is a verb such as ``write``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"cannot {doing} {path}: the disk is full",
            "free some space, then go on with `mobilellm train resume`",
        )
    return StorageError(
        f"cannot {doing} {path}: {error.strerror or error}",
        "check the rights of its directory, or point MOBILELLM_HOME to another place",
    )


def write_whole(path: Path, text: str) -> None:
    """Replace a file; a crash leaves the old one or the new one.

    Raises:
        StorageError: when the disk refuses; nothing is left behind.
    """
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        scratch = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        scratch = None
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> int:
    """Lengthen a file by all of ``data`` or by nothing; its size before.

    Raises:
        StorageError: when the disk refuses.
    """
    try:
        # A link could lead to anybody's file, and a pipe would be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        raise storage_error("write", path, error) from error
    try:
        before = os.fstat(handle).st_size
        rest = memoryview(data)
        try:
            while rest:  # a disk that fills up takes a part first and refuses then
                rest = rest[os.write(handle, rest) :]
        except OSError as error:
            os.ftruncate(handle, before)
            raise storage_error("write", path, error) from error
        return before
    finally:
        os.close(handle)


def open_own(path: Path, flags: int = os.O_RDONLY, mode: str = "rb") -> IO[bytes]:
    """Open a file of a run: no link, which could lead anywhere, and no pipe to wait for.

    Raises:
        OSError: when there is none, or it is of another kind.
    """
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return cast("IO[bytes]", os.fdopen(handle, mode))


def read_bounded(path: Path, most: int) -> bytes:
    """What a small file holds.

    Raises:
        StorageError: when it cannot be read or holds more than ``most`` bytes.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise StorageError(f"there is no file {path}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise storage_error("read", path, error) from error
    if len(data) > most:
        raise StorageError(f"{path} is larger than any file of its kind ({most:,} bytes)")
    return data
