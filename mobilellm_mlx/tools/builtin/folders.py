"""The folders that a person granted, and the only way into them.

A path is judged twice. First its real place, with every link followed, must lie below a granted
folder and have no hidden or private part. Then it is opened step by step from that folder down, and
no step may be a link: what was exchanged for one since it was judged does not open. A hard link to
a file elsewhere is a file of this folder like any other; only its owner can have made one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable

MAX_DEPTH = 5
MAX_ENTRIES = 5_000
MAX_WALK_S = 0.5
MAX_NAME = 300
PRIVATE = frozenset(
    {
        *("node_modules", "__pycache__", "venv", "site-packages"),  # not the person's own words
        *("keychains", "credentials", "secrets", "private keys"),
        *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    }
)
PRIVATE_ENDS = (
    *(".pem", ".key", ".p12", ".pfx", ".keychain", ".keychain-db", ".kdbx", ".gpg", ".asc"),
    *(".env", ".ovpn", ".jks", ".agilekeychain", ".1pux"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Something below a granted folder.

    Attributes:
        root: the granted folder, with no links in it.
        parts: the way down from it, with no links in it either.
        label: how it is called: the folder's name and the way down.
    """

    root: Path
    parts: tuple[str, ...]
    label: str

    @property
    def path(self) -> Path:
        return self.root.joinpath(*self.parts)


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk met: a file or a folder, never a link or a device."""

    place: Place
    is_folder: bool
    size_bytes: int = 0
    changed_at: float = 0.0


@dataclass
class Folders:
    """Granted folders by the names that they are called by."""

    granted: Sequence[Path]
    home: Path
    names: dict[str, Path] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {}
        for folder in self.granted:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                root = Path(folder).expanduser().resolve(strict=True)
                if root.is_dir() and root not in self.names.values():
                    self.names[self._name_for(root)] = root

    def _name_for(self, root: Path) -> str:
        name = printable(root.name) or "disk"
        return name if name not in self.names else self._from_home(root)

    def _from_home(self, root: Path) -> str:
        """With the way from home, for a second folder of the same name."""
        with contextlib.suppress(ValueError, OSError):
            return "~/" + root.relative_to(self.home.resolve()).as_posix()
        return root.as_posix()

    def find(self, text: str) -> Place:
        """The place that a path means: beginning with a folder's name, with / or with ~.

        Raises:
            ToolError: when there is nothing, or nothing that may be seen.
        """
        shown = printable(text)[:100]
        if not self.names:
            raise ToolError("no folder is granted", HOW_TO_GRANT)
        if "\0" in text or printable(text) != text or len(text) > 4_000:
            raise ToolError(f"`{shown}` is not a path")
        for name, root, path in self._meant(text.strip()):
            try:
                real = path.resolve(strict=True)
            except (OSError, RuntimeError, ValueError):
                continue
            if not real.is_relative_to(root):
                continue
            parts = real.relative_to(root).parts
            if self._is_private(root, parts):
                raise ToolError(f"`{shown}` is hidden or private")
            return Place(root, parts, "/".join((name, *parts)))
        # Whether it exists elsewhere is not said.
        raise ToolError(
            f"there is no `{shown}` in the folders that are granted",
            f"these are {', '.join(self.names)}",
        )

    def _meant(self, text: str) -> Iterator[tuple[str, Path, Path]]:
        if text.startswith("~/"):
            text = str(self.home / text[2:])
        for name, root in self.names.items():
            if text == name or text.startswith(name + "/"):
                yield name, root, root.joinpath(text[len(name) :].lstrip("/") or ".")
        for name, root in self.names.items():
            yield name, root, root / text  # an absolute path stays as it is

    def _is_private(self, root: Path, parts: Sequence[str]) -> bool:
        # The person's Library holds mail, passwords and messages, even where home is granted.
        library = (self._real_home() / "Library").parts
        path = tuple(part.casefold() for part in (*root.parts, *parts))
        in_library = path[: len(library)] == tuple(part.casefold() for part in library)
        granted_there = root.parts[: len(library)] == library
        return (in_library and not granted_there) or any(map(is_private, parts))

    def _real_home(self) -> Path:
        """Home with no links in it, as the paths that it is compared with."""
        with contextlib.suppress(OSError, RuntimeError):
            return self.home.resolve()
        return self.home

    def walk(self, start: Place | None = None, *, seconds: float = MAX_WALK_S) -> Iterator[Found]:
        """Everything below a place, or below all; near things first, within bounds.

        Entries, depth and time are bounded, so a huge tree gives its upper part.
        """
        ends_at = time.monotonic() + seconds
        starts = [start] if start else [Place(root, (), name) for name, root in self.names.items()]
        todo = deque((place, 0) for place in starts)
        seen = 0
        while todo:
            folder, depth = todo.popleft()
            for found in self.entries(folder):
                seen += 1
                if seen > MAX_ENTRIES or time.monotonic() > ends_at:
                    return
                yield found
                if found.is_folder and depth + 1 < MAX_DEPTH:
                    todo.append((found.place, depth + 1))

    def entries(self, folder: Place) -> Iterator[Found]:
        """The files and folders in a folder that may be seen, in no order."""
        try:
            descriptor = open_place(folder, is_folder=True)
        except ToolError:
            return
        try:
            with os.scandir(descriptor) as entries:
                for looked_at, entry in enumerate(entries):
                    if looked_at >= MAX_ENTRIES:
                        return
                    if (found := self._seen(folder, entry)) is not None:
                        yield found
        except OSError:  # it went away
            return
        finally:
            os.close(descriptor)

    def _seen(self, folder: Place, entry: os.DirEntry[str]) -> Found | None:
        name = entry.name
        if printable(name) != name or "\n" in name or not _is_unicode(name):
            return None
        place = Place(folder.root, (*folder.parts, name), f"{folder.label}/{name}")
        if self._is_private(place.root, place.parts) or len(place.label) > MAX_NAME:
            return None
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError:
            return None
        if stat.S_ISDIR(state.st_mode):
            return Found(place, True)
        if stat.S_ISREG(state.st_mode):
            return Found(place, False, state.st_size, state.st_mtime)
        return None


HOW_TO_GRANT = "name one in the settings, under `tools.folders`"


def is_private(name: str) -> bool:
    """Whether a name is one that a person would not show: hidden, or of keys and secrets."""
    low = name.casefold()
    first = low.partition(".")[0]  # copies such as `id_rsa.bak`
    ends = (low, low.rsplit(".", 1)[0])  # and `prod.env.local`
    return (
        low.startswith(".")
        or not {low, first}.isdisjoint(PRIVATE)
        or any(each.endswith(PRIVATE_ENDS) for each in ends)
    )


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_place(place: Place, *, is_folder: bool) -> int:
    """A descriptor of a place, opened step by step without following a link.

    Raises:
        ToolError: when it is not what it was, no plain file or folder, or not ours to read.
    """
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # Opening a pipe that nobody writes to would wait for ever.
    plain = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    current = -1
    try:
        current = os.open(place.root, folder)
        for index, part in enumerate(place.parts):
            is_last = index == len(place.parts) - 1
            if is_last and not is_folder:
                # Looked at before it is opened: opening some devices does something.
                _expect_file(os.stat(part, dir_fd=current, follow_symlinks=False), place)
            step = os.open(part, folder if is_folder or not is_last else plain, dir_fd=current)
            os.close(current)
            current = step
        if not is_folder:
            _expect_file(os.fstat(current), place)
    except OSError as error:
        if current >= 0:
            os.close(current)
        kind = "folder" if is_folder else "file"
        raise ToolError(f"the {kind} `{place.label}` cannot be read: {error.strerror}") from None
    except ToolError:
        os.close(current)
        raise
    return current


def _expect_file(state: os.stat_result, place: Place) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise ToolError(f"`{place.label}` is a folder, not a file")
    if not stat.S_ISREG(state.st_mode):
        raise ToolError(f"`{place.label}` is not a plain file")
