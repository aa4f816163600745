"""Writing a model directory so that it is either whole or not there."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.hub import sha256
from mobilellm_mlx.paths import MANIFEST

_PARTIAL = ".partial-"


@contextmanager
def exclusive(parent: Path) -> Iterator[None]:
    """Let one process at a time write below ``parent``, and sweep up what killed ones left.

    Raises:
        StorageError: when ``parent`` cannot be written.
    """
    with _storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        lock = (parent / ".lock").open("w")
    with lock:
        with _storage_errors(parent):
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in parent.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def require_absent(target: Path, force: bool, source: Path | None = None) -> None:
    """Say early that ``target`` cannot be written.

    Args:
        target: where a model directory shall be.
        force: replace one that is there; anything else is never removed.
        source: what is read; it must not be what is replaced.

    Raises:
        StorageError: when something is in the way.
    """
    if source is not None and source.resolve().is_relative_to(target.resolve()):
        raise StorageError(
            f"`{target}` is where the source lies", "name another directory for the result"
        )
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink():
        if not any(target.iterdir()):
            return
        if (target / MANIFEST).is_file():
            if force:
                return
            raise StorageError(
                f"`{target}` is there already", "replace it with `--force`, or name another"
            )
    raise StorageError(
        f"`{target}` is there already and is no model directory of ours, so it is not replaced",
        "name another directory for the result",
    )


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A scratch directory beside ``target``; always removed. What killed runs left is swept up.

    Each scratch directory is locked while its process lives, so that two conversions to one target
    do not sweep up each other.

    Raises:
        StorageError: when the parent of ``target`` cannot be written.
    """
    parent, prefix = target.resolve().parent, f".{target.name}{_PARTIAL}"
    with _storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{glob.escape(prefix)}*"):
            with suppress(OSError), _locked(left):
                shutil.rmtree(left, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            with _locked(path):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock; an OSError when another process does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def working_directory(parent: Path) -> Iterator[Path]:
    """A scratch directory beside the final one, so that a rename moves it; always removed."""
    with _storage_errors(parent):
        path = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def publish(directory: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Seal a finished directory with its manifest and move it to its place.

    Args:
        directory: holds every file of the model, flat.
        target: where it shall be; an unfinished directory there is replaced.
        manifest: provenance; sizes and digests of all files are added.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.iterdir())
    }
    write_json(directory / MANIFEST, {**manifest, "files": files})
    for path in directory.iterdir():  # on the disk before the name is
        with path.open("rb") as file:
            os.fsync(file.fileno())
    directory.chmod(0o755)
    if target.exists():  # out of the way by a rename: at every moment one of the two is whole
        old = directory.with_name(f"{directory.name}-old")
        target.rename(old)
        directory.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        directory.rename(target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file for people as much as for programs."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _storage_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full at `{place}`",
                "free some space, or point MOBILELLM_HOME to another disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"`{place}` cannot be written: {error.strerror}",
                "check its permissions, or point MOBILELLM_HOME elsewhere",
            ) from error
        raise
