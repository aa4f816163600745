"""How far one model's next-token distributions are from another's, position by position.

Two models see the same windows of text. Of the first only its last hidden states and its head are
kept, a few thousand numbers a token instead of a vocabulary's worth; logits of both are made a few
positions at a time, compared, and dropped.

Shapes in comments: L positions of a window, N positions of a chunk, D model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.decoding.likelihood import log_total
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.uncached import make_uncached

WINDOW = 256
"""Tokens that are read together; within one a token sees those before it."""
VERSION = 1
"""Of how windows are cut and compared."""
LOGIT_BYTES = 64_000_000
"""Of everything as wide as the vocabulary that is there at once."""
_WIDE = 7
"""Arrays of that width in a comparison: logits, logarithms, shares and what becomes of them."""

Logits = Callable[[int, int], mx.array]
"""Logits of the positions from one number up to another, (N, V)."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two models over one window, in nats; a model that computes NaN gives NaN.

    Attributes:
        kl: of each position's distribution, from the reference's to the candidate's.
        agreed: at each position, whether both find the same next token the likeliest.
        losses: of each token but the first, by the candidate.
        reference_losses: the same by the reference.
    """

    kl: list[float]
    agreed: list[bool]
    losses: list[float]
    reference_losses: list[float]


@dataclass(frozen=True, slots=True)
class Distance:
    """Two models over all windows; None where no position has a number.

    Attributes:
        tokens: positions that were compared.
        mean_kl: in nats.
        median_kl: likewise.
        p99_kl: what the divergence of 99 in 100 positions does not exceed.
        top1_agreement: share of positions with the same likeliest token.
        perplexity: of the candidate.
        reference_perplexity: of the reference, over the same tokens.
        nonfinite: positions at which the candidate computes NaN or infinity; they are in no mean.
        reference_nonfinite: tokens for which the reference does.
    """

    tokens: int
    mean_kl: float | None
    median_kl: float | None
    p99_kl: float | None
    top1_agreement: float | None
    perplexity: float | None
    reference_perplexity: float | None
    nonfinite: int = 0
    reference_nonfinite: int = 0


def diverge(
    tokens: Sequence[int], reference: Logits, candidate: Logits, vocab_size: int
) -> Divergence:
    """Compare two models over a window, some positions at a time.

    Args:
        tokens: ids of the window.
        reference: the distributions that count as right.
        candidate: those that are judged.
        vocab_size: width of both.
    """
    found = Divergence([], [], [], [])
    at_once = _at_once(vocab_size)
    for start in range(0, len(tokens), at_once):
        stop = min(start + at_once, len(tokens))
        before, after = (side(start, stop).astype(mx.float32) for side in (reference, candidate))
        # The last position has no next token; what is looked up there is dropped.
        targets = mx.array([*tokens[start + 1 : stop + 1], 0][: stop - start])[:, None]  # (N, 1)
        values: Any = _compare(before, after, targets).tolist()  # (4, N)
        kl, agreed, losses, others = values
        scored = min(stop, len(tokens) - 1) - start
        found.kl.extend(kl)
        found.agreed.extend(value > 0 for value in agreed)
        found.losses.extend(losses[:scored])
        found.reference_losses.extend(others[:scored])
    return found


def comparing_bytes(length: int, vocab_size: int) -> int:
    """What comparing two models over a window of so many tokens takes beside its hidden states."""
    return min(length, _at_once(vocab_size)) * _WIDE * 4 * vocab_size


def _at_once(vocab_size: int) -> int:
    """Positions whose logits are made together."""
    return max(1, LOGIT_BYTES // (_WIDE * 4 * vocab_size))


def _compare(logits: mx.array, others: mx.array, targets: mx.array) -> mx.array:
    """KL, agreement and both losses of some positions, (4, N); logits are (N, V)."""
    before, after = logits - log_total(logits)[:, None], others - log_total(others)[:, None]
    # Both distributions sum to 1, so q - p adds nothing but for the rounding of their logarithms,
    # which it takes away: without it float32 is wrong by 1e-5 nats, with it by 1e-7.
    p, q = mx.exp(before), mx.exp(after)
    kl = mx.maximum(mx.sum(q - p - p * (after - before), axis=-1), 0.0)
    agreed = mx.argmax(before, axis=-1) == mx.argmax(after, axis=-1)
    losses = [-mx.take_along_axis(side, targets, axis=-1)[:, 0] for side in (after, before)]
    return mx.stack([kl, agreed.astype(mx.float32), *losses])


def distance(parts: Iterable[Divergence]) -> Distance:
    """All windows together; what is NaN or infinite is counted and left out."""
    kl, agreed, losses, others = [], [], [], []
    for part in parts:
        kl += part.kl
        agreed += part.agreed
        losses += part.losses
        others += part.reference_losses
    sound = [(value, same) for value, same in zip(kl, agreed, strict=True) if math.isfinite(value)]
    kept = sorted(value for value, _ in sound)
    pairs = [pair for pair in zip(losses, others, strict=True) if all(map(math.isfinite, pair))]
    return Distance(
        tokens=len(kl),
        mean_kl=_mean(kept),
        median_kl=percentile(kept, 0.5),
        p99_kl=percentile(kept, 0.99),
        top1_agreement=_mean([float(same) for _, same in sound]),
        perplexity=_perplexity([loss for loss, _ in pairs]),
        reference_perplexity=_perplexity([loss for _, loss in pairs]),
        nonfinite=len(kl) - len(kept),
        reference_nonfinite=sum(not math.isfinite(loss) for loss in others),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value that a share of some ordered values does not exceed, between two of them where it
    lies there; None of no values."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _perplexity(losses: Sequence[float]) -> float | None:
    mean = _mean(losses)
    return None if mean is None else math.exp(min(mean, 700.0))


class Reference:
    """What is kept of a model that others are measured against: its blocks can be let go.

    Attributes:
        vocab_size: width of its logits.
        head_bytes: of the matrix behind them.

    Args:
        model: the network.
    """

    def __init__(self, model: LanguageModel):
        self.vocab_size = model.config.vocab_size
        module = _detached(_head_module(model))
        self._head = _logits_by(module, model)
        self._states: list[mx.array] = []
        self.head_bytes = sum(array.nbytes for _, array in tree_flatten(module))

    def add(self, states: mx.array) -> None:
        """Keep the hidden states of the next window, (L, D)."""
        self._states.append(states)

    def logits(self, window: int) -> Logits:
        """Its logits in a window, counted from 0."""
        return logits_of(self._head, self._states[window])


def hidden(model: LanguageModel, window: Sequence[int]) -> mx.array:
    """Last hidden states of a window, (L, D), computed."""
    states: mx.array = model.hidden(mx.array([list(window)]), make_uncached(model.config))[0]
    mx.eval(states)
    return states


def head_of(model: LanguageModel) -> Callable[[mx.array], mx.array]:
    """From hidden states to logits, without holding the rest of the model."""
    return _logits_by(_head_module(model), model)


def _logits_by(module: Any, model: LanguageModel) -> Callable[[mx.array], mx.array]:
    head: Callable[[mx.array], mx.array]
    head = module.as_linear if model.config.tie_word_embeddings else module
    return head


def _detached(module: Any) -> Any:
    """The same with arrays of its own: a network's packed weights lie in one piece of memory, which
    is there as long as one of them."""
    module = copy(module)
    for name, array in module.items():
        if isinstance(array, mx.array):
            module[name] = mx.concatenate([array[:1], array[1:]])
            mx.eval(module[name])
    return module


def _head_module(model: LanguageModel) -> Any:
    return model.model.embed_tokens if model.config.tie_word_embeddings else model.lm_head


def logits_of(head: Callable[[mx.array], mx.array], states: mx.array) -> Logits:
    """Logits of some of the positions whose hidden states (L, D) are there."""
    return lambda start, stop: head(states[start:stop])


class DivergenceTask:
    """Windows of text, over which a model is compared with a reference.

    Args:
        windows: token ids, all of one length.
        data_sha256: of what they were cut from.
        against: fingerprint of the reference.
    """

    name = "divergence"
    version = VERSION

    def __init__(self, windows: Sequence[Sequence[int]], data_sha256: str, against: str):
        self._windows = windows
        self.data_sha256 = data_sha256
        self.settings: Mapping[str, Any] = {"against": against, "window": len(windows[0])}

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        """The first of the windows; nothing is drawn."""
        return [Request(str(n), window) for n, window in enumerate(self._windows[:limit])]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        """Means of a window; one NaN in it makes its mean one."""
        found = Divergence(**response.values)
        columns = {
            "mean_kl": found.kl,
            "top1_agreement": [float(same) for same in found.agreed],
            "nats_per_token": found.losses,
            "reference_nats_per_token": found.reference_losses,
        }
        return {name: sum(some) / len(some) for name, some in columns.items()}
