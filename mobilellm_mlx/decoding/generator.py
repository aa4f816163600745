"""One model, one conversation's cache, and the loop from prompt ids to events.

The cache of the last turn stays: a prompt that begins with the same tokens is only read from where
it differs, so the time to the first token depends on the new text and not on the history.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event as Flag

from mobilellm_mlx.backend import allocation_errors, backend, mx
from mobilellm_mlx.decoding.grammar import Constraint, GrammarCompiler
from mobilellm_mlx.decoding.sampling import draw_seed, make_sampler
from mobilellm_mlx.decoding.snapshot import Unusable, read_snapshot, write_snapshot
from mobilellm_mlx.decoding.speculative import Guessing, Pace, iter_speculated
from mobilellm_mlx.decoding.step import iter_bound_tokens, iter_prefill, iter_tokens, looks_ahead
from mobilellm_mlx.decoding.text import (
    Budget,
    Piece,
    ReasoningSplitter,
    TextStream,
    ends_with,
    marker_ids,
)
from mobilellm_mlx.errors import (
    ContextOverflow,
    InsufficientMemory,
    InvalidInput,
    TemplateError,
    TokenizerError,
)
from mobilellm_mlx.events import (
    CacheSummary,
    Event,
    GenerationSummary,
    ModelLoaded,
    PrefillProgress,
    ReasoningDelta,
    StopReason,
    TextDelta,
)
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.loading import LoadedModel, ReasoningMarkers
from mobilellm_mlx.messages import Message
from mobilellm_mlx.models import Cache, KVCache
from mobilellm_mlx.options import GenerationOptions

MOST_ASIDE = 1024
"""Tokens of a question beside the conversation that are kept: its room was not planned for."""


class ChatPrompt(list[int]):
    """Token ids of a conversation: what follows is an answer, and may begin with reasoning."""


class Generator:
    """Generates text with a loaded model. Use it on the thread that loaded the model.

    What it has read holds for one adapter: another one has a generator of its own.

    Args:
        loaded: the model with its tokenizer.
    """

    def __init__(self, loaded: LoadedModel):
        self._loaded = loaded
        self._compilers: dict[frozenset[int], GrammarCompiler] = {}
        self._chat = _Memory(self._make_caches())
        self._side = _Memory(self._make_caches())
        """Of prompts beside the conversation, which must not make it forget what it has read."""
        self._pace = Pace()

    @property
    def info(self) -> ModelLoaded:
        """The model in use."""
        return self._loaded.info

    @property
    def loaded(self) -> LoadedModel:
        """The same with its words and manners."""
        return self._loaded

    def sibling(self, loaded: LoadedModel) -> Generator:
        """A generator of the same network with another adapter on; it has read nothing yet."""
        other = Generator(loaded)
        other._compilers = self._compilers
        return other

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
        begun: str | Sequence[int] = (),
        grammar: Grammar | None = None,
        *,
        aside: bool = False,
    ) -> Iterator[Event]:
        """Continue the prompt; ends with a ``GenerationSummary``.

        Args:
            prompt: token ids, at least one; only after a ``ChatPrompt`` is reasoning looked for.
            options: sampling and stopping; every field counts (merge defaults before).
            cancel: looked at between prefill chunks and between tokens.
            started: ``time.perf_counter()`` when the request came, if that is earlier than now;
                the time to the first token counts from there.
            begun: what the answer begins with: ids that were generated before, or a text, which is
                answer and no reasoning. It is read with the prompt and goes on from there; only
                what is new is given, counted and limited.
            grammar: what the new part of the answer has to be. Reasoning is left out.
            aside: this is no part of the conversation, whose cache stays as it is.

        Raises:
            InvalidGrammar: when the grammar cannot be used.
            ContextOverflow: when the prompt leaves no room for an answer.
            InsufficientMemory: when the backend runs out of memory.
        """
        constraint = None if grammar is None else self._compiler.compile(grammar)
        ids = begun if begun and not isinstance(begun, str) else None
        if ids is None:
            ids = self._answer_ids(prompt, str(begun or ""), answers=constraint is not None)
        # One who goes on after the end of an answer does not want it to end there.
        begun = [token for token in ids if token not in self._loaded.stop_tokens]
        self._check([*prompt, *begun])
        options = options if options.seed is not None else replace(options, seed=draw_seed())
        stream = self._stream(prompt, begun, options, bound=constraint is not None)
        prompt = [*prompt, *begun]
        now = time.perf_counter()
        memory = self._side if aside else self._chat
        started = now if started is None else started
        run = _Run(started, now, cancel or Flag(), begun, memory, constraint)
        mx.reset_peak_memory()
        fed = list(prompt)
        over = stream.stopped  # a stop string is in what the answer begins with
        run.reason = "stop" if over else "length"
        done = False
        try:
            with allocation_errors("generating"):
                run.read = run.reused = self._reuse(memory, prompt)
                yield PrefillProgress(run.reused, len(prompt), run.reused)
                if not (over or run.cancel.is_set()):
                    yield from self._prefill(prompt, run)
                if not (over or run.cancel.is_set()):
                    yield from self._decode(prompt, options, stream, fed, run)
            done = True
        finally:
            self._remember(memory, fed if done else [])
        yield self._summary(prompt, options, run)

    def save_cache(self, path: Path) -> Iterator[Event]:
        """Write what the caches hold to a file; ends with a ``CacheSummary``."""
        started = time.perf_counter()
        tokens, size, reason = 0, 0, None
        try:
            held = self._chat
            size = write_snapshot(path, self.info.fingerprint, held.tokens, held.caches)
            tokens = len(held.tokens)
        except Unusable as error:
            reason = str(error)
        elapsed = time.perf_counter() - started
        yield CacheSummary("save_cache", "ok", elapsed, tokens=tokens, bytes=size, reason=reason)

    def restore_cache(self, path: Path) -> Iterator[Event]:
        """Go on from what ``save_cache`` wrote; ends with a ``CacheSummary``.

        When nothing in the file can be used, the caches stay as they are.
        """
        started = time.perf_counter()
        tokens, size, reason = 0, 0, None
        loaded = self._loaded
        try:
            with allocation_errors("restoring a chat"):
                ids, caches, size = read_snapshot(
                    path, loaded.info.fingerprint, loaded.model, loaded.context_limit
                )
            self._chat = _Memory(caches, ids)
            tokens = len(ids)
        except (Unusable, InsufficientMemory) as error:
            reason = str(error)
        mx.clear_cache()
        elapsed = time.perf_counter() - started
        yield CacheSummary("restore_cache", "ok", elapsed, tokens=tokens, bytes=size, reason=reason)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and caches."""
        return self.info.weight_bytes + self.cache_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of what it has read."""
        return sum(cache.nbytes for cache in (*self._chat.caches, *self._side.caches))

    @property
    def _compiler(self) -> GrammarCompiler:
        stops = self._loaded.stop_tokens
        if stops not in self._compilers:
            self._compilers[stops] = GrammarCompiler(self._loaded.tokenizer, stops)
        return self._compilers[stops]

    def _make_caches(self) -> list[Cache]:
        return self._loaded.model.make_cache(self._loaded.context_limit)

    def _check(self, prompt: Sequence[int]) -> None:
        limit, vocab = self._loaded.context_limit, self._loaded.model.config.vocab_size
        if not prompt:
            raise InvalidInput("the prompt is empty", "say something")
        if len(prompt) >= limit:
            raise ContextOverflow(len(prompt), limit)
        # A tokenizer with gaps can pass the check of sizes, and what an answer began with comes
        # from a file; MLX would read past the embedding.
        for token in (max(prompt), min(prompt)):
            if not 0 <= token < vocab:
                raise TokenizerError(f"token {token} is outside the model's {vocab:,} tokens")

    def _markers(self, prompt: Sequence[int]) -> tuple[ReasoningMarkers | None, bool]:
        """What stands around reasoning, and whether the prompt has opened it already."""
        markers = self._loaded.reasoning if isinstance(prompt, ChatPrompt) else None
        if markers is None:
            return None, False
        return markers, ends_with(prompt, markers.start, self._loaded.tokenizer)

    def _answer_ids(self, prompt: Sequence[int], text: str, *, answers: bool) -> list[int]:
        """Ids of an answer's text; reasoning that the prompt has opened is closed before it.

        Args:
            prompt: may have opened reasoning.
            text: the beginning of the answer; empty when there is none.
            answers: whether the answer begins now in any case.
        """
        tokenizer, (markers, opened) = self._loaded.tokenizer, self._markers(prompt)
        if markers is None or not opened or not (text or answers):
            return tokenizer.encode(text) if text else []
        return [*marker_ids(markers.end, tokenizer), *tokenizer.encode("\n\n" + text)]

    def _stream(
        self,
        prompt: Sequence[int],
        begun: Sequence[int],
        options: GenerationOptions,
        *,
        bound: bool,
    ) -> TextStream:
        """From ids to text, gone on from the beginning of an answer."""
        loaded, (markers, opened) = self._loaded, self._markers(prompt)
        if bound and not opened:
            markers = None  # all of it is answer
        splitter = ReasoningSplitter(markers, opened=opened)
        stream = TextStream(loaded.tokenizer, loaded.stop_tokens, options.stop, splitter)
        stream.resume(begun)
        return stream

    def _reuse(self, memory: _Memory, prompt: Sequence[int]) -> int:
        """Keep the longest common beginning in the caches; its length."""
        common = 0
        # The last token is always fed: its logits choose the first token of the answer.
        for held, wanted in zip(memory.tokens, prompt[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        if not all(cache.can_trim(cache.offset - common) for cache in memory.caches):
            common = 0  # a window has moved on: what was in sight then is gone, so all is read anew
            memory.caches = self._make_caches()
        for cache in memory.caches:
            cache.trim(cache.offset - common)
        memory.tokens = memory.tokens[:common]
        return common

    def _remember(self, memory: _Memory, fed: list[int]) -> None:
        """Note what the caches hold. After a failure nothing in them is trusted."""
        for cache in memory.caches:
            unsaid = cache.offset - len(fed)  # tokens that were checked with those that were given
            if unsaid > 0 and cache.can_trim(unsaid):
                cache.trim(unsaid)
        held = {cache.offset for cache in memory.caches}
        is_too_long = memory is self._side and len(fed) > MOST_ASIDE
        if not fed or len(held) != 1 or max(held) > len(fed) or is_too_long:
            memory.caches, memory.tokens = self._make_caches(), []
        else:
            memory.tokens = fed[: held.pop()]
        mx.clear_cache()

    def _prefill(self, prompt: Sequence[int], run: _Run) -> Iterator[Event]:
        """Read the prompt up to the last chunk, which is read by the first step of decoding."""
        rest, total = prompt[run.reused :], len(prompt)
        chunk = backend().prefill_chunk
        for done in iter_prefill(self._loaded.model, run.memory.caches, rest, chunk):
            run.read = run.reused + done
            yield PrefillProgress(run.read, total, run.reused)
            if run.cancel.is_set():
                break

    def _decode(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        stream: TextStream,
        fed: list[int],
        run: _Run,
    ) -> Iterator[Event]:
        loaded = self._loaded
        room = loaded.context_limit - len(prompt)
        count = min(options.max_tokens or room, room)
        run.reason = "context" if count == room else "length"
        reasoned = stream.reasoning_tokens
        budget = Budget(options.thinking_budget, loaded.reasoning, loaded.tokenizer)
        budget.watch(stream)
        for token, forced in self._tokens(prompt, count, options, budget, run):
            run.count_token(token, forced)
            if run.computed_from == run.generated:  # nothing has read the prompt before
                run.read = len(prompt)
                yield PrefillProgress(len(prompt), len(prompt), run.reused)
            fed.append(token)
            if run.generated % KVCache.step == 0:  # the caches have grown: let the old ones go
                mx.clear_cache()
            yield from run.take(stream.add(token))
            if stream.stopped or run.cancel.is_set():
                break
            budget.watch(stream)
        if stream.stopped or run.is_over:
            run.reason = "stop"
        if not stream.stopped:  # nobody goes on with what a grammar has ended
            yield from run.take(stream.finish(cut=not run.is_over))
        run.reasoned = stream.reasoning_tokens - reasoned

    def _tokens(
        self,
        prompt: Sequence[int],
        count: int,
        options: GenerationOptions,
        budget: Budget,
        run: _Run,
    ) -> Iterator[tuple[int, bool]]:
        """The ids of the answer, each with whether a grammar forced it."""
        loaded, last = self._loaded, prompt[run.read :]
        model, caches = loaded.model, run.memory.caches
        sample = make_sampler(options, options.seed or 0, drawn=len(run.begun))
        if run.constraint is not None:
            yield from iter_bound_tokens(
                model,
                caches,
                last,
                sample,
                count,
                run.constraint,
                options=options,
                begun=run.begun,
            )
            return
        words = loaded.tokenizer.vocab_size  # a model's vocabulary may be padded beyond it

        def choose(logits: mx.array) -> mx.array:
            return sample(logits[:words])

        begun, forced = run.begun, budget.forced
        if self._may_guess(options):
            tokens = iter_speculated(
                model,
                caches,
                last,
                choose,
                count,
                read=prompt,
                pace=self._pace,
                guessing=run.guessing,
                options=options,
                begun=begun,
            )
        else:
            tokens = iter_tokens(
                model, caches, last, choose, count, options=options, forced=forced, begun=begun
            )
        for token in tokens:
            yield token, False

    def _may_guess(self, options: GenerationOptions) -> bool:
        """Whether tokens may be checked several at once.

        Not with a budget, which puts tokens in the place of chosen ones. Nor where the next token
        is computed ahead: from where to guess is known too late then.
        """
        return options.speculation and options.thinking_budget is None and not looks_ahead()

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
            tokens=run.tokens,
            forced_tokens=run.forced,
            forward_passes=run.generated - run.forced - run.guessing.accepted,
            drafted_tokens=run.guessing.drafted,
            accepted_tokens=run.guessing.accepted,
            is_whole=run.constraint is None or run.constraint.is_whole,
            ttft_s=run.ttft_s,
            prefill_s=run.prefill_s,
            decode_s=run.decode_s,
            prefill_tok_per_s=_rate(len(prompt) - run.reused, run.prefill_s),
            decode_tok_per_s=run.rate,
            context_used=run.read + run.generated,
            context_limit=self._loaded.context_limit,
            memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            options={**asdict(options), "stop": list(options.stop)},  # as it comes back from JSON
        )


@dataclass(slots=True)
class _Memory:
    """What a model has read, and where its keys and values are."""

    caches: list[Cache]
    tokens: list[int] = field(default_factory=list)
    """Those whose keys and values the caches hold."""


@dataclass(slots=True)
class _Run:
    """What one answer has cost so far."""

    started: float
    prompted: float
    """When the prompt's tokens were there."""
    cancel: Flag
    begun: Sequence[int]
    """Ids of the answer's beginning, the last ones of the prompt."""
    memory: _Memory
    constraint: Constraint | None
    guessing: Guessing = field(default_factory=Guessing)
    reused: int = 0
    read: int = 0
    """Prompt tokens whose keys and values are in the caches."""
    tokens: list[int] = field(default_factory=list)
    """Those generated."""
    forced: int = 0
    """How many of them a grammar left no choice about."""
    computed_from: int = 0
    """Which token, counted from 1, was the first that the model had a part in."""
    ttft_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    reason: StopReason = "length"
    reasoned: int = 0
    """Generated tokens that were reasoning."""
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    @property
    def generated(self) -> int:
        return len(self.tokens)

    @property
    def rate(self) -> float:
        """Tokens per second behind the first; nothing is known where nothing was computed."""
        computed = self.generated - self.forced
        return _rate(self.generated - self.computed_from, self.decode_s) if computed > 1 else 0.0

    @property
    def is_over(self) -> bool:
        """Whether a grammar has come to its end."""
        return self.constraint is not None and self.constraint.is_over

    def count_token(self, token: int, forced: bool) -> None:
        """One more token has arrived."""
        self.forced += forced
        elapsed = time.perf_counter() - self.started
        waited = self.prompted - self.started
        if not self.tokens:
            self.ttft_s = elapsed
        self.tokens.append(token)
        if not (forced or self.computed_from):  # what is forced needs no prompt to be read
            self.computed_from = len(self.tokens)
            self.prefill_s = elapsed - waited
        if self.computed_from:
            self.decode_s = elapsed - waited - self.prefill_s

    def take(self, piece: Piece) -> Iterator[Event]:
        """Keep what a token gave, and say it."""
        if piece.text and not self.text and self.constraint and self.constraint.begins_spaced:
            piece = piece._replace(text=piece.text.removeprefix(" "))
        if piece.reasoning:
            self.reasoning.append(piece.reasoning)
            yield ReasoningDelta(piece.reasoning)
        if piece.text:
            self.text.append(piece.text)
            yield TextDelta(piece.text)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
