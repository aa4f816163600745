"""The token loop: prefill a prompt, then one token at a time, one step ahead of the reader.

Knows token ids only. Runs on the thread that owns MLX. Both loops are iterators: whoever reads them
cancels by not asking for more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.decoding.grammar import Constraint
from mobilellm_mlx.decoding.sampling import Sampler, penalize
from mobilellm_mlx.models import Cache, LanguageModel
from mobilellm_mlx.options import GenerationOptions


def looks_ahead() -> bool:
    """Whether the next token is computed while the reader looks at one."""
    return backend().look_ahead


def iter_prefill(
    model: LanguageModel, caches: Sequence[Cache], tokens: Sequence[int], chunk: int
) -> Iterator[int]:
    """Fill the caches with tokens, ``chunk`` at a time; yields how many are done.

    Leaves the last one to ``chunk`` tokens to ``iter_tokens``, which needs their logits. For the
    others the head and the last block's feed-forward are never computed: only keys and values are
    asked for, and MLX is lazy.
    """
    for start in range(0, len(tokens) - chunk, chunk):
        part = mx.array(list(tokens[start : start + chunk]))[None]  # (1, L)
        model.hidden(part, caches)
        mx.eval([array for cache in caches for array in cache.arrays])
        mx.clear_cache()  # a GPU backend would keep this chunk's buffers for ever
        yield start + chunk


def iter_tokens(
    model: LanguageModel,
    caches: Sequence[Cache],
    last: Sequence[int],
    sampler: Sampler,
    count: int,
    *,
    options: GenerationOptions | None = None,
    forced: deque[int] | None = None,
    begun: Sequence[int] = (),
) -> Iterator[int]:
    """``count`` ids, generated or forced.

    On a GPU the next token is already being computed while the reader looks at one. So when it
    stops early, the caches may hold the last token it was given, and never more than that.

    Args:
        model: the network.
        caches: hold everything before ``last``; updated in place.
        last: the end of the prompt, at least one token and at most a chunk: its last position
            chooses the first id, so the prompt needs no step of its own for that.
        sampler: logits (V,) to token, lazily.
        count: how many ids to generate.
        options: for the repetition penalty only, which looks at the generated ids.
        forced: filled by the reader: each of these ids comes in place of the next generated one,
            which is thrown away, and is fed to the model like it.
        begun: the end of ``last`` and of what was fed before that counts as generated.
    """
    recent = Recent(options or GenerationOptions(), begun)

    def step(tokens: mx.array) -> mx.array:
        logits = model.head(model.hidden(tokens.reshape(1, -1), caches)[:, -1])[0]  # (V,)
        chosen = sampler(recent.penalize(logits))
        recent.add(chosen)
        mx.async_eval(chosen)  # type: ignore[no-untyped-call]
        return chosen

    look_ahead = looks_ahead()
    token = step(mx.array(list(last)))
    for index in range(count):
        if forced:  # only the tokens before this one were fed, so it can still be another one
            token = recent.replace(forced.popleft())
        more = index + 1 < count
        # Nobody waits for the second token before seeing the first.
        ahead = step(token) if more and index and look_ahead else None
        yield int(token.item())  # type: ignore[arg-type]
        if more:
            token = step(token) if ahead is None else ahead


def iter_bound_tokens(
    model: LanguageModel,
    caches: Sequence[Cache],
    last: Sequence[int],
    sampler: Sampler,
    count: int,
    constraint: Constraint,
    *,
    options: GenerationOptions | None = None,
    begun: Sequence[int] = (),
) -> Iterator[tuple[int, bool]]:
    """At most ``count`` ids that a constraint allows, each with whether it was forced.

    Tokens about which the constraint leaves no choice are not sampled: they are read together with
    the one before them in a single forward pass. What may come next depends on the token before,
    so nothing is computed ahead; the caches never hold the last token.

    Args:
        model: the network.
        caches: hold everything before ``last``; updated in place.
        last: the end of the prompt, at least one token.
        sampler: logits (V,) to token.
        count: how many ids at most.
        constraint: at the beginning of the answer; follows it.
        options: for the repetition penalty only.
        begun: the end of what was fed before that counts as generated.
    """
    recent = Recent(options or GenerationOptions(), begun)
    unread = list(last)
    while count > 0 and not constraint.is_over:
        forced = constraint.forced[:count]
        for token in forced:
            constraint.take(token)
            recent.add(mx.array(token, mx.uint32))
            yield token, True
        unread += forced
        count -= len(forced)
        if count <= 0 or constraint.is_over:
            return
        hidden = model.hidden(mx.array(unread)[None], caches)  # (1, L, D)
        chosen = sampler(_bound_logits(model, hidden[:, -1], recent, constraint))
        token = int(chosen.item())  # type: ignore[arg-type]
        constraint.take(token)
        recent.add(chosen)
        unread = [token]
        count -= 1
        yield token, False


def _bound_logits(
    model: LanguageModel, hidden: mx.array, recent: Recent, constraint: Constraint
) -> mx.array:
    """Logits (V,) behind a hidden state (1, D), those of impossible tokens at minus infinity.

    Where few tokens are possible only their rows of the head are read, which is a third of what a
    small model reads for a token.
    """
    rows = constraint.rows
    if rows is None:
        return constraint.bind(recent.penalize(model.head(hidden)[0]))
    few = model.head(hidden, rows)[0]  # (C,)
    none = mx.full((model.config.vocab_size,), -mx.inf, few.dtype)
    logits = mx.put_along_axis(none, rows, few, axis=0)
    return recent.penalize(logits)[: constraint.size]


class Recent:
    """The last few generated tokens as an array on the device, so that the penalty never waits.

    Args:
        options: how many they are, and the penalty.
        begun: generated before.
    """

    def __init__(self, options: GenerationOptions, begun: Sequence[int]):
        self._penalty = options.repetition_penalty
        self._window = options.repetition_window
        self._tokens = mx.array(list(begun[-self._window :]), dtype=mx.uint32)  # (R,)

    def penalize(self, logits: mx.array) -> mx.array:
        """Logits (V,) with the penalty, if there is any."""
        if self._penalty == 1 or self._tokens.size == 0:
            return logits
        return penalize(logits, self._tokens, self._penalty)

    def add(self, token: mx.array) -> None:
        """One more token was generated."""
        if self._penalty == 1:
            return
        grown = mx.concatenate([self._tokens, token.reshape(1).astype(mx.uint32)])
        self._tokens = grown[-self._window :]

    def replace(self, token: int) -> mx.array:
        """Put another token in place of the last one; gives it as an array."""
        replaced = mx.array(token, mx.uint32)
        if self._penalty != 1:
            self._tokens = mx.concatenate([self._tokens[:-1], replaced.reshape(1)])
        return replaced
