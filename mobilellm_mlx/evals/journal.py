"""The responses of a run as they come, so that one that was killed goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO

from mobilellm_mlx import paths
from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.evals.task import Response


def evals_dir() -> Path:
    """Where runs and results are kept."""
    return paths.data_dir() / "evals"


class Journal:
    """A file with a line for every response.

    A line that is not whole (the program was killed in the middle, a disk was full) is dropped.

    Args:
        path: of the file; made where there is none.
        fresh: forget what is there.

    Raises:
        StorageError: when it cannot be read or written.
    """

    def __init__(self, path: Path, *, fresh: bool = False):
        self.path = path
        self.known: dict[str, Response] = {}
        self.dropped = 0
        """Lines that could not be read."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
            _take(self._file, path)
            self._file.seek(0)
            data = b"" if fresh else self._file.read()
            whole = data[: data.rfind(b"\n") + 1]
            # What follows the last line break was cut; the next line must not be joined to it.
            self._file.truncate(len(whole))
        except OSError as error:
            raise StorageError(
                f"the run's file `{path}` cannot be used: {error.strerror}",
                "check the rights of its directory, or point MOBILELLM_HOME to another place",
            ) from error
        self.dropped = len(data) > len(whole)
        for line in whole.splitlines():
            if response := _read(line):
                self.known.setdefault(response.id, response)
            else:
                self.dropped += 1

    def add(self, response: Response) -> None:
        """Keep a response: it is on its way to the disk when this returns."""
        line = json.dumps({"id": response.id, "response": response.values})
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()
        self.known[response.id] = response

    def of(self, ids: Collection[str]) -> dict[str, Response]:
        """The responses to some requests."""
        return {id: self.known[id] for id in ids if id in self.known}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _take(file: IO[bytes], path: Path) -> None:
    """Keep others from writing; the lock goes with the process, however it ends.

    Raises:
        StorageError: when another program writes it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StorageError(
            f"another program is at this run (`{path.name}`)",
            "wait until it has ended, or stop it; what it has done is kept",
        ) from None


def _read(line: bytes) -> Response | None:
    """The response of a line; None for anything else."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    id, response = values.get("id"), values.get("response")
    if not isinstance(id, str) or not isinstance(response, dict):
        return None
    return Response(id, response)
