"""Notes, in one SQLite file."""

from __future__ import annotations

import re
import sqlite3
import textwrap
from datetime import UTC
from typing import Annotated

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import topics, trimmed
from mobilellm_mlx.tools.builtin.shelf import Shelf
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

MAX_TEXT = 2_000
MAX_TITLE = 60
MAX_LISTED = 500
"""Titles that a call can name, the newest; older notes are found by their words."""
_MAX_FOUND = 5
_SHOWN = 300

_TABLE = """
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL UNIQUE COLLATE NOCASE,
    text TEXT NOT NULL,
    written_at TEXT NOT NULL  -- UTC
)
"""

Text = Annotated[str, Limits(min_length=1, max_length=MAX_TEXT)]
Title = Annotated[str, Limits(min_length=1, max_length=100)]
Words = Annotated[str, Limits(min_length=1, max_length=100)]


def tools(around: Surroundings) -> list[Tool]:
    """``add_note``, ``find_notes``, ``list_notes``, ``read_note`` and ``delete_note``."""
    notes = Notes(around)
    return [_add(notes), _find(notes), _list(notes), _read(notes), _delete(notes)]


class Notes:
    """The notes of ``data_dir``, usable from any thread."""

    def __init__(self, around: Surroundings):
        self._now = around.now
        self._shelf = Shelf(around.data_dir / "notes.db", _TABLE, "notes")

    def add(self, text: str) -> str:
        """Keep a note, and give its title."""
        text = _clean(text)
        if not text:
            raise ToolError("the note is empty", "say what is to be noted")
        written_at = self._now().astimezone(UTC).isoformat(timespec="seconds")

        def insert(connection: sqlite3.Connection) -> str:
            title = _free_title(connection, text)
            row = (title, text, written_at)
            connection.execute("INSERT INTO note (title, text, written_at) VALUES (?, ?, ?)", row)
            return title

        return self._shelf.write(insert)

    def titles(self) -> list[str]:
        """The newest first."""
        query = f"SELECT title FROM note ORDER BY id DESC LIMIT {MAX_LISTED}"
        return self._shelf.read(
            lambda connection: [str(title) for (title,) in connection.execute(query)], []
        )

    def read(self, title: str) -> str:
        """The text of a note."""
        query = "SELECT text FROM note WHERE title = ?"
        row = self._shelf.read(
            lambda connection: connection.execute(query, (_clean(title),)).fetchone(), None
        )
        if row is None:
            raise _no_note(title)
        return str(row[0])

    def delete(self, title: str) -> None:
        """Erase a note."""
        query = "DELETE FROM note WHERE title = ?"
        gone = self._shelf.write(
            lambda connection: connection.execute(query, (_clean(title),)).rowcount
        )
        if not gone:
            raise _no_note(title)

    def find(self, words: str) -> list[tuple[str, str]]:
        """Titles and texts of the notes that hold most of some words, the best and newest first."""
        wanted = {word.strip(".,!?") for word in _clean(words).casefold().split()} - {""}

        def search(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            rows = connection.execute("SELECT title, text FROM note ORDER BY id DESC")
            notes = [(str(title), str(text)) for title, text in rows]
            # In Python: SQLite knows the case of ASCII letters only.
            scores = [sum(word in text.casefold() for word in wanted) for _, text in notes]
            best = max(scores, default=0)
            return [note for note, score in zip(notes, scores, strict=True) if score == best > 0]

        return self._shelf.read(search, [])


def _no_note(title: str) -> ToolError:
    return ToolError(
        f"there is no note {printable(title)[:MAX_TITLE]!r}", "`list_notes` shows their titles"
    )


def _clean(text: str) -> str:
    """What can be kept and shown."""
    return printable(text.encode("utf-8", "replace").decode()).strip()


def _free_title(connection: sqlite3.Connection, text: str) -> str:
    """The first line, shortened, with a number behind it if there is such a note already."""
    line = " ".join(text.split("\n", 1)[0].split())
    first = title = textwrap.shorten(line, MAX_TITLE, placeholder="…")
    if title == "…":  # one long word
        first = title = line[: MAX_TITLE - 1] + "…"
    number = 1
    while connection.execute("SELECT 1 FROM note WHERE title = ?", (title,)).fetchone():
        number += 1
        title = f"{first} ({number})"
    return title


def _short(text: str) -> str:
    """A note in one line."""
    line = " ".join(_clean(text).split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _ended(line: str) -> str:
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."


def _told(opening: str, lines: list[str]) -> str:
    """One thing in a sentence, several below each other."""
    if len(lines) == 1:
        return f"{opening}: {_ended(lines[0])}"
    return "\n".join([f"{opening}:", *lines])


_OPENING = re.compile(
    r"\W*(?:please\s+)?(?:"
    r"(?:(?:make|add|take|write|save|create|keep)\s+)?(?:me\s+)?(?:an?\s+)?(?:new\s+|quick\s+)?note"
    r"(?:\s+down)?|(?:write|jot)\s+(?:this\s+)?down|remember|memo)\b\s*(?:[:,–-]\s*)?"
    r"(?:(?:that|saying|to|of|about)\s+)?(\S.*)",
    re.IGNORECASE,
)


def _texts(said: str) -> list[str]:
    """What is to be noted, behind the words that ask for it."""
    found = _OPENING.fullmatch(said.strip())
    text = trimmed(found[1]) if found else ""
    return [text] if text else []


def _add(notes: Notes) -> Tool:
    def add_note(text: Text) -> str:
        """Write down a note.

        Args:
            text: what is to be noted, in the person's words
        """
        notes.add(text)
        return f"Noted: {_ended(_short(text))}"

    return tool_from(
        add_note,
        answers=True,
        spoken={"text"},
        heard={"text": _texts},
        examples=(
            Example("Note that the spare key is at Anna's", {"text": "the spare key is at Anna's"}),
            Example("Make a note: buy milk and bread", {"text": "buy milk and bread"}),
            Example("Write down my locker number is 42", {"text": "my locker number is 42"}),
        ),
        keywords=("note", "notes", "write down", "remember", "jot", "memo"),
        describe=lambda arguments: f"Write the note “{printable(arguments['text'])}”",
    )


def _find(notes: Notes) -> Tool:
    def find_notes(words: Words) -> str:
        """Search the notes for words.

        Args:
            words: what the note is about
        """
        found, about = notes.find(words), " ".join(printable(words).split())
        if not found:
            return f"There are no notes about {_ended(about)}"
        lines = [_short(text) for _, text in found[:_MAX_FOUND]]
        if (more := len(found) - _MAX_FOUND) > 0:
            lines.append(f"and {more} more")
        return _told(f"Notes about {about}", lines)

    return tool_from(
        find_notes,
        reads_only=True,
        answers=True,
        spoken={"words"},
        heard={"words": topics},
        examples=(
            Example("Find my note about the dentist", {"words": "dentist"}),
            Example("Search my notes for spare key", {"words": "spare key"}),
        ),
        keywords=(
            *("notes", "note", "find", "search", "noted", "my note about", "my notes about"),
            *("did i write", "did i note", "i wrote down", "i noted"),
        ),
        describe=lambda arguments: f"Search the notes for {printable(arguments['words'])}",
    )


def _list(notes: Notes) -> Tool:
    def list_notes() -> str:
        """List the titles of all notes."""
        titles = notes.titles()
        if not titles:
            return "There are no notes."
        return _told("There is 1 note" if len(titles) == 1 else f"{len(titles)} notes", titles)

    return tool_from(
        list_notes,
        reads_only=True,
        answers=True,
        examples=(Example("What notes do I have?", {}), Example("List my notes", {})),
        keywords=("notes", "list", "show my notes", "all notes"),
        describe=lambda _: "List the titles of the notes",
    )


def _read(notes: Notes) -> Tool:
    def read_note(title: Title) -> str:
        """Read a note.

        Args:
            title: of the note
        """
        return notes.read(title)

    return tool_from(
        read_note,
        reads_only=True,
        live={"title": notes.titles},
        examples=(
            Example("Read my note Buy milk", {"title": "Buy milk"}),
            Example("What does the note Packing list say?", {"title": "Packing list"}),
        ),
        keywords=("note", "read", "show"),
        describe=lambda arguments: f"Read the note “{printable(arguments['title'])}”",
    )


def _delete(notes: Notes) -> Tool:
    def delete_note(title: Title) -> str:
        """Delete a note.

        Args:
            title: of the note
        """
        notes.delete(title)
        return f"The note “{printable(title)}” is deleted."

    return tool_from(
        delete_note,
        answers=True,
        live={"title": notes.titles},
        examples=(
            Example("Delete the note Buy milk", {"title": "Buy milk"}),
            Example("Remove my note Packing list", {"title": "Packing list"}),
        ),
        keywords=("note", "delete", "remove", "erase", "throw away"),
        describe=lambda arguments: f"Delete the note “{printable(arguments['title'])}” for good",
    )
