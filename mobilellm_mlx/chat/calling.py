"""Asking a model for calls: a style says what is asked, the engine answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from mobilellm_mlx.engine import ChatEngine, Wearing
from mobilellm_mlx.events import Event, GenerationSummary, PrefillProgress, TextDelta
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tools.asking import Ask, Offered, Style
from mobilellm_mlx.tools.tool import Call


@dataclass(slots=True)
class Calls:
    """What came of asking.

    Attributes:
        calls: the calls that are wanted, in order; none when no tool is.
        is_cut: whether the model was stopped, by a limit or a person, before it was done. There
            are no calls then.
        tokens: generated for it, speech among them.
        forced_tokens: those that a grammar left no choice about.
        forward_passes: of the network, behind the prompts.
        prompt_tokens: read for it, those that were known already not among them.
        elapsed_s: for all of it.
        raw: every answer as it was, for those who judge models.
        speech: the summary of an answer that is nothing but speech: it is the answer.
        opening: what a call begins with, where a model may speak instead; empty elsewhere.
        grammar: what the last answer was bound to.
    """

    calls: list[Call] = field(default_factory=list)
    is_cut: bool = False
    tokens: int = 0
    forced_tokens: int = 0
    forward_passes: int = 0
    prompt_tokens: int = 0
    elapsed_s: float = 0.0
    raw: list[str] = field(default_factory=list)
    speech: GenerationSummary | None = None
    opening: str = ""
    grammar: Grammar | None = None


def call_tools(
    engine: ChatEngine,
    style: Style,
    conversation: Sequence[Message],
    offered: Sequence[Offered],
    options: GenerationOptions | None = None,
    cancel: threading.Event | None = None,
    adapter: Wearing = "same",
) -> Generator[Event, None, Calls]:
    """Ask which tools the end of a conversation wants, and with which arguments.

    Questions about tools alone are answered greedily, whatever ``options`` say: there is a right
    answer. Where a model may speak before it calls, the whole of it is sampled as they say.

    Args:
        engine: with its model in memory.
        style: the manner of asking.
        conversation: what was said; the last message is the person's, or a result.
        offered: tools to choose from, at least one.
        options: for speech.
        cancel: stops it.
        adapter: to answer questions about tools alone with.

    Raises:
        ToolError: when an unbound answer cannot be read.
        MobileLLMError: whatever the engine raises.
    """
    started = time.perf_counter()
    cancel = cancel or threading.Event()
    found = Calls()
    asks = style.asks(conversation, offered)
    try:
        ask = next(asks)
        while True:
            answer = yield from _put(engine, ask, options, cancel, found, adapter)
            if answer is None:
                found.is_cut = True
                asks.close()
                break
            ask = asks.send(answer)
    except StopIteration as done:
        found.calls = list(done.value or ())
    finally:
        found.elapsed_s = time.perf_counter() - started
    return found


def _put(
    engine: ChatEngine,
    ask: Ask,
    options: GenerationOptions | None,
    cancel: threading.Event,
    found: Calls,
    adapter: Wearing,
) -> Generator[Event, None, str | None]:
    """Put one question to the model; None when its answer was cut."""
    speaks = ask.opening is not None
    chosen = GenerationOptions(max_tokens=ask.max_tokens)
    if speaks and options is not None:
        chosen = replace(options, stop=())
    speech = _Speech(ask.opening or "")
    summary: GenerationSummary | None = None
    job = engine.chat(
        ask.messages, chosen, cancel, ask.begun, ask.grammar,
        aside=not speaks, adapter="same" if speaks else adapter,
    )  # fmt: skip
    with closing(job) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, GenerationSummary):
                summary = event
            elif isinstance(event, PrefillProgress):
                yield event
            elif speaks and isinstance(event, TextDelta) and (text := speech.add(event.text)):
                yield TextDelta(text)
    assert summary is not None, "the engine ended without a summary"
    found.tokens += summary.generated_tokens
    found.forced_tokens += summary.forced_tokens
    found.forward_passes += summary.forward_passes
    found.prompt_tokens += summary.prompt_tokens - summary.cached_tokens
    found.opening, found.grammar = ask.opening or "", ask.grammar
    answer = ask.begun + summary.text
    found.raw.append(answer)
    if speaks:
        if rest := speech.finish():
            yield TextDelta(rest)
        if not speech.is_over:
            found.speech = summary
            return None if summary.stop_reason != "stop" else answer
    if summary.stop_reason != "stop" or not summary.is_whole:
        return None
    return answer


class _Speech:
    """Lets text through up to where a call begins.

    Args:
        opening: what a call begins with.
    """

    def __init__(self, opening: str):
        self._opening = opening
        self._held = ""
        self.text = ""
        self.is_over = False
        """Whether a call has begun."""

    def add(self, piece: str) -> str:
        """What of everything so far is speech for certain and was not given yet."""
        if self.is_over:
            return ""
        self._held += piece
        if (at := self._held.find(self._opening)) >= 0:
            self.is_over = True
            return self._give(at)
        longest = min(len(self._held), len(self._opening) - 1)
        keep = (n for n in range(longest, 0, -1) if self._opening.startswith(self._held[-n:]))
        return self._give(len(self._held) - next(keep, 0))

    def finish(self) -> str:
        """What was held back in vain."""
        return "" if self.is_over else self._give(len(self._held))

    def _give(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        self.text += given
        return given
