"""Puts the requests for calls to a model, in one of the manners that are compared."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from mobilellm_mlx.chat.calling import Calls, call_tools
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.errors import ContextOverflow, InvalidGrammar, InvalidOption, ToolError
from mobilellm_mlx.evals.calls.case import Case, Gold
from mobilellm_mlx.evals.task import Request, Response, digest
from mobilellm_mlx.events import Event, GenerationSummary
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tools.asking import Style, Used
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.styles import find_style
from mobilellm_mlx.tools.styles.calls_only import CallsOnly

MODES = ("free", "one-step", "two-step")
"""``free``: nothing binds what the model writes; ``one-step``: the same prompt, bound by a grammar;
``two-step``: first which tool, then its arguments, both bound."""
ALL_MODES = (*MODES, "calls-only")
"""``calls-only``: as ``one-step``, and bound to what was said as well, as a chat binds a model that
has an adapter for calls; of the formats only ``paper`` has a word for "no call"."""
FORMAT = "smollm2"
"""How calls are written in the first two modes; the default model's larger sister knows it."""
MAX_TOKENS = 192
"""Of an answer that nothing binds; a call has a fifth of it, a model that rambles never ends."""
MAX_REPLY = 48
"""Tokens of what is said after a call."""


def style_of(mode: str, format: str = FORMAT) -> Style:
    """The manner of asking that a mode means.

    Raises:
        InvalidOption: for an unknown mode.
        ToolError: for an unknown format.
    """
    if mode not in ALL_MODES:
        raise InvalidOption(f"`mode` is {mode!r}, expected one of {', '.join(ALL_MODES)}")
    if mode == "two-step":
        return find_style("two-step")
    if mode == "calls-only":
        try:
            return CallsOnly(find_format(format))
        except ValueError as error:
            raise InvalidOption(
                f"`format` is {format!r}, but {error}", "pass `--format paper`"
            ) from error
    return find_style(format, bound=mode == "one-step")


def asking_settings(
    mode: str, style: Style, requests: Iterable[Request], *, reply: bool = False
) -> dict[str, Any]:
    """What the asking depends on, for the key of a run.

    Args:
        mode: one of ``MODES``.
        style: of the mode.
        requests: how the first of them is asked is among the settings, so that a change of the
            prompts makes another run.
        reply: whether the model also speaks after the call.
    """
    first: Case | None = next((one.payload for one in requests if one.payload.offered), None)
    asked = digest(_questions(style, first)) if first is not None else ""
    return {
        "mode": mode,
        "style": style.name,
        "max_tokens": MAX_TOKENS,
        "reply": reply,
        "asked": asked[:16],
    }


def _questions(style: Style, case: Case) -> list[dict[str, Any]]:
    """What is asked about a case; where that depends on an answer, the first tool's name is it."""
    asks = style.asks([Message("user", case.said)], case.offered)
    found = [asdict(next(asks))]
    with suppress(StopIteration, ToolError):
        found.append(asdict(asks.send(case.offered[0].tool.name)))
    return found


class CallAnswerer:
    """Asks a model for calls; nothing that it calls is run.

    Args:
        engine: with its model in memory.
        style: the manner of asking.
        cancel: stops it; a request that is stopped in the middle has no response.
        reply: let the model also say something after the right call.
    """

    def __init__(
        self,
        engine: ChatEngine,
        style: Style,
        cancel: threading.Event,
        *,
        reply: bool = False,
    ):
        self._engine = engine
        self._style = style
        self._cancel = cancel
        self._reply = reply

    def __call__(self, requests: Sequence[Request]) -> Iterator[Event | Response]:
        for request in requests:
            values = self._ask(request.payload)
            gold: Gold = request.gold
            if self._reply and request.payload.reply and gold.calls:
                values["reply"] = self._speak(request.payload, gold)
            if self._cancel.is_set():
                return
            yield Response(request.id, values)

    def _ask(self, case: Case) -> dict[str, Any]:
        if not case.offered:  # as in a chat: where no tool could be meant, the model is not asked
            return _values(Calls())
        options = GenerationOptions(max_tokens=MAX_TOKENS)
        said = [Message("user", case.said)]
        started = time.perf_counter()
        job = call_tools(self._engine, self._style, said, case.offered, options, self._cancel)
        try:
            return _values(_outcome(job))
        except (ToolError, InvalidGrammar, ContextOverflow) as error:
            failed = Calls(elapsed_s=time.perf_counter() - started)
            return _values(failed, f"{type(error).__name__}: {error.message}")

    def _speak(self, case: Case, gold: Gold) -> str:
        """What the model says once the right call was made, whatever it would have called."""
        used = [Used(call, "done") for call in gold.calls]
        messages = self._style.tell(Message("user", case.said), used)
        options = GenerationOptions(max_tokens=MAX_REPLY)
        text = ""
        for event in self._engine.chat(messages, options, self._cancel):
            if isinstance(event, GenerationSummary):
                text = event.text
        return text


def _outcome(job: Generator[Event, None, Calls]) -> Calls:
    """What a job returns; its events are for those who watch a single call."""
    while True:
        try:
            next(job)
        except StopIteration as done:
            found: Calls = done.value
            return found


def _values(found: Calls, error: str = "") -> dict[str, Any]:
    """What is kept of a response.

    ``is_cut``: a call was begun and not ended; speech that went on for too long is no call.
    """
    return {
        "calls": [{"name": call.name, "arguments": call.arguments} for call in found.calls],
        "error": error,
        "is_cut": found.is_cut and found.speech is None,
        "tokens": found.tokens,
        "forced_tokens": found.forced_tokens,
        "forward_passes": found.forward_passes,
        "prompt_tokens": found.prompt_tokens,
        "elapsed_s": round(found.elapsed_s, 4),
        "raw": found.raw,
    }
