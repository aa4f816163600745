"""Notes, in one SQLite file."""

from __future__ import annotations

import sqlite3
import textwrap
from datetime import UTC
from typing import Annotated

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
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


def _add(notes: Notes) -> Tool:
    def add_note(text: Text) -> str:
        """Write down a note.

        Args:
            text: what is to be noted, in the person's words
        """
        return f"Noted: {notes.add(text)}"

    return tool_from(
        add_note,
        spoken={"text"},
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
        found = notes.find(words)
        if not found:
            return f"No note holds {printable(words)}."
        lines = [
            f"{title}: {textwrap.shorten(text, _SHOWN, placeholder=' …')}"
            if text != title
            else title
            for title, text in found[:_MAX_FOUND]
        ]
        if more := len(found) - _MAX_FOUND:
            lines += [f"{more} more hold these words."] if more > 0 else []
        return "\n".join(lines)

    return tool_from(
        find_notes,
        reads_only=True,
        spoken={"words"},
        examples=(
            Example("Find my note about the dentist", {"words": "dentist"}),
            Example("Search my notes for spare key", {"words": "spare key"}),
        ),
        keywords=("notes", "note", "find", "search", "noted"),
        describe=lambda arguments: f"Search the notes for {printable(arguments['words'])}",
    )


def _list(notes: Notes) -> Tool:
    def list_notes() -> str:
        """List the titles of all notes."""
        titles = notes.titles()
        return "\n".join(titles) if titles else "There are no notes."

    return tool_from(
        list_notes,
        reads_only=True,
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
        return f"Deleted the note {printable(title)}."

    return tool_from(
        delete_note,
        live={"title": notes.titles},
        examples=(
            Example("Delete the note Buy milk", {"title": "Buy milk"}),
            Example("Remove my note Packing list", {"title": "Packing list"}),
        ),
        keywords=("note", "delete", "remove", "erase", "throw away"),
        describe=lambda arguments: f"Delete the note “{printable(arguments['title'])}” for good",
    )
