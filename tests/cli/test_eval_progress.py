"""Where an evaluation is, for whoever reads it in a file; and an answer to Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mobilellm_mlx.cli import eval_progress
from mobilellm_mlx.cli.eval_progress import Stop, show_progress
from mobilellm_mlx.events import EvalSummary, Event, Progress

END = EvalSummary(status="ok", elapsed_s=1.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds; its only value can be set."""
    now = [0.0]
    monkeypatch.setattr(eval_progress.time, "monotonic", lambda: now[0])
    return now


def said(
    clock: list[float], capsys: pytest.CaptureFixture[str], count: int, each_s: float
) -> list[str]:
    def events() -> Iterator[Event]:
        for done in range(count + 1):
            yield Progress("piqa", done, count, "items")
            clock[0] += each_s
        yield END

    assert show_progress(events()) == END
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "piqa"
    return lines


def test_off_a_terminal_every_tenth_is_a_line(clock, capsys) -> None:
    lines = said(clock, capsys, 200, 1.0)
    assert lines[0] == "piqa: 20 of 200 items"
    assert 9 <= len(lines) <= 10


def test_what_is_slow_is_told_every_half_minute(clock, capsys) -> None:
    assert len(said(clock, capsys, 1000, 10.0)) == 1000 // 3


def test_what_is_quick_is_told_once(clock, capsys) -> None:
    assert said(clock, capsys, 5, 0.1) == []


def test_names_cannot_steer_a_terminal(clock, capsys) -> None:
    def events() -> Iterator[Event]:
        for done in range(3):
            yield Progress("\x1b[31m", done, 2, "items")
            clock[0] += 60

    show_progress(events())
    assert "\x1b" not in capsys.readouterr().err


def test_a_wish_to_stop_is_answered_at_once_and_once(capfd) -> None:
    stop = Stop()
    stop.set()
    stop.set()
    assert stop.is_set()
    assert capfd.readouterr().err.count("stopping after this batch") == 1
