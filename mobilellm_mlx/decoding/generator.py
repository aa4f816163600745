"""One model, one conversation's cache, and the loop from prompt ids to events.

The cache of the last turn stays: a prompt that begins with the same tokens is only read from where
it differs, so the time to the first token depends on the new text and not on the history.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from threading import Event as Flag

from mobilellm_mlx.backend import allocation_errors, backend, mx
from mobilellm_mlx.decoding.sampling import draw_seed, make_sampler
from mobilellm_mlx.decoding.step import iter_prefill, iter_tokens
from mobilellm_mlx.decoding.text import Piece, ReasoningSplitter, TextStream
from mobilellm_mlx.errors import ContextOverflow, InvalidInput, TemplateError, TokenizerError
from mobilellm_mlx.events import (
    Event,
    GenerationSummary,
    ModelLoaded,
    PrefillProgress,
    ReasoningDelta,
    StopReason,
    TextDelta,
)
from mobilellm_mlx.loading import LoadedModel, ReasoningMarkers
from mobilellm_mlx.messages import Message
from mobilellm_mlx.models import KVCache
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tokenizer import Tokenizer


class ChatPrompt(list[int]):
    """Token ids of a conversation: what follows is an answer, and may begin with reasoning."""


class Generator:
    """Generates text with a loaded model. Use it on the thread that loaded the model.

    Args:
        loaded: the model with its tokenizer.
    """

    def __init__(self, loaded: LoadedModel):
        self._loaded = loaded
        self._caches = loaded.model.make_cache(loaded.context_limit)
        self._cached: list[int] = []
        """The tokens whose keys and values the caches hold."""

    @property
    def info(self) -> ModelLoaded:
        """The model in use."""
        return self._loaded.info

    def chat_prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """Token ids of a conversation, ready for the model's answer.

        Raises:
            TemplateError: when the model has no chat template, or it fails.
        """
        template = self._loaded.template
        if template is None:
            raise TemplateError(
                f"`{self.info.model}` has no chat template: it completes text, it does not chat",
                "use `mobilellm generate`, or another model for chat",
            )
        return ChatPrompt(template.encode(self._loaded.tokenizer, messages))

    def text_prompt(self, text: str) -> list[int]:
        """Token ids of plain text to continue."""
        tokenizer = self._loaded.tokenizer
        return [*tokenizer.prefix, *tokenizer.encode(text)]

    def generate(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        cancel: Flag | None = None,
        started: float | None = None,
    ) -> Iterator[Event]:
        """Continue the prompt; ends with a ``GenerationSummary``.

        Args:
            prompt: token ids, at least one; only after a ``ChatPrompt`` is reasoning looked for.
            options: sampling and stopping; every field counts (merge defaults before).
            cancel: looked at between prefill chunks and between tokens.
            started: ``time.perf_counter()`` when the request came, if that is earlier than now;
                the time to the first token counts from there.

        Raises:
            ContextOverflow: when the prompt leaves no room for an answer.
            InsufficientMemory: when the backend runs out of memory.
        """
        limit = self._loaded.context_limit
        if not prompt:
            raise InvalidInput("the prompt is empty", "say something")
        if len(prompt) >= limit:
            raise ContextOverflow(len(prompt), limit)
        if max(prompt) >= (vocab := self._loaded.model.config.vocab_size):
            # A tokenizer with gaps can pass the check of sizes; MLX would read past the embedding.
            raise TokenizerError(f"token {max(prompt)} is outside the model's {vocab:,} tokens")
        now = time.perf_counter()
        run = _Run(now if started is None else started, now, cancel or Flag())
        options = options if options.seed is not None else replace(options, seed=draw_seed())
        mx.reset_peak_memory()
        fed = list(prompt)
        done = False
        try:
            with allocation_errors("generating"):
                run.read = run.reused = self._reuse(prompt)
                yield PrefillProgress(run.reused, len(prompt), run.reused)
                if not run.cancel.is_set():
                    yield from self._prefill(prompt, run)
                if not run.cancel.is_set():
                    yield from self._decode(prompt, options, fed, run)
            done = True
        finally:
            self._remember(fed if done else [])
        yield self._summary(prompt, options, run)

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Keep the longest common beginning in the caches; its length."""
        common = 0
        # The last token is always fed: its logits choose the first token of the answer.
        for held, wanted in zip(self._cached, prompt[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        if not all(cache.can_trim(cache.offset - common) for cache in self._caches):
            common = 0  # a window has moved on: what was in sight then is gone, so all is read anew
            self._caches = self._loaded.model.make_cache(self._loaded.context_limit)
        for cache in self._caches:
            cache.trim(cache.offset - common)
        self._cached = self._cached[:common]
        return common

    def _remember(self, fed: list[int]) -> None:
        """Note what the caches hold. After a failure nothing in them is trusted."""
        held = {cache.offset for cache in self._caches}
        if not fed or len(held) != 1 or max(held) > len(fed):
            self._caches = self._loaded.model.make_cache(self._loaded.context_limit)
            self._cached = []
        else:
            self._cached = fed[: held.pop()]
        mx.clear_cache()

    def _prefill(self, prompt: Sequence[int], run: _Run) -> Iterator[Event]:
        """Read the prompt up to the last chunk, which is read by the first step of decoding."""
        rest, total = prompt[run.reused :], len(prompt)
        chunk = backend().prefill_chunk
        for done in iter_prefill(self._loaded.model, self._caches, rest, chunk):
            run.read = run.reused + done
            yield PrefillProgress(run.read, total, run.reused)
            if run.cancel.is_set():
                break

    def _decode(
        self, prompt: Sequence[int], options: GenerationOptions, fed: list[int], run: _Run
    ) -> Iterator[Event]:
        loaded = self._loaded
        room = loaded.context_limit - len(prompt)
        count = min(options.max_tokens or room, room)
        run.reason = "context" if count == room else "length"
        markers = loaded.reasoning if isinstance(prompt, ChatPrompt) else None
        opened = markers is not None and _ends_with(prompt, markers.start, loaded.tokenizer)
        splitter = ReasoningSplitter(markers, opened=opened)
        stream = TextStream(loaded.tokenizer, loaded.stop_tokens, options.stop, splitter)
        budget = _Budget(options.thinking_budget, markers, loaded.tokenizer)
        sample = make_sampler(options, options.seed or 0)
        words = loaded.tokenizer.vocab_size  # a model's vocabulary may be padded beyond it
        tokens = iter_tokens(
            loaded.model,
            self._caches,
            prompt[run.read :],
            lambda logits: sample(logits[:words]),
            count,
            options=options,
            forced=budget.forced,
        )
        budget.watch(stream)
        for token in tokens:
            run.count_token()
            if run.generated == 1:
                run.read = len(prompt)
                yield PrefillProgress(len(prompt), len(prompt), run.reused)
            fed.append(token)
            if run.generated % KVCache.step == 0:  # the caches have grown: let the old ones go
                mx.clear_cache()
            yield from run.take(stream.add(token))
            if stream.stopped or run.cancel.is_set():
                break
            budget.watch(stream)
        if stream.stopped:
            run.reason = "stop"
        else:
            yield from run.take(stream.finish())
        run.reasoned = stream.reasoning_tokens

    def _summary(
        self, prompt: Sequence[int], options: GenerationOptions, run: _Run
    ) -> GenerationSummary:
        cancelled = run.cancel.is_set() and run.reason != "stop"
        return GenerationSummary(
            status="cancelled" if cancelled else "ok",
            elapsed_s=time.perf_counter() - run.started,
            model=self._loaded.info.model,
            text="".join(run.text),
            reasoning="".join(run.reasoning),
            stop_reason="cancelled" if cancelled else run.reason,
            prompt_tokens=len(prompt),
            cached_tokens=run.reused,
            generated_tokens=run.generated,
            reasoning_tokens=run.reasoned,
            ttft_s=run.ttft_s,
            prefill_s=run.prefill_s,
            decode_s=run.decode_s,
            prefill_tok_per_s=_rate(len(prompt) - run.reused, run.prefill_s),
            decode_tok_per_s=_rate(run.generated - 1, run.decode_s),
            context_used=run.read + run.generated,
            context_limit=self._loaded.context_limit,
            memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            options={**asdict(options), "stop": list(options.stop)},  # as it comes back from JSON
        )


@dataclass(slots=True)
class _Run:
    """What one answer has cost so far."""

    started: float
    prompted: float
    """When the prompt's tokens were there."""
    cancel: Flag
    reused: int = 0
    read: int = 0
    """Prompt tokens whose keys and values are in the caches."""
    generated: int = 0
    ttft_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    reason: StopReason = "length"
    reasoned: int = 0
    """Generated tokens that were reasoning."""
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def count_token(self) -> None:
        """One more token has arrived."""
        elapsed = time.perf_counter() - self.started
        if not self.generated:
            self.ttft_s = elapsed
            self.prefill_s = elapsed - (self.prompted - self.started)
        self.generated += 1
        self.decode_s = elapsed - self.ttft_s

    def take(self, piece: Piece) -> Iterator[Event]:
        """Keep what a token gave, and say it."""
        if piece.reasoning:
            self.reasoning.append(piece.reasoning)
            yield ReasoningDelta(piece.reasoning)
        if piece.text:
            self.text.append(piece.text)
            yield TextDelta(piece.text)


class _Budget:
    """Ends reasoning after so many tokens by forcing its end marker, once.

    Args:
        limit: most tokens of reasoning; None is no limit.
        markers: of the model's reasoning, if it has any.
        tokenizer: gives the ids of the end marker.
    """

    def __init__(self, limit: int | None, markers: ReasoningMarkers | None, tokenizer: Tokenizer):
        self.forced: deque[int] = deque()
        """Ids that must come next."""
        self._limit = limit
        self._end: list[int] = []
        if limit is not None and markers is not None:
            sign = tokenizer.special.get(markers.end)
            self._end = tokenizer.encode(markers.end) if sign is None else [sign]

    def watch(self, stream: TextStream) -> None:
        """Look after every token. An end marker that has begun by itself may come to its end."""
        spent = stream.reasoning_tokens - (self._limit or 0)
        # What looks like the beginning of a marker for longer than a marker is none.
        if self._end and spent >= 0 and (stream.reasons or spent > len(self._end)):
            self.forced.extend(self._end)
            self._end = []


def _ends_with(prompt: Sequence[int], marker: str, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends with a marker, white space behind it aside."""
    sign, end = tokenizer.special.get(marker), b""
    for token in reversed(prompt):
        if token == sign:
            return not end.strip()
        text = tokenizer.token_bytes(token)
        end = text + end
        if not text or len(end.strip()) >= len(marker.encode()):
            break  # another sign, or enough to tell
    return end.rstrip().endswith(marker.encode())


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
