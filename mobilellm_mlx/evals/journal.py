"""The responses of a run as they come, so that one that was killed goes on."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mobilellm_mlx import paths
from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.evals.task import Response


def evals_dir() -> Path:
    """Where runs and results are kept."""
    return paths.data_dir() / "evals"


_MOST_S = 1e9


class RunIsTaken(StorageError):
    """Another program writes this run."""


class Journal:
    """A file with a line for every response.

    A line that is not whole (the program was killed in the middle, a disk was full) is dropped, and
    the file is written again without it.

    Args:
        path: of the file; made where there is none.
        fresh: forget what is there.

    Raises:
        RunIsTaken: when another program writes it.
        StorageError: when it cannot be read or written.
    """

    def __init__(self, path: Path, *, fresh: bool = False):
        self.path = path
        self.known: dict[str, Response] = {}
        self.dropped = 0
        """Lines that could not be read."""
        self._spent_s: dict[str, float] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
            _take(self._file, path)
            self._file.seek(0)
            data = b"" if fresh else self._file.read()
            sound = self._read(data)
            if data.startswith(sound):
                # What follows was cut off; the next line must not be joined to it.
                self._file.truncate(len(sound))
            else:
                self._rewrite(sound)
        except OSError as error:
            raise StorageError(
                f"the run's file `{path}` cannot be used: {error.strerror}",
                "check the rights of its directory, or point MOBILELLM_HOME to another place",
            ) from error

    def _read(self, data: bytes) -> bytes:
        """Take in the lines of the file, and give those that could be read."""
        *lines, rest = data.split(b"\n")
        sound = []
        for line in lines:
            if found := _read(line):
                response, spent_s = found
                if response.id not in self.known and spent_s is not None:
                    self._spent_s[response.id] = spent_s
                self.known.setdefault(response.id, response)
                sound.append(line + b"\n")
        self.dropped = len(lines) - len(sound) + bool(rest)
        return b"".join(sound)

    def _rewrite(self, data: bytes) -> None:
        """Put another file in the place of this one, which never is half of it."""
        scratch = self.path.with_suffix(f".{os.getpid()}.part")
        file = scratch.open("w+b")
        try:
            _take(file, scratch)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            scratch.replace(self.path)
        except OSError:
            file.close()
            scratch.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = file

    def add(self, response: Response, spent_s: float | None = None) -> None:
        """Keep a response: it is on its way to the disk when this returns.

        Args:
            response: what came.
            spent_s: since the one before it came.
        """
        values: dict[str, Any] = {"id": response.id, "response": response.values}
        if spent_s is not None:
            values["spent_s"] = self._spent_s[response.id] = round(spent_s, 4)
        self._file.write(json.dumps(values).encode("ascii") + b"\n")
        self._file.flush()
        self.known[response.id] = response

    def spent_s(self, ids: Collection[str]) -> float | None:
        """How long these took, over all runs; None where that of one of them was not kept."""
        if not all(id in self._spent_s for id in ids):
            return None
        return math.fsum(self._spent_s[id] for id in ids)

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
        RunIsTaken: when another program writes it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except BlockingIOError:
        is_ours = False
    if not is_ours:  # or it was written again between opening and locking
        file.close()
        raise RunIsTaken(
            f"another program is at this run (`{path.name}`)",
            "wait until it has ended, or stop it; what it has done is kept",
        )


def _read(line: bytes) -> tuple[Response, float | None] | None:
    """The response of a line and how long it took; None for anything else."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    id, response = values.get("id"), values.get("response")
    if not isinstance(id, str) or not isinstance(response, dict):
        return None
    spent_s = values.get("spent_s")  # older files have none
    is_time = isinstance(spent_s, int | float) and 0 <= spent_s < _MOST_S
    return Response(id, response), spent_s if is_time else None
