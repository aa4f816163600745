"""How much a conversion changed the model's mind, measured on text.

Both networks are run block by block side by side, so memory holds one block of each and not two
models: what could be converted can also be verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, isfinite

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.models import ModelConfig, make_cache
from mobilellm_mlx.models.network import Block

from .source import EMBEDDING, HEAD, NORM
from .transform import number

Read = Callable[[str], mx.array]
"""One of our tensors by name, unpacked, as float32."""

WINDOW = 256
"""Tokens that are read together; within one a token sees those before it."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A converted model beside its 16-bit weights, over the same tokens."""

    tokens: int
    mean_kl: float
    """Of the next token's distribution, 16-bit to converted, in nats."""
    top1_agreement: float
    perplexity: float
    reference_perplexity: float


@dataclass
class _Sums:
    tokens: int = 0
    scored: int = 0
    kl: float = 0.0
    agreed: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0


def budget(parameters: int) -> int:
    """Tokens worth reading for a model of this size: a minute or so on two slow cores."""
    return max(WINDOW, min(1536, int(2e11 / parameters)))


def compare(
    config: ModelConfig, reference: Read, converted: Read, windows: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int] | Quality]:
    """Run both models over the windows.

    Args:
        config: of both.
        reference: the 16-bit weights.
        converted: what was written.
        windows: token ids, each window by itself.

    Yields:
        Blocks done and blocks in all, and the ``Quality`` at the end; none when the reference
        itself computes no numbers.

    Raises:
        ConvertError: when the converted model computes no numbers where the reference does.
    """
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        return
    sides = [_Side(config, read, windows) for read in (reference, converted)]
    total = len(config.layers) + 1
    for block in range(len(config.layers)):
        for side in sides:
            side.run_block(block)
        yield block + 1, total
    sums = _Sums()
    for side in sides:
        side.read_head()
    for index, window in enumerate(windows):
        logits, others = (side.logits(index) for side in sides)
        _add(sums, logits, others, mx.array(list(window)))
    if not isfinite(sums.reference_loss):  # NaN weights, of which the person has been told
        return
    if not isfinite(sums.kl + sums.loss):
        raise ConvertError(
            "the converted model computes values that are not numbers",
            "use more bits, or `--dtype bfloat16` if the weights are large",
        )
    yield total, total
    yield Quality(
        tokens=sums.tokens,
        mean_kl=sums.kl / sums.tokens,
        top1_agreement=sums.agreed / sums.tokens,
        perplexity=exp(min(sums.loss / sums.scored, 700.0)),
        reference_perplexity=exp(min(sums.reference_loss / sums.scored, 700.0)),
    )


def _add(sums: _Sums, logits: mx.array, others: mx.array, window: mx.array) -> None:
    """Add one window's positions; logits are (L, V)."""
    before = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    after = others - mx.logsumexp(others, axis=-1, keepdims=True)
    kl = mx.sum(mx.exp(before) * (before - after))
    agreed = mx.sum(mx.argmax(before, axis=-1) == mx.argmax(after, axis=-1))
    targets = window[1:, None]
    loss = -mx.sum(mx.take_along_axis(after[:-1], targets, axis=-1))
    reference_loss = -mx.sum(mx.take_along_axis(before[:-1], targets, axis=-1))
    mx.eval(kl, agreed, loss, reference_loss)
    sums.tokens += window.size
    sums.scored += window.size - 1
    sums.kl += number(kl)
    sums.agreed += int(number(agreed))
    sums.loss += number(loss)
    sums.reference_loss += number(reference_loss)


class _Side:
    """One of the two models, as far as it has come."""

    def __init__(self, config: ModelConfig, read: Read, windows: Sequence[Sequence[int]]):
        self._config, self._read = config, read
        embedding = read(EMBEDDING)  # (V, D)
        self._states = [embedding[mx.array(list(window))][None] for window in windows]  # (1, L, D)
        mx.eval(self._states)

    def run_block(self, number: int) -> None:
        layer = self._config.layers[number]
        block = Block(self._config, layer)
        prefix = f"model.layers.{number}."
        names = [name for name, _ in tree_flatten(block.parameters())]
        block.load_weights([(name, self._read(prefix + name)) for name in names], strict=True)
        attends = layer.attention != "none"
        for _ in range(layer.runs):
            self._states = [block(x, make_cache(layer) if attends else None) for x in self._states]
        mx.eval(self._states)

    def read_head(self) -> None:
        self._head = self._read(EMBEDDING if self._config.tie_word_embeddings else HEAD)  # (V, D)
        self._norm = self._read(NORM)  # (D,)

    def logits(self, index: int) -> mx.array:
        """Logits of one window, (L, V)."""
        state = self._states[index][0]  # (L, D)
        return mx.fast.rms_norm(state, self._norm, self._config.rms_norm_eps) @ self._head.T
