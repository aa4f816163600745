"""How much a conversion changed the model's mind, measured on text.

Both networks are run block by block side by side, so memory holds one block of each and not two
models: what could be converted can also be verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.evals.divergence import WINDOW, Logits, distance, diverge
from mobilellm_mlx.models import ModelConfig, make_cache
from mobilellm_mlx.models.network import Block

from .source import EMBEDDING, HEAD, NORM

Read = Callable[[str], mx.array]
"""One of our tensors by name, unpacked, as float32."""

__all__ = ["WINDOW", "Quality", "Read", "budget", "compare"]


@dataclass(frozen=True, slots=True)
class Quality:
    """A converted model beside its 16-bit weights, over the same tokens."""

    tokens: int
    mean_kl: float
    """Of the next token's distribution, 16-bit to converted, in nats."""
    top1_agreement: float
    perplexity: float
    reference_perplexity: float


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
    for side in sides:
        side.read_head()
    found = distance(
        diverge(window, sides[0].logits(index), sides[1].logits(index), config.vocab_size)
        for index, window in enumerate(windows)
    )
    if found.reference_nonfinite:  # NaN weights, of which the person has been told
        return
    if found.nonfinite or found.mean_kl is None or found.top1_agreement is None:
        raise ConvertError(
            "the converted model computes values that are not numbers",
            "use more bits, or `--dtype bfloat16` if the weights are large",
        )
    assert found.perplexity is not None and found.reference_perplexity is not None
    yield total, total
    yield Quality(
        tokens=found.tokens,
        mean_kl=found.mean_kl,
        top1_agreement=found.top1_agreement,
        perplexity=found.perplexity,
        reference_perplexity=found.reference_perplexity,
    )


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

    def logits(self, index: int) -> Logits:
        """Logits of some positions of one window."""

        def logits(start: int, stop: int) -> mx.array:
            states = self._states[index][0, start:stop]  # (N, D)
            states = mx.fast.rms_norm(states, self._norm, self._config.rms_norm_eps)
            return states @ self._head.T  # (N, V)

        return logits
