"""Times, dates and durations in words."""

from __future__ import annotations

import os
import time as system_time
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin.moments import (
    clock_text,
    date_text,
    duration_text,
    local,
    next_at,
    parse_date,
    parse_duration,
    parse_time,
    zoned,
)

TODAY = date(2026, 11, 22)  # a Sunday
BERLIN = ZoneInfo("Europe/Berlin")

TIMES = {
    "7:30 am": time(7, 30),
    "07:30": time(7, 30),
    "7pm": time(19),
    "7.30pm": time(19, 30),
    "7:30 p.m.": time(19, 30),
    "at 6": time(6),
    "noon": time(12),
    "midnight": time(0),
    "12 am": time(0),
    "12:15 pm": time(12, 15),
    "half past seven": time(7, 30),
    "quarter to 8": time(7, 45),
    "a quarter past 9 pm": time(21, 15),
    "ten to 12 am": time(23, 50),
    "7 o'clock": time(7),
    "seven thirty": time(7, 30),
    "7 in the evening": time(19),
    "seven o'clock in the morning": time(7),
    "19h30": time(19, 30),
    "6:15:30": time(6, 15, 30),
}

DURATIONS = {
    "5 minutes": 300,
    "for ten minutes.": 600,
    "1 hour 30 minutes": 5400,
    "1h30m": 5400,
    "90 s": 90,
    "an hour and a half": 5400,
    "two and a half hours": 9000,
    "half an hour": 1800,
    "a quarter of an hour": 900,
    "a minute": 60,
    "1.5 hours": 5400,
    "twenty-five minutes": 1500,
    "1 hour, 5 minutes and 3 seconds": 3903,
    "2 days": 172_800,
}

DATES = {
    "2026-12-24": "2026-12-24",
    "24 December": "2026-12-24",
    "December 24th": "2026-12-24",
    "the 24th of December 2027": "2027-12-24",
    "Dec 24, 2026": "2026-12-24",
    "mar 1": "2027-03-01",
    "1 may": "2027-05-01",
    "today": "2026-11-22",
    "tomorrow": "2026-11-23",
    "yesterday": "2026-11-21",
    "the day after tomorrow": "2026-11-24",
    "friday": "2026-11-27",
    "next Friday": "2026-11-27",
    "sunday": "2026-11-29",
    "last Friday": "2026-11-20",
    "last sunday": "2026-11-15",
    "Christmas": "2026-12-25",
    "how many days until New Year's Eve": "2026-12-31",
    "new year": "2027-01-01",
    "3 weeks ago": "2026-11-01",
    "in 30 days": "2026-12-22",
    "30 days from now": "2026-12-22",
    "a week from today": "2026-11-29",
    "two weeks from tomorrow": "2026-12-07",
    "2 weeks after 1 May": "2027-05-15",
    "three months before christmas": "2026-09-25",
    "3 months from 2026-11-30": "2027-02-28",
    "1 year after 29 February 2028": "2029-02-28",
    "next week": "2026-11-29",
    "last year": "2025-11-22",
    "29 February": "2028-02-29",
    "24.12.2026": "2026-12-24",
    "12/24/2026": "2026-12-24",
    "24/12/2026": "2026-12-24",
    "3/3/2026": "2026-03-03",
}


@pytest.mark.parametrize(("said", "meant"), TIMES.items())
def test_times_of_day_are_understood(said: str, meant: time) -> None:
    assert parse_time(said) == meant


@pytest.mark.parametrize(("said", "seconds"), DURATIONS.items())
def test_durations_are_understood(said: str, seconds: int) -> None:
    assert parse_duration(said) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("said", "meant"), DATES.items())
def test_dates_are_understood(said: str, meant: str) -> None:
    assert parse_date(said, TODAY).isoformat() == meant


@pytest.mark.parametrize(
    "said", ["", "x", "25:00", "13 pm", "0 am", "7:60", "soon", "7:3", "9" * 99]
)
def test_what_is_no_time_is_refused(said: str) -> None:
    with pytest.raises(ToolError, match="is not a time of day"):
        parse_time(said)


@pytest.mark.parametrize(
    "said", ["", "5", "minutes", "0 minutes", "0.1 s", "5 bananas", "-5 minutes", "9" * 60 + " s"]
)
def test_what_is_no_duration_is_refused(said: str) -> None:
    with pytest.raises(ToolError, match="is not a length of time"):
        parse_duration(said)


def test_nobody_waits_for_more_than_a_year() -> None:
    with pytest.raises(ToolError, match="longer than a year"):
        parse_duration("9000 hours")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("nonsense", "is not a date"),
        ("", "is not a date"),
        ("31 February", "there is no day"),
        ("2026-13-01", "there is no day"),
        ("99999 years from now", "there is no day"),
        ("1 day before 0001-01-01", "there is no day"),
        ("9" * 80, "is not a date"),
        ("5 days ago tomorrow", "is not a date"),
        ("3/4/2026", "one day in Europe and another in America"),
    ],
)
def test_what_is_no_date_is_refused(said: str, words: str) -> None:
    with pytest.raises(ToolError) as refused:
        parse_date(said, TODAY)
    assert words in refused.value.message
    assert refused.value.hint


@given(st.text(max_size=40) | st.text("0123456789:-/. apmdaywekinofthsr", max_size=40))
def test_any_text_is_understood_or_refused(said: str) -> None:
    for parse in (parse_time, parse_duration, lambda text: parse_date(text, TODAY)):
        try:
            parse(said)
        except ToolError as refused:
            assert "\n" not in refused.message


@given(st.dates(), st.dates(min_value=date(1900, 1, 1)))
def test_a_written_date_is_read_again(day: date, today: date) -> None:
    assert parse_date(day.isoformat(), today) == day
    assert parse_date(f"{day.day} {day:%B} {day.year:04}", today) == day


@given(st.integers(1, 300 * 86_400))
def test_a_written_duration_is_read_again(seconds: int) -> None:
    length = timedelta(seconds=seconds)
    assert parse_duration(duration_text(length)) == length


@given(st.times())
def test_a_written_time_is_read_again(clock: time) -> None:
    clock = clock.replace(microsecond=0)
    half = "am" if clock.hour < 12 else "pm"
    short = f"{(clock.hour - 1) % 12 + 1}:{clock:%M:%S} {half}"
    assert parse_time(clock_text(clock)) == parse_time(short) == clock


def test_moments_are_written_for_people() -> None:
    assert date_text(TODAY) == "Sunday 22 November 2026"
    assert clock_text(time(0, 5)) == "00:05"
    assert duration_text(timedelta(0)) == "0 seconds"
    assert duration_text(timedelta(days=1, minutes=1, seconds=2)) == "1 day 1 minute 2 seconds"


@pytest.mark.parametrize(
    ("now", "clock", "rings"),
    [
        ("2026-11-22T06:00", time(7, 30), "2026-11-22T07:30+01:00"),
        ("2026-11-22T08:00", time(7, 30), "2026-11-23T07:30+01:00"),
        ("2026-11-22T07:30", time(7, 30), "2026-11-23T07:30+01:00"),
        ("2026-11-22T23:59", time(0), "2026-11-23T00:00+01:00"),
        ("2026-12-31T23:59", time(0, 1), "2027-01-01T00:01+01:00"),
        # Clocks go forward on 29 March at 2:00 and back on 25 October at 3:00.
        ("2026-03-28T22:00", time(7), "2026-03-29T07:00+02:00"),
        ("2026-03-28T22:00", time(2, 30), "2026-03-29T03:30+02:00"),
        ("2026-10-24T22:00", time(7), "2026-10-25T07:00+01:00"),
        ("2026-10-25T02:10", time(2, 30), "2026-10-25T02:30+02:00"),
        ("2026-10-25T02:40", time(2, 30), "2026-10-25T02:30+01:00"),
    ],
)
def test_the_next_time_goes_by_the_clocks_of_the_place(now: str, clock: time, rings: str) -> None:
    moment = next_at(clock, datetime.fromisoformat(now).replace(tzinfo=BERLIN))
    assert moment.isoformat(timespec="minutes") == rings


@pytest.fixture
def berlin_system() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    system_time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    system_time.tzset()


@pytest.mark.usefixtures("berlin_system")
def test_the_zone_of_the_system_is_more_than_its_offset_today() -> None:
    now = zoned(datetime(2026, 3, 28, 22))
    assert now.utcoffset() == timedelta(hours=1)
    assert next_at(time(7), now).isoformat() == "2026-03-29T07:00:00+02:00"
    assert local(now.timestamp() + 86_400, now).isoformat() == "2026-03-29T23:00:00+02:00"


def test_a_zone_that_was_handed_in_stays() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=BERLIN)
    assert zoned(now) is now
    assert local(now.timestamp(), now) == now.astimezone(UTC)
    assert local(now.timestamp(), now).tzinfo is BERLIN
