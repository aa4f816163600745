"""The time here and elsewhere, and dates."""

from __future__ import annotations

import sys
import threading
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, clock, places
from mobilellm_mlx.tools.builtin.places import find_place, place_names, zone_of
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import MAX_LIVE, Toolbox

NOW = datetime(2026, 11, 22, 14, 5, tzinfo=ZoneInfo("Europe/Berlin"))


def tool_at(name: str, now: datetime = NOW) -> Tool:
    return Toolbox(clock.tools(Surroundings(data_dir=Path("/"), now=lambda: now))).find(name)


def call(name: str, now: datetime = NOW, **arguments: object) -> str:
    tool = tool_at(name, now)
    return tool.run(check_arguments(tool, arguments), threading.Event())


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("here", "It is 14:05, Sunday 22 November 2026 (UTC+1)."),
        ("Tokyo", "It is 22:05 in Tokyo, Sunday 22 November 2026 (UTC+9)."),
        ("new york", "It is 08:05 in New York, Sunday 22 November 2026 (UTC-5)."),
        ("India", "It is 18:35 in India, Sunday 22 November 2026 (UTC+5:30)."),
        ("Auckland", "It is 02:05 in Auckland, Monday 23 November 2026 (UTC+13)."),
        ("UTC", "It is 13:05 in UTC, Sunday 22 November 2026 (UTC+0)."),
    ],
)
def test_the_time_is_told_here_and_elsewhere(place: str, said: str) -> None:
    assert call("current_time", place=place) == said


def test_a_clock_without_a_zone_has_that_of_the_system() -> None:
    assert call("current_time", datetime(2026, 11, 22, 14, 5), place="here").startswith(
        "It is 14:05, Sunday 22 November 2026 (UTC"
    )


@pytest.mark.parametrize(
    ("time", "source", "target", "said"),
    [
        (
            "3 pm",
            "London",
            "New York",
            "15:00 in London is 10:00 in New York (UTC-5).",
        ),
        (
            "noon",
            "Los Angeles",
            "Tokyo",
            "12:00 in Los Angeles is 05:00 the next day in Tokyo (UTC+9).",
        ),
        (
            "1 am",
            "here",
            "Chicago",
            "01:00 here is 18:00 the day before in Chicago (UTC-6).",
        ),
    ],
)
def test_times_are_converted(time: str, source: str, target: str, said: str) -> None:
    assert call("convert_time", time=time, from_place=source, to_place=target) == said


def test_the_farthest_places_can_be_two_days_apart() -> None:
    said = call("convert_time", time="0:30", from_place="Kiritimati", to_place="Pago Pago")
    assert "is 23:30 two days before in Pago Pago" in said


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("24 December", "24 December 2026 is a Thursday, 32 days from now."),
        ("today", "Today is Sunday 22 November 2026."),
        ("yesterday", "21 November 2026 was a Saturday, 1 day ago."),
        ("3 weeks ago", "1 November 2026 was a Sunday, 21 days ago."),
        ("1 January 2000", "1 January 2000 was a Saturday, 9,822 days ago."),
    ],
)
def test_a_date_has_a_weekday_and_a_distance(date: str, said: str) -> None:
    assert call("date_math", date=date) == said


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (
            "1 March",
            "15 April",
            "From Sunday 1 March 2026 to Wednesday 15 April 2026 it is 45 days.",
        ),
        (
            "Christmas",
            "new year",
            "From Friday 25 December 2026 to Friday 1 January 2027 it is 7 days.",
        ),
        (
            "tomorrow",
            "today",
            "From Monday 23 November 2026 to Sunday 22 November 2026 it is 1 day.",
        ),
    ],
)
def test_days_between_two_dates_are_counted(start: str, end: str, said: str) -> None:
    assert call("days_between", start=start, end=end) == said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("current_time", {"place": "Atlantis"}),
        ("current_time", {"place": "../../etc/passwd"}),
        ("current_time", {"place": "\x1b[31mTokyo"}),
        ("current_time", {"place": "x" * 61}),
        ("current_time", {}),
        ("convert_time", {"time": "soon", "from_place": "here", "to_place": "Tokyo"}),
        ("date_math", {"date": "the ides of march"}),
        ("days_between", {"start": "today", "end": "\ud800"}),
        ("days_between", {"start": "today"}),
    ],
)
def test_what_the_clock_does_not_know_is_refused(name: str, arguments: dict[str, str]) -> None:
    with pytest.raises(ToolError) as refused:
        call(name, **arguments)
    assert "\x1b" not in refused.value.message


def test_places_are_found_however_they_are_written() -> None:
    assert find_place("são paulo") == "Sao Paulo"
    assert find_place("america/new_york") == "New York"
    assert find_place("ZÜRICH") == "Zurich"
    assert find_place("HERE") == "here"
    with pytest.raises(ToolError) as refused:
        find_place("Tokio")
    assert refused.value.hint == "did you mean Tokyo?"


def test_every_place_has_a_zone() -> None:
    names = place_names()
    assert names[0] == "here"
    assert len(names) > MAX_LIVE  # so that the toolbox has to choose
    assert all(isinstance(zone_of(name, UTC), tzinfo) for name in names)


def test_the_place_that_was_named_is_among_those_offered() -> None:
    tool = tool_at("current_time")
    schema = Toolbox([tool]).live_schema(tool, "what time is it in Ulaanbaatar?")
    assert "Ulaanbaatar" in schema["properties"]["place"]["enum"]
    assert "here" in schema["properties"]["place"]["enum"]


@pytest.mark.parametrize(
    ("said", "time", "source", "target"),
    [
        ("What time is 3 pm in London in New York?", "3 pm", "London", "New York"),
        ("when it's noon in Chicago, what time is it in Madrid?", "noon", "Chicago", "Madrid"),
        ("what time is it in Tokyo when it is 5 pm here", "5 pm", "here", "Tokyo"),
        ("8 am Tokyo time in Paris", "8 am", "Tokyo", "Paris"),
        ("3 pm in Sydney", "3 pm", "Sydney", "here"),
        ("what is 9:30 in Berlin, for somebody in Rome or Oslo", "9:30", None, None),
    ],
)
def test_the_place_behind_the_time_is_where_it_is_that_time(
    said: str, time: str, source: str | None, target: str | None
) -> None:
    heard = tool_at("convert_time").heard
    assert heard["time"](said) == [time]
    assert heard["from_place"](said) == ([source] if source else [])
    assert heard["to_place"](said) == ([target] if target else [])


def test_the_time_is_asked_for_here_where_no_place_is_named() -> None:
    heard = tool_at("current_time").heard["place"]
    assert heard("what time is it?") == ["here"]
    assert heard("is it late in new york?") == ["New York"]
    assert heard("what time is it in Atlantis?") == []


@pytest.mark.parametrize(
    ("said", "dates"),
    [
        ("How many days until Christmas?", ["Christmas"]),
        ("what weekday was 20 July 1969", ["20 July 1969"]),
        ("What date is 30 days from now?", ["30 days from now"]),
        ("no day at all", []),
    ],
)
def test_dates_are_heard_whole(said: str, dates: list[str]) -> None:
    assert tool_at("date_math").heard["date"](said) == dates


@pytest.mark.parametrize("name", ["current_time", "convert_time", "date_math", "days_between"])
def test_tools_understand_their_own_examples(name: str) -> None:
    tool = tool_at(name)
    assert tool.reads_only
    for example in tool.examples:
        schema = Toolbox([tool]).live_schema(tool, example.said)
        assert tool.run(check_arguments(tool, example.arguments, schema), threading.Event())
        assert "(" not in tool.words(example.arguments)
        for spoken in tool.spoken:
            assert example.arguments[spoken] in example.said


@pytest.fixture
def no_zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    for name in [name for name in sys.modules if name.partition(".")[0] == "tzdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tzdata", None)  # as if it were not installed
    ZoneInfo.clear_cache()
    places._zones.cache_clear()
    places._folded.cache_clear()
    yield
    zoneinfo.reset_tzpath(path)
    places._zones.cache_clear()
    places._folded.cache_clear()


@pytest.mark.usefixtures("no_zones")
def test_a_system_without_zones_still_knows_the_time_here() -> None:
    assert place_names()[:2] == ["here", "UTC"]
    assert call("current_time", datetime(2026, 11, 22, 14, 5, tzinfo=UTC), place="here")
    with pytest.raises(ToolError) as refused:
        find_place("Tokyo")
    assert refused.value.message == "this system has no data about time zones"
    assert refused.value.hint == "`pip install tzdata`"
