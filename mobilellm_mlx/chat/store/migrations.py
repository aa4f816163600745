"""The schema as it grew: named steps, applied in order, each once.

A step that was released is never changed; a new one is added at the end. The names that a file has
seen are in its table ``migrations``, so that an older program recognises a newer file and leaves it
alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Migration:
    """One step; all steps that a file lacks are taken in one transaction."""

    name: str
    statements: Sequence[str]


_CHATS = """
    CREATE TABLE chats (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        title TEXT NOT NULL,
        named INTEGER NOT NULL,
        pinned INTEGER NOT NULL,
        deleted_at TEXT,
        instructions TEXT,
        leaf_id TEXT,
        model TEXT NOT NULL
    )
"""

# parent_id and leaf_id are no foreign keys: a message may arrive before its parent, and what a
# damaged file lost must not take its children along.
_MESSAGES = """
    CREATE TABLE messages (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        parent_id TEXT,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        status TEXT NOT NULL,
        pinned INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        deleted_at TEXT
    )
"""

_GENERATIONS = """
    CREATE TABLE generations (
        message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        model TEXT NOT NULL,
        details TEXT NOT NULL,  -- JSON: the other fields of a Generation
        PRIMARY KEY (message_id, position)
    )
"""


def _search_index(table: str, column: str) -> tuple[str, ...]:
    """An index of the words in ``table.column`` that follows every change.

    It holds no copy of the texts, therefore it must be told the old one to forget it.
    """
    index = f"{table}_search"
    add = f"INSERT INTO {index} (rowid, {column}) VALUES (new.number, new.{column});"
    drop = (
        f"INSERT INTO {index} ({index}, rowid, {column}) "
        f"VALUES ('delete', old.number, old.{column});"
    )
    return (
        f"CREATE VIRTUAL TABLE {index} USING fts5 ({column}, content='{table}', "
        "content_rowid='number', tokenize='unicode61 remove_diacritics 2')",
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN {add} END",
        f"CREATE TRIGGER {table}_erased AFTER DELETE ON {table} BEGIN {drop} END",
        f"CREATE TRIGGER {table}_changed AFTER UPDATE OF {column} ON {table} "
        f"WHEN old.{column} <> new.{column} BEGIN {drop} {add} END",
    )


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "2025-11 chats and messages",
        (
            _CHATS,
            _MESSAGES,
            "CREATE INDEX messages_of_chat ON messages (chat_id, number)",
            "CREATE INDEX messages_by_time ON messages (role, created_at)",
            _GENERATIONS,
            *_search_index("chats", "title"),
            *_search_index("messages", "content"),
        ),
    ),
    Migration(
        "2026-11 tools",
        # JSON: a list of the fields of each ToolUse
        ("ALTER TABLE messages ADD COLUMN uses TEXT NOT NULL DEFAULT '[]'",),
    ),
)

SEARCH_INDEXES = ("chats_search", "messages_search")


def names() -> list[str]:
    """Of the steps that this program knows."""
    return [migration.name for migration in MIGRATIONS]


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether anything at all is in the file."""
    return connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None


def applied(connection: sqlite3.Connection) -> list[str] | None:
    """Names of the steps that the file has seen; None if it does not keep such a list."""
    known = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'"
    if connection.execute(known).fetchone() is None:
        return None
    columns = {row[1] for row in connection.execute("PRAGMA table_info(migrations)")}
    if not {"name", "applied_at"} <= columns:
        return None
    return [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY rowid")]


def migrate(connection: sqlite3.Connection) -> None:
    """Take the steps that the file lacks; to be called in a transaction that may write."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL)"
    )
    seen = applied(connection) or []  # another process may have been faster
    for migration in MIGRATIONS:
        if migration.name in seen:
            continue
        for statement in migration.statements:
            connection.execute(statement)
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.name, moment))


def rebuild_search(connection: sqlite3.Connection) -> None:
    """Make the search indexes anew from the texts."""
    for index in SEARCH_INDEXES:
        connection.execute(f"INSERT INTO {index} ({index}) VALUES ('rebuild')")


def compact_search(connection: sqlite3.Connection) -> None:
    """Merge the search indexes, so that nothing remains in them of texts that were erased."""
    for index in SEARCH_INDEXES:
        connection.execute(f"INSERT INTO {index} ({index}) VALUES ('optimize')")
