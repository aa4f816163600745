"""What a training said, kept line by line: for plots, for reopening, as a table for programs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.events import (
    Event,
    Progress,
    RolledBack,
    Summary,
    TrainStarted,
    TrainStep,
    Validated,
    from_dict,
)
from mobilellm_mlx.training.files import append_whole, open_own, storage_error, write_whole

COLUMNS = (
    "step",
    "epoch",
    "loss",
    "valid_loss",
    "learning_rate",
    "gradient_norm",
    "tok_per_s",
    "memory_bytes",
    "elapsed_s",
)
"""Of ``metrics.csv``. A step has a row, and so has a validation, with what it knows."""

_KINDS: dict[str, type] = {
    "int": int,
    "bool": bool,
    "str": str,
    "Status": str,
    "TrainEnd": str,
    "StopReason": str,  # names of kinds of text
}
_LARGEST = 2**63


class Journal:
    """``metrics.jsonl``, a line for every event, and ``metrics.csv``, its figures.

    A last line that is not whole (the program was killed in the middle) is no line.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path):
        self.path = directory / "metrics.jsonl"
        self.table = directory / "metrics.csv"
        self._is_sound = False

    def add(self, event: Event) -> None:
        """Keep an event; ``Progress`` is not kept, it is of no use afterwards.

        Raises:
            StorageError: when the disk refuses; nothing of the event is left then.
        """
        if isinstance(event, Progress):
            return
        self._mend()
        row = _row(event)
        before = append_whole(self.path, event.to_json().encode("utf-8", "replace") + b"\n")
        if row is None:
            return
        try:
            head = "" if self.table.exists() else _table([])
            append_whole(self.table, (head + row).encode())
        except StorageError:
            with suppress(OSError):
                os.truncate(self.path, before)
            raise

    def cut(self, step: int) -> None:
        """Make both files what they would be if nothing had come after ``step``.

        The end of the run goes as well: it is no end any more.

        Raises:
            StorageError: when the disk refuses; then both are as they were or cut.
        """
        kept = list(_until(step, self.events()))
        lines = "".join(f"{event.to_json()}\n" for event in kept)
        write_whole(self.path, lines)
        write_whole(self.table, _table(kept))

    def events(self) -> Iterator[Event]:
        """What was kept; lines that are no events are passed over."""
        yield from _parse(self.read())

    def read(self) -> bytes:
        """All whole lines.

        Raises:
            StorageError: when they cannot be read.
        """
        return _read_from(self.path, 0)

    def _mend(self) -> None:
        """Once, before the first line: drop what a killed process left of its last one."""
        if self._is_sound:
            return
        for path in (self.path, self.table):
            try:
                with open_own(path, os.O_RDWR, "r+b") as file:
                    data = file.read()
                    if data and data[-1:] != b"\n":
                        file.truncate(data.rfind(b"\n") + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error("write", path, error) from error
        self._is_sound = True


class JournalReader:
    """Reads a journal that another process writes, each time what is new.

    Args:
        journal: to read.
    """

    def __init__(self, journal: Journal):
        self._path = journal.path
        self._file_id: tuple[int, int] | None = None
        self._at = 0

    def read(self) -> tuple[list[Event], bool]:
        """The events since the last call, and whether they are all there are.

        They are when it is the first call, and when the run was cut back in the meantime: what was
        read before is to be forgotten then.

        Raises:
            StorageError: when the journal cannot be read.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            restarted = self._file_id is None or self._at > 0
            self._file_id, self._at = (0, 0), 0
            return [], restarted
        except OSError as error:
            raise storage_error("read", self._path, error) from error
        file_id = (found.st_dev, found.st_ino)
        restarted = self._file_id is None or (
            self._at > 0 and (file_id != self._file_id or found.st_size < self._at)
        )
        self._file_id = file_id
        if restarted:
            self._at = 0
        data = _read_from(self._path, self._at)
        self._at += len(data)
        return list(_parse(data)), restarted


def _read_from(path: Path, start: int) -> bytes:
    """The whole lines of a file from a place on."""
    try:
        with open_own(path) as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error("read", path, error) from error
    return data[: data.rfind(b"\n") + 1]


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        if event := parse_line(line):
            yield event


def parse_line(line: bytes) -> Event | None:
    """The event of a line; None for anything else."""
    try:
        values = json.loads(line)
        event = from_dict(values) if isinstance(values, dict) else None
    except (ValueError, RecursionError):
        return None
    return event if event and _is_sound(event) else None


def _is_sound(event: Event) -> bool:
    """Whether the figures are figures: a file may hold anything."""
    for each in fields(event):
        value, kind = getattr(event, each.name), str(each.type)
        if value is None and kind.endswith("| None"):
            continue
        kind = kind.removesuffix(" | None")
        if type(value) is int and abs(value) > _LARGEST:  # more than a float can be
            return False
        if kind == "float" and not (type(value) in (int, float) and isfinite(value)):
            return False
        if kind.startswith("list") and not all(type(part) in (str, dict) for part in _parts(value)):
            return False
        if _KINDS.get(kind, type(value)) is not type(value):
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [None]


def _until(step: int, events: Iterable[Event]) -> Iterator[Event]:
    """What was said while the run was not past ``step``, without its ends."""
    at = 0
    for event in events:
        at = _place(event, at)
        if at <= step and not isinstance(event, Summary):
            yield event


def _place(event: Event, before: int) -> int:
    """The step at which a run is after an event; one that names none changes nothing."""
    if isinstance(event, TrainStarted):
        value: Any = event.start_step
    elif isinstance(event, RolledBack):
        value = event.to_step
    else:
        value = getattr(event, "step", before)
    return value if type(value) is int else before


def _row(event: Event) -> str | None:
    """The event's line of the table; None when it has none."""
    if isinstance(event, Validated):
        values: dict[str, Any] = {"step": event.step, "valid_loss": event.loss}
    elif isinstance(event, TrainStep):
        values = {name: getattr(event, name, "") for name in COLUMNS}
    else:
        return None
    return _line([values.get(name, "") for name in COLUMNS])


def _line(cells: Iterable[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _table(events: Iterable[Event]) -> str:
    return _line(COLUMNS) + "".join(row for event in events if (row := _row(event)))
