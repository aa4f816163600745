"""Keys and values of the tokens seen so far.

Shapes: B batch, K key/value heads, L new tokens, S cached tokens, E head dim.
"""

from __future__ import annotations

from typing import Literal, Protocol

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.models.config import LayerConfig


class Cache(Protocol):
    """What attention and decoding need of a cache, whatever it keeps."""

    kind: str
    """What is kept, in a word: states of caches of different kinds do not fit each other."""
    offset: int
    """Tokens seen so far."""

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append; what the new tokens may see, together with ``mask``."""

    def mask(self, length: int) -> mx.array | Literal["causal"] | None:
        """What each of the ``length`` tokens just appended may see of what ``update`` gave."""

    def can_trim(self, count: int) -> bool:
        """Whether the last ``count`` tokens can be forgotten."""

    def trim(self, count: int) -> None:
        """Forget the last ``count`` tokens."""

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate so that everything appended so far is computed."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    @property
    def state(self) -> State | None:
        """What is held, without the room for growth; None while empty."""

    def restore(self, state: State | None, offset: int) -> None:
        """Go on from a ``state`` and the ``offset`` that belongs to it."""


State = tuple[mx.array, mx.array]
"""Keys and values, each (B, K, held, E)."""


def make_cache(layer: LayerConfig, limit: int | None = None) -> Cache:
    """An empty cache for one run of a block that attends."""
    if layer.attention == "sliding":
        assert layer.window is not None
        return RotatingKVCache(layer.window, limit)
    return KVCache(limit, chunk=layer.window if layer.attention == "chunked" else None)


class _Buffers:
    """Keys and values in arrays that are longer than what they hold.

    Args:
        limit: most tokens that may be seen in all; None is unlimited.
    """

    step = 256
    """Tokens by which the arrays grow, so that most updates write in place."""

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.offset = 0
        self._gone = 0
        """Tokens seen and let go: the arrays begin with the one after them."""
        self._keys: mx.array | None = None  # (B, K, capacity, E)
        self._values: mx.array | None = None  # (B, K, capacity, E)

    @property
    def _held(self) -> int:
        return self.offset - self._gone

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate so that everything appended so far is computed."""
        return [a for a in (self._keys, self._values) if a is not None]

    @property
    def nbytes(self) -> int:
        """Bytes held, the room for growth included."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def state(self) -> State | None:
        """What is held, without the room for growth; ``offset`` belongs to it. None while empty."""
        if self._keys is None or self._values is None:
            return None
        return self._keys[..., : self._held, :], self._values[..., : self._held, :]

    def restore(self, state: State | None, offset: int) -> None:
        """Go on from a saved ``state`` and its ``offset``.

        Raises:
            ValueError: when a cache like this one never has such a state.
        """
        held = 0 if state is None else state[0].shape[2]
        fits = self.limit is None or offset <= self.limit
        if not fits or not self._needed(offset) <= held <= offset:
            raise ValueError(f"{held} tokens held of {offset} are no state of this cache")
        # Copies (of the handle, not of the data): later updates must not write into the caller's.
        self._keys, self._values = map(mx.array, state) if state else (None, None)
        self.offset, self._gone = offset, offset - held

    def _needed(self, offset: int) -> int:
        """Tokens that must be held when ``offset`` were seen."""
        return offset

    def reserve(self, like: mx.array, length: int) -> int:
        """Make room in the arrays for ``length`` more tokens; the place of the first of them.

        For who writes keys and values there itself, and then says so by ``advance``.

        Args:
            like: what has the shape, but for tokens, and the type of keys.
            length: of what is to come.

        Raises:
            ContextOverflow: when more than ``limit`` tokens would have been seen.
        """
        raise NotImplementedError

    def exchange(self, keys: mx.array, values: mx.array) -> None:
        """Other arrays that hold the same, in place of those of ``arrays``."""
        self._keys, self._values = keys, values

    def advance(self, length: int) -> None:
        """``length`` tokens have been written into the room that was reserved for them."""
        self.offset += length

    def _write(self, keys: mx.array, values: mx.array) -> None:
        """Append keys and values, each (B, K, L, E)."""
        length = keys.shape[2]
        start = self.reserve(keys, length)
        assert self._keys is not None and self._values is not None
        self._keys[..., start : start + length, :] = keys
        self._values[..., start : start + length, :] = values
        self.advance(length)


class KVCache(_Buffers):
    """Cache of one attention run: grows in steps, so that most updates write in place.

    Args:
        limit: most tokens it may hold; None is unlimited.
        chunk: tokens see only those of their own chunk of this many, counted from the start.
    """

    kind = "all"

    def __init__(self, limit: int | None = None, chunk: int | None = None):
        super().__init__(limit)
        self.chunk = chunk

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
        self._write(keys, values)
        assert self._keys is not None and self._values is not None
        return self._keys[..., : self.offset, :], self._values[..., : self.offset, :]

    def reserve(self, like: mx.array, length: int) -> int:
        """Room for ``length`` more tokens, the arrays grown if need be."""
        start, end = self.offset, self.offset + length
        if self.limit is not None and end > self.limit:
            raise ContextOverflow(end, self.limit)
        self._keys = self._grown(self._keys, like, end)
        self._values = self._grown(self._values, like, end)
        return start

    def _grown(self, held: mx.array | None, like: mx.array, end: int) -> mx.array:
        """Room for ``end`` tokens, in whole steps."""
        if held is not None and held.shape[2] >= end:
            return held
        batch, heads, _, dim = like.shape
        capacity = -(-end // self.step) * self.step
        start = self.offset
        grown = mx.zeros((batch, heads, capacity - start, dim), like.dtype)
        return grown if held is None else mx.concatenate([held[..., :start, :], grown], axis=2)

    def can_trim(self, count: int) -> bool:
        """Whether ``count`` tokens are held."""
        return 0 <= count <= self.offset

    def trim(self, count: int) -> None:
        """Forget the last ``count`` tokens.

        Raises:
            ValueError: when fewer are held.
        """
        if not self.can_trim(count):
            raise ValueError(f"cannot trim {count} of {self.offset} cached tokens")
        self.offset -= count

    def mask(self, length: int) -> mx.array | Literal["causal"] | None:
        """What the ``length`` tokens just appended may see, in the form that MLX's attention takes.

        MLX aligns its causal mask to the last key, which is what cached tokens need; a single new
        token sees everything. With chunks it is boolean, (L, S + L), once there is a second one.
        """
        if self.chunk is None or self.offset <= self.chunk:
            return "causal" if length > 1 else None
        keys = mx.arange(self.offset)  # (S + L,)
        queries = keys[self.offset - length :, None]  # (L, 1)
        return (keys <= queries) & (keys // self.chunk == queries // self.chunk)


class RotatingKVCache(_Buffers):
    """Cache of a run that sees the last ``window`` tokens only: older ones are let go.

    Keys carry their positions, so they lie in the order of their tokens in a buffer with some room
    at its end; when that is used up, the tokens still in sight move to the front.

    Args:
        window: tokens that a token sees, itself included.
        limit: most tokens that may be seen in all; None is unlimited.
    """

    kind = "window"

    def __init__(self, window: int, limit: int | None = None):
        super().__init__(limit)
        self.window = window

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append and give back what the new tokens may see.

        Args:
            keys: (B, K, L, E).
            values: (B, K, L, E).

        Returns:
            Keys and values of the last ``window - 1`` tokens before, as far as there are, and of
            the new ones, each (B, K, min(S, window - 1) + L, E).

        Raises:
            ContextOverflow: when more than ``limit`` tokens would have been seen.
        """
        self._write(keys, values)
        assert self._keys is not None and self._values is not None
        end = self._held
        first = max(0, end - keys.shape[2] - (self.window - 1))
        return self._keys[..., first:end, :], self._values[..., first:end, :]

    def reserve(self, like: mx.array, length: int) -> int:
        """Room for ``length`` more tokens, those out of sight let go if need be."""
        if self.limit is not None and self.offset + length > self.limit:
            raise ContextOverflow(self.offset + length, self.limit)
        if self._keys is None or self._values is None or self._held + length > self._capacity:
            kept = self._needed(self.offset)
            self._keys = self._moved(self._keys, like, kept, length)
            self._values = self._moved(self._values, like, kept, length)
            self._gone = self.offset - kept
        return self._held

    @property
    def _capacity(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2]

    def _moved(self, held: mx.array | None, like: mx.array, kept: int, length: int) -> mx.array:
        """A buffer that begins with the last ``kept`` tokens and has room for ``length`` more."""
        batch, heads, _, dim = like.shape
        capacity = -(-(kept + length) // self.step) * self.step
        capacity = max(capacity, min(self.window - 1 + self.step, self._capacity))
        room = mx.zeros((batch, heads, capacity - kept, dim), like.dtype)
        if held is None or not kept:
            return room
        return mx.concatenate([held[..., self._held - kept : self._held, :], room], axis=2)

    def mask(self, length: int) -> mx.array | Literal["causal"] | None:
        """What the ``length`` tokens just appended may see; boolean, (L, S' + L), if need be."""
        if length == 1:
            return None
        seen = min(self.offset - length, self._held - length, self.window - 1) + length
        if seen <= self.window:
            return "causal"
        keys = mx.arange(seen)  # (S' + L,)
        queries = keys[seen - length :, None]  # (L, 1)
        return (keys <= queries) & (keys > queries - self.window)

    def can_trim(self, count: int) -> bool:
        """Whether all that the token before would see is still held."""
        left = self._held - count
        return 0 <= count <= self._held and left >= self._needed(self.offset - count)

    def _needed(self, offset: int) -> int:
        return min(offset, self.window - 1)

    def trim(self, count: int) -> None:
        """Forget the last ``count`` tokens.

        Raises:
            ValueError: when tokens that would be in sight again were let go.
        """
        if not self.can_trim(count):
            raise ValueError(
                f"cannot trim {count} of {self.offset} tokens: a window of {self.window} is held"
            )
        self.offset -= count
