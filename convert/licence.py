"""Under which licence a checkpoint comes, carried into what is made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_MAX_BYTES = 1_000_000
_FRONT_MATTER = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"^(license|license_name|license_link)\s*:\s*(.+?)\s*$", re.MULTILINE)
_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "license*")


@dataclass(frozen=True, slots=True)
class Licence:
    """What a checkpoint's directory says about its use."""

    name: str | None
    """As its model card has it, such as ``apache-2.0``; None when it says nothing."""
    files: tuple[Path, ...] = ()
    """Licence texts, to be carried along."""


def find_licence(directory: Path) -> Licence:
    """The licence of a checkpoint, by its model card and its files."""
    files = {
        path.name: path
        for pattern in _FILES
        for path in sorted(directory.glob(pattern))
        if path.suffix not in (".py", ".json") and _is_own(directory, path) and _is_small(path)
    }
    return Licence(_card_licence(directory / "README.md"), tuple(files.values()))


def card_licence(text: str) -> str | None:
    """The licence that a model card's front matter names."""
    matter = _FRONT_MATTER.match(text)
    if not matter:
        return None
    fields = {key: value.strip("'\"") for key, value in _FIELD.findall(matter[1])}
    name = fields.get("license")
    if name == "other":
        name = fields.get("license_name", name)
    return name[:80] if name else None


def _card_licence(path: Path) -> str | None:
    try:
        if not _is_own(path.parent, path) or not _is_small(path):
            return None
        return card_licence(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _is_own(directory: Path, path: Path) -> bool:
    """Whether it is a file of the checkpoint: a link to somebody's own files is not followed.

    The files of a Hugging Face cache are links into its store of blobs.
    """
    if not path.is_file():  # a link to itself among them, which `resolve` would raise for
        return False
    home, real = directory.resolve(), path.resolve()
    roots = [home, *([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])]
    return any(real.is_relative_to(root) for root in roots)


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= _MAX_BYTES
