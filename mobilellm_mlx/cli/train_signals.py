"""Ctrl-C while training: once ends it after the present step, twice leaves at once.

A step may take half a minute in which MLX computes and Python hears no signal. So the system's own
handler tells a thread, by way of a pipe, and that acts.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


class Interruptions:
    """Hears signals between ``with`` and its end.

    SIGTERM and SIGHUP (the terminal was closed) end a training like the first Ctrl-C; they may come
    several times. Ctrl-C when it is ending already leaves without waiting for anything: what is on
    the disk stands.

    Args:
        stop: set by the first signal.
    """

    def __init__(self, stop: threading.Event):
        self._stop = stop
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup_before = -1
        self.number: int | None = None
        """The first signal that came."""

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():  # only there are signals heard
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._listen()
            threading.Thread(target=self._wait, name="signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipe is None:
            return
        self._ignore()
        os.close(self._pipe[1])  # the thread reads the end and closes its own side

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Signals do what they did before: for asking a question."""
        if self._pipe is None:
            yield
            return
        self._ignore()
        try:
            yield
        finally:
            self._listen()

    def _listen(self) -> None:
        assert self._pipe is not None
        self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in _HEARD:
            self._before[number] = signal.signal(number, _do_nothing)

    def _ignore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)

    def _wait(self) -> None:
        assert self._pipe is not None
        while numbers := os.read(self._pipe[0], 16):
            for number in numbers:
                self._heed(number)
        os.close(self._pipe[0])

    def _heed(self, number: int) -> None:
        if number not in _HEARD:
            return
        if not self._stop.is_set():
            self.number = number
            self._stop.set()
            self._say("stopping after this step; Ctrl-C again leaves at once")
        elif number == signal.SIGINT:
            self._say("left at once: the last checkpoint stands")
            if os.isatty(1):
                with suppress(OSError):
                    os.write(1, _SHOW_CURSOR)
            os._exit(128 + number)

    def _say(self, text: str) -> None:
        """On stderr, past all buffers: whoever holds their locks may be busy for long."""
        start = "\r\x1b[2K" if os.isatty(2) else ""  # over the live line
        with suppress(OSError):
            os.write(2, f"{start}{text}\n".encode())


def _do_nothing(_: int, __: FrameType | None) -> None:
    """Python's half of the handler; the other half writes into the pipe."""
