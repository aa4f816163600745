"""What stands in a cache's place where whole sequences are read at once: in training."""

from __future__ import annotations

from typing import Literal

from mobilellm_mlx.backend import mx
from mobilellm_mlx.models.cache import Cache, State
from mobilellm_mlx.models.config import LayerConfig, ModelConfig


class Uncached:
    """Keeps nothing; says what tokens of whole rows may see.

    Args:
        layer: whose window or chunk counts.
        segments: numbers of the examples that rows are put together from, (B, L): a token sees its
            own example only. None where every row is one example.
    """

    kind = "nothing"
    offset = 0
    nbytes = 0

    def __init__(self, layer: LayerConfig, segments: mx.array | None = None):
        self._layer = layer
        self._segments = segments
        self._masks: dict[int, mx.array | Literal["causal"]] = {}

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values (B, K, L, E) as they are."""
        return keys, values

    def mask(self, length: int) -> mx.array | Literal["causal"] | None:
        """What tokens may see: boolean, (L, L) or (B, 1, L, L), or MLX's word for all before."""
        if length not in self._masks:
            self._masks[length] = self._make_mask(length)
        return self._masks[length]

    def _make_mask(self, length: int) -> mx.array | Literal["causal"]:
        window = self._layer.window or length
        windowed = window < length
        if self._segments is None and not windowed:
            return "causal"
        keys = mx.arange(length)  # (L,)
        queries = keys[:, None]  # (L, 1)
        seen = keys <= queries
        if windowed and self._layer.attention == "sliding":
            seen = seen & (keys > queries - window)
        if windowed and self._layer.attention == "chunked":
            seen = seen & (keys // window == queries // window)
        if self._segments is not None:
            same = self._segments[:, None, :] == self._segments[:, :, None]  # (B, L, L)
            seen = (seen & same)[:, None]
        return seen

    def can_trim(self, count: int) -> bool:
        return count == 0

    def trim(self, count: int) -> None:
        if count:
            raise ValueError("nothing is kept of which tokens could be forgotten")

    @property
    def arrays(self) -> list[mx.array]:
        return []

    @property
    def state(self) -> State | None:
        return None

    def restore(self, state: State | None, offset: int) -> None:
        if state is not None or offset:
            raise ValueError("nothing can be gone on from")


def make_uncached(config: ModelConfig, segments: mx.array | None = None) -> list[Cache]:
    """One for every attention run; blocks of one kind share theirs, and so its mask."""
    kinds = {layer: Uncached(layer, segments) for layer in config.layers}
    return [
        kinds[layer]
        for layer in config.layers
        if layer.attention != "none"
        for _ in range(layer.runs)
    ]


def packs(config: ModelConfig) -> bool:
    """Whether several examples can share a row: not where positions count from its start."""
    return all(
        layer.attention != "chunked" and layer.temperature is None for layer in config.layers
    )
