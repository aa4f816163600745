"""The time, here and elsewhere, and dates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Annotated, Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import named, readings
from mobilellm_mlx.tools.builtin.moments import (
    clock_text,
    date_text,
    parse_date,
    parse_time,
    zoned,
)
from mobilellm_mlx.tools.builtin.places import HERE, find_place, place_names, zone_of
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

Place = Annotated[str, Limits(min_length=1, max_length=60)]
Clock = Annotated[str, Limits(min_length=1, max_length=40)]
Day = Annotated[str, Limits(min_length=1, max_length=80)]


def tools(around: Surroundings) -> list[Tool]:
    """``current_time``, ``convert_time``, ``date_math`` and ``days_between``."""
    return [_current_time(around), _convert_time(around), _date_math(around), _days_between(around)]


def _current_time(around: Surroundings) -> Tool:
    def current_time(place: Place) -> str:
        """Tell the time and date now, here or in another place.

        Args:
            place: a city or country, or here
        """
        now = zoned(around.now())
        there = _in_zone(now, zone_of(place, _zone(now))).replace(second=0)
        where = "" if find_place(place) == HERE else f" in {find_place(place)}"
        return f"It is {clock_text(there)}{where}, {date_text(there)} ({_offset_text(there)})."

    return tool_from(
        current_time,
        reads_only=True,
        answers=True,
        live={"place": place_names},
        heard={"place": _place},
        examples=(
            Example("What time is it in Tokyo?", {"place": "Tokyo"}),
            Example("What time is it?", {"place": HERE}),
            Example("What is today's date?", {"place": HERE}),
        ),
        keywords=(
            *("time", "clock", "now", "today", "date", "current time", "what day is it"),
            *("the time in", "time is it in", "what time it is", "is it late", "is it early"),
        ),
        describe=lambda arguments: _time_in_words(arguments["place"]),
        check=lambda arguments: {"place": find_place(arguments["place"])},
    )


def _time_in_words(place: str) -> str:
    name = find_place(place)
    return "Tell the time" if name == HERE else f"Tell the time in {name}"


def _convert_time(around: Surroundings) -> Tool:
    def convert_time(time: Clock, from_place: Place, to_place: Place) -> str:
        """Tell what time it is in one place when it is a given time in another.

        Args:
            time: a time of day, such as 3 pm or 15:00
            from_place: where it is that time
            to_place: where the time is asked for
        """
        now = zoned(around.now())
        source = zone_of(from_place, _zone(now))
        today = _in_zone(now, source)
        wall = datetime.combine(today.date(), parse_time(time), source)
        there = _in_zone(wall, zone_of(to_place, _zone(now)))
        when = _WHEN[(there.date() - wall.date()).days]
        start, end = find_place(from_place), find_place(to_place)
        return (
            f"{clock_text(wall)} {_at(start)} is {clock_text(there)}{when} {_at(end)} "
            f"({_offset_text(there)})."
        )

    return tool_from(
        convert_time,
        reads_only=True,
        answers=True,
        live={"from_place": place_names, "to_place": place_names},
        spoken={"time"},
        heard={
            "time": lambda said: readings(said, parse_time),
            "from_place": lambda said: _from_and_to(said)[0],
            "to_place": lambda said: _from_and_to(said)[1],
        },
        examples=(
            Example(
                "What time is 3 pm in London in New York?",
                {"time": "3 pm", "from_place": "London", "to_place": "New York"},
            ),
            Example(
                "When it is 9:30 in Berlin, what time is it here?",
                {"time": "9:30", "from_place": "Berlin", "to_place": HERE},
            ),
        ),
        keywords=(
            *("<clock>", "time zone", "time zones", "time difference", "pm", "am"),
            *("when it is", "when it's noon", "when it's midnight"),
        ),
        describe=lambda arguments: (
            f"Convert {printable(arguments['time'])} {_at(find_place(arguments['from_place']))} to "
            f"the time {_at(find_place(arguments['to_place']))}"
        ),
        check=_checked_places,
    )


_WHEN = {
    -2: " two days before",
    -1: " the day before",
    0: "",
    1: " the next day",
    2: " two days later",
}
"""From 14 hours ahead of UTC to 12 behind it is more than a day."""


def _checked_places(arguments: Mapping[str, Any]) -> dict[str, Any]:
    parse_time(arguments["time"])
    places = {name: find_place(arguments[name]) for name in ("from_place", "to_place")}
    return {**arguments, **places}


def _date_math(around: Surroundings) -> Tool:
    def date_math(date: Day) -> str:
        """Tell which weekday a date is, and how many days it is from today.

        Args:
            date: such as 24 December, next Friday, Christmas, 3 weeks ago or 30 days from now
        """
        today = zoned(around.now()).date()
        day = parse_date(date, today)
        days = (day - today).days
        if days == 0:
            return f"Today is {date_text(day)}."
        weekday, _, rest = date_text(day).partition(" ")
        verb, distance = ("is", "from now") if days > 0 else ("was", "ago")
        return f"{rest} {verb} a {weekday}, {_days(abs(days))} {distance}."

    return tool_from(
        date_math,
        reads_only=True,
        answers=True,
        spoken={"date"},
        heard={"date": lambda said: _dates(around, said)},
        examples=(
            Example("What weekday is 24 December?", {"date": "24 December"}),
            Example("How many days until Christmas?", {"date": "Christmas"}),
            Example("What date is 30 days from now?", {"date": "30 days from now"}),
        ),
        keywords=(
            *("weekday", "day of the week", "date", "days until", "days from now", "weeks from"),
            *(
                "days ago",
                "weeks ago",
                "how long until",
                "days till",
                "days to",
                "days before",
                "which day",
                "what day",
            ),
        ),
        describe=lambda arguments: f"Look up the date {printable(arguments['date'])}",
        check=lambda arguments: _checked_days(around, arguments),
    )


def _days_between(around: Surroundings) -> Tool:
    def days_between(start: Day, end: Day) -> str:
        """Count the days between two dates.

        Args:
            start: the first date, such as 1 March
            end: the second date, such as 15 April 2027
        """
        today = zoned(around.now()).date()
        first = parse_date(start, today, since=today.replace(month=1, day=1))
        last = parse_date(end, today, since=first)
        distance = _days(abs((last - first).days))
        return f"From {date_text(first)} to {date_text(last)} it is {distance}."

    return tool_from(
        days_between,
        reads_only=True,
        answers=True,
        spoken={"start", "end"},
        heard={
            "start": lambda said: _both(around, said)[:1],
            "end": lambda said: _both(around, said)[1:],
        },
        examples=(
            Example(
                "How many days are there between 1 March and 15 April?",
                {"start": "1 March", "end": "15 April"},
            ),
            Example(
                "Count the days from 2026-01-01 to 2026-12-24",
                {"start": "2026-01-01", "end": "2026-12-24"},
            ),
        ),
        keywords=("days between", "how many days", "count days"),
        describe=lambda arguments: (
            f"Count the days from {printable(arguments['start'])} to {printable(arguments['end'])}"
        ),
        check=lambda arguments: _checked_days(around, arguments),
    )


def _checked_days(around: Surroundings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    for said in arguments.values():
        parse_date(said, zoned(around.now()).date())
    return dict(arguments)


def _dates(around: Surroundings, said: str) -> list[str]:
    today = zoned(around.now()).date()
    return readings(said, lambda text: parse_date(text, today))


def _both(around: Surroundings, said: str) -> list[str]:
    """Two dates in the order in which they were said; nothing where there are not two."""
    dates = _dates(around, said)
    return dates if len(dates) == 2 else []


_ELSEWHERE = re.compile(r"\b(?:in|at|for|over)\s+(?!the\b|my\b)\w", re.IGNORECASE)


def _place(said: str) -> list[str]:
    """The places that were named; here where none can have been."""
    return named(place_names(), said) or ([] if _ELSEWHERE.search(said) else [HERE])


def _from_and_to(said: str) -> tuple[list[str], list[str]]:
    """Where it is a time that was said, and where the time is asked for.

    The place that stands behind the time is where it is that time.
    """
    places, times = named(place_names(), said), readings(said, parse_time)
    if not 0 < len(places) < 3 or len(times) != 1:
        return [], []
    low = said.casefold()
    behind = low.find(times[0].casefold()) + len(times[0])
    near = re.match(r"(?:\s+(?:time|in|at|o'?clock))*\s*", low[behind:])
    start = low[behind + (near.end() if near else 0) :]
    source = next((place for place in (*places, HERE) if start.startswith(place.casefold())), "")
    others = [place for place in places if place != source]
    if not source:
        source, others = (others[0], others[1:]) if len(others) == 2 else (HERE, others)
    return [source], others or [HERE]


def _zone(moment: datetime) -> tzinfo:
    assert moment.tzinfo is not None  # `zoned` sees to that
    return moment.tzinfo


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    try:
        return moment.astimezone(zone)
    except (OverflowError, ValueError):
        raise ToolError("the clock of this machine is set to a year that has no zones") from None


def _at(place: str) -> str:
    return place if place == HERE else f"in {place}"


def _days(count: int) -> str:
    return f"{count:,} day" + ("" if count == 1 else "s")


def _offset_text(moment: datetime) -> str:
    offset = moment.utcoffset()
    minutes = round(offset.total_seconds() / 60) if offset else 0
    sign = "+" if minutes >= 0 else "-"
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{sign}{hours}" + (f":{rest:02}" if rest else "")
