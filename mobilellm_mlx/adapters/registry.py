"""The adapters that are here: a directory for each, and those that came with the program."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from mobilellm_mlx.adapters.record import CONFIG, FILES, AdapterInfo, read_info
from mobilellm_mlx.errors import AdapterError, MobileLLMError, StorageError
from mobilellm_mlx.paths import data_dir, existing

SHIPPED = Path(__file__).parent / "shipped"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Registry:
    """Adapters by name.

    Args:
        root: holds one directory for each; the default is among the person's data.
        shipped: those that came with the program; nothing is changed there.
    """

    def __init__(self, root: Path | None = None, shipped: Path | None = None):
        self.root = root or data_dir() / "adapters"
        self._shipped = shipped or SHIPPED

    def list(self) -> list[AdapterInfo]:
        """All that can be read, by name; the person's own come first."""
        return [found for found in self._scan() if isinstance(found, AdapterInfo)]

    def damaged(self) -> dict[str, MobileLLMError]:
        """What is wrong with those that cannot be read, by name."""
        return dict(found for found in self._scan() if isinstance(found, tuple))

    def find(self, name: str) -> AdapterInfo:
        """The adapter of a name, or in a directory.

        Raises:
            AdapterError: when there is none; the hint names the nearest.
        """
        if (place := self._place(name)) is not None:
            return self._read(place)
        if (path := existing(name)) is not None:
            return read_info(path)
        names = [place.name for place in self._places()]
        close = get_close_matches(name.lower(), names, n=1)
        raise AdapterError(
            f"there is no adapter named `{name[:80]}`, and no such directory",
            f"did you mean `{close[0]}`?"
            if close
            else "`mobilellm adapters list` shows those that are here",
        )

    def kept(self, name: str) -> AdapterInfo | None:
        """The adapter of a name that comes from a file of somebody else: never a path."""
        place = self._place(name)
        with suppress(AdapterError):
            return self._read(place) if place is not None else None
        return None

    def add(self, directory: Path, name: str, *, replacing: bool = False) -> AdapterInfo:
        """Copy an adapter here, whole or not at all.

        Args:
            directory: of the adapter.
            name: to keep it under.
            replacing: whether one of this name may go.

        Raises:
            AdapterError: when it is no adapter, or the name is taken or impossible.
            StorageError: when the disk refuses.
        """
        check_name(name)
        read_info(directory)
        taken = self._taken(name)
        if taken is not None and not (replacing and taken.parent == self.root):
            raise AdapterError(f"there is an adapter named `{taken.name}` already", _ANOTHER_NAME)
        target = self.root / name
        with on_disk("kept", target):
            self.root.mkdir(parents=True, exist_ok=True)
            part = self.root / f".{name}.{secrets.token_hex(4)}.part"
            try:
                _copy(directory, part)
                if taken is not None:
                    self._away(taken)
                part.replace(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return read_info(target)

    def free_name(self, name: str) -> str:
        """``name``, made possible, with a number behind it when it is taken."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:56] or "adapter"
        number, free = 1, name
        while self._taken(free) is not None:
            number += 1
            free = f"{name}-{number}"
        return free

    def rename(self, name: str, new: str) -> AdapterInfo:
        """Call an adapter something else.

        Raises:
            AdapterError: when there is none, or the new name is taken or impossible.
            StorageError: when the disk refuses.
        """
        place = self.require_own(name)
        check_name(new)
        taken = self._taken(new)
        if taken is not None and taken != place:  # another case of the same letters is fine
            raise AdapterError(f"there is an adapter named `{taken.name}` already", _ANOTHER_NAME)
        with on_disk("renamed", place):
            place.rename(self.root / new)
        return read_info(self.root / new)

    def remove(self, name: str) -> None:
        """Take an adapter away; of a link only the link, for what it leads to is somebody's.

        Raises:
            AdapterError: when there is none, or it came with the program.
            StorageError: when the disk refuses.
        """
        place = self.require_own(name)
        with on_disk("removed", place):
            self._away(place)

    def export(self, name: str, target: Path) -> AdapterInfo:
        """Copy an adapter into a directory of its own, for mlx-lm.

        Raises:
            AdapterError: when there is none, or only this program can use it.
            StorageError: when there is something at ``target``, or the disk refuses.
        """
        info = self.find(name)
        if info.per_run:
            raise AdapterError(
                f"`{info.name}` has matrices for each run of a shared block, which mlx-lm lacks",
                "train it without `--per-run` to use it elsewhere",
            )
        with on_disk("written", target):
            if target.exists():
                raise StorageError(
                    f"there is something at `{target}` already", "name another place"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
            try:
                _copy(info.path, part)
                part.replace(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return read_info(target)

    def _scan(self) -> Iterator[AdapterInfo | tuple[str, MobileLLMError]]:
        for place in self._places():
            try:
                yield self._read(place)
            except MobileLLMError as error:
                yield place.name, error

    def _places(self) -> tuple[Path, ...]:
        """The directories, one for a name: a person's own stands before one that was shipped.

        Raises:
            StorageError: when a folder cannot be looked into.
        """
        found: dict[str, Path] = {}
        for root in (self.root, self._shipped):
            with on_disk("read", root):
                for path in sorted(root.iterdir()) if root.is_dir() else ():
                    if _NAME.fullmatch(path.name) and path.is_dir():
                        found.setdefault(path.name.lower(), path)
        return tuple(found.values())

    def _place(self, name: str) -> Path | None:
        return next((place for place in self._places() if place.name == name), None)

    def _taken(self, name: str) -> Path | None:
        """Whoever has the name; on some disks capitals make no difference."""
        return next((p for p in self._places() if p.name.lower() == name.lower()), None)

    def require_own(self, name: str) -> Path:
        """The directory of an adapter that may be changed, a damaged one too.

        Raises:
            AdapterError: when there is none, or it came with the program.
        """
        place = self._place(name)
        if place is None:
            self.find(name)  # says what there is
            raise AdapterError(f"`{name[:80]}` is not among the adapters that are kept here")
        if place.parent != self.root:
            raise AdapterError(f"`{name}` came with the program: it cannot be changed")
        return place

    def _read(self, place: Path) -> AdapterInfo:
        return replace(read_info(place), name=place.name, shipped=place.parent != self.root)

    def _away(self, place: Path) -> None:
        if place.is_symlink():
            place.unlink()
            return
        # Out of sight first: a removal that is cut off leaves nothing that looks whole.
        gone = place.with_name(f".{place.name}.{secrets.token_hex(4)}.gone")
        place.rename(gone)
        shutil.rmtree(gone)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a directory anywhere.

    Raises:
        AdapterError: says what a name is made of.
    """
    if not _NAME.fullmatch(name):
        raise AdapterError(
            f"{name[:80]!r} cannot be the name of an adapter",
            "use letters, digits, `-`, `_` and `.`, at most 64 and not a sign first",
        )


_ANOTHER_NAME = "choose another name, or take that one away with `mobilellm adapters rm`"


@contextmanager
def on_disk(done: str, path: Path) -> Iterator[None]:
    """Turn what a disk refuses into an error that says what was to be done where."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{path}` cannot be {done}: {error.strerror or error}",
            "check the disk and your rights there",
        ) from error


def _copy(directory: Path, target: Path) -> None:
    """The files that belong to an adapter; a link may lead to what is nobody else's business."""
    target.mkdir()
    for name in FILES:
        path = directory / name
        if path.is_symlink():
            raise AdapterError(f"`{path}` is a link, which is not copied")
        if path.is_file():
            shutil.copyfile(path, target / name)
    if not (target / CONFIG).is_file():
        raise AdapterError(f"`{directory}` is gone")
