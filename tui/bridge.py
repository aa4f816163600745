"""From the engine's blocking iterators to Textual's messages: the only file that knows both.

A job's iterator is read on a thread of its own, which does nothing but put events into a box. The
interface empties the box about 25 times a second, joins the pieces of text it finds, and posts
messages. So the reading thread never touches Textual: it cannot block the interface, a fast model
cannot flood it, and leaving in mid-answer has nothing to race with. The timer stands still while
no job runs.

A call that needs leave is the one thing that the reading thread waits for: ``Bridge.approve`` puts
a question into the same box, and its answer comes back in a future.

The thread is a daemon and not one of Textual's thread workers: asyncio waits for those when its
loop ends, and leaving would hang for as long as a model takes to load.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from textual.message import Message
from textual.message_pump import MessagePump
from textual.timer import Timer

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.events import (
    CacheSummary,
    Event,
    GenerationSummary,
    ModelLoaded,
    Notice,
    PrefillProgress,
    Progress,
    ReasoningDelta,
    TextDelta,
)
from mobilellm_mlx.tools.tool import Answer, Request

from . import messages as say
from .pauses import avoids_pauses, use_pause

UPDATES_PER_S = 25
PACE_EVERY_S = 0.25
"""Numbers that change more often than this cannot be read and make the eye restless."""
PAUSE_AFTER_S = 1.0
"""After a job, and before what can only be done while nothing moves."""
MIN_RATE_S = 0.2
"""No rate is shown before an answer has run for this long."""

_END = object()

Clock = Callable[[], float]


OpenJob = Callable[[threading.Event], Iterator[Event]]
"""Begins a job that ends early when the flag is set."""

Failed = Callable[[say.Problem], Message]


@dataclass(slots=True)
class _Job:
    """One run of an iterator, with what the interface has seen of it."""

    failed: Failed
    """What to post when it fails."""
    cancel: threading.Event
    started: float
    outcome: Message | None = None
    """Posted when the reading thread is done with the iterator, and with it with the session."""
    tokens: int = 0
    first_token: float = 0.0
    last_token: float = 0.0
    last_pace: float | None = None

    def count(self, at: float) -> None:
        self.first_token = self.first_token if self.tokens else at
        self.last_token = at
        self.tokens += 1

    @property
    def tok_per_s(self) -> float | None:
        spent = self.last_token - self.first_token
        return (self.tokens - 1) / spent if spent >= MIN_RATE_S else None


@dataclass(slots=True)
class _Fresh:
    """What came since the last messages and is told as one."""

    reading: PrefillProgress | None = None
    thought: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class Bridge:
    """Runs one job at a time and reports it as messages.

    All methods but ``approve`` are for the interface's thread.

    Args:
        engine: loaded by ``load``.
        session: belongs to the reading thread while a job runs.
        clock: seconds from any start; a test passes its own.
    """

    def __init__(self, engine: ChatEngine, session: Session, clock: Clock = time.monotonic):
        self._engine = engine
        self._session = session
        self._clock = clock
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._box: deque[tuple[float, object]] = deque()
        self._target: MessagePump | None = None
        self._timer: Timer | None = None
        if session.tools is not None:
            session.tools.approve = self.approve

    def attach(self, target: MessagePump) -> None:
        """Name the screen that gets the messages. Call it when that is mounted."""
        self._target = target
        self._timer = target.set_interval(1 / UPDATES_PER_S, self.pump, pause=True)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs whose end has not been posted yet."""
        return self._job is not None

    @property
    def session(self) -> Session:
        """The conversation, to be read at any time and changed between jobs only."""
        return self._session

    @property
    def engine(self) -> ChatEngine:
        """Who answers."""
        return self._engine

    def load(self, directory: Path | None = None) -> None:
        """Bring a model into memory; ends with ``ModelReady`` or ``LoadingFailed``.

        Args:
            directory: another model than the one the engine was made for.
        """
        self._start(lambda _: self._engine.load(directory), say.LoadingFailed)

    def adapt(self, adapter: Path | None, *, force: bool = False) -> None:
        """Put an adapter on the model, or none; ends with ``ModelReady`` or ``AdaptingFailed``.

        Args:
            adapter: its directory; None takes the present one off.
            force: whatever it was made for.
        """
        self._start(lambda _: self._engine.adapt(adapter, force=force), say.AdaptingFailed)

    def ask(self, open_job: OpenJob) -> None:
        """Run a job of the session that answers; ends with ``AnswerEnded`` or ``AnswerFailed``."""
        self._start(open_job, say.AnswerFailed)

    def tidy(self, job: Iterator[Event]) -> None:
        """Run a job about caches; ends with ``CacheMoved``, also when it failed."""
        self._start(lambda _: job, lambda _: say.CacheMoved())

    def approve(self, request: Request, cancel: threading.Event) -> Answer:
        """Ask the person for leave, on the reading thread, and wait for what they say.

        Stopping the answer, which leaving does, too, is a no.
        """
        wanted = say.ApprovalWanted(request)
        self._box.append((self._clock(), wanted))
        return wanted.wait(cancel)

    def stop(self) -> None:
        """Ask the running answer to end at its next token."""
        if self._job is not None:
            self._job.cancel.set()

    def close(self, timeout_s: float = 0.0) -> bool:
        """Stop, and wait up to ``timeout_s`` for a running job to let go of the session.

        Returns:
            Whether it has.
        """
        self.stop()
        self._target = None
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _start(self, open_job: OpenJob, failed: Failed) -> None:
        if self.is_busy:
            raise RuntimeError("one job at a time")
        job = _Job(failed, threading.Event(), self._clock())
        self._job = job
        self._box = deque()
        self._thread = threading.Thread(
            target=_read,
            args=(lambda: open_job(job.cancel), self._box, self._clock),
            name="mobilellm-reader",
            daemon=True,
        )
        self._thread.start()
        if self._timer is not None:
            self._timer.resume()
        self._post_pace(job)

    def pump(self) -> None:
        """Empty the box into messages."""
        job = self._job
        if job is None or self._target is None:
            return
        fresh = _Fresh()
        ended = False
        while self._box:
            at, item = self._box.popleft()
            if isinstance(item, TextDelta):
                job.count(at)
                fresh.text.append(item.text)
            elif isinstance(item, ReasoningDelta):
                job.count(at)
                fresh.thought.append(item.text)
            elif isinstance(item, PrefillProgress):
                fresh.reading = item  # only the newest is worth drawing
            elif item is _END:
                ended = True
            elif isinstance(item, say.ToolEvent | say.ApprovalWanted):
                self._tell(fresh)  # what was said before a call is told before it
                fresh = _Fresh()
                self._post(item if isinstance(item, say.ApprovalWanted) else say.ToolNews(item))
            else:
                self._take(item, job)
        self._tell(fresh)
        if ended:
            self._end(job)
        else:
            self._post_pace(job)

    def _tell(self, fresh: _Fresh) -> None:
        """Post what can be joined."""
        if (reading := fresh.reading) is not None:
            self._post(say.PromptRead(reading.done, reading.total))
        if fresh.thought:
            self._post(say.ReasoningText("".join(fresh.thought), len(fresh.thought)))
        if fresh.text:
            self._post(say.AnswerText("".join(fresh.text)))

    def _take(self, item: object, job: _Job) -> None:
        """Note how the job ends, or pass on what is worth knowing on the way."""
        match item:
            case ModelLoaded():
                job.outcome = say.ModelReady(item)
            case GenerationSummary():
                job.outcome = say.AnswerEnded(item)
            case CacheSummary():
                job.outcome = say.CacheMoved(item)
            case Exception():
                job.outcome = job.failed(say.Problem.of(item))
            case Notice(text=said):
                self._post(say.Noted(said))
            case Progress(task=task, done=done, total=total):
                share = f" {100 * done / total:.0f} %" if total else ""
                self._post(say.Noted(f"{task}{share}"))

    def _end(self, job: _Job) -> None:
        self._job = None
        if self._timer is not None:
            self._timer.pause()
            if self._target is not None and avoids_pauses():
                self._target.set_timer(PAUSE_AFTER_S, self._use_pause)
        silent = say.Problem.of(RuntimeError("the engine stopped without saying why"))
        self._post(job.outcome or job.failed(silent))

    def _use_pause(self) -> None:
        if not self.is_busy:
            use_pause()

    def _post_pace(self, job: _Job) -> None:
        now = self._clock()
        if job.last_pace is None or now - job.last_pace >= PACE_EVERY_S:
            job.last_pace = now
            self._post(say.Pace(now - job.started, job.tokens, job.tok_per_s))

    def _post(self, message: Message) -> None:
        if self._target is not None:
            self._target.post_message(message)


def _read(
    open_job: Callable[[], Iterator[Event]], box: deque[tuple[float, object]], clock: Clock
) -> None:
    """On the reading thread: every event into the box, then an error if any, then the end."""
    try:
        for event in open_job():
            box.append((clock(), event))
    except Exception as error:
        box.append((clock(), error))
    finally:
        box.append((clock(), _END))
