"""Writing a model directory so that it is either whole or not there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx
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
    if target.exists():
        shutil.rmtree(target)
    directory.chmod(0o755)
    directory.rename(target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file for people as much as for programs."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(path: Path, tensors: Mapping[str, mx.array]) -> None:
    """One safetensors file, marked as MLX's layout.

    Raises:
        StorageError: when it cannot be written; MLX does not say why.
    """
    try:
        mx.save_safetensors(str(path), dict(tensors), metadata={"format": "mlx"})
    except RuntimeError as error:
        raise StorageError(
            f"`{path.name}` cannot be written: {error}",
            "free some space, or point MOBILELLM_HOME to another disk",
        ) from error


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
