"""Who trains a run now, and what others want of it: a lock and a word, both in small files."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, get_args

from mobilellm_mlx.errors import TrainingError
from mobilellm_mlx.training.files import open_own, storage_error, write_whole

Want = Literal["run", "pause", "stop"]

_PATIENCE_S, _RETRY_S = 0.3, 0.02


class Lock:
    """A run is trained by one process at a time.

    The system's own lock (flock) goes with the process, however it ends: what a dead one wrote into
    the file blocks nobody. The file names the process for messages.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path):
        self._path = directory / "lock"
        self._run = directory.name
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold it; within the same object it may be held again. Gives whether it was not yet.

        Raises:
            TrainingError: another process has it.
            StorageError: when the disk refuses.
        """
        if self._depth:
            self._depth += 1
            try:
                yield False
            finally:
                self._depth -= 1
            return
        with self._take() as file:
            self._depth = 1
            try:
                yield True
            finally:
                self._depth = 0
                with suppress(OSError):
                    file.truncate(0)

    def holder(self) -> int | None:
        """The process that trains the run now; 0 when it is one that cannot be named.

        None when nobody does.
        """
        if self._depth:
            return os.getpid()
        try:
            with open_own(self._path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _read_pid(file)
        except OSError:  # no such file, or a disk that knows no locks
            return None
        return None

    @contextmanager
    def _take(self) -> Iterator[IO[bytes]]:
        try:
            file = open_own(self._path, os.O_RDWR | os.O_CREAT, "r+b")
        except OSError as error:
            raise storage_error("write", self._path, error) from error
        with file:
            # Whoever asks `holder` has it for a moment.
            until = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise self._taken(_read_pid(file)) from None
                    time.sleep(_RETRY_S)
                except OSError as error:
                    raise storage_error("lock", self._path, error) from error
            try:
                file.seek(0)
                file.truncate(0)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                file.write(json.dumps({"pid": os.getpid(), "started": started}).encode())
                file.flush()
            except OSError as error:
                raise storage_error("write", self._path, error) from error
            yield file

    def _taken(self, pid: int) -> TrainingError:
        who = f"process {pid}" if pid else "another process"
        return TrainingError(
            f"the run `{self._run}` is being trained by {who}",
            f"wait for it, or end it with `mobilellm train stop {self._run}`",
        )


def _read_pid(file: IO[bytes]) -> int:
    try:
        file.seek(0)
        pid = json.loads(file.read(200))["pid"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return 0
    return pid if type(pid) is int and pid > 0 else 0


class Control:
    """What others want of a run; the training looks between two steps.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path):
        self._path = directory / "control"

    def want(self) -> Want:
        """What was asked for last; ``run`` when nothing, or nothing that is understood."""
        try:
            with open_own(self._path) as file:
                word = file.read(16).strip().decode("ascii", "replace")
        except OSError:
            return "run"
        return word if word in get_args(Want) else "run"  # type: ignore[return-value]

    def ask(self, want: Want) -> None:
        """Ask for it.

        Raises:
            StorageError: when the disk refuses.
        """
        write_whole(self._path, f"{want}\n")

    def clear(self) -> None:
        """Forget what was asked for.

        Raises:
            StorageError: when the disk refuses.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error("write", self._path, error) from error
