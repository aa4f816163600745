"""How ``mobilellm eval`` says where it is, and that it heard Ctrl-C."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.events import Event, Progress, Summary

SHARE, EVERY_S, LEAST_S = 0.1, 30.0, 5.0
"""Between two lines so much more of a task is done or so many seconds went by, and never fewer."""


class Stop(threading.Event):
    """Stops a job. Whoever asks for it is answered at once: the batch at work has to end first."""

    def set(self) -> None:
        if not self.is_set():
            # Not through Python's streams: a signal may come in the middle of a line of theirs.
            with suppress(OSError):
                os.write(2, b"\nstopping after this batch; Ctrl-C again stops at once\n")
        super().set()


def show_progress(events: Iterable[Event]) -> Summary | None:
    """As ``console.show_progress``; where nobody is watching live, also a line now and then."""
    from rich.console import Console

    is_watched = Console(stderr=True).is_terminal
    return console.show_progress(events if is_watched else _with_lines(events))


def _with_lines(events: Iterable[Event]) -> Iterator[Event]:
    """The events; how far a task is goes to stderr, every tenth of it or every half minute."""
    told: dict[str, tuple[float, float]] = {}
    for event in events:
        yield event
        if not isinstance(event, Progress) or event.unit == "bytes" or not event.total:
            continue
        done, now = event.done / event.total, time.monotonic()
        share, moment = told.setdefault(event.task, (done, now))
        wait_s = LEAST_S if done >= share + SHARE else EVERY_S
        if now >= moment + wait_s:
            told[event.task] = (done, now)
            count = f"{event.done:,.0f} of {event.total:,.0f}"
            click.echo(f"{printable(event.task)}: {count} {event.unit}", err=True)
