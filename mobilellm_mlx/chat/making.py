"""How an answer was made: noting it, and making the answer again from the note."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from mobilellm_mlx.chat.context import conversation, whole_turns
from mobilellm_mlx.chat.records import Generation, StoredMessage
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.events import GenerationSummary, ModelLoaded
from mobilellm_mlx.grammar import Grammar, Kind
from mobilellm_mlx.options import GenerationOptions


def describe(
    info: ModelLoaded,
    summary: GenerationSummary,
    *,
    instructions: str | None,
    adapter: str | None,
    left_out: tuple[str, ...],
    begun: str | Sequence[int],
    grammar: Grammar | None = None,
) -> Generation:
    """The note about a stretch of an answer.

    Args:
        info: the model that made it.
        summary: of the stretch.
        instructions: the system prompt in force.
        adapter: the one in use.
        left_out: ids of messages that the model was not shown.
        begun: what it went on from.
        grammar: what it was bound to.
    """
    return Generation(
        model=info.model,
        model_path=info.path,
        fingerprint=info.fingerprint,
        bits=info.bits,
        compute=info.compute,
        dtype=info.dtype,
        backend=info.backend,
        adapter=adapter,
        instructions=instructions,
        options=dict(summary.options),
        left_out=left_out,
        begun_text=begun if isinstance(begun, str) and begun else None,
        grammar=f"{grammar.kind}:{grammar.source}" if grammar else "",
        tokens=tuple(summary.tokens),
        stop_reason=summary.stop_reason,
        prompt_tokens=summary.prompt_tokens,
        cached_tokens=summary.cached_tokens,
        reasoning_tokens=summary.reasoning_tokens,
        ttft_s=summary.ttft_s,
        prefill_tok_per_s=summary.prefill_tok_per_s,
        decode_tok_per_s=summary.decode_tok_per_s,
        context_used=summary.context_used,
        context_limit=summary.context_limit,
        memory_bytes=summary.memory_bytes,
        peak_memory_bytes=summary.peak_memory_bytes,
    )


def make_again(
    engine: ChatEngine,
    above: Sequence[StoredMessage],
    answer: StoredMessage,
    cancel: threading.Event | None = None,
) -> Iterator[GenerationSummary]:
    """Make an answer again as it was made.

    Tools are not used again: what they said then is what the model is told.

    Args:
        engine: answers.
        above: what led to the answer.
        answer: with how it was made.
        cancel: stops it.

    Yields:
        One summary for each stretch it was made in, to be compared with ``made``.

    Raises:
        InvalidInput: when it is not known how the answer was made.
    """
    if not answer.made or not all(stretch.tokens for stretch in answer.made):
        raise InvalidInput("it is not known how this message was made")
    if engine.info is None:
        for _ in engine.load():
            pass
    begun: list[int] = []
    for stretch in answer.made:
        shown = [m for m in whole_turns(above) if m.id not in stretch.left_out]
        # As many as there were: the person who stopped it is not there to do it again.
        options = replace(_options_from(stretch.options), max_tokens=len(stretch.tokens))
        start = tuple(begun) if stretch.begun_text is None else stretch.begun_text
        asked = conversation(shown, stretch.instructions, answer.uses)
        for event in engine.chat(asked, options, cancel, start, _grammar_from(stretch.grammar)):
            if isinstance(event, GenerationSummary):
                yield event
        begun += stretch.tokens


def _grammar_from(kept: str) -> Grammar | None:
    """A grammar as it was noted."""
    kind, _, source = kept.partition(":")
    for known in get_args(Kind):
        if kind == known:
            return Grammar(known, source)
    return None


def _options_from(kept: Mapping[str, Any]) -> GenerationOptions:
    """Options as they come back from JSON."""
    return GenerationOptions(**{**kept, "stop": tuple(kept.get("stop", ()))})
