"""Timers and alarms, in one SQLite file; whoever shows them asks which are due."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import readings, trimmed
from mobilellm_mlx.tools.builtin.moments import (
    clock_text,
    date_text,
    duration_text,
    local,
    next_at,
    parse_duration,
    parse_time,
    zoned,
)
from mobilellm_mlx.tools.builtin.shelf import Shelf
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

MAX_PENDING = 100
MAX_LABEL = 60
_SOON_S = 120
FILE = "timers.db"

_TABLE = """
CREATE TABLE timer (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    kind TEXT NOT NULL,
    rings_at REAL NOT NULL  -- seconds since 1970, UTC
)
"""

Label = Annotated[str, Limits(max_length=MAX_LABEL)]
Duration = Annotated[str, Limits(min_length=1, max_length=60)]
Clock = Annotated[str, Limits(min_length=1, max_length=40)]
Name = Annotated[str, Limits(min_length=1, max_length=100)]


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer or an alarm that has not rung, or has just done so.

    Attributes:
        name: the person's label, or what it was set to; unique among those that wait.
        kind: ``timer`` or ``alarm``.
        rings_at: when, with a zone.
    """

    name: str
    kind: Literal["timer", "alarm"]
    rings_at: datetime

    @property
    def title(self) -> str:
        """``timer pasta``, ``alarm of 07:30``."""
        return self.name if self.name.startswith(f"{self.kind} of ") else f"{self.kind} {self.name}"

    def words(self, now: datetime) -> str:
        """``pasta rings in 4 minutes 10 seconds, at 14:05``."""
        now = zoned(now)
        # Of two times of one zone Python subtracts what the clocks show, not what has gone by.
        left = timedelta(seconds=self.rings_at.timestamp() - now.timestamp())
        at = self.at(now)
        if left <= timedelta(0):
            return f"{self.name} rang {at}"
        return f"{self.name} rings in {duration_text(left)}, {at}"

    def at(self, now: datetime) -> str:
        """``at 14:05``, the seconds where it is soon, and the day where it is another one."""
        day = "" if self.rings_at.date() == now.date() else f" on {date_text(self.rings_at)}"
        is_soon = abs(self.rings_at.timestamp() - now.timestamp()) < _SOON_S
        moment = self.rings_at if is_soon else self.rings_at.replace(second=0)
        return f"at {clock_text(moment)}{day}"


class Timers:
    """What is set to ring. Usable from any thread, and by several processes at once.

    Args:
        path: the file they are kept in, so that they survive.
        now: the time.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]):
        self._now = now
        self._shelf = Shelf(path, _TABLE, "timers")

    def set(self, kind: Literal["timer", "alarm"], name: str, rings_at: datetime) -> Timer:
        """Keep a timer; its name gains a number if another one has it.

        Raises:
            ToolError: when there are too many, or they cannot be written.
        """

        def insert(connection: sqlite3.Connection) -> str:
            if connection.execute("SELECT count(*) FROM timer").fetchone()[0] >= MAX_PENDING:
                raise ToolError(
                    f"{MAX_PENDING} timers and alarms are set already", "cancel some of them"
                )
            free, number = name, 1
            while connection.execute("SELECT 1 FROM timer WHERE name = ?", (free,)).fetchone():
                number += 1
                free = f"{name} ({number})"
            row = (free, kind, rings_at.timestamp())
            connection.execute("INSERT INTO timer (name, kind, rings_at) VALUES (?, ?, ?)", row)
            return free

        return Timer(self._shelf.write(insert), kind, rings_at)

    def pending(self) -> list[Timer]:
        """All that have not rung, the next first.

        Raises:
            ToolError: when the file cannot be read.
        """
        return self._shelf.read(self._rows, [])

    def due(self) -> list[Timer]:
        """Those whose time has come since this was last asked. Each is given once, to one asker,
        however many processes ask.

        Raises:
            ToolError: when the file cannot be read or written.
        """
        now = self._now().timestamp()
        if not any(timer.rings_at.timestamp() <= now for timer in self.pending()):
            return []  # nothing to write, and nobody to wait for

        def take(connection: sqlite3.Connection) -> list[Timer]:
            taken = [timer for timer in self._rows(connection) if timer.rings_at.timestamp() <= now]
            names = [(timer.name,) for timer in taken]
            connection.executemany("DELETE FROM timer WHERE name = ?", names)
            return taken

        return self._shelf.write(take)

    def next_due(self) -> datetime | None:
        """When the next one rings; None when none is set.

        Raises:
            ToolError: when the file cannot be read.
        """
        pending = self.pending()
        return pending[0].rings_at if pending else None

    def cancel(self, name: str) -> Timer:
        """Let one not ring, and give it.

        Raises:
            ToolError: when none of that name is set.
        """

        def take(connection: sqlite3.Connection) -> list[Timer]:
            found = [timer for timer in self._rows(connection) if _same(timer.name, name)]
            names = [(timer.name,) for timer in found]
            connection.executemany("DELETE FROM timer WHERE name = ?", names)
            return found

        if not (gone := self._shelf.write(take)):
            raise ToolError(
                f"no timer {printable(name)[:MAX_LABEL]!r} is set", "`list_timers` shows them"
            )
        return gone[0]

    def _rows(self, connection: sqlite3.Connection) -> list[Timer]:
        now = zoned(self._now())
        rows = connection.execute("SELECT name, kind, rings_at FROM timer ORDER BY rings_at, id")
        try:
            return [
                Timer(str(name), "alarm" if kind == "alarm" else "timer", local(rings_at, now))
                for name, kind, rings_at in rows
            ]
        except (TypeError, ValueError, OverflowError, OSError):  # no time at all
            raise self._shelf.damaged() from None


def _same(one: str, other: str) -> bool:
    return one == other or one.lower() == other.lower()


def tools(around: Surroundings) -> list[Tool]:
    """``set_timer``, ``set_alarm``, ``list_timers`` and ``cancel_timer``."""
    timers = Timers(around.data_dir / FILE, around.now)
    now = partial(_now, around)
    return [_set_timer(timers, now), _set_alarm(timers, now), _list(timers, now), _cancel(timers)]


def _now(around: Surroundings) -> datetime:
    return zoned(around.now())


def _set_timer(timers: Timers, now: Callable[[], datetime]) -> Tool:
    def set_timer(duration: Duration, label: Label = "") -> str:
        """Set a timer that rings after some time.

        Args:
            duration: how long, such as 5 minutes or 1 hour 30 minutes
            label: what it is for
        """
        length = parse_duration(duration)
        rings_at = local(now().timestamp() + length.total_seconds(), now())
        kind = f"timer of {duration_text(length)}"
        timer = timers.set("timer", _label(label) or kind, rings_at)
        called = f" called {timer.name}" if _label(label) else ""
        return f"A {kind}{called} rings {timer.at(now())}."

    return tool_from(
        set_timer,
        answers=True,
        spoken={"duration", "label"},
        heard={"duration": _durations, "label": _labels},
        cues={"label": LABEL_CUE},
        examples=(
            Example("Set a timer for 5 minutes", {"duration": "5 minutes"}),
            Example(
                "Set a timer for 1 hour 30 minutes called pasta",
                {"duration": "1 hour 30 minutes", "label": "pasta"},
            ),
            Example("Wake me in half an hour", {"duration": "half an hour"}),
        ),
        keywords=("timer", "countdown", "remind me in", "wake me in"),
        describe=lambda arguments: (
            f"Set a timer of {duration_text(parse_duration(arguments['duration']))}"
            f"{_called(arguments)}"
        ),
        check=_checked_timer,
    )


def _checked_timer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    parse_duration(arguments["duration"])
    return dict(arguments)


def _set_alarm(timers: Timers, now: Callable[[], datetime]) -> Tool:
    def set_alarm(time: Clock, label: Label = "") -> str:
        """Set an alarm that rings at a time of day, today or tomorrow.

        Args:
            time: such as 7:30 am, 19:30 or 7 am tomorrow
            label: what it is for
        """
        rings_at = _alarm_time(time, now())
        name = _label(label) or f"alarm of {rings_at:%H:%M}"
        timer = timers.set("alarm", name, rings_at)
        called = f" called {timer.name}" if _label(label) else ""
        left = timedelta(seconds=rings_at.timestamp() - now().timestamp())
        return f"An alarm{called} rings {timer.at(now())}, in {duration_text(left)}."

    def in_words(arguments: Mapping[str, Any]) -> str:
        rings_at = _alarm_time(arguments["time"], now())
        day = "today" if rings_at.date() == now().date() else date_text(rings_at)
        return f"Set an alarm for {clock_text(rings_at)} {day}{_called(arguments)}"

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        _alarm_time(arguments["time"], now())
        return dict(arguments)

    return tool_from(
        set_alarm,
        answers=True,
        spoken={"time", "label"},
        heard={"time": lambda said: readings(said, _alarm_clock), "label": _labels},
        cues={"label": LABEL_CUE},
        examples=(
            Example("Set an alarm for 7:30 am", {"time": "7:30 am"}),
            Example("Wake me at 6 tomorrow", {"time": "6 tomorrow"}),
            Example("Set an alarm at 17:45 to call Anna", {"time": "17:45", "label": "call Anna"}),
        ),
        keywords=("alarm", "wake me", "wake me up", "remind me at"),
        describe=in_words,
        check=check,
    )


def _alarm_time(said: str, now: datetime) -> datetime:
    return next_at(_alarm_clock(said), now, days_ahead=int("tomorrow" in said.casefold()))


def _alarm_clock(said: str) -> time:
    return parse_time(_DAY.sub(" ", said))


_DAY = re.compile(r"\b(?:today|tomorrow)\b,?", re.IGNORECASE)


def _list(timers: Timers, now: Callable[[], datetime]) -> Tool:
    def list_timers() -> str:
        """List the timers and alarms that are set, and when they ring."""
        pending = timers.pending()
        if not pending:
            return "No timer or alarm is set."
        return "\n".join(
            f"The {timer.title}{timer.words(now()).removeprefix(timer.name)}." for timer in pending
        )

    return tool_from(
        list_timers,
        reads_only=True,
        answers=True,
        examples=(
            Example("Which timers are running?", {}),
            Example("How much time is left on my timer?", {}),
            Example("Show my alarms", {}),
        ),
        keywords=("timer", "timers", "alarm", "alarms", "time left", "running"),
        describe=lambda _: "List the timers and alarms",
    )


def _cancel(timers: Timers) -> Tool:
    def cancel_timer(name: Name) -> str:
        """Cancel a timer or an alarm.

        Args:
            name: of the timer or alarm
        """
        return f"The {printable(timers.cancel(name).title)} is cancelled."

    return tool_from(
        cancel_timer,
        answers=True,
        live={"name": lambda: [timer.name for timer in timers.pending()]},
        examples=(
            Example("Cancel the pasta timer", {"name": "pasta"}),
            Example("Turn off the alarm of 07:30", {"name": "alarm of 07:30"}),
        ),
        keywords=("timer", "alarm", "cancel", "stop", "turn off", "delete"),
        describe=lambda arguments: f"Cancel {printable(arguments['name'])}",
    )


def _label(label: str) -> str:
    """One printable line."""
    return " ".join(printable(label.encode("utf-8", "replace").decode()).split())


def _called(arguments: Mapping[str, Any]) -> str:
    label = _label(arguments.get("label", ""))
    return f" called {label}" if label else ""


# ---------------------------------------------------------------- what was said

_NOT_A_LABEL = (
    r"(?!\d|(?:an?|the|my|this|that|half|quarter|noon|midnight|midday|to\w+|now|later|one|two|three|"
    r"four|five|six|seven|eight|nine|ten|eleven|twelve|thir\w+|four\w+|fif\w+|six\w+|seven\w+|"
    r"eigh\w+|nine\w+|twenty|forty|morning|evening|afternoon|night|week\w*|next|same|day|hours?|"
    r"minutes?|mins?|seconds?|secs?)\b)"
)
_LABELS = (
    r"\b(?:called|named|labell?ed|titled)\s+(\S.*)",
    rf"\bfor\s+(?:the|my|our|some)\s+({_NOT_A_LABEL}[a-z].*)",
    rf"\bto\s+(?!(?:set|start|go|ring|wake|be|make)\b)({_NOT_A_LABEL}[a-z].*)",
)
LABEL_CUE = "|".join(_LABELS)
"""What asks for a label; a pasta timer may stay without one."""
_BEHIND = re.compile(
    r"\s+(?:please|thanks|(?:for|in|at|of|that|which|set|and)\s+(?:\d|an?\b|half|one|two|three|five|"
    r"ten|rings?|goes))\b.*|[.,;!?]\s.*",
    re.IGNORECASE,
)


def _labels(said: str) -> list[str]:
    """What a timer is to be called."""
    for pattern in _LABELS:
        if found := re.search(pattern, said, re.IGNORECASE):
            label = trimmed(_BEHIND.sub("", " ".join(found[1].split())))
            return [label] if 0 < len(label) <= MAX_LABEL else []
    return []


def _durations(said: str) -> list[str]:
    return readings(said, parse_duration, belong=frozenset(("a", "day", "days")))
