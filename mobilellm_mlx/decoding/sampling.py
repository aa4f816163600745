"""Choosing the next token from logits, on the device and without waiting for it.

Order as in the Hugging Face library: repetition penalty, temperature, top-k, top-p, min-p, draw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.options import GenerationOptions

Sampler = Callable[[mx.array], mx.array]
"""Logits (V,) to a token id, a scalar array; on a GPU nothing is evaluated."""

SORTED = 512
"""Likeliest tokens that are sorted for top-p; where they do not reach it, all are."""
BLOCK = 16
"""Neighbours of which first only the likeliest is looked at."""


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
    """Candidates and their logits, those cut off at minus infinity.

    Args:
        logits: tempered, (V,).

    Returns:
        Token ids (C,) and logits (C,), likeliest first where there is more to do than min-p.
    """
    vocab = logits.shape[-1]
    if 0 < options.top_k < vocab:
        order = _likeliest(logits, options.top_k)
        best = logits[order]
        probabilities = mx.softmax(best, precise=True)
    elif options.top_p < 1:
        total = mx.logsumexp(logits)
        order = _likeliest(logits, _needed(vocab))
        best = logits[order]
        probabilities = mx.exp(best - total)
        if order.size < vocab and not _reaches(probabilities, options):
            order = mx.argsort(-logits)
            best = logits[order]
            probabilities = mx.exp(best - total)
    elif options.min_p:  # alone it needs no order
        floor = mx.max(logits) + math.log(options.min_p)
        return mx.arange(vocab), mx.where(logits >= floor, logits, -mx.inf)
    else:  # a top-k of all is no limit
        return mx.arange(vocab), logits
    keep = mx.ones_like(probabilities).astype(mx.bool_)
    if options.top_p < 1:
        # The token that crosses the line is kept, so at least one always is.
        keep &= mx.cumsum(probabilities) - probabilities < options.top_p
        # min-p looks at what top-p left; renormalising scales all alike, so the ratio is the same.
    if options.min_p:
        keep &= probabilities >= options.min_p * probabilities[0]
    return order, mx.where(keep, best, -mx.inf)


def _needed(vocab: int) -> int:
    """How many of the likeliest tokens to sort for top-p.

    Sorting a whole vocabulary takes a CPU half as long as the network needs for a small model's
    token. Whether fewer are enough is known when they are computed, which is waited for; a GPU
    sorts soon enough, and there nothing may wait.
    """
    return vocab if backend().look_ahead else min(vocab, SORTED)


def _likeliest(logits: mx.array, count: int) -> mx.array:
    """Ids (count,) of the largest of logits (V,), in falling order."""
    vocab = logits.size
    if count == vocab:
        return mx.argsort(-logits)
    if vocab % BLOCK or count * BLOCK * 4 > vocab:
        among = mx.argpartition(-logits, count - 1)[:count]
        return among[mx.argsort(-logits[among])]
    # As many blocks as tokens are wanted hold them all: those with the largest maxima.
    tops = mx.max(logits.reshape(-1, BLOCK), axis=1)  # (V / BLOCK,)
    blocks = mx.argpartition(-tops, count - 1)[:count]
    among = (blocks[:, None] * BLOCK + mx.arange(BLOCK)).reshape(-1)
    among = among[mx.argpartition(-logits[among], count - 1)[:count]]
    return among[mx.argsort(-logits[among])]


def _reaches(probabilities: mx.array, options: GenerationOptions) -> bool:
    """Whether no token behind these, (C,) in falling order, can be a candidate."""
    is_enough = mx.sum(probabilities) >= options.top_p
    is_enough |= probabilities[-1] < options.min_p * probabilities[0]
    return bool(is_enough.item())


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
    return mx.put_along_axis(logits, recent, changed, axis=0)
