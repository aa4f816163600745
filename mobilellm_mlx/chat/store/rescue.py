"""Opening the history so that the program always starts, whatever lies there.

A damaged file is copied, what can be read in the copy is carried over row by row into a new file,
and only then the damaged one is moved aside, as it was. A file that is healthy but not ours to
write is left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobilellm_mlx import paths
from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage
from mobilellm_mlx.chat.store.database import (
    DamagedStore,
    ForeignStore,
    NewerStore,
    connect,
    damage_mark,
)
from mobilellm_mlx.chat.store.rows import (
    chat_from,
    fetch,
    generation_from,
    message_from,
)
from mobilellm_mlx.chat.store.store import Store
from mobilellm_mlx.errors import StorageError

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
_PAGE_BYTES = 4096
_BLIND = 5_000
"""How many row numbers are tried one by one where the end of a table cannot be found."""

_UNREADABLE = (sqlite3.Error, UnicodeError)
"""What Python makes of damage; its words may be damaged too."""

_NOT_KEPT = "what is said now is not kept"


def history_path() -> Path:
    """Where this person's chats are kept."""
    return paths.data_dir() / "history.db"


def open_history(path: Path | None = None) -> tuple[Store, str | None]:
    """A store that works, and a sentence for the person if it is not simply the file.

    Args:
        path: the file; None is ``history_path()``.

    Returns:
        the store, in memory if the file cannot be used, and what happened, or None.
    """
    path = history_path() if path is None else path
    try:
        return Store(path), None
    except DamagedStore as error:
        return _rescue(path, error)
    except (ForeignStore, NewerStore) as error:
        return Store(), f"{_sentence(error)}; it was left as it is, and {_NOT_KEPT}."
    except StorageError as error:
        return _in_memory(path, error)


@dataclass(frozen=True, slots=True)
class _Found:
    """What could be read of a file."""

    chats: list[ChatRecord]
    messages: list[StoredMessage]

    def __str__(self) -> str:
        chats, messages = len(self.chats), len(self.messages)
        return (
            f"{chats:,} chat{'s' * (chats != 1)} with {messages:,} message{'s' * (messages != 1)}"
        )


def _rescue(path: Path, error: DamagedStore) -> tuple[Store, str | None]:
    """A new file with what can be read of the damaged one, which is kept beside it."""
    try:
        with _alone_in(path.parent):
            with suppress(DamagedStore):
                return Store(path), None  # another process has just repaired it
            with tempfile.TemporaryDirectory(prefix=".rescue-", dir=path.parent) as scratch:
                fresh = Path(scratch) / "fresh.db"
                with closing(Store(fresh)) as store:
                    found = _salvage(path, Path(scratch))
                    _carry_over(found, store)
                kept = _move_aside(path)
                fresh.rename(path)
        told = (
            f"{found} could be read and were carried over"
            if found.chats
            else "nothing in it could be read, and a new one was begun"
        )
        return Store(path), f"{_sentence(error)}: {told}; it is kept as {kept.name}."
    except (OSError, StorageError):  # no room, or no right to write here
        return _in_memory(path, error)


def _in_memory(path: Path, error: StorageError) -> tuple[Store, str]:
    """A store that forgets, with what can be read of a file that cannot be written."""
    store = Store()
    found = _Found([], [])
    with (
        suppress(OSError, StorageError),
        tempfile.TemporaryDirectory(prefix="mobilellm-") as scratch,
    ):
        found = _salvage(path, Path(scratch))
        _carry_over(found, store)
    told = f"{found} could be read, but {_NOT_KEPT}" if found.chats else _NOT_KEPT
    return store, f"{_sentence(error)}: {told}."


def _sentence(error: StorageError) -> str:
    return error.message[:1].upper() + error.message[1:]


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two programs that find the same damage must not both move the file."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _move_aside(path: Path) -> Path:
    """Rename what is at ``path`` together with its log; nothing is overwritten."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.stem}-damaged-{moment}{path.suffix}")
    count = 1
    while os.path.lexists(kept):
        count += 1
        kept = path.with_name(f"{path.stem}-damaged-{moment}-{count}{path.suffix}")
    for ending in ("-wal", "-shm"):  # first: a log must never meet another file
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
    path.rename(kept)
    damage_mark(path).unlink(missing_ok=True)
    return kept


def _salvage(path: Path, scratch: Path) -> _Found:
    """All chats and messages that can be read, from a copy; never fails for what is in it."""
    nothing = _Found([], [])
    if not path.is_file():
        return nothing
    with closing(Store(scratch / "template.db")):
        pass
    template = (scratch / "template.db").read_bytes()[:_PAGE_BYTES]
    copy = scratch / "copy.db"
    # The header alone is made anew at first. If that does not help, the whole first page, which
    # says where the tables begin: in a file that has never been moved that is always the same.
    for count in (_HEADER_BYTES, _PAGE_BYTES):
        shutil.copyfile(path, copy)
        for ending in ("-wal", "-shm"):
            Path(f"{copy}{ending}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        _mend_start(copy, template[:count])
        with suppress(*_UNREADABLE), closing(connect(copy)) as connection:
            connection.execute("SELECT name FROM sqlite_schema")  # without it all else is in vain
            found = _read_all(connection)
            if found.messages or found.chats:
                return found
    return nothing


def _mend_start(copy: Path, template: bytes) -> None:
    """Give a file a beginning that SQLite accepts, and the length that it then claims."""
    with copy.open("r+b") as file:
        start = file.read(_HEADER_BYTES)
        healthy = start.startswith(_MAGIC) and len(start) == _HEADER_BYTES
        page_bytes = int.from_bytes(start[16:18], "big") if healthy else _PAGE_BYTES
        if len(template) > _HEADER_BYTES or not healthy or page_bytes < 512:
            start, page_bytes = template, _PAGE_BYTES
        pages = max(1, -(-file.seek(0, os.SEEK_END) // page_bytes))
        file.truncate(pages * page_bytes)
        file.seek(0)
        file.write(start)
        for offset, value in ((24, 1), (28, pages), (32, 0), (36, 0), (92, 1)):
            file.seek(offset)  # change counter, pages, unused pages, and that the count is valid
            file.write(value.to_bytes(4, "big"))


def _read_all(connection: sqlite3.Connection) -> _Found:
    chats = {row["id"]: chat_from(row) for row in _rows(connection, "chats")}
    made: defaultdict[str, list[tuple[int, Generation]]] = defaultdict(list)
    for row in _rows(connection, "generations"):
        made[row["message_id"]].append((row["position"], generation_from(row)))
    messages: dict[str, StoredMessage] = {}
    for row in _rows(connection, "messages"):
        how = sorted(made[row["id"]], key=lambda pair: pair[0])
        messages[row["id"]] = message_from(row, [generation for _, generation in how])
    return _mend_trees(chats, messages)


def _mend_trees(chats: dict[str, ChatRecord], messages: dict[str, StoredMessage]) -> _Found:
    """Where a chat or a parent is lost, what remains still hangs together."""
    newest: dict[str, str] = {}
    for message in messages.values():
        if message.parent_id is not None and message.parent_id not in messages:
            # It follows what was said last before it.
            parent = newest.get(message.chat_id)
            messages[message.id] = replace(message, parent_id=parent)
        newest[message.chat_id] = message.id
        if message.chat_id not in chats:
            moment = message.created_at
            chats[message.chat_id] = ChatRecord(
                message.chat_id, moment, moment, "Rescued chat", leaf_id="lost"
            )
    for chat in chats.values():
        if chat.leaf_id is not None and chat.leaf_id not in messages:
            chats[chat.id] = replace(chat, leaf_id=newest.get(chat.id))
    return _Found(list(chats.values()), list(messages.values()))


_COLUMNS: dict[str, dict[str, type]] = {
    "chats": {"id": str, "created_at": str, "title": str, "model": str},
    "messages": {"id": str, "chat_id": str, "content": str, "reasoning": str},
    "generations": {"message_id": str, "position": int, "model": str},
}
"""What a row must hold to be worth carrying over."""


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    for row in _readable_rows(connection, table):
        wanted = _COLUMNS[table].items()
        if all(isinstance(row.get(name), kind) for name, kind in wanted):
            yield row


def _readable_rows(connection: sqlite3.Connection, table: str) -> Iterator[dict[str, Any]]:
    """Rows in order: from the front, from the back, and one by one where both ways end."""
    select = f"SELECT rowid AS place, * FROM {table}"
    last = 0
    try:
        for row in fetch(connection.execute(f"{select} WHERE rowid > 0 ORDER BY rowid")):
            if row["place"] <= last:
                break  # going round in a circle
            last = row["place"]
            yield row
        else:
            return
    except _UNREADABLE:
        pass
    behind: list[dict[str, Any]] = []
    with suppress(*_UNREADABLE):
        backwards = f"{select} WHERE rowid > ? ORDER BY rowid DESC"
        for row in fetch(connection.execute(backwards, (last,))):
            if behind and row["place"] >= behind[-1]["place"]:
                break
            behind.append(row)
    end = behind[-1]["place"] if behind else last + _BLIND
    for number in range(last + 1, min(end, last + _BLIND)):
        with suppress(*_UNREADABLE):
            yield from fetch(connection.execute(f"{select} WHERE rowid = ?", (number,)))
    yield from reversed(behind)


def _carry_over(found: _Found, store: Store) -> None:
    """Put it all into a store, a chat at a time."""
    messages: defaultdict[str, list[StoredMessage]] = defaultdict(list)
    for message in found.messages:
        messages[message.chat_id].append(message)
    for chat in found.chats:
        store.add_chat(chat)
        store.save(*messages[chat.id])
