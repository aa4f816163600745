"""Writing a model directory so that it is either whole or not there."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.hub import sha256
from mobilellm_mlx.paths import MANIFEST

_PARTIAL = ".partial-"
_OLD = "-old"
_MAX_NAME_BYTES = 200
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
"""What disks say that have no locks: some network disks and memory cards."""


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
            alone = True
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                alone = False
        for left in parent.glob(f"{_PARTIAL}*") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        yield


def require_absent(target: Path, force: bool, sources: Iterable[Path] = ()) -> None:
    """Say early that ``target`` cannot be written.

    Args:
        target: where a model directory shall be.
        force: replace one that is there; anything else is never removed.
        sources: what is read, links followed; none of it may lie in what is replaced.

    Raises:
        StorageError: when something is in the way.
    """
    if len(os.fsencode(target.name)) > _MAX_NAME_BYTES:
        raise StorageError(
            f"the name of the result is longer than {_MAX_NAME_BYTES} bytes", "choose a shorter one"
        )
    if any(_lies_in(source, target) for source in sources):
        raise StorageError(
            f"`{target}` is where the source lies", "name another directory for the result"
        )
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink():
        if not any(target.iterdir()):
            return
        if (target / MANIFEST).is_file():
            if not force:
                raise StorageError(
                    f"`{target}` is there already", "replace it with `--force`, or name another"
                )
            _refuse_strangers(target)
            return
    raise StorageError(
        f"`{target}` is there already and is no model directory of ours, so it is not replaced",
        "name another directory for the result",
    )


def _refuse_strangers(target: Path) -> None:
    """What somebody put into a model directory is theirs, and is not removed with it."""
    try:
        own = {MANIFEST, *json.loads((target / MANIFEST).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    if strangers := sorted(path.name for path in target.iterdir() if path.name not in own):
        raise StorageError(
            f"`{target}` holds files that are not the model's: {', '.join(strangers[:3])}",
            "move them elsewhere, or name another directory for the result",
        )
    if target.samefile(Path.cwd()):
        raise StorageError(
            f"`{target}` is the current directory, which cannot be replaced", "leave it first"
        )


def _lies_in(source: Path, target: Path) -> bool:
    """Whether ``source`` is, or leads to something in, ``target``, however either is spelled."""
    if not target.exists():
        return source.resolve().is_relative_to(target.resolve())
    real = source.resolve()
    return any(place.exists() and place.samefile(target) for place in (real, *real.parents))


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
        _sweep_all(parent, prefix, target)
        made: tuple[Path, int] | None = None
        try:
            made = _make_locked(parent, prefix)
            yield made[0]
        finally:
            if made is None:  # a signal came while it was made
                _sweep_all(parent, prefix, target)
            else:
                shutil.rmtree(made[0], ignore_errors=True)
                os.close(made[1])


def _sweep_all(parent: Path, prefix: str, target: Path) -> None:
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        _sweep(left, target)


def _sweep(left: Path, target: Path) -> None:
    """Remove what a killed run left; put back what it had moved out of the way."""
    with suppress(OSError):
        descriptor = os.open(left, os.O_RDONLY)
        try:
            if not _lock(descriptor):
                return  # nobody knows whether its process lives
            whole = left.name.endswith(_OLD) and (left / MANIFEST).is_file()
            if whole and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


def _make_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new scratch directory and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # swept up by another process before it could be locked
            continue
        try:
            _lock(descriptor)
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return path, descriptor
        except (FileNotFoundError, BlockingIOError):
            pass
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take a lock; whether there is one to take.

    Raises:
        BlockingIOError: when another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


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
    if not target.exists():
        directory.rename(target)
        return
    old = directory.with_name(f"{directory.name}{_OLD}")
    lock = os.open(target, os.O_RDONLY)
    try:
        _lock(lock)  # or another process would put it back between the two renames
        target.rename(old)
        try:
            directory.rename(target)
        except BaseException:
            old.rename(target)
            raise
        # Its manifest first: what is half removed is never put back.
        (old / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


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
                "free some space, name another place, or point MOBILELLM_HOME to another disk",
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"a file at `{place}` would be larger than this account may write",
                "see `ulimit -f`, or name another disk",
            ) from error
        if isinstance(error.filename, str) and not Path(error.filename).is_relative_to(place):
            raise StorageError(
                f"`{error.filename}`: {error.strerror}", "check the path and its rights"
            ) from error
        raise StorageError(
            f"`{place}` cannot be written: {error.strerror or error}",
            "check its permissions, name another place, or point MOBILELLM_HOME elsewhere",
        ) from error
