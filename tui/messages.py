"""What the engine's side says to the screen, as Textual messages.

Only ``bridge`` posts them. Widgets have nested messages of their own for what a person does.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

from textual.message import Message

from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.events import (
    CacheSummary,
    GenerationSummary,
    ModelLoaded,
    ToolAllowed,
    ToolCalled,
    ToolEnded,
    ToolsOffered,
)
from mobilellm_mlx.tools.tool import Answer, Request

LOOK_EVERY_S = 0.05
"""How often who waits for leave looks whether the answer was stopped."""
STOPPED = Answer(False, reason="the answer was stopped")

ToolEvent = ToolsOffered | ToolCalled | ToolAllowed | ToolEnded
"""What is told of a call on its way from the choice of a tool to its result."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure in words for a person; ``error`` is what was raised."""

    text: str
    hint: str | None
    error: Exception

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """The words for any exception: ours speak for themselves, others are internal errors."""
        if isinstance(error, MobileLLMError):
            return cls(error.message, error.hint, error)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        hint = "this is a bug; run again with `--debug` to see where it comes from"
        return cls(f"internal error: {said}", hint, error)

    @property
    def internal(self) -> bool:
        """Whether nobody foresaw it."""
        return not isinstance(self.error, MobileLLMError)


class ModelReady(Message):
    """The model is in memory."""

    def __init__(self, info: ModelLoaded) -> None:
        super().__init__()
        self.info = info


class Noted(Message):
    """Something to know on the way: a stage of a job, or how far a part of it is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class LoadingFailed(Message):
    """There is no model; sending a message tries again."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class AdaptingFailed(Message):
    """The adapter could not be changed; what was there before goes on answering."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class PromptRead(Message):
    """How much of the prompt the model has read, in tokens."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__()
        self.done = done
        self.total = total


class ReasoningText(Message):
    """More of what the model thinks before it answers.

    Attributes:
        text: every piece that came since the last of these messages.
        pieces: how many those were, which is about their tokens.
    """

    def __init__(self, text: str, pieces: int) -> None:
        super().__init__()
        self.text = text
        self.pieces = pieces


class AnswerText(Message):
    """More of the answer: every piece that came since the last of these messages."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class ToolNews(Message):
    """A call has come one step further."""

    def __init__(self, event: ToolEvent) -> None:
        super().__init__()
        self.event = event


class ApprovalWanted(Message):
    """A call waits for leave, and the answer that is coming waits with it.

    Attributes:
        request: the call.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.request = request
        self._reply: Future[Answer] = Future()

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits."""
        return not self._reply.done()

    def answer(self, answer: Answer) -> None:
        """Say what the person said; it may be too late."""
        with suppress(InvalidStateError):
            self._reply.set_result(answer)

    def wait(self, cancel: threading.Event) -> Answer:
        """Wait for what the person says, on any thread but the interface's; stopping is a no."""
        while not cancel.is_set():
            try:
                return self._reply.result(LOOK_EVERY_S)
            except TimeoutError:
                continue
        self._reply.cancel()
        return STOPPED


class Pace(Message):
    """A few times a second while anything runs.

    Attributes:
        elapsed_s: since the job began.
        tokens: pieces of reasoning and answer so far, which is about their tokens.
        tok_per_s: over this answer so far; None while that would be a guess.
    """

    def __init__(self, elapsed_s: float, tokens: int, tok_per_s: float | None) -> None:
        super().__init__()
        self.elapsed_s = elapsed_s
        self.tokens = tokens
        self.tok_per_s = tok_per_s


class AnswerEnded(Message):
    """The answer is complete, cut or stopped, and the session holds it."""

    def __init__(self, summary: GenerationSummary) -> None:
        super().__init__()
        self.summary = summary


class CacheMoved(Message):
    """A cache was written down or read back, or neither; the chat goes on in any case.

    Attributes:
        summary: of the last one; None when there was nothing to do, or it failed.
    """

    def __init__(self, summary: CacheSummary | None = None) -> None:
        super().__init__()
        self.summary = summary


class AnswerFailed(Message):
    """The answer broke off; the session keeps what came of it, if anything did."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
