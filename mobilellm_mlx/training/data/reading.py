"""JSON lines, one by one. A file is a stranger's until every line of it was looked at."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from mobilellm_mlx.errors import DataError, MobileLLMError, format_bytes

MAX_LINE_BYTES = 4_000_000
"""Of one example: a million tokens and more, which no model here can take."""
MAX_DEPTH = 32
_LONGEST_MESSAGE = 1_000
_TOLD_BYTES = 100_000
"""How much is read before anybody is told of it."""

EXAMPLE = '{"prompt": "...", "completion": "..."}'
"""Of a line, where nothing else is said."""
SPLITS = {
    "train": ("train.jsonl",),
    "valid": ("valid.jsonl", "validation.jsonl"),
    "test": ("test.jsonl",),
}
"""What the files of a folder are called."""

Problem = Callable[[DataError], None]
"""Is told of a line that cannot be used, which is then left out."""


@dataclass(frozen=True, slots=True)
class Line:
    """The object that stands on a line.

    Attributes:
        value: what was parsed; nested at most ``MAX_DEPTH`` deep, its texts are Unicode.
        source: ``file:line``.
        path: the file.
        offset: where the line begins, in bytes.
    """

    value: dict[str, Any]
    source: str
    path: Path
    offset: int


def find_files(path: Path) -> dict[str, Path]:
    """The files of a data set: ``train``, and ``valid`` and ``test`` where there are any.

    Args:
        path: a file of JSON lines, which is all ``train``, or a folder.

    Raises:
        DataError: when it is neither, or the folder has no ``train.jsonl``.
    """
    if not path.exists():
        raise DataError(
            f"there is no file or folder `{path}`",
            "name a `.jsonl` file, or a folder with `train.jsonl` and `valid.jsonl`",
        )
    if not path.is_dir():
        return {"train": _regular(path)}
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        there = [path / name for name in names if (path / name).exists()]
        if len(there) > 1:
            raise DataError(
                f"`{path}` has both `{there[0].name}` and `{there[1].name}`", "remove one of them"
            )
        if there:
            found[split] = _regular(there[0])
    if "train" not in found:
        raise DataError(
            f"the folder `{path}` has no `train.jsonl`",
            "name a folder with `train.jsonl` and, if you like, `valid.jsonl` and `test.jsonl`, or "
            "a single `.jsonl` file",
        )
    return found


def read_lines(
    path: Path,
    problem: Problem | None = None,
    seen: Callable[[bytes], None] | None = None,
    example: str = EXAMPLE,
) -> Iterator[Line]:
    """The objects of a file, one for each line that is not blank; only one is held at a time.

    Args:
        path: a file of JSON lines.
        problem: is told of every line that cannot be read; without it the first one is raised.
        seen: is given all bytes as they are read.
        example: of a line, for the hint where one is none.

    Raises:
        DataError: names file and line.
    """
    try:
        with path.open("rb") as file:
            number = offset = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if seen is not None:
                    seen(raw)
                if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    # What follows cannot be told from a next line, so there is no going on.
                    raise place(_too_long(), f"{path.name}:{number}")
                try:
                    first = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                    value = _parse(first, example)
                except DataError as error:
                    placed = place(error, f"{path.name}:{number}")
                    if problem is None:
                        raise placed from None
                    problem(placed)
                    value = None
                if value is not None:
                    yield Line(value, f"{path.name}:{number}", path, offset)
                offset += len(raw)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error


def read_line(path: Path, offset: int) -> dict[str, Any]:
    """The object of a line that was read before.

    Raises:
        DataError: when the file has changed since.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error
    value = _parse(raw.removeprefix(b"\xef\xbb\xbf") if offset == 0 else raw)
    if value is None:
        raise DataError(f"`{path}` changed while it was read", "start again")
    return value


class Digest:
    """The SHA-256 of a data set: a file's own; a folder's is that of its files' sums and names."""

    def __init__(
        self,
        path: Path,
        progress: Callable[[int, int], None] | None = None,
        total_bytes: int = 0,
    ):
        self._progress = progress
        self._done = self._told = 0
        self._total = total_bytes
        self._is_folder = path.is_dir()
        self._files: dict[str, Any] = {}
        self._now = sha256()

    def begin(self, path: Path) -> None:
        """What comes now is in this file."""
        self._now = self._files[path.name] = sha256()

    def update(self, data: bytes) -> None:
        """More of the file."""
        self._now.update(data)
        self._done += len(data)
        if self._progress is not None and self._done - self._told >= _TOLD_BYTES:
            self._told = self._done
            self._progress(self._done, max(self._done, self._total))

    def hexdigest(self) -> str:
        """Of everything so far."""
        if not self._is_folder:
            return self._now.hexdigest()
        sums = (f"{self._files[name].hexdigest()}  {name}\n" for name in sorted(self._files))
        return sha256("".join(sums).encode()).hexdigest()


def data_sha256(path: Path) -> str:
    """The SHA-256 of a data set without looking at what it says: see ``Digest``.

    Raises:
        DataError: as ``find_files``, and when one cannot be read.
    """
    digest = Digest(path)
    for each in find_files(path).values():
        digest.begin(each)
        try:
            with each.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            raise DataError(f"`{each}` cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def place(error: MobileLLMError, source: str) -> DataError:
    """The same error with the place it is about."""
    message = error.message  # a template's own words may be as long as the line
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]} …"
    return DataError(f"`{source}`: {message}", error.hint)


def _regular(path: Path) -> Path:
    """A pipe or a device would be read for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise DataError(f"`{path}` is not a file", "name a `.jsonl` file or a folder of them")
    return path


def _too_long() -> DataError:
    return DataError(
        f"the line is longer than {format_bytes(MAX_LINE_BYTES)}",
        "a data set is one JSON object a line; cut long texts into several examples",
    )


def _parse(raw: bytes, example: str = EXAMPLE) -> dict[str, Any] | None:
    """The object on a line; None for a blank one."""
    if not raw.strip():
        return None
    if len(raw) > MAX_LINE_BYTES:
        raise _too_long()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1:,} of the line is not UTF-8", "save the file as UTF-8 text"
        ) from None
    value = parse_json(text, example)
    if not isinstance(value, dict):
        raise DataError(f"it is {kind(value)}, expected a JSON object", _hint(text, example))
    return value


def parse_json(text: str, example: str = EXAMPLE) -> Any:
    """A JSON value that nothing after this has to be wary of.

    Raises:
        DataError: when it is no JSON, names a key twice, is nested too deep, or has numbers or
            characters that JSON does not know.
    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_number)
    except RecursionError:
        raise DataError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"it is not JSON at character {error.pos + 1:,}: {error.msg.lower()}",
            _hint(text, example),
        ) from None
    except ValueError as error:  # one of ours below, or a number of thousands of digits
        raise DataError(f"it is not JSON: {str(error)[:200]}") from None
    _check(value)
    return value


def _hint(text: str, example: str) -> str:
    if text.lstrip().startswith("["):
        return "for a file that is one JSON list, `jq -c '.[]' FILE` makes lines of it"
    return f"every line is one object, such as {example}"


def _check(value: Any) -> None:
    """Refuse what later steps would stumble over."""
    rest = [(value, 1)]
    while rest:
        item, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise DataError(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise DataError("a text in it has half a character (a lone surrogate)") from None
        elif isinstance(item, float) and not math.isfinite(item):
            raise DataError("a number in it is too large")
        elif isinstance(item, dict):
            rest += [(key, depth) for key in item]
            rest += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key `{twice[:40]}` is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {str: "a text", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value)) or ("an object" if isinstance(value, dict) else "a number")
