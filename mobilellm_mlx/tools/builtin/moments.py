"""Times of day, dates and durations out of the words in which people say them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from fractions import Fraction

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin.numerals import join_words

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_HOLIDAYS: Mapping[str, tuple[int, int]] = {
    "new year": (1, 1),
    "new years": (1, 1),
    "new years day": (1, 1),
    "valentines day": (2, 14),
    "halloween": (10, 31),
    "christmas eve": (12, 24),
    "christmas": (12, 25),
    "christmas day": (12, 25),
    "new years eve": (12, 31),
}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_TIME_HINT = "say it like 7:30 am or 19:30"
_DATE_HINT = "say it like 2026-12-24, 24 December or next Friday"
_DURATION_HINT = "say it like 5 minutes, 90 s or 1 hour 30 minutes"

_NUMBER = r"(\d+(?:\.\d+)?)"
_CLOCK = re.compile(r"(\d{1,2})(?:[:.h ](\d\d))?(?::(\d\d))? ?([ap]m)?")
_PAST = re.compile(r"(half|(?:a )?quarter|\d{1,2})(?: minutes?)? (past|to) (\d{1,2}) ?([ap]m)?")
_PARTS_OF_DAY = {
    " in the morning": " am",
    **dict.fromkeys((" in the afternoon", " in the evening", " at night", " tonight"), " pm"),
}
_PIECE = re.compile(rf"{_NUMBER} ?([a-z]+) ?")
_SHIFT = re.compile(r"(\d+) (day|week|month|year)s?(?: (ago|from|after|before)(?: (.+))?)?")
_DAY_FIRST = re.compile(r"(\d{1,2})(?:st|nd|rd|th)? (?:of )?([a-z]+)(?: (\d{4}))?")
_MONTH_FIRST = re.compile(r"([a-z]+) (\d{1,2})(?:st|nd|rd|th)?(?: (\d{4}))?")
_FIGURES = re.compile(r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})")
_BEFORE_DATE = re.compile(
    r"(?:(?:how many )?days )?(?:(?:until|till|to|since|on|in|the|next|this|coming) )*"
)


def _plain(text: str, dropped: str = ".,!?") -> str:
    """Small letters, single spaces, numbers in digits."""
    text = printable(text).casefold().replace("'", "").replace("’", "")
    text = re.sub(r"\b([ap])\.m\b\.?", r"\1m", text).strip(dropped + " \t\n")

    def in_digits(run: re.Match[str]) -> str:
        return " ".join(map(str, join_words(re.split(r"[ -]+", run[0]))))

    return " ".join(re.sub(r"[a-z]+(?:[ -]+[a-z]+)*", in_digits, text).split())


def _unknown(what: str, text: str, hint: str) -> ToolError:
    return ToolError(f"{printable(text)[:60]!r} is not {what}", hint)


def parse_time(text: str) -> time:
    """A time of day; without am or pm it is one of 24 hours.

    Raises:
        ToolError: when it is none.
    """
    said = re.sub(r"^(?:at|by) ", "", _plain(text))
    for words, half in _PARTS_OF_DAY.items():
        said = said.replace(words, half)
    said = re.sub(r" ?o ?clock", "", said)
    if said in ("noon", "midday", "12 noon", "midnight", "12 midnight"):
        return time(0) if "midnight" in said else time(12)
    try:
        if found := _CLOCK.fullmatch(said):
            hour, minute, second = int(found[1]), int(found[2] or 0), int(found[3] or 0)
            return time(_in_24_hours(hour, found[4]), minute, second)
        if found := _PAST.fullmatch(said):
            offset = {"half": 30, "quarter": 15, "a quarter": 15}.get(found[1]) or int(found[1])
            minutes = 60 * _in_24_hours(int(found[3]), found[4])
            minutes += offset if found[2] == "past" else -offset
            return time(minutes // 60 % 24, minutes % 60)
    except ValueError:
        pass
    raise _unknown("a time of day", text, _TIME_HINT)


def _in_24_hours(hour: int, half: str | None) -> int:
    if not half:
        return hour
    if not 1 <= hour <= 12:
        raise ValueError
    return hour % 12 + (12 if half == "pm" else 0)


def parse_duration(text: str) -> timedelta:
    """A length of time, to the second.

    Raises:
        ToolError: when it is none, or none at all.
    """
    said = re.sub(r"^(?:for|in) ", "", _plain(text))
    said = re.sub(r"\bhalf an? ", "0.5 ", said)
    said = re.sub(r"\b(?:a )?quarter of an? ", "0.25 ", said)
    said = re.sub(r"\ban? (?!half)", "1 ", said)
    said = re.sub(r"(\d+) (\w+) and (?:a )?half$", r"\1.5 \2", said)
    said = re.sub(r"(\d+) and (?:a )?half (\w+)", r"\1.5 \2", said)
    said = re.sub(r",| and ", " ", said)
    said = " ".join(said.split())
    total, place = Fraction(0), 0
    while place < len(said):
        found = _PIECE.match(said, place)
        if not found or found[2] not in _SECONDS or len(found[1]) > 12:
            raise _unknown("a length of time", text, _DURATION_HINT)
        total += Fraction(found[1]) * _SECONDS[found[2]]
        place = found.end()
    seconds = round(total)
    if seconds < 1:
        raise _unknown("a length of time", text, _DURATION_HINT)
    if seconds > 366 * 86_400:
        raise ToolError(f"{printable(text)[:60]!r} is longer than a year", "use a shorter time")
    return timedelta(seconds=seconds)


def parse_date(text: str, today: date, *, since: date | None = None) -> date:
    """A day.

    Args:
        text: as it was said.
        today: what relative words count from.
        since: a day without a year is the first such one from here on; None is today.

    Raises:
        ToolError: when it is none, or beyond the years 1 to 9999.
    """
    said = " ".join(_plain(text).replace(",", " ").split())
    try:
        day = _day(said, today, since or today)
    except (ValueError, OverflowError):
        raise ToolError(f"there is no day {printable(text)[:60]!r}", _DATE_HINT) from None
    if day is None:
        raise _unknown("a date", text, _DATE_HINT)
    return day


def _day(said: str, today: date, since: date) -> date | None:
    if found := re.fullmatch(r"(next|last) (week|month|year)", said):
        return _shifted(today, 1 if found[1] == "next" else -1, found[2])
    if (found := re.fullmatch(r"last (\w+)", said)) and (weekday := _index(found[1], WEEKDAYS)):
        return today - timedelta(days=(today.isoweekday() - weekday - 1) % 7 + 1)
    said = re.sub(r"\ban? ", "1 ", _BEFORE_DATE.sub("", said, count=1))
    near = {"yesterday": -1, "today": 0, "now": 0, "tomorrow": 1}
    near |= {"day after tomorrow": 2, "day before yesterday": -2}
    if said in near:
        return today + timedelta(days=near[said])
    if weekday := _index(said, WEEKDAYS):
        return today + timedelta(days=(weekday - today.isoweekday() - 1) % 7 + 1)
    if said in _HOLIDAYS:
        month, day = _HOLIDAYS[said]
        return _dated(None, month, day, since)
    if found := _SHIFT.fullmatch(said):
        return _counted(found, today, since)
    if found := _FIGURES.fullmatch(said):
        return _in_figures(found)
    if (found := _DAY_FIRST.fullmatch(said)) and (month := _index(found[2], MONTHS)):
        return _dated(found[3], month, int(found[1]), since)
    if (found := _MONTH_FIRST.fullmatch(said)) and (month := _index(found[1], MONTHS)):
        return _dated(found[3], month, int(found[2]), since)
    return None


def _index(word: str, names: tuple[str, ...]) -> int:
    """Which name, from 1, a word or its first three letters or more stand for; 0 for none."""
    fits = (len(word) >= 3 and name.casefold().startswith(word) for name in names)
    return next((number for number, fit in enumerate(fits, start=1) if fit), 0)


def _counted(found: re.Match[str], today: date, since: date) -> date | None:
    """So many days, weeks, months or years from a day."""
    count, unit, direction, base = int(found[1]), found[2], found[3] or "from", found[4]
    start = _day(base, today, since) if base else today
    if start is None or (direction == "ago" and base) or count > 100_000:
        return None
    return _shifted(start, -count if direction in ("ago", "before") else count, unit)


def _shifted(day: date, count: int, unit: str) -> date:
    if unit in ("day", "week"):
        return day + timedelta(days=count * (7 if unit == "week" else 1))
    months = day.year * 12 + day.month - 1 + count * (12 if unit == "year" else 1)
    year, month = divmod(months, 12)
    for last in range(day.day, 27, -1):  # 31 January and a month is the end of February
        try:
            return date(year, month + 1, last)
        except ValueError:
            continue
    return date(year, month + 1, min(day.day, 27))


def _in_figures(found: re.Match[str]) -> date | None:
    first, sign, second, third = int(found[1]), found[2], int(found[3]), int(found[4])
    if len(found[1]) == 4:
        return date(first, second, third)
    if len(found[4]) != 4:
        return None
    if sign == "/" and first <= 12 and second <= 12 and first != second:
        raise ToolError(
            f"{found[0]} is one day in Europe and another in America",
            f"say {third}-{first:02}-{second:02} or {third}-{second:02}-{first:02}",
        )
    # A month has no number above 12; dots and dashes put the day first.
    return date(third, first, second) if sign == "/" and second > 12 else date(third, second, first)


def _dated(year: str | None, month: int, day: int, since: date) -> date:
    if year:
        return date(int(year), month, day)
    for candidate in range(since.year, since.year + 9):  # 29 February may be eight years away
        try:
            found = date(candidate, month, day)
        except ValueError:
            continue
        if found >= since:
            return found
    raise ValueError


def zoned(now: datetime) -> datetime:
    """``now`` with a zone: the system's where it has none."""
    return now.astimezone() if now.tzinfo is None else now


def next_at(clock: time, now: datetime, *, days_ahead: int = 0) -> datetime:
    """When it is ``clock`` next, by the clocks of the place: they may be put forward or back.

    Args:
        clock: a time of day.
        now: with its zone.
        days_ahead: 1 begins with tomorrow.
    """
    for days in (days_ahead, days_ahead + 1):
        wall = datetime.combine(now.date() + timedelta(days=days), clock)
        for fold in (0, 1):  # an hour that comes twice
            moment = _placed(wall.replace(fold=fold), now)
            if moment.timestamp() > now.timestamp():
                return moment
    raise AssertionError("tomorrow lies ahead")


def local(timestamp: float, now: datetime) -> datetime:
    """An instant by the clocks of the place.

    Args:
        timestamp: seconds since 1970, UTC.
        now: with the zone of the place.
    """
    if _is_system_zone(now):
        return datetime.fromtimestamp(timestamp).astimezone()
    return datetime.fromtimestamp(timestamp, now.tzinfo)


def _placed(wall: datetime, now: datetime) -> datetime:
    # By way of the timestamp: a time that is left out when clocks go forward becomes one that is.
    if _is_system_zone(now):
        return local(wall.timestamp(), now)
    return local(wall.replace(tzinfo=now.tzinfo).timestamp(), now)


def _is_system_zone(now: datetime) -> bool:
    """Whether its zone is the system's of today, as an offset.

    Only the system knows what the offset will be on another day.
    """
    here = datetime.fromtimestamp(now.timestamp()).astimezone()
    return isinstance(now.tzinfo, timezone) and now.utcoffset() == here.utcoffset()


def clock_text(moment: time | datetime) -> str:
    """``14:05``, with seconds where there are any."""
    seconds = f":{moment.second:02}" if moment.second else ""
    return f"{moment.hour:02}:{moment.minute:02}{seconds}"


def date_text(day: date) -> str:
    """``Sunday 22 November 2026``."""
    return f"{WEEKDAYS[day.weekday()]} {day.day} {MONTHS[day.month - 1]} {day.year}"


def duration_text(duration: timedelta) -> str:
    """``1 hour 30 minutes``."""
    rest = max(0, round(duration.total_seconds()))
    pieces = []
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, rest = divmod(rest, size)
        if count:
            pieces.append(f"{count} {unit}" + ("s" if count != 1 else ""))
    return " ".join(pieces) or "0 seconds"
