"""Choosing the next token from logits, on the device and without waiting for it.

Order as in the Hugging Face library: repetition penalty, temperature, top-k, top-p, min-p, draw.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mobilellm_mlx.backend import mx
from mobilellm_mlx.options import GenerationOptions

Sampler = Callable[[mx.array], mx.array]
"""Logits (V,) to a token id, a scalar array; nothing is evaluated."""


def draw_seed() -> int:
    """A seed for a run that was given none."""
    return int.from_bytes(os.urandom(4))


def make_sampler(options: GenerationOptions, seed: int, drawn: int = 0) -> Sampler:
    """A sampler for the options; each has a random state of its own.

    Args:
        options: temperature and what candidates to keep.
        seed: of the random choices.
        drawn: how many of them were made before, by another sampler of the same seed.
    """
    if options.temperature == 0:
        # argmax of the logits is argmax of the probabilities: no softmax over the vocabulary.
        return mx.argmax
    key = mx.random.key(seed)
    for _ in range(drawn):
        key, _ = mx.random.split(key)
    mx.eval(key)  # not a thousand steps with the first token

    def sample(logits: mx.array) -> mx.array:
        nonlocal key
        key, draw = mx.random.split(key)
        logits = logits.astype(mx.float32) / max(options.temperature, 1e-6)  # (V,), no overflow
        if not (options.top_k or options.top_p < 1 or options.min_p):
            return mx.random.categorical(logits, key=draw)
        order, kept = _truncate(logits, options)
        return order[mx.random.categorical(kept, key=draw)]

    return sample


def _truncate(logits: mx.array, options: GenerationOptions) -> tuple[mx.array, mx.array]:
    """Candidates by falling probability and their logits, those cut off at minus infinity.

    Args:
        logits: tempered, (V,).

    Returns:
        Token ids (C,) and logits (C,), where C is top-k or V.
    """
    vocab = logits.shape[-1]
    if 0 < options.top_k < vocab:
        best = mx.argpartition(-logits, options.top_k - 1)[: options.top_k]  # (C,)
        order = best[mx.argsort(-logits[best])]
    else:
        order = mx.argsort(-logits)
    logits = logits[order]
    probabilities = mx.softmax(logits, precise=True)
    keep = mx.ones_like(probabilities).astype(mx.bool_)
    if options.top_p < 1:
        # The token that crosses the line is kept, so at least one always is.
        keep &= mx.cumsum(probabilities) - probabilities < options.top_p
        # min-p looks at what top-p left; renormalising scales all alike, so the ratio is the same.
    if options.min_p:
        keep &= probabilities >= options.min_p * probabilities[0]
    return order, mx.where(keep, logits, -mx.inf)


def penalize(logits: mx.array, recent: mx.array, penalty: float) -> mx.array:
    """Make recent tokens less likely (Keskar et al. 2019, arXiv 1909.05858).

    Args:
        logits: (V,).
        recent: ids, (R,); repeats count once.
        penalty: above 1 discourages.

    Returns:
        Logits, (V,).
    """
    chosen = logits[recent]  # (R,)
    changed = mx.where(chosen > 0, chosen / penalty, chosen * penalty)
    logits = mx.array(logits)  # index assignment must not reach the caller's array
    logits[recent] = changed
    return logits
