"""The history: chats, the tree of messages in each, and finding in them."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mobilellm_mlx.chat.records import ChatRecord, Generation, SearchHit, StoredMessage, now
from mobilellm_mlx.chat.store import migrations
from mobilellm_mlx.chat.store import search as finding
from mobilellm_mlx.chat.store.database import Database, NotFound
from mobilellm_mlx.chat.store.rows import (
    SELECT_CHATS,
    chat_from,
    chat_row,
    clean,
    clean_or_none,
    fetch,
    generation_from,
    generation_row,
    message_from,
    message_row,
    time_text,
)
from mobilellm_mlx.errors import StorageError


class Store:
    """Chats in one file, or in memory; usable from any thread and by several processes at once.

    Every method that changes something has committed it when it returns. All of them raise
    ``StorageError`` when the disk refuses; the store stays usable, nothing is half written.

    Args:
        path: the file; made, or brought to today's schema. None keeps everything in memory.

    Raises:
        DamagedStore, NewerStore, ForeignStore: kinds of StorageError; see ``open_history`` for
            a way that always gives a store.
        StorageError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None):
        self._database = Database(path)

    @property
    def path(self) -> Path | None:
        """The file; None if everything is in memory."""
        return self._database.path

    def close(self) -> None:
        """Let go of the file; the store cannot be used afterwards."""
        self._database.close()

    # chats ----------------------------------------------------------------------------------

    def add_chat(self, chat: ChatRecord) -> None:
        """Keep a new chat; one with the same id is replaced, its messages stay."""
        self.add(chat, ())

    def add(self, chat: ChatRecord, messages: Sequence[StoredMessage]) -> None:
        """Keep a chat and messages of it, all or nothing: ``add_chat`` and ``save`` in one."""

        def keep(connection: sqlite3.Connection) -> None:
            _upsert(connection, "chats", chat_row(chat))
            for message in messages:
                _save_message(connection, message)

        self._database.write(keep)

    def chat(self, chat_id: str) -> ChatRecord | None:
        """The chat, also if it is deleted; None if there is none."""
        found = self._select_chats("WHERE chats.id = ?", chat_id)
        return found[0] if found else None

    def chats(self, limit: int | None = None, *, deleted: bool = False) -> list[ChatRecord]:
        """Those in which something was said last come first.

        Args:
            limit: at most so many.
            deleted: the deleted ones instead of the others.
        """
        return self._select_chats(
            f"WHERE chats.deleted_at IS {'NOT' if deleted else ''} NULL "
            "ORDER BY chats.updated_at DESC, chats.number DESC LIMIT ?",
            -1 if limit is None else limit,
        )

    def rename(self, chat_id: str, title: str, *, named: bool = True) -> None:
        """Give a chat a title; ``named`` says that a person chose it."""
        self._change_chat(chat_id, title=clean(title), named=named)

    def pin_chat(self, chat_id: str, pinned: bool) -> None:
        """Mark a chat to stay on top of the list, or no longer."""
        self._change_chat(chat_id, pinned=pinned)

    def delete_chat(self, chat_id: str, when: datetime) -> None:
        """Take a chat out of lists and searches; until it is purged it can be restored."""
        self._change_chat(chat_id, deleted_at=time_text(when))

    def restore_chat(self, chat_id: str) -> None:
        """Undo ``delete_chat``."""
        self._change_chat(chat_id, deleted_at=None)

    def set_leaf(self, chat_id: str, message_id: str | None) -> None:
        """Say which branch is shown: the one that ends with this message."""
        self._change_chat(chat_id, leaf_id=message_id)

    def set_instructions(self, chat_id: str, text: str | None) -> None:
        """Set the chat's system prompt; None leaves the model's own."""
        self._change_chat(chat_id, instructions=clean_or_none(text))

    def purge(self, before: datetime) -> list[str]:
        """Erase chats and messages that were deleted before that moment, without a trace.

        An erased message leaves its empty place in the tree.

        Returns:
            the ids of the erased chats.
        """
        moment = time_text(before)

        def erase(connection: sqlite3.Connection) -> tuple[list[str], int]:
            query = "DELETE FROM chats WHERE deleted_at < ? RETURNING id"
            chats = [str(chat_id) for (chat_id,) in connection.execute(query, (moment,))]
            messages = _erase_messages(connection, moment)
            if chats or messages:
                migrations.compact_search(connection)
            return chats, messages

        chats, messages = self._database.write(erase)
        if chats or messages:
            with self._database.alone() as connection:  # the log still holds what was erased
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return chats

    # messages -------------------------------------------------------------------------------

    def save(self, *messages: StoredMessage) -> None:
        """Keep messages with how they were made, new ones and new states of old ones.

        All of them or none. The chats they belong to count as used when the messages were made.
        """

        def keep(connection: sqlite3.Connection) -> None:
            for message in messages:
                _save_message(connection, message)

        self._database.write(keep)

    def write_partial(self, message_id: str, content: str, reasoning: str) -> None:
        """Note how far an answer has come; meant to be called every half second."""

        def note(connection: sqlite3.Connection) -> None:
            _expect_one(
                connection.execute(
                    "UPDATE messages SET content = ?, reasoning = ? WHERE id = ?",
                    (clean(content), clean(reasoning), message_id),
                ),
                "message",
            )
            connection.execute(
                "UPDATE chats SET updated_at = max(updated_at, ?) "
                "WHERE id = (SELECT chat_id FROM messages WHERE id = ?)",
                (time_text(now()), message_id),
            )

        self._database.write(note)

    def messages(self, chat_id: str) -> list[StoredMessage]:
        """All messages of a chat, of every branch, deleted ones too, in the order of creation."""

        def select(connection: sqlite3.Connection) -> list[StoredMessage]:
            made: defaultdict[str, list[Generation]] = defaultdict(list)
            query = (
                "SELECT generations.* FROM messages "
                "JOIN generations ON generations.message_id = messages.id "
                "WHERE messages.chat_id = ? ORDER BY generations.position"
            )
            for row in fetch(connection.execute(query, (chat_id,))):
                made[row["message_id"]].append(generation_from(row))
            query = "SELECT * FROM messages WHERE chat_id = ? ORDER BY number"
            rows = fetch(connection.execute(query, (chat_id,)))
            return [message_from(row, made[row["id"]]) for row in rows]

        return self._database.read(select)

    def pin_message(self, message_id: str, pinned: bool) -> None:
        """Mark a message to stay in what the model sees, or no longer."""
        query = "UPDATE messages SET pinned = ? WHERE id = ?"
        self._database.write(
            lambda connection: _expect_one(
                connection.execute(query, (pinned, message_id)), "message"
            )
        )

    def set_deleted(self, message_ids: Sequence[str], deleted: bool) -> None:
        """Take messages out of their chat, or put them back; unknown ones are passed over."""
        query = (
            "UPDATE messages SET deleted_at = CASE WHEN ? THEN coalesce(deleted_at, ?) END "
            "WHERE id = ?"
        )
        moment = time_text(now())
        values = [(deleted, moment, message_id) for message_id in message_ids]
        self._database.write(lambda connection: connection.executemany(query, values))

    # finding --------------------------------------------------------------------------------

    def search(self, query: str, limit: int = 50) -> list[SearchHit]:
        """Messages and titles that hold every word of ``query``.

        The last word may be unfinished; words in double quotes are looked for as a phrase. Case
        and accents make no difference. Nothing a person types is an error. Titles come first,
        as hits with the id of the message that the chat opens at; their excerpt is the title.
        """
        return self._database.read(lambda connection: finding.search(connection, query, limit))

    def prompts(self, limit: int = 500, chat_id: str | None = None) -> list[str]:
        """The last things that people said, oldest first, no repeats in a row.

        Args:
            limit: at most so many.
            chat_id: only those of this chat.
        """

        # The plus makes SQLite go through the messages of the chat, not of all time.
        which, values = "messages.role = 'user'", tuple[str, ...]()
        if chat_id is not None:
            which, values = "+messages.role = 'user' AND messages.chat_id = ?", (chat_id,)

        def select(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "SELECT messages.content FROM messages JOIN chats ON chats.id = messages.chat_id "
                f"WHERE {which} AND messages.deleted_at IS NULL AND chats.deleted_at IS NULL "
                "ORDER BY messages.created_at DESC, messages.number DESC",
                values,
            )
            said: list[str] = []
            for (text,) in rows:
                if len(said) >= limit:
                    break
                if not said or said[-1] != text:
                    said.append(text)
            return said[::-1]

        return self._database.read(select)

    def backup(self, target: Path) -> None:
        """Write everything as one compact file, whole or not at all.

        Raises:
            StorageError: something is there already, or the disk refuses.
        """
        if os.path.lexists(target):
            raise StorageError(f"{target} exists already", "choose another name for the backup")
        with self._database.alone() as connection:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                handle, scratch = tempfile.mkstemp(prefix=".history-", dir=target.parent)
            except OSError as error:
                raise StorageError(
                    f"{target} cannot be written ({error.strerror})", "choose another directory"
                ) from error
            try:
                connection.execute("VACUUM INTO ?", (scratch,))
                os.fsync(handle)
                Path(scratch).rename(target)
            except BaseException:
                with suppress(OSError):
                    Path(scratch).unlink()
                raise
            finally:
                os.close(handle)

    def _select_chats(self, condition: str, *values: Any) -> list[ChatRecord]:
        query = f"{SELECT_CHATS} {condition}"
        return self._database.read(
            lambda connection: [chat_from(row) for row in fetch(connection.execute(query, values))]
        )

    def _change_chat(self, chat_id: str, **columns: Any) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        query = f"UPDATE chats SET {assignments} WHERE id = ?"
        values = (*columns.values(), chat_id)
        self._database.write(
            lambda connection: _expect_one(connection.execute(query, values), "chat")
        )


def _expect_one(cursor: sqlite3.Cursor, what: str) -> None:
    if cursor.rowcount == 0:
        raise NotFound(what)


def _upsert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    """Insert a row, or replace the one with its id without changing that one's number."""
    places = ", ".join(f":{name}" for name in row)
    changes = ", ".join(f"{name} = excluded.{name}" for name in row)
    connection.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places}) "
        f"ON CONFLICT (id) DO UPDATE SET {changes}",
        row,
    )


def _save_message(connection: sqlite3.Connection, message: StoredMessage) -> None:
    row = message_row(message, now())
    if message.deleted:  # the moment of the deletion stays what it was
        query = "SELECT deleted_at FROM messages WHERE id = ? AND deleted_at IS NOT NULL"
        for (moment,) in connection.execute(query, (message.id,)).fetchall():
            row["deleted_at"] = moment
    _upsert(connection, "messages", row)
    connection.execute("DELETE FROM generations WHERE message_id = ?", (message.id,))
    connection.executemany(
        "INSERT INTO generations VALUES (:message_id, :position, :model, :details)",
        [generation_row(message.id, position, made) for position, made in enumerate(message.made)],
    )
    connection.execute(
        "UPDATE chats SET updated_at = max(updated_at, ?) WHERE id = ?",
        (row["created_at"], message.chat_id),
    )
    if message.role == "user" and not message.deleted:
        # Deleted in another window, but here somebody goes on: what is said must not be erased.
        connection.execute(
            "UPDATE chats SET deleted_at = NULL WHERE id = ? AND deleted_at < ?",
            (message.chat_id, row["created_at"]),
        )
    if message.made:
        connection.execute(
            "UPDATE chats SET model = ? WHERE id = ?",
            (clean(message.made[-1].model), message.chat_id),
        )


def _erase_messages(connection: sqlite3.Connection, before: str | None) -> int:
    """Erase what deleted messages said. Their places stay: what follows hangs on them, here and in
    the memory of other programs."""
    which = "deleted_at < ? AND (content <> '' OR reasoning <> '')"
    connection.execute(
        f"DELETE FROM generations WHERE message_id IN (SELECT id FROM messages WHERE {which})",
        (before,),
    )
    query = f"UPDATE messages SET content = '', reasoning = '' WHERE {which}"
    return connection.execute(query, (before,)).rowcount
