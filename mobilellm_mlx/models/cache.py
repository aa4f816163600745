"""Keys and values of the tokens seen so far.

Shapes: B batch, K key/value heads, L new tokens, S cached tokens, E head dim.
"""

from __future__ import annotations

from typing import Literal

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ContextOverflow


class KVCache:
    """Cache of one attention run: grows in steps, so that most updates write in place.

    Args:
        limit: most tokens it may hold; None is unlimited.
    """

    step = 256

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.offset = 0
        self._keys: mx.array | None = None  # (B, K, capacity, E)
        self._values: mx.array | None = None  # (B, K, capacity, E)

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append and give back everything seen.

        Args:
            keys: (B, K, L, E).
            values: (B, K, L, E).

        Returns:
            Keys and values of all tokens so far, each (B, K, S + L, E).

        Raises:
            ContextOverflow: when more than ``limit`` tokens would be held.
        """
        start, end = self.offset, self.offset + keys.shape[2]
        if self.limit is not None and end > self.limit:
            raise ContextOverflow(end, self.limit)
        self._keys = self._grown(self._keys, keys, end)
        self._values = self._grown(self._values, values, end)
        self._keys[..., start:end, :] = keys
        self._values[..., start:end, :] = values
        self.offset = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def _grown(self, held: mx.array | None, new: mx.array, end: int) -> mx.array:
        """Room for ``end`` tokens, in whole steps."""
        if held is not None and held.shape[2] >= end:
            return held
        batch, heads, _, dim = new.shape
        capacity = -(-end // self.step) * self.step
        start = self.offset
        grown = mx.zeros((batch, heads, capacity - start, dim), new.dtype)
        return grown if held is None else mx.concatenate([held[..., :start, :], grown], axis=2)

    def trim(self, count: int) -> None:
        """Forget the last ``count`` tokens.

        Raises:
            ValueError: when fewer are held.
        """
        if not 0 <= count <= self.offset:
            raise ValueError(f"cannot trim {count} of {self.offset} cached tokens")
        self.offset -= count

    def mask(self, length: int) -> Literal["causal"] | None:
        """What ``length`` new tokens may see, in the form that MLX's attention takes.

        MLX aligns its causal mask to the last key, which is what cached tokens need; a single new
        token sees everything.
        """
        return "causal" if length > 1 else None

    @property
    def state(self) -> tuple[mx.array, mx.array] | None:
        """Keys and values held, each (B, K, S, E); None while empty."""
        if self._keys is None or self._values is None:
            return None
        return self._keys[..., : self.offset, :], self._values[..., : self.offset, :]

    @state.setter
    def state(self, pair: tuple[mx.array, mx.array] | None) -> None:
        # Copies (of the handle, not of the data): later updates must not write into the caller's.
        self._keys, self._values = map(mx.array, pair) if pair else (None, None)
        self.offset = 0 if self._keys is None else self._keys.shape[2]

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate so that everything appended so far is computed."""
        return [a for a in (self._keys, self._values) if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes held, the room for growth included."""
        return sum(array.nbytes for array in self.arrays)
