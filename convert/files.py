"""Which files of a directory are its own."""

from __future__ import annotations

import os
from pathlib import Path


def is_own(directory: Path, path: Path) -> bool:
    """Whether ``path`` is a regular file of the checkpoint in ``directory``.

    A link to somebody's other files is not: they would be copied into a model that may be
    published. The files of a Hugging Face cache are links into its store of blobs, and what that
    store holds is the cache's own business.
    """
    try:
        if not path.is_file():
            return False
        home, real = directory.resolve(), path.resolve()
        if real.is_relative_to(home):
            return True
        if home.parent.name != "snapshots" or not path.is_symlink():
            return False
        leads_to = Path(os.path.normpath(home / path.readlink()))
        return leads_to.is_relative_to(home.parent.parent / "blobs")
    except (OSError, RuntimeError):  # a link to itself was a RuntimeError until 3.13
        return False


def display_name(path: Path) -> str:
    """What to call the checkpoint at ``path``; never a commit's hash, never unprintable."""
    path = path.resolve()
    name = path.name
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        name = path.parent.parent.name.rpartition("--")[2]
    return "".join(sign if sign.isprintable() else "?" for sign in name)[:100]
