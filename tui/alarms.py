"""Ringing: timers and alarms that are due while the interface is open, and those that were missed
before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from textual.app import App

from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.tools.builtin.timers import Timer, Timers

from .attention import Attention
from .completing import on_thread
from .text import printable

LOOK_EVERY_S = 1.0
SHOWN_FOR_S = 60.0


class Alarms:
    """Looks once a second whether anything is due, on a thread: another program may write there.

    Args:
        app: says it.
        timers: what is set to ring.
        attention: calls who looks elsewhere.
        now: the local time.
    """

    def __init__(
        self, app: App[Any], timers: Timers, attention: Attention, now: Callable[[], datetime]
    ) -> None:
        self._app = app
        self._timers = timers
        self._attention = attention
        self._now = now
        self._is_looking = False
        self._problem = ""

    def attach(self) -> None:
        """Begin. Call it when the app is mounted."""
        self._app.set_interval(LOOK_EVERY_S, self.look)
        self._app.call_after_refresh(self.look)

    def look(self) -> None:
        """Ring for what is due."""
        if not self._is_looking:
            self._is_looking = True
            self._app.run_worker(self._look())

    async def _look(self) -> None:
        try:
            for timer in await asyncio.wrap_future(on_thread(self._timers.due)):
                self._ring(timer)
            self._problem = ""
        except MobileLLMError as error:
            if error.message != self._problem:  # once, not every second
                self._problem = error.message
                self._app.notify(error.message, severity="error", markup=False)
        finally:
            self._is_looking = False

    def _ring(self, timer: Timer) -> None:
        said = printable(timer.words(self._now()))
        title = timer.kind.capitalize()
        self._app.notify(said, title=title, markup=False, timeout=SHOWN_FOR_S)
        self._app.bell()
        self._attention.call(said)
