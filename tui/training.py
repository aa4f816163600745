"""Trainings beside the chat: each is a process of its own, seen through the files that it writes.

The process has a session of its own, so it goes on when the interface is left, and is found again
by its files. The board belongs to the app and goes on while no screen shows it.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from textual.message import Message
from textual.message_pump import MessagePump
from textual.timer import Timer

from mobilellm_mlx.errors import MobileLLMError, TrainingError
from mobilellm_mlx.events import Event
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.files import open_own
from mobilellm_mlx.training.journal import Journal, JournalReader
from mobilellm_mlx.training.status import RunStatus

from .text import printable
from .trainlog import Story
from .workshop import Launch, Order, Workshop

UPDATES_PER_S = 10
POLL_EVERY_S = 1.0
SAID, WENT_WRONG = "stdout.jsonl", "stderr.txt"
"""Files of a run that take what its process prints."""
MOST_WORDS = 4096

Clock = Callable[[], float]

_T = TypeVar("_T")


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Start the process of a training.

    Raises:
        TrainingError: when that is not possible.
    """
    try:
        with ExitStack() as stack:
            launch.folder.mkdir(parents=True, exist_ok=True)
            new = os.O_WRONLY | os.O_CREAT
            said = stack.enter_context(open_own(launch.folder / SAID, new | os.O_APPEND, "ab"))
            wrong = stack.enter_context(
                open_own(launch.folder / WENT_WRONG, new | os.O_TRUNC, "wb")
            )
            child = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=wrong,
                start_new_session=True,  # neither Ctrl+C nor a closed window ends it
            )
    except OSError as error:
        raise TrainingError(f"the training could not be started: {error}") from error
    # Somebody has to wait for it, or it would stay a zombie while the interface runs.
    threading.Thread(target=child.wait, name="mobilellm-training", daemon=True).start()
    return child


def last_words(folder: Path) -> str:
    """What the process of a run said before it died, as one sentence; empty when nothing."""
    try:
        with open_own(folder / WENT_WRONG) as file:
            file.seek(-min(MOST_WORDS, file.seek(0, os.SEEK_END)), os.SEEK_END)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in printable(text).splitlines() if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith("error: "):
            hint = lines[at + 1].removeprefix("hint: ") if at + 1 < len(lines) else ""
            said = lines[at].removeprefix("error: ")
            return f"{said}; {hint}" if hint else said
    return lines[-1] if lines else ""


@dataclass(slots=True)
class _Followed:
    """A run whose story is read."""

    reader: JournalReader
    story: Story


_News = list[tuple[str, list[Event], bool]]


class TrainingBoard:
    """Starts trainings, and knows how they are doing.

    All methods are for the interface's thread. Files are read on threads that put what they find
    into a box; ``pump`` empties it.

    Args:
        workshop: does the work.
        clock: seconds from any start; a test passes its own.
    """

    class Changed(Message, bubble=False):
        """Some run began, moved or ended."""

    class Ended(Message, bubble=False):
        """A run is not trained any more."""

        def __init__(self, row: RunStatus) -> None:
            super().__init__()
            self.row = row

    def __init__(self, workshop: Workshop, clock: Clock = time.monotonic) -> None:
        self.workshop = workshop
        self.clock = clock
        self.rows: tuple[RunStatus, ...] = ()
        self.is_known = False
        """Whether the runs have been looked for."""
        self._followed: dict[str, _Followed] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._answers: deque[Callable[[], None]] = deque()
        self._waiting = 0
        self._is_polling = False
        self._polled_at: float | None = None
        self._hearers: list[MessagePump] = []
        self._timer: Timer | None = None

    def attach(self, owner: MessagePump) -> None:
        """Name the app, whose timer drives the board; it hears ``Changed`` and ``Ended``."""
        self._hearers.append(owner)
        self._timer = owner.set_interval(1 / UPDATES_PER_S, self.pump)

    def watch(self, hearer: MessagePump) -> None:
        """Let a screen hear too, until ``unwatch``."""
        self._hearers.append(hearer)
        self.look()

    def unwatch(self, hearer: MessagePump) -> None:
        """Tell that screen nothing more."""
        if hearer in self._hearers:
            self._hearers.remove(hearer)

    def close(self) -> None:
        """Look no more; what is trained goes on."""
        self._hearers.clear()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    # ---------------------------------------------------------------- what is known

    @property
    def active(self) -> list[RunStatus]:
        """The runs that a process holds."""
        return [row for row in self.rows if row.is_alive]

    def get(self, name: str) -> RunStatus | None:
        """A run by its name."""
        return next((row for row in self.rows if row.name == name), None)

    def follow(self, name: str) -> Story:
        """What a run tells, from now on; ``unfollow`` ends that."""
        if name not in self._followed:
            row = self.get(name)
            folder = row.path if row is not None else Path(name)
            self._followed[name] = _Followed(JournalReader(Journal(folder)), Story())
            self.look()
        return self._followed[name].story

    def story(self, name: str) -> Story:
        """What a followed run has told so far."""
        return self._followed[name].story if name in self._followed else Story()

    def unfollow(self, name: str) -> None:
        """Read the story no more."""
        self._followed.pop(name, None)

    # ---------------------------------------------------------------- what can be done

    def begin(self, order: Order, done: Callable[[str | Exception], None]) -> None:
        """Begin a training; ``done`` gets its name, or why there is none."""
        self.later(
            lambda: self._launch(self.workshop.begin(order)), lambda found: self._began(found, done)
        )

    def resume(self, name: str, done: Callable[[str | Exception], None]) -> None:
        """Go on with one that is stopped; ``done`` as for ``begin``."""
        self.later(
            lambda: self._launch(self.workshop.resume(name)), lambda found: self._began(found, done)
        )

    @staticmethod
    def _launch(launch: Launch) -> tuple[Launch, subprocess.Popen[bytes]]:
        return launch, spawn(launch)

    def _began(
        self,
        found: tuple[Launch, subprocess.Popen[bytes]] | Exception,
        done: Callable[[str | Exception], None],
    ) -> None:
        if isinstance(found, Exception):
            done(found)
            return
        launch, child = found
        self._children[launch.name] = child
        self.rows = tuple(
            replace(row, state="running", reason="") if row.name == launch.name else row
            for row in self.rows
        )
        if self.get(launch.name) is None:  # until it says more itself
            self.rows = (RunStatus(launch.name, launch.folder, "running"), *self.rows)
        self.look()
        self._tell()
        done(launch.name)

    def ask(self, name: str, want: Want, done: Callable[[Exception | None], None]) -> None:
        """Tell a run what to do after its present step; ``done`` gets why it cannot."""
        self.later(
            lambda: self.workshop.ask(name, want),
            lambda found: done(found if isinstance(found, Exception) else None),
        )

    def remove(self, name: str, done: Callable[[Exception | None], None]) -> None:
        """Delete a run that nobody trains."""

        def removed(found: Exception | None) -> None:
            if found is None:
                self.unfollow(name)
                self.rows = tuple(row for row in self.rows if row.name != name)
                self._tell()
            done(found)

        self.later(lambda: self.workshop.remove(name), removed)

    def later(self, call: Callable[[], _T], done: Callable[[_T | Exception], None]) -> None:
        """Run ``call`` on a thread of its own, then ``done`` with what it gave or raised here."""

        def work() -> None:
            try:
                found: _T | Exception = call()
            except Exception as error:
                found = error
            self._answers.append(lambda: done(found))

        self._waiting += 1
        threading.Thread(target=work, name="mobilellm-workshop", daemon=True).start()
        if self._timer is not None:
            self._timer.resume()

    # ---------------------------------------------------------------- looking

    def look(self) -> None:
        """Look at the files at the next opportunity."""
        self._polled_at = None
        if self._timer is not None:
            self._timer.resume()

    def pump(self) -> None:
        """Take what the threads have found, and look again when it is time."""
        while self._answers:
            self._waiting -= 1
            self._answers.popleft()()
        now = self.clock()
        is_due = self._polled_at is None or now - self._polled_at >= POLL_EVERY_S
        if is_due and not self._is_polling:
            self._polled_at, self._is_polling = now, True
            self.later(self._poll, self._polled)
        watched = len(self._hearers) > 1  # the app hears always
        if not (self._waiting or watched or self.active) and self._timer is not None:
            self._timer.pause()

    def _poll(self) -> tuple[list[RunStatus], _News]:
        """On a thread: what the files say."""
        rows = [
            replace(row, reason=row.reason or last_words(row.path))
            if row.state in ("failed", "interrupted")
            else row
            for row in self.workshop.runs()
        ]
        news: _News = []
        for name, followed in list(self._followed.items()):
            with suppress(MobileLLMError):  # its state says what is wrong with a run
                events, anew = followed.reader.read()
                news.append((name, events, anew))
        return rows, news

    def _polled(self, found: tuple[list[RunStatus], _News] | Exception) -> None:
        self._is_polling = False
        if isinstance(found, Exception):
            self.is_known = True
            return
        rows, news = found
        before = {row.name: row for row in self.rows}
        changed = not self.is_known
        self.is_known = True
        rows = [self._corrected(row) for row in self._with_begun(rows)]
        rows.sort(key=lambda row: (not row.is_alive, row.state != "running"))
        for name, events, anew in news:
            if (followed := self._followed.get(name)) is not None and (events or anew):
                if anew:
                    followed.story = Story()
                for event in events:
                    followed.story.take(event)
                changed = True
        self.rows = tuple(rows)
        for row in rows:
            was = before.get(row.name)
            if was is not None and was.is_alive and not row.is_alive:
                self._children.pop(row.name, None)
                for hearer in self._hearers:
                    hearer.post_message(self.Ended(row))
        if changed or {row.name: row for row in rows} != before:
            self._tell()

    def _with_begun(self, rows: list[RunStatus]) -> list[RunStatus]:
        """The rows, with those begun here that the files do not know yet."""
        known = {row.name for row in rows}
        missing = [self.get(name) for name in self._children if name not in known]
        return [*(row for row in missing if row is not None), *rows]

    def _corrected(self, row: RunStatus) -> RunStatus:
        """A child that has not written anything yet is running; one that died in that is not."""
        if (child := self._children.get(row.name)) is None:
            return row
        if child.returncode is None:
            return row if row.is_alive else replace(row, state="running", reason="")
        if row.is_alive and child.returncode != 0:
            said = last_words(row.path) or f"its process ended with {child.returncode}"
            return replace(row, state="failed", reason=said)
        if row.is_alive:
            return replace(row, state="interrupted", reason="its process ended without a word")
        return row

    def _tell(self) -> None:
        for hearer in self._hearers:
            hearer.post_message(self.Changed())


def training_status(rows: list[RunStatus]) -> str:
    """The training that goes on in a few words for a status line; empty when none does."""
    if not rows:
        return ""
    row = rows[0]
    verb = "paused" if row.state == "paused" else "training"
    share = f" {100 * row.step / row.steps:.0f} %" if row.steps else ""
    more = f", {len(rows) - 1} more" if len(rows) > 1 else ""
    return printable(f"{verb} {row.name}{share}{more}")
