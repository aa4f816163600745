"""Ringing: what is due is said once, loudly; what was missed is said at the start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin.timers import Timers
from tui import alarms
from tui.house import House


async def test_what_is_due_rings_once_and_what_was_missed_rings_at_the_start(
    open_chat, staged, monkeypatch, tmp_path
):
    monkeypatch.setattr(alarms, "LOOK_EVERY_S", 0.05)
    now = [datetime(2026, 1, 5, 12, 0, tzinfo=UTC)]
    timers = Timers(tmp_path / "timers.db", lambda: now[0])
    timers.set("timer", "tea [b]", now[0] - timedelta(hours=1))
    timers.set("alarm", "pasta", now[0] + timedelta(minutes=5))
    house = House(timers=timers, now=lambda: now[0])
    async with open_chat(staged(), (100, 30), house=house) as chat:
        called = []
        monkeypatch.setattr(chat.app.attention, "call", called.append)
        bells = []
        monkeypatch.setattr(chat.app, "bell", lambda: bells.append(1))
        await chat.until(lambda: "tea [b] rang" in chat.text())
        assert "pasta" not in chat.text()
        now[0] += timedelta(minutes=6)
        await chat.until(lambda: "pasta rang" in chat.text())
        await chat.until(lambda: called and "pasta rang" in called[-1])
        assert bells
        rings = len(called)
        await chat.pilot.pause(0.2)
        assert len(called) == rings and timers.pending() == []


async def test_timers_that_cannot_be_read_are_a_sentence_and_not_one_every_second(
    open_chat, staged, monkeypatch
):
    monkeypatch.setattr(alarms, "LOOK_EVERY_S", 0.02)

    class Damaged:
        asked = 0

        def due(self):
            self.asked += 1
            raise ToolError("the timers are damaged")

    house = House(timers=Damaged())
    async with open_chat(staged(), house=house) as chat:
        said = []
        monkeypatch.setattr(chat.app, "notify", lambda text, **_: said.append(text))
        house.timers.asked = 0
        await chat.until(lambda: house.timers.asked > 5)
        assert len(said) <= 1
