"""What a message takes along: large pastes as chips in its text, and files named with ``@``.

A chip such as ``[pasted 1: 1,204 lines]`` is plain text. As long as it stands there unchanged, what
was pasted goes out in its place; taken away or edited, it does not.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx.errors import InvalidInput, format_bytes

from .text import printable

PASTE_CHARS = 2_000
PASTE_LINES = 40
EDITABLE_CHARS = 10_000
"""What comes back into the prompt as text; more than that comes back as a chip."""
FILE_BYTES = 64_000
"""For all files of one message: more than the context of any model here."""
MOST_ENTRIES = 20_000
"""Names of a folder that are looked at; nobody scrolls through more."""
LISTING_S = 2.0

_CHIP = re.compile(r"\[pasted \d+: [\d,]+ (?:lines|characters)\]")
_BARE = r"[^\s\"'`()<>\[\],;]"
"""A character of a file's name that needs no quotes."""
_END = r"[^\s\"'`()<>\[\],;.:!?]"
"""The same for its last one, which is no full stop."""
_AT = r"(?<![^\s(\[])@"
_MENTION = re.compile(rf'{_AT}(?:"[^"\n]+"|{_BARE}*{_END})')
_UNFINISHED = re.compile(rf'{_AT}(?:"(?P<quoted>[^"\n]*)|(?P<bare>{_BARE}*))$')
_EITHER = re.compile(f"{_CHIP.pattern}|{_MENTION.pattern}")
_TICKS = re.compile("`+")
# Files there may have no end, or do something when they are read.
_NOT_ON_DISK = ("/dev", "/proc", "/sys")


# ---------------------------------------------------------------- pastes


def is_large(text: str) -> bool:
    """Whether a paste becomes a chip."""
    return len(text) > PASTE_CHARS or text.count("\n") >= PASTE_LINES


class Pastes:
    """What was pasted since the program began, by the chips that stand for it."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """A new chip that stands for ``text``."""
        lines = len(text.splitlines())
        size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
        chip = f"[pasted {len(self.contents) + 1}: {size}]"
        self.contents[chip] = text
        return chip

    def recall(self, text: str) -> str:
        """``text`` for editing: small pastes as what they hold, and as a chip what is too large."""

        def open_small(match: re.Match[str]) -> str:
            content = self.contents.get(match[0], match[0])
            return content if len(content) <= EDITABLE_CHARS else match[0]

        text = _CHIP.sub(open_small, text)
        return self.fold(text) if len(text) > EDITABLE_CHARS else text

    def spans(self, line: str) -> list[tuple[int, int]]:
        """Where chips stand in ``line`` that stand for something."""
        return [m.span() for m in _CHIP.finditer(line) if m[0] in self.contents]


# ---------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file that goes with a message, under the name the person gave it."""

    name: str
    text: str

    def fenced(self) -> str:
        """The file as a block of its own, whatever it holds."""
        ticks = max((len(run) for run in _TICKS.findall(self.text)), default=0)
        fence = "`" * max(3, ticks + 1)
        suffix = Path(self.name).suffix[1:]
        language = suffix if suffix.isalnum() else ""
        end = "" if not self.text or self.text.endswith("\n") else "\n"
        return f"{self.name}:\n{fence}{language}\n{self.text}{end}{fence}"


def mention(path: str, *, finished: bool = True) -> str:
    """How ``path`` is named in a message; one that is not finished leaves its quotes open."""
    if re.fullmatch(f"{_BARE}*" if not finished else f"{_BARE}*{_END}", path):
        return f"@{path}"
    return f'@"{path}"' if finished else f'@"{path}'


def unfinished_mention(before: str) -> tuple[int, str] | None:
    """Where the mention begins that ``before`` ends in, and its path so far."""
    if (match := _UNFINISHED.search(before)) is None:
        return None
    quoted = match["quoted"]
    return match.start(), match["bare"] if quoted is None else quoted


def locate(path: str, root: Path) -> Path:
    """The place that a person means by ``path``, seen from ``root``."""
    try:
        return root / Path(path).expanduser()
    except RuntimeError:  # nobody's home
        return root / path


def has_mentions(text: str) -> bool:
    """Whether ``text`` may name files."""
    return _MENTION.search(text) is not None


def read_mentions(text: str, root: Path, limit_bytes: int = FILE_BYTES) -> dict[str, AttachedFile]:
    """The files that ``text`` names, by how it names them.

    An ``@`` that names no file is no mistake: people write ``@property`` and ``@name``. It is one
    where the folder in front exists, and in quotes.

    Raises:
        InvalidInput: a file that is not there, cannot be read, is not text or is too large.
    """
    files: dict[str, AttachedFile] = {}
    left = limit_bytes
    for match in _MENTION.finditer(text):
        written = match[0]
        path = written[1:].strip('"')
        if written in files or not _is_meant(written, path, root):
            continue
        data = _read(locate(path, root), path, left)
        if data is None:
            raise InvalidInput(
                f"{path} is too large: the files of a message may have "
                f"{format_bytes(limit_bytes)} together."
            )
        left -= len(data)
        files[written] = AttachedFile(path, _decode(data, path))
    return files


def _is_meant(written: str, path: str, root: Path) -> bool:
    place = locate(path, root)
    if written.startswith('@"'):
        return True
    found = _mode(place)
    if "/" in path:
        return bool(found) or stat.S_ISDIR(_mode(place.parent))
    return bool(found) and not stat.S_ISDIR(found)


def _mode(place: Path) -> int:
    """What kind of file is there; 0 where there is none, or none that we may see."""
    try:
        return place.stat().st_mode
    except (OSError, ValueError):
        return 0


def _read(place: Path, path: str, limit_bytes: int) -> bytes | None:
    """What a file holds; None when that is more than ``limit_bytes``."""
    try:
        found = place.stat()
        if stat.S_ISDIR(found.st_mode):
            raise InvalidInput(f"{path} is a folder. Name a file in it.")
        if not stat.S_ISREG(found.st_mode) or not _is_on_disk(place):
            raise InvalidInput(f"{path} is not an ordinary file.")
        if found.st_size > limit_bytes:
            return None
        # Not blocking, should it have become a pipe since; and no further, should it have grown.
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path} cannot be read: {reason}.") from None
    return data if len(data) <= limit_bytes else None


def _decode(data: bytes, path: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidInput(f"{path} is not text in UTF-8.")
    return printable(text)


def _is_on_disk(place: Path) -> bool:
    real = os.path.realpath(place)
    return not any(real == root or real.startswith(f"{root}/") for root in _NOT_ON_DISK)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder to choose."""

    name: str
    is_folder: bool


def list_folder(
    folder: Path, most: int = MOST_ENTRIES, patience_s: float = LISTING_S
) -> list[Entry]:
    """What can be chosen in ``folder``, by name; nothing where nothing can be read.

    Left out are pipes and devices, and names that could not be typed or would disturb a terminal.
    """
    until = time.monotonic() + patience_s
    entries: list[Entry] = []
    if not _is_on_disk(folder):
        return entries
    try:
        with os.scandir(folder) as found:
            for item in found:
                if len(entries) >= most or time.monotonic() > until:
                    break
                if item.name.isprintable() and '"' not in item.name:
                    with suppress(OSError):  # a link that leads in a circle
                        is_folder = item.is_dir()
                        if is_folder or item.is_file():
                            entries.append(Entry(item.name, is_folder))
    except (OSError, ValueError):
        pass  # what was found so far is still of use
    return sorted(entries, key=lambda entry: entry.name.casefold())


# ---------------------------------------------------------------- what goes out


def expand(
    text: str, pasted: Mapping[str, str], files: Mapping[str, AttachedFile] | None = None
) -> str:
    """``text`` as the model reads it.

    Chips become what was pasted, mentions the file's name, and the files follow in the order in
    which they are first named. What comes in that way is not looked through again.

    Args:
        text: as it was typed.
        pasted: contents by chip.
        files: by mention; what is missing stays as it was typed.
    """
    files = files or {}
    named: dict[str, AttachedFile] = {}

    def replace(match: re.Match[str]) -> str:
        written = match[0]
        if written in files:
            named[written] = files[written]
            return files[written].name
        return pasted.get(written, written)

    said = _EITHER.sub(replace, text)
    return "\n\n".join([said, *dict.fromkeys(file.fenced() for file in named.values())])
