"""One SQLite file: opened carefully, shared by threads and processes, errors in plain words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from mobilellm_mlx.chat.store import migrations
from mobilellm_mlx.errors import StorageError

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process that is writing."""

_WAL_LIMIT_BYTES = 4_000_000
_CHECKED_BYTES = 500_000_000
"""Larger files are not looked over at every start: that would take a second."""

Result = TypeVar("Result")


class DamagedStore(StorageError):
    """What is there is not, or no longer, a whole SQLite database."""


class NewerStore(StorageError):
    """A newer version of this program has changed the file's schema."""


class ForeignStore(StorageError):
    """Something healthy lies there that is not ours."""


class NotFound(StorageError):
    """The chat or message is not in the history."""

    def __init__(self, what: str):
        super().__init__(
            f"this {what} is not in the history",
            "another MobileLLM may have erased it: start a new chat with /new",
        )


class Database:
    """A connection that several threads may use, one after the other.

    Args:
        path: the file, made if nothing is there; None keeps everything in memory.

    Raises:
        DamagedStore: what is there is damaged, or is a directory.
        NewerStore: its schema is newer than this program.
        ForeignStore: it belongs to another program.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._lock = threading.Lock()
        with _plain_words():
            if path is not None:
                _prepare_place(path)
            self._connection = connect(path)
            try:
                if path is not None:
                    _look_over(self._connection, path)
                if migrations.applied(self._connection) != migrations.names():
                    with transaction(self._connection):
                        migrations.migrate(self._connection)
            except BaseException:
                self._connection.close()
                raise
            self._identity = _identity(path)

    def close(self) -> None:
        """The last one to leave folds the log beside the file into the file."""
        with self._lock, _plain_words():
            self._connection.close()

    def read(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``action`` gives; all it reads is of one moment."""
        return self._attempt(action, "DEFERRED")

    def write(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``action`` gives; its changes are made together or not at all."""
        if _identity(self.path) != self._identity:
            raise StorageError(
                "the history file was moved or replaced while it was open",
                "start MobileLLM again: what is said now would go into the old file",
            )
        return self._attempt(action, "IMMEDIATE")

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of any transaction, for what SQLite allows only there."""
        try:
            with self._lock, _plain_words():
                yield self._connection
        except DamagedStore:
            if self.path is not None:
                with suppress(OSError):
                    damage_mark(self.path).touch(mode=0o600)
            raise

    def _attempt(self, action: Callable[[sqlite3.Connection], Result], kind: str) -> Result:
        with self.alone() as connection:
            try:
                with transaction(connection, kind):
                    return action(connection)
            except sqlite3.Error as error:
                if _code(error) != sqlite3.SQLITE_CORRUPT or not _is_whole(connection):
                    raise
            # Only the search index is damaged, and it can be made again from the messages.
            with transaction(connection, "IMMEDIATE"):
                migrations.rebuild_search(connection)
            with transaction(connection, kind):
                return action(connection)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino)


def damage_mark(path: Path) -> Path:
    """Where it is noted that damage was met in a history that looked whole when it was opened."""
    return path.with_name(path.name + "-damaged")


def connect(path: Path | None) -> sqlite3.Connection:
    """A connection in our manner, not yet looked over; a file must exist."""
    connection = sqlite3.connect(
        ":memory:" if path is None else path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun by name, not guessed
        check_same_thread=False,
    )
    # One damaged byte must cost one letter, not the message.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commits at the end of the block, or undoes all of it."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled back already
            connection.execute("ROLLBACK")
        raise


def _prepare_place(path: Path) -> None:
    """A private file to open, or a refusal that names the cause."""
    if "\0" in str(path):
        raise StorageError(
            "the path of the history holds a NUL", "set MOBILELLM_HOME to another directory"
        )
    if path.is_dir():
        raise DamagedStore("there is a directory in the place of the history")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    except FileExistsError:
        pass
    # Never opened here: closing any handle of it would drop the locks of other connections.
    if not path.is_file():
        raise ForeignStore(
            f"{path} is not a file", "move it away, or set MOBILELLM_HOME to another directory"
        )
    log = path.with_name(path.name + "-wal")
    if path.stat().st_size == 0 and log.exists() and log.stat().st_size > 0:
        raise _damaged()  # SQLite would remove the log, and all that is left with it
    if not os.access(path, os.R_OK | os.W_OK):
        raise _unwritable()
    with suppress(OSError):  # not ours to change
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _look_over(connection: sqlite3.Connection, path: Path) -> None:
    """Is it whole, and is it ours? Only then is it prepared for several processes at once."""
    if damage_mark(path).exists():
        raise _damaged()
    if path.stat().st_size < _CHECKED_BYTES and not _is_whole(connection):
        raise _damaged()
    applied = migrations.applied(connection)
    if applied is None and migrations.has_tables(connection):
        raise ForeignStore(
            f"{path} is a database of another program",
            "move it away, or set MOBILELLM_HOME to another directory",
        )
    unknown = [name for name in applied or () if name not in migrations.names()]
    if unknown:
        raise NewerStore(
            f"the history was written by a newer MobileLLM: it knows `{unknown[0]}`",
            "update MobileLLM, or set MOBILELLM_HOME to another directory",
        )
    for index in migrations.SEARCH_INDEXES if applied else ():
        connection.execute(f"SELECT rowid FROM {index} LIMIT 0")  # can it be opened at all?
    _use_log(connection)
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    # Survives the end of any process; only a power cut can take the last commits.
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_whole(connection: sqlite3.Connection) -> bool:
    """Whether every table can be walked through; what the search index says is not looked at."""
    # Table by table: a check of the whole file would read every word of the search index.
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
    for (name,) in connection.execute(tables).fetchall():
        quoted = name.replace('"', '""')
        ((verdict,), *_) = connection.execute(f'PRAGMA quick_check("{quoted}")').fetchall()
        if verdict != "ok":
            return False
    return True


def _use_log(connection: sqlite3.Connection) -> None:
    """Write-ahead logging. The change to it does not wait for other processes by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


@contextmanager
def _plain_words() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _say(error) from error
    except UnicodeDecodeError as error:  # SQLite quotes from the file that it finds damaged
        raise _damaged() from error
    except (UnicodeEncodeError, OverflowError) as error:
        # Texts are cleaned before; this is an identifier, a path, a time before the year 1.
        raise StorageError(f"the history cannot hold this: {error}", "use another value") from error
    except OSError as error:
        raise _unwritable(f" ({error.strerror or error})") from error


def _code(error: sqlite3.Error) -> int:
    """The kind of an error; 0 for those that Python itself raises."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _say(error: sqlite3.Error) -> StorageError:
    code = _code(error)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged()
    if code == sqlite3.SQLITE_FULL:
        return StorageError("the disk is full: nothing was written", "free some space")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            f"another program has held the history for {BUSY_TIMEOUT_S:.0f} s", "try again"
        )
    if code == sqlite3.SQLITE_CONSTRAINT and "FOREIGN KEY" in str(error):
        return NotFound("chat")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _unwritable()
    if code == sqlite3.SQLITE_IOERR:
        return _unwritable(f" ({error})")
    return StorageError(f"the history refused: {error}", "`mobilellm doctor` looks it over")


def _damaged() -> DamagedStore:
    return DamagedStore(
        "the history file is damaged", "start MobileLLM again: it saves what can be read"
    )


def _unwritable(cause: str = "") -> StorageError:
    return StorageError(
        f"the history cannot be written{cause}",
        "check the disk and the permissions, or set MOBILELLM_HOME to another directory",
    )
