"""List, read and search files below the folders that the person granted."""

from __future__ import annotations

import codecs
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from mobilellm_mlx.errors import ToolError, format_bytes
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.folders import (
    HOW_TO_GRANT,
    MAX_NAME,
    Folders,
    Found,
    Place,
    open_place,
)
from mobilellm_mlx.tools.builtin.hearing import named, topics
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Scope, Tool

MAX_LIVE = 2_000
"""Files or folders that may be named; the toolbox keeps those that were spoken of."""
MAX_LISTED = 100
MAX_READ_BYTES = 64_000
MAX_SEARCHED_BYTES = 1_000_000
"""Of one file."""
MAX_SEARCH_S = 8.0
MAX_HITS = 20
MAX_LINE = 160

FilePath = Annotated[str, Limits(min_length=1, max_length=MAX_NAME)]
Words = Annotated[str, Limits(min_length=1, max_length=100)]


def tools(around: Surroundings) -> list[Tool]:
    """``list_files``, ``read_file`` and ``search_files``."""
    folders = Folders(around.folders, around.home)
    missing = "" if folders.names else f"no folder is granted: {HOW_TO_GRANT}"
    return [
        _list_files(folders, missing),
        _read_file(folders, missing),
        _search_files(folders, missing),
    ]


def _list_files(folders: Folders, missing: str) -> Tool:
    def list_files(folder: FilePath) -> str:
        """List the files in a folder.

        Args:
            folder: the folder
        """
        place = folders.find(folder)
        os.close(open_place(place, is_folder=True))  # says why, where it cannot be read
        found = sorted(
            folders.entries(place), key=lambda it: (not it.is_folder, it.place.label.casefold())
        )
        if not found:
            return f"{place.label} holds no files that can be seen."
        lines = [_line(one) for one in found[:MAX_LISTED]]
        more = len(found) - MAX_LISTED
        return "\n".join(
            [f"{place.label} holds:", *lines, *([f"and {more} more"] if more > 0 else [])]
        )

    return tool_from(
        list_files,
        reads_only=True,
        answers=True,
        live={"folder": lambda: live_folders(folders)},
        examples=(
            Example("What is in my Documents folder?", {"folder": "Documents"}),
            Example("Show me the files in Documents/taxes", {"folder": "Documents/taxes"}),
        ),
        keywords=("folder", "directory", "files", "list", "documents", "contents"),
        describe=lambda arguments: f"List the files in {arguments['folder']}",
        scope=lambda arguments: Scope("folder", str(folders.find(arguments["folder"]).path)),
        missing=missing,
    )


def _read_file(folders: Folders, missing: str) -> Tool:
    def read_file(path: FilePath) -> str:
        """Read a text file.

        Args:
            path: the file
        """
        place = folders.find(path)
        data, size = _read(place, MAX_READ_BYTES)
        text = decode(data, place.label)
        if not text.strip():
            return f"{place.label} is empty."
        if size > len(data):
            first = f"{format_bytes(len(data))} of {format_bytes(size)}"
            return f"The first {first} of {place.label}:\n{text}"
        return text

    return tool_from(
        read_file,
        reads_only=True,
        live={"path": lambda: live_files(folders)},
        examples=(
            Example("Read Documents/todo.txt", {"path": "Documents/todo.txt"}),
            Example("What does packing-list.md say?", {"path": "Documents/packing-list.md"}),
        ),
        keywords=("<file>", "file", "read", "text", "document", "contents"),
        describe=lambda arguments: f"Read the file {arguments['path']}",
        scope=lambda arguments: Scope("folder", str(folders.find(arguments["path"]).path.parent)),
        missing=missing,
    )


def _search_files(folders: Folders, missing: str) -> Tool:
    def search_files(words: Words, cancel: threading.Event, folder: FilePath | None = None) -> str:
        """Search files for words, in their names and in their text.

        Args:
            words: what to look for
            folder: where to look; everywhere that is granted if left out
        """
        wanted = words.casefold().split()
        if not wanted:
            raise ToolError("there are no words to look for")
        start = folders.find(folder) if folder else None
        hits: list[str] = []
        for found in folders.walk(start, seconds=MAX_SEARCH_S):
            if cancel.is_set() or len(hits) >= MAX_HITS:
                break
            hits += _hits(found, wanted)
        where = start.label if start else "the granted folders"
        return "\n".join(hits[:MAX_HITS]) or f"Nothing in {where} mentions {words!r}."

    def scope(arguments: Mapping[str, Any]) -> Scope:
        if folder := arguments.get("folder"):
            return Scope("folder", str(folders.find(folder).path))
        roots = list(folders.names.values())
        return Scope("folder", str(roots[0])) if len(roots) == 1 else Scope()

    def in_words(arguments: Mapping[str, Any]) -> str:
        where = arguments.get("folder") or "all granted folders"
        return f"Search {where} for {arguments['words']!r}"

    return tool_from(
        search_files,
        reads_only=True,
        live={"folder": lambda: live_folders(folders)},
        spoken={"words"},
        heard={"words": topics, "folder": lambda said: named(live_folders(folders), said)},
        cues={"folder": r"\b(?:in|inside|below|under|within|search|folder|directory)\b"},
        examples=(
            Example("Which of my files mention the boiler?", {"words": "boiler"}),
            Example(
                "Search Documents for rental contract",
                {"words": "rental contract", "folder": "Documents"},
            ),
        ),
        keywords=("search", "find", "files", "documents", "mention", "where", "contain", "look"),
        describe=in_words,
        scope=scope,
        missing=missing,
    )


def live_folders(folders: Folders) -> list[str]:
    """Folders that exist now, near ones first."""
    below = [found.place.label for found in folders.walk() if found.is_folder]
    return [*folders.names, *below][:MAX_LIVE]


def live_files(folders: Folders) -> list[str]:
    """Files that exist now, those that changed last first."""
    found = sorted((it for it in folders.walk() if not it.is_folder), key=lambda it: -it.changed_at)
    return [it.place.label for it in found[:MAX_LIVE]]


def _line(found: Found) -> str:
    name = found.place.parts[-1]
    return f"{name}/" if found.is_folder else f"{name} ({format_bytes(found.size_bytes)})"


def _read(place: Place, most: int) -> tuple[bytes, int]:
    """The beginning of a file, and how long all of it is."""
    descriptor = open_place(place, is_folder=False)
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = b""
            while len(data) < most and (more := file.read(most - len(data))):
                data += more
    except OSError as error:
        raise ToolError(f"`{place.label}` cannot be read: {error.strerror}") from None
    return data, max(size, len(data))


def decode(data: bytes, name: str) -> str:
    """The text of a file, or of its beginning.

    Raises:
        ToolError: when it is no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    text = codecs.getincrementaldecoder("utf-8-sig")("replace").decode(data)
    # Old texts hold a few bytes that are not UTF-8; pictures and programs hold little else.
    if b"\0" in data or text.count("\ufffd") > 1 + len(text) // 20:
        raise ToolError(f"`{name}` is not a text file")
    return text


def _hits(found: Found, wanted: list[str]) -> Iterator[str]:
    """Lines that say where all of the words are: in a file's name, or in lines of it."""
    name = found.place.parts[-1].casefold()
    if all(word in name for word in wanted):
        yield found.place.label + ("/" if found.is_folder else "")
    if found.is_folder:
        return
    try:
        data, _ = _read(found.place, MAX_SEARCHED_BYTES)
        text = decode(data, found.place.label)
    except ToolError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        low = line.casefold()
        if all(word in low for word in wanted):
            at = max(0, low.find(wanted[0]) - MAX_LINE // 3)
            yield f"{found.place.label}:{number}: {printable(line[at : at + MAX_LINE]).strip()}"
