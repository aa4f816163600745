"""Jobs on models beside the chat: pulls one after the other, checks, whatever takes a moment.

The board belongs to the app, so a pull goes on while no screen shows it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from textual.message import Message
from textual.message_pump import MessagePump
from textual.timer import Timer

from mobilellm_mlx.events import Event, Notice, Progress
from mobilellm_mlx.paths import MANIFEST

from .messages import Problem
from .shelf import ModelRow, ModelShelf

UPDATES_PER_S = 10
RATE_WINDOW_S = 5.0
MIN_RATE_S = 0.5
"""No rate is shown before it can be told from this long."""

Clock = Callable[[], float]
Phase = Literal["queued", "running", "pausing", "cancelling", "paused", "failed", "done"]

_T = TypeVar("_T")
_END = object()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of comparing a model's files with their hashes."""

    damage: str | None
    at: float
    """By the board's clock."""
    compared: bool = True
    """False when that was not possible, and ``damage`` says why."""


@dataclass(frozen=True, slots=True)
class Pull:
    """How far a pull is."""

    row: ModelRow
    phase: Phase = "queued"
    task: str = ""
    done: float = 0.0
    total: float | None = None
    in_bytes: bool = True
    per_s: float | None = None
    """Bytes per second of late; None while that would be a guess."""
    problem: Problem | None = None
    elapsed_s: float = 0.0
    """How long it took, once it is over."""

    @property
    def share(self) -> float | None:
        """How much of the task is done; None while unknown."""
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def left_s(self) -> float | None:
        """How long the rest of the task will take at this rate."""
        return (self.total - self.done) / self.per_s if self.total and self.per_s else None


class _Rate:
    """Bytes per second over the last few seconds of a task."""

    def __init__(self) -> None:
        self._task = ""
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, at: float, event: Progress) -> float | None:
        if event.task != self._task:
            self._task = event.task
            self._samples.clear()
        self._samples.append((at, event.done))
        while len(self._samples) > 2 and at - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()
        start, before = self._samples[0]
        enough = event.unit == "bytes" and at - start >= MIN_RATE_S and event.done > before
        return (event.done - before) / (at - start) if enough else None


@dataclass(slots=True)
class _Run:
    """The pull that runs: its thread, the way to stop it, and what it said."""

    name: str
    started: float
    stop: threading.Event
    box: deque[tuple[float, object]]
    rate: _Rate
    thread: threading.Thread


class PullBoard:
    """Runs pulls one after the other, and short jobs on models beside them.

    All methods are for the interface's thread. Every job has a daemon thread that only puts what
    it hears into a box; ``pump`` empties the boxes a few times a second while anything runs.

    Args:
        shelf: knows the models.
        clock: seconds from any start; a test passes its own.

    Attributes:
        verdicts: what the last check of each directory found.
        checking: directories that are being checked.
    """

    class Changed(Message, bubble=False):
        """Some pull or check began, moved or ended."""

    class Ended(Message, bubble=False):
        """A pull is over: its phase is ``done`` or ``failed``."""

        def __init__(self, pull: Pull) -> None:
            super().__init__()
            self.pull = pull

    def __init__(self, shelf: ModelShelf, clock: Clock = time.monotonic) -> None:
        self.shelf = shelf
        self.clock = clock
        self.verdicts: dict[Path, Verdict] = {}
        self.checking: set[Path] = set()
        self._pulls: dict[str, Pull] = {}
        self._run: _Run | None = None
        self._waiting = 0
        self._answers: deque[Callable[[], None]] = deque()
        self._hearers: list[MessagePump] = []
        self._timer: Timer | None = None

    def attach(self, owner: MessagePump) -> None:
        """Name the app, whose timer drives the board; it hears ``Changed`` and ``Ended``."""
        self._hearers.append(owner)
        self._timer = owner.set_interval(1 / UPDATES_PER_S, self.pump, pause=True)

    def watch(self, hearer: MessagePump) -> None:
        """Let a screen hear too, until ``unwatch``."""
        self._hearers.append(hearer)

    def unwatch(self, hearer: MessagePump) -> None:
        """Tell that screen nothing more."""
        if hearer in self._hearers:
            self._hearers.remove(hearer)

    @property
    def pulls(self) -> tuple[Pull, ...]:
        """Every pull that is not over, the failed ones included, the oldest first."""
        return tuple(self._pulls.values())

    @property
    def current(self) -> Pull | None:
        """The one that runs."""
        return self._pulls.get(self._run.name) if self._run is not None else None

    def get(self, name: str) -> Pull | None:
        """The pull of a model."""
        return self._pulls.get(name)

    def start(self, row: ModelRow) -> None:
        """Fetch a model now, or when those before it are here. Also goes on with a paused one."""
        if self._run is not None and self._run.name == row.name:
            return  # it runs, or its thread has not let go yet
        pull = self._pulls.get(row.name)
        if pull is None or pull.phase != "queued":
            self._pulls.pop(row.name, None)  # a new turn is a new place in the queue
            self._pulls[row.name] = Pull(row)
            self._start_next()
            self._tell()

    def pause(self, name: str) -> None:
        """Stop fetching for now; what this keeps is ``row.resumes``."""
        self._halt(name, "pausing", "paused")

    def cancel(self, name: str) -> None:
        """Stop, and forget that it was asked for."""
        self._halt(name, "cancelling", None)

    def _halt(self, name: str, stopping: Phase, stopped: Phase | None) -> None:
        if (pull := self._pulls.get(name)) is None:
            return
        if self._run is not None and self._run.name == name:
            self._run.stop.set()
            self._pulls[name] = replace(pull, phase=stopping, per_s=None)
        elif stopped is None:
            del self._pulls[name]
        elif pull.phase == "queued":
            self._pulls[name] = replace(pull, phase=stopped)
        self._tell()

    def check(self, row: ModelRow) -> None:
        """Compare a model's files with their hashes; ``verdicts`` has the outcome."""

        def note(found: str | Exception | None) -> None:
            failed = isinstance(found, Exception)
            damage = Problem.of(found).text if isinstance(found, Exception) else found
            self.verdicts[row.path] = Verdict(damage, self.clock(), compared=not failed)
            self.checking.discard(row.path)
            self._tell()

        if row.path not in self.checking:
            self.checking.add(row.path)
            self.later(lambda: self.shelf.find_damage(row), note)
            self._tell()

    def later(self, call: Callable[[], _T], done: Callable[[_T | Exception], None]) -> None:
        """Run ``call`` on a thread of its own, then ``done`` with what it gave or raised here."""

        def work() -> None:
            try:
                found: _T | Exception = call()
            except Exception as error:
                found = error
            self._answers.append(lambda: done(found))

        self._waiting += 1
        threading.Thread(target=work, name="mobilellm-shelf", daemon=True).start()
        self._wake()

    def close(self, timeout_s: float = 0.0) -> None:
        """Stop the pull that runs, and wait up to ``timeout_s`` for it to tidy up."""
        self._hearers.clear()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._run is not None:
            self._run.stop.set()
            self._run.thread.join(timeout_s)

    def pump(self) -> None:
        """Take what the threads have said."""
        while self._answers:
            self._waiting -= 1
            self._answers.popleft()()
        if self._run is not None and self._run.box:
            self._hear(self._run)
            self._tell()
        if self._run is None and not self._waiting and self._timer is not None:
            self._timer.pause()

    def _hear(self, run: _Run) -> None:
        pull = self._pulls[run.name]
        while run.box:
            at, item = run.box.popleft()
            match item:
                case Progress(task=task, done=done, total=total, unit=unit):
                    rate = run.rate.add(at, item) if pull.phase == "running" else None
                    pull = replace(pull, task=task, done=done, total=total, per_s=rate)
                    pull = replace(pull, in_bytes=unit == "bytes")
                case Notice(text=text):
                    pull = replace(pull, task=text.partition("\n")[0])
                case Exception():
                    pull = replace(pull, problem=Problem.of(item))
                case _ if item is _END:
                    self._end(run, pull)
                    return
        self._pulls[run.name] = pull

    def _end(self, run: _Run, pull: Pull) -> None:
        """The thread has let go: how the pull ended, and on with the next."""
        name, phase = run.name, pull.phase
        self._run = None
        stopped = phase in ("pausing", "cancelling") and not _is_here(pull.row)
        if stopped and phase == "cancelling":
            del self._pulls[name]
        elif stopped and pull.problem is None:
            self._pulls[name] = replace(pull, phase="paused", per_s=None)
        else:
            ended = replace(pull, phase="failed" if pull.problem else "done", per_s=None)
            ended = replace(ended, elapsed_s=self.clock() - run.started)
            if pull.problem:
                self._pulls[name] = ended
            else:
                del self._pulls[name]
            self._post(lambda: self.Ended(ended))
        self._start_next()

    def _start_next(self) -> None:
        queued = next((pull for pull in self._pulls.values() if pull.phase == "queued"), None)
        if self._run is not None or queued is None:
            return
        row, stop = queued.row, threading.Event()
        box: deque[tuple[float, object]] = deque()
        thread = threading.Thread(
            target=_read,
            args=(lambda: self.shelf.pull(row), stop, box, self.clock),
            name="mobilellm-pull",
            daemon=True,
        )
        self._run = _Run(row.name, self.clock(), stop, box, _Rate(), thread)
        self._pulls[row.name] = replace(queued, phase="running")
        thread.start()
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.resume()

    def _tell(self) -> None:
        self._post(self.Changed)

    def _post(self, make: Callable[[], Message]) -> None:
        for hearer in self._hearers:
            hearer.post_message(make())


def _is_here(row: ModelRow) -> bool:
    return (row.path / MANIFEST).is_file()


def _read(
    open_pull: Callable[[], Generator[Event, None, None]],
    stop: threading.Event,
    box: deque[tuple[float, Any]],
    clock: Clock,
) -> None:
    """On the pull's thread: every event into the box, then an error if any, then the end."""
    try:
        with closing(open_pull()) as events:
            for event in events:
                box.append((clock(), event))
                if stop.is_set():
                    break
    except Exception as error:
        box.append((clock(), error))
    finally:
        box.append((clock(), _END))
