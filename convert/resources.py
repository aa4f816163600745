"""What a conversion does to the process it runs in: a thread that hashes, a small cache, memory."""

from __future__ import annotations

import hashlib
import resource
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mobilellm_mlx.backend import mx

_BLOCK_BYTES = 8 << 20
_CACHE_BYTES = 64_000_000
"""What MLX may keep of freed buffers: tensors differ in size, so little of it is used again."""


@contextmanager
def hashing(files: Iterable[Path], known: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """SHA-256 of files by their names, computed beside the work that goes on; complete at the end.

    Args:
        files: to be hashed.
        known: digests that were computed before.
    """
    digests: dict[str, str] = {}
    stopped = threading.Event()

    def run() -> None:
        for path in files:
            if path.name in known:
                digests[path.name] = known[path.name]
            else:
                with suppress(OSError, _Stopped):  # what cannot be read is said where it is used
                    digests[path.name] = _sha256(path, stopped)

    thread = threading.Thread(target=run, name="hash", daemon=True)
    thread.start()
    try:
        yield digests
    except BaseException:
        stopped.set()
        raise
    thread.join()


class _Stopped(Exception):
    """The conversion ended early."""


def _sha256(path: Path, stopped: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if stopped.is_set():
                raise _Stopped
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def small_cache() -> Iterator[None]:
    """Let MLX keep little of what it has freed."""
    before = mx.set_cache_limit(_CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def peak_memory_bytes() -> int:
    """The most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
