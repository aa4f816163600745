"""Where built kernels lie: under a name made of everything that they depend on.

So another MLX, another Python or other sources never load them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.paths import cache_dir

SOURCES = Path(__file__).parent / "src"
FILE = "_kernels.so"
LENGTH = "length"
"""The file that says how long it is: loading a part of a library ends the program."""


def directory() -> Path:
    """Where kernels of these sources, for this MLX and this Python, are kept."""
    said = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        said.update(f"{path.name}\n".encode() + path.read_bytes())
    version = mx.__version__  # type: ignore[attr-defined]
    said.update(f"{version} {EXTENSION_SUFFIXES[0]}".encode())  # which names Python and processor
    return cache_dir() / "kernels" / said.hexdigest()[:16]


def find() -> Path | None:
    """The kernels, if they are built and whole."""
    path = directory() / FILE
    try:
        length = int((path.parent / LENGTH).read_text("ascii"))
        return path if path.stat().st_size == length else None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def require_own(path: Path) -> None:
    """Refuse what somebody else could have written: it would run as us.

    Raises:
        MobileLLMError: when it, or its directory, is another's or open to others.
    """
    for place in (path, path.parent):
        status = place.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise MobileLLMError(
                f"`{place}` belongs to somebody else or can be written by others",
                "remove it and build it again with `mobilellm kernels --build`",
            )


def remove() -> bool:
    """Delete what was built; whether there was any."""
    place = cache_dir() / "kernels"
    was_there = place.is_dir()
    shutil.rmtree(place, ignore_errors=True)
    return was_there
