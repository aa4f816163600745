"""Timers and alarms."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, timers
from mobilellm_mlx.tools.builtin.timers import FILE, MAX_PENDING, Timers
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.toolbox import Toolbox

BERLIN = ZoneInfo("Europe/Berlin")


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 14, 5, tzinfo=BERLIN)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **passed: float) -> None:
        at = self.now.timestamp() + timedelta(**passed).total_seconds()
        self.now = datetime.fromtimestamp(at, self.now.tzinfo)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def around(tmp_path: Path, clock: Clock) -> Surroundings:
    return Surroundings(data_dir=tmp_path / "data", now=clock)


@pytest.fixture
def waiting(around: Surroundings, clock: Clock) -> Timers:
    return Timers(around.data_dir / FILE, clock)


def call(around: Surroundings, tool_name: str, /, **arguments: object) -> str:
    tool = Toolbox(timers.tools(around)).find(tool_name)
    return tool.run(check_arguments(tool, arguments), threading.Event())


def test_a_timer_rings_once(around: Surroundings, waiting: Timers, clock: Clock) -> None:
    said = call(around, "set_timer", duration="5 minutes", label="pasta")
    assert said == "A timer of 5 minutes called pasta rings at 14:10."
    assert waiting.next_due() == datetime(2026, 11, 22, 14, 10, tzinfo=BERLIN)
    clock.forward(minutes=4, seconds=59)
    assert waiting.due() == []
    clock.forward(seconds=1)
    (rang,) = waiting.due()
    assert (rang.name, rang.kind) == ("pasta", "timer")
    assert rang.words(clock()) == "pasta rang at 14:10"
    assert waiting.due() == waiting.pending() == []
    assert waiting.next_due() is None


def test_what_should_have_rung_while_nobody_was_there_rings_later(
    around: Surroundings, clock: Clock
) -> None:
    call(around, "set_timer", duration="5 minutes")
    call(around, "set_alarm", time="3 pm")
    clock.forward(days=3)
    again = Timers(around.data_dir / FILE, clock)  # started anew
    assert [timer.name for timer in again.due()] == ["timer of 5 minutes", "alarm of 15:00"]
    assert again.due() == []


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("5 pm", "An alarm rings at 17:00, in 2 hours 55 minutes."),
        (
            "7:30 am",
            "An alarm rings at 07:30 on Monday 23 November 2026, in 17 hours 25 minutes.",
        ),
        (
            "5 pm tomorrow",
            "An alarm rings at 17:00 on Monday 23 November 2026, in 1 day 2 hours 55 minutes.",
        ),
        (
            "midnight",
            "An alarm rings at 00:00 on Monday 23 November 2026, in 9 hours 55 minutes.",
        ),
    ],
)
def test_an_alarm_rings_today_or_tomorrow(around: Surroundings, time: str, said: str) -> None:
    assert call(around, "set_alarm", time=time) == said


def test_a_timer_counts_the_hours_that_pass_when_clocks_change(
    around: Surroundings, waiting: Timers, clock: Clock
) -> None:
    clock.now = datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN)  # 2:00 becomes 3:00
    call(around, "set_timer", duration="1 hour", label="bread")
    (timer,) = waiting.pending()
    assert timer.words(clock()) == "bread rings in 1 hour, at 03:30"
    clock.forward(minutes=59)
    assert waiting.due() == []
    clock.forward(minutes=1)
    assert len(waiting.due()) == 1


def test_an_alarm_goes_by_the_clock_when_clocks_change(
    around: Surroundings, waiting: Timers, clock: Clock
) -> None:
    clock.now = datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN)  # 3:00 becomes 2:00
    said = call(around, "set_alarm", time="7:00", label="run")
    assert said == "An alarm called run rings at 07:00 on Sunday 25 October 2026, in 10 hours."
    assert waiting.next_due() == datetime(2026, 10, 25, 6, 0, tzinfo=UTC)


def test_timers_are_listed_and_cancelled(around: Surroundings, waiting: Timers) -> None:
    assert call(around, "list_timers") == "No timer or alarm is set."
    call(around, "set_alarm", time="18:00", label="call Anna")
    call(around, "set_timer", duration="10 minutes", label="tea")
    assert call(around, "list_timers").splitlines() == [
        "The timer tea rings in 10 minutes, at 14:15.",
        "The alarm call Anna rings in 3 hours 55 minutes, at 18:00.",
    ]
    box = Toolbox(timers.tools(around))
    schema = box.live_schema(box.find("cancel_timer"))
    assert schema["properties"]["name"]["enum"] == ["tea", "call Anna"]
    assert call(around, "cancel_timer", name="Tea") == "The timer tea is cancelled."
    with pytest.raises(ToolError, match="no timer 'tea' is set"):
        waiting.cancel("tea")


def test_names_are_each_there_once(around: Surroundings, waiting: Timers) -> None:
    for _ in range(3):
        call(around, "set_timer", duration="5 minutes", label="egg")
    assert [timer.name for timer in waiting.pending()] == ["egg", "egg (2)", "egg (3)"]


def test_labels_are_one_plain_line(around: Surroundings, waiting: Timers) -> None:
    call(around, "set_timer", duration="5 minutes", label=" a\n\x1b[31mb ")
    assert [timer.name for timer in waiting.pending()] == ["a [31mb"]


def test_there_are_not_more_timers_than_anybody_needs(waiting: Timers, clock: Clock) -> None:
    waiting.set("timer", "x", clock())
    with sqlite3.connect(waiting._shelf._path) as database:
        rows = [(f"{number}", "timer", 0.0) for number in range(MAX_PENDING - 1)]
        database.executemany("INSERT INTO timer (name, kind, rings_at) VALUES (?, ?, ?)", rows)
    database.close()
    with pytest.raises(ToolError, match="set already"):
        waiting.set("timer", "x", clock())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("set_timer", {"duration": "5"}),
        ("set_timer", {"duration": "5 years"}),
        ("set_timer", {"duration": "5 minutes", "label": "x" * 61}),
        ("set_timer", {"minutes": 5}),
        ("set_alarm", {"time": "25:00"}),
        ("set_alarm", {"time": "tomorrow"}),
        ("cancel_timer", {"name": "nothing"}),
    ],
)
def test_what_cannot_be_set_is_refused(
    around: Surroundings, name: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(ToolError):
        call(around, name, **arguments)
    assert call(around, "list_timers") == "No timer or alarm is set."


@pytest.mark.parametrize("value", ["'soon'", "9e300", "-9e300", "x'00ff'"])
def test_a_time_that_is_none_is_damage(waiting: Timers, clock: Clock, value: str) -> None:
    waiting.set("timer", "x", clock())
    with sqlite3.connect(waiting._shelf._path) as database:
        database.execute(f"UPDATE timer SET rings_at = {value}")
    database.close()
    with pytest.raises(ToolError, match="damaged"):
        waiting.due()


def test_looking_makes_no_file(around: Surroundings, waiting: Timers) -> None:
    assert waiting.due() == waiting.pending() == []
    assert waiting.next_due() is None
    assert not around.data_dir.exists()


def test_each_rings_for_one_of_many_threads(waiting: Timers, clock: Clock) -> None:
    for number in range(12):
        waiting.set("timer", f"{number}", clock())
    with ThreadPoolExecutor(6) as pool:
        rang = [timer.name for due in pool.map(lambda _: waiting.due(), range(12)) for timer in due]
    assert sorted(rang, key=int) == [f"{number}" for number in range(12)]


def test_each_rings_in_one_of_two_processes(around: Surroundings, waiting: Timers) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(20):
        waiting.set("timer", f"{number}", past)
    code = (
        "import sys; from pathlib import Path; from datetime import datetime\n"
        "from mobilellm_mlx.tools.builtin.timers import Timers\n"
        "for t in Timers(Path(sys.argv[1]), datetime.now).due(): print(t.name)\n"
    )
    command = [sys.executable, "-c", code, str(around.data_dir / FILE)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rang = [line for process in started for line in process.communicate(timeout=60)[0].split()]
    assert sorted(rang, key=int) == [f"{number}" for number in range(20)]


def test_calls_are_told_in_words(around: Surroundings) -> None:
    box = Toolbox(timers.tools(around))
    words = {
        "Set a timer of 5 minutes called pasta": ("set_timer", "duration", "5 min", "pasta"),
        "Set an alarm for 17:00 today": ("set_alarm", "time", "5 pm", ""),
        "Set an alarm for 07:30 Monday 23 November 2026 called up": (
            *("set_alarm", "time", "7:30 am"),
            "up",
        ),
    }
    for said, (name, argument, value, label) in words.items():
        assert box.find(name).words({argument: value, "label": label}) == said
    assert box.find("set_timer").words({"duration": "never"}) == 'set_timer(duration = "never")'


def test_tools_understand_their_own_examples(around: Surroundings, waiting: Timers) -> None:
    waiting.set("timer", "pasta", datetime(2030, 1, 1, tzinfo=UTC))
    waiting.set("alarm", "alarm of 07:30", datetime(2030, 1, 1, tzinfo=UTC))
    for tool in sorted(timers.tools(around), key=lambda tool: tool.name):
        assert tool.reads_only == (tool.name == "list_timers")
        for example in tool.examples:
            schema = Toolbox([tool]).schema_for(tool, example.said)
            assert tool.run(check_arguments(tool, example.arguments, schema), threading.Event())
            for spoken in tool.spoken & example.arguments.keys():
                assert example.arguments[spoken] in example.said


@pytest.mark.parametrize(
    ("said", "duration", "label"),
    [
        ("Set a timer for 10 minutes called pasta", "10 minutes", "pasta"),
        ("set a timer named Sunday roast for 2 hours, please", "2 hours", "Sunday roast"),
        ("a ten minute timer for the eggs", "ten minute", "eggs"),
        ("remind me in half an hour to check the oven", "half an hour", "check the oven"),
        ("Set a timer for 5 minutes", "5 minutes", None),
        ("Set a timer for ten minutes", "ten minutes", None),
        ("set the timer to 5 minutes", "5 minutes", None),
        ("set a timer for an hour and a half", "an hour and a half", None),
        ("can you help me to set a timer for 90 s", "90 s", None),
        ("a 5 minute pasta timer", "5 minute", None),
    ],
)
def test_a_label_is_needed_where_one_was_said_and_only_there(
    around: Surroundings, said: str, duration: str, label: str | None
) -> None:
    box = Toolbox(timers.tools(around))
    schema = box.schema_for(box.find("set_timer"), said)
    assert schema["properties"]["duration"]["enum"] == [duration]
    assert ("label" in schema["required"]) == (label is not None)
    assert schema["properties"].get("label", {}).get("enum") == ([label] if label else None)


@pytest.mark.parametrize(
    ("said", "time", "label"),
    [
        ("set an alarm at quarter past six called gym", "quarter past six", "gym"),
        ("wake me at ten to seven", "ten to seven", None),
        ("Wake me at 6 tomorrow", "6 tomorrow", None),
        ("set an alarm for the morning at 7", "7", None),
        ("alarm at 6:45 for my run", "6:45", "run"),
    ],
)
def test_the_time_of_an_alarm_is_heard_whole(
    around: Surroundings, said: str, time: str, label: str | None
) -> None:
    box = Toolbox(timers.tools(around))
    schema = box.schema_for(box.find("set_alarm"), said)
    assert schema["properties"]["time"]["enum"] == [time]
    assert schema["properties"].get("label", {}).get("enum") == ([label] if label else None)
