"""A small SQLite file for what the person keeps: opened for each use, never replaced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from mobilellm_mlx.errors import ToolError

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process that is writing."""
_VERSION = 1

Result = TypeVar("Result")


class Shelf:
    """A table in a file of its own.

    Every use opens the file, does one transaction and closes it again: any thread and several
    processes may do so, and nothing is held in between.

    Args:
        path: the file, made with the first thing that is written.
        table: what it holds, as ``CREATE TABLE``.
        what: the contents in words, for errors: ``notes``.
    """

    def __init__(self, path: Path, table: str, what: str):
        self._path, self._table, self._what = path, table, what

    def read(self, action: Callable[[sqlite3.Connection], Result], empty: Result) -> Result:
        """What ``action`` gives, or ``empty`` while there is no file.

        Raises:
            ToolError: when the file cannot be read.
        """
        if not os.path.lexists(self._path):
            return empty
        return self._attempt(action, "DEFERRED")

    def write(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``action`` gives; its changes are made together or not at all.

        Raises:
            ToolError: when the file cannot be written.
        """
        return self._attempt(action, "IMMEDIATE")

    def damaged(self) -> ToolError:
        """The error that says so."""
        return ToolError(
            f"the file of the {self._what} is damaged: {self._path}",
            f"move it away to begin with new {self._what}; it is left as it is",
        )

    def _attempt(self, action: Callable[[sqlite3.Connection], Result], kind: str) -> Result:
        try:
            self._prepare()
            with closing(self._connect()) as connection:
                self._look_over(connection)
                connection.execute(f"BEGIN {kind}")
                try:
                    result = action(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):  # SQLite may have rolled back already
                        connection.execute("ROLLBACK")
                    raise
                return result
        except sqlite3.Error as error:
            raise self._say(error) from error
        except UnicodeDecodeError as error:  # SQLite quotes from the file that it finds damaged
            raise self.damaged() from error
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error

    def _prepare(self) -> None:
        """A private file to open."""
        if os.path.lexists(self._path):
            # Asked in this order: another thread may make the file between two questions.
            if not self._path.is_file():
                raise self.damaged()
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was faster
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        # One damaged byte must cost one letter, not the note.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        return connection

    def _look_over(self, connection: sqlite3.Connection) -> None:
        """Is it ours, and of this version? An empty file becomes ours."""
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is gone
        if self._version(connection) == _VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = self._version(connection)  # another process may have been faster
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if version > _VERSION:
                raise ToolError(
                    f"the {self._what} were written by a newer MobileLLM", "update MobileLLM"
                )
            if version == 0 and tables:
                raise ToolError(
                    f"{self._path} is a database of another program",
                    f"move it away to begin with new {self._what}",
                )
            if version == 0:
                connection.execute(self._table)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def _say(self, error: sqlite3.Error) -> ToolError:
        code = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self.damaged()
        if code == sqlite3.SQLITE_FULL:
            return ToolError("the disk is full: nothing was written", "free some space")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ToolError(
                f"another program has held the {self._what} for {BUSY_TIMEOUT_S:.0f} s", "try again"
            )
        return self._unusable(str(error))

    def _unusable(self, cause: str) -> ToolError:
        return ToolError(
            f"the {self._what} in {self._path} cannot be used: {cause}",
            "check the disk and the permissions",
        )
