"""Under which licence a checkpoint comes, carried into what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx.huggingface import readme_licence

from .files import is_own

_MAX_BYTES = 1_000_000
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
        if _is_text(directory, path)
    }
    return Licence(_card_licence(directory), tuple(files.values()))


def _card_licence(directory: Path) -> str | None:
    path = directory / "README.md"
    try:
        if not is_own(directory, path) or path.stat().st_size > _MAX_BYTES:
            return None
        return readme_licence(path.read_bytes())
    except OSError:
        return None


def _is_text(directory: Path, path: Path) -> bool:
    """Whether it is a licence to carry along: small, ours to copy, with a name that can be kept."""
    named = path.name.isprintable() and path.suffix not in (".py", ".json")
    return named and is_own(directory, path) and path.stat().st_size <= _MAX_BYTES
