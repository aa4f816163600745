"""Test doubles that ship with the package: a scripted engine, a byte tokenizer, a tiny model.

For our own tests and for those of programs built on this one. Nothing else imports this module.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mobilellm_mlx.engine import Wearing
from mobilellm_mlx.errors import EngineError, MobileLLMError
from mobilellm_mlx.events import (
    CacheSummary,
    Event,
    GenerationSummary,
    ModelLoaded,
    PrefillProgress,
    ReasoningDelta,
    TextDelta,
)
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tokenizer import Tokenizer

SCRIPTED_MODEL = ModelLoaded(
    model="scripted",
    path="/models/scripted",
    family="llama",
    parameters=134_515_008,
    bits=4,
    weight_bytes=98_000_000,
    kv_bytes_per_token=23_040,
    context_limit=2048,
    compute="packed",
    dtype="float16",
    backend="metal",
    chat=True,
    licence="Apache-2.0",
    load_s=0.25,
    fingerprint="scripted",
)


class ByteTokenizer(Tokenizer):
    """One token for each byte, and ``<|end|>`` (256) as the only special one."""

    def __init__(self) -> None:
        self.vocab_size = 257
        self.special = {"<|end|>": 256}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""


class ScriptedEngine:
    """An engine that says what it was told to, piece by piece, with fixed statistics.

    Args:
        answers: one for each turn, in order; an exception is raised instead; the last one repeats.
        tok_per_s: speed of speaking; 0 is as fast as possible.
        loading_error: raised by ``load`` instead of loading.
        switching_error: raised by ``load`` of another directory; the model stays as it is.
        info: the model it claims to be.
        reasoning: what it thinks before every answer.
        adapting_error: raised by ``adapt``; what is on stays on.
    """

    def __init__(
        self,
        answers: Iterable[str | MobileLLMError] = ("Hello!",),
        *,
        tok_per_s: float = 0,
        loading_error: MobileLLMError | None = None,
        switching_error: MobileLLMError | None = None,
        info: ModelLoaded = SCRIPTED_MODEL,
        reasoning: str = "",
        adapting_error: MobileLLMError | None = None,
    ):
        self._answers = list(answers)
        self._tok_per_s = tok_per_s
        self._loading_error = loading_error
        self._switching_error = switching_error
        self._adapting_error = adapting_error
        self._model = info
        self._reasoning = reasoning
        self.info: ModelLoaded | None = None
        self.defaults = GenerationOptions()
        self.template: str | None = None
        self.conversations: list[list[Message]] = []
        """What each turn was asked with."""
        self.begun: list[str | list[int]] = []
        """What each turn was to go on from."""
        self.grammars: list[Grammar | None] = []
        """What each turn was bound to; it says what it was told to nevertheless."""
        self.asides: list[Path | None] = []
        """The adapters of questions aside that named one."""
        self.closed = False
        self._known = 0
        """Tokens of the next prompt that were restored."""

    def load(self, directory: Path | None = None) -> Iterator[Event]:
        if directory is not None and self._switching_error:
            raise self._switching_error
        if self._loading_error:
            raise self._loading_error
        if directory is not None:
            name, path = directory.name, str(directory)
            self._model = replace(
                self._model, model=name, path=path, fingerprint=name, adapter=None
            )
        self.info = self._model
        yield self._model

    def adapt(self, adapter: Path | None, *, force: bool = False) -> Iterator[Event]:
        if self._adapting_error:
            raise self._adapting_error
        name = adapter.name if adapter else None
        bare = self._model.fingerprint.partition("+")[0]
        fingerprint = f"{bare}+{name}" if name else bare
        self.info = self._model = replace(self._model, adapter=name, fingerprint=fingerprint)
        yield self._model

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
        grammar: Grammar | None = None,
        *,
        aside: bool = False,
        adapter: Wearing = "same",
    ) -> Iterator[Event]:
        if adapter != "same":
            if not aside:
                raise ValueError("only a question aside has an adapter of its own")
            self.asides.append(adapter)
        self.conversations.append(list(messages))
        self.grammars.append(grammar)
        self.begun.append(begun if isinstance(begun, str) else list(begun))
        known = len(begun.split() if isinstance(begun, str) else begun)
        count = _count_words(messages) + known
        yield from self._say(count, options, cancel or threading.Event())

    def count_tokens(self, messages: Sequence[Message]) -> int:
        if self.info is None:
            raise EngineError("no model is in memory", "load one first")
        return _count_words(messages)

    def complete(
        self,
        text: str,
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[Event]:
        yield from self._say(len(text.split()), options, cancel or threading.Event())

    def save_cache(self, path: Path) -> Iterator[Event]:
        if not self.conversations:
            yield CacheSummary("save_cache", reason="there is nothing to keep")
            return
        tokens = _count_words(self.conversations[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([self._model.fingerprint, tokens]), encoding="utf-8")
        yield CacheSummary("save_cache", tokens=tokens, bytes=path.stat().st_size)

    def restore_cache(self, path: Path) -> Iterator[Event]:
        try:
            fingerprint, tokens = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            yield CacheSummary("restore_cache", reason="there is no such file, or it is damaged")
            return
        if fingerprint != self._model.fingerprint:
            yield CacheSummary("restore_cache", reason="it is of another model")
            return
        self._known = tokens
        yield CacheSummary("restore_cache", tokens=tokens, bytes=path.stat().st_size)

    def close(self) -> None:
        self.closed = True

    def _say(
        self, prompt_tokens: int, options: GenerationOptions, cancel: threading.Event
    ) -> Iterator[Event]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, MobileLLMError):
            raise answer
        known, self._known = min(self._known, prompt_tokens), 0
        yield PrefillProgress(known, prompt_tokens, known)
        yield PrefillProgress(prompt_tokens, prompt_tokens, known)
        thought: list[str] = []
        said: list[str] = []
        thoughts = [(ReasoningDelta, thought, piece) for piece in _pieces(self._reasoning)]
        words = [(TextDelta, said, piece) for piece in _pieces(answer)]
        for delta, list_, piece in [*thoughts, *words]:
            if cancel.is_set():
                break
            if self._tok_per_s:
                time.sleep(1 / self._tok_per_s)
            list_.append(piece)
            yield delta(piece)
        stopped = cancel.is_set() and "".join(said) != answer
        yield GenerationSummary(
            status="cancelled" if stopped else "ok",
            elapsed_s=1.0,
            model=self._model.model,
            text="".join(said),
            reasoning="".join(thought),
            stop_reason="cancelled" if stopped else "stop",
            prompt_tokens=prompt_tokens,
            cached_tokens=known,
            generated_tokens=len(thought) + len(said),
            tokens=list(range(len(thought) + len(said))),
            reasoning_tokens=len(thought),
            ttft_s=0.05,
            prefill_s=0.05,
            decode_s=0.5,
            prefill_tok_per_s=1000.0,
            decode_tok_per_s=250.0,
            context_used=prompt_tokens + len(thought) + len(said),
            context_limit=self._model.context_limit,
            memory_bytes=120_000_000,
            peak_memory_bytes=150_000_000,
        )


def _count_words(messages: Sequence[Message]) -> int:
    return len("".join(message.content for message in messages).split())


def _pieces(text: str, size: int = 4) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
