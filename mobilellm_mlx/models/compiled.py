"""The network's step from one token to the next as one compiled graph: the same numbers, sooner.

On a GPU thin blocks cost what Python needs to ask for them and what it takes to start their
kernels. So the step of a single token is traced once, by running ``network.py`` itself over arrays
of a fixed size, and afterwards MLX repeats the graph without Python. Projections that read the same
numbers are one product in it. Whatever is not a single token goes the way of ``network.py``, and so
does everything in a network that is trained.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import accumulate, chain
from operator import is_
from typing import Any

from mobilellm_mlx.backend import mx, nn
from mobilellm_mlx.models.cache import Cache, KVCache, RotatingKVCache
from mobilellm_mlx.models.config import LayerConfig, ModelConfig
from mobilellm_mlx.models.lora import Dropout
from mobilellm_mlx.models.network import MLP, Attention, LanguageModel

_OWN = (KVCache, RotatingKVCache)
_LEAVES = ("weight", "scales", "biases")
_CLOSE = 0.05
"""Relative distance of hidden states that 16-bit arithmetic in another order stays far below."""


class CompiledModel(LanguageModel):
    """A network whose decode step is compiled."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self._whole = _Whole()
        self._step: _Step | None = None
        self._is_tried = False
        self._is_off = False
        """Whether the step is not compiled, now or later."""

    def hidden(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Final hidden states, (B, L, D), for callers that need only some positions' logits."""
        hidden = None
        if caches is not None and tokens.shape[1] == 1 and not self._is_off:
            own = [cache for cache in caches if isinstance(cache, _OWN)]
            if len(own) == len(caches) == self.config.attention_runs > 0:
                hidden = self._stepped(tokens, own)
        return super().hidden(tokens, caches) if hidden is None else hidden

    def train(self, mode: bool = True) -> CompiledModel:
        """As of any module. Weights that change with every step are not compiled, then or later."""
        if mode:
            self._turn_off()
        super().train(mode)
        return self

    def _stepped(
        self, tokens: mx.array, caches: Sequence[KVCache | RotatingKVCache]
    ) -> mx.array | None:
        """Final hidden states (B, 1, D); None when the caches do not go together."""
        if self._step is None or not self._step.is_current():
            self._step = None  # so that the old one's arrays are not held beside the new one's
            self._step = _Step(self, self._whole)
        if not self._is_tried and not self._agrees(self._step):
            self._turn_off()
            return None
        return self._step(tokens, caches)

    def _turn_off(self) -> None:
        self._is_off, self._step, self._whole = True, None, _Whole()

    def _agrees(self, step: _Step) -> bool:
        """Whether a step gives what the network gives.

        It is tried once, before it is used: MLX writes some of its kernels while it runs, and a
        wrong answer from one of them would look like a bad model.
        """
        prompt, token = mx.array([[1, 2, 3]]), mx.array([[4]])
        try:
            found: list[Any] = []
            for call in (super().hidden, step):
                caches = self.make_cache()
                super().hidden(prompt, caches)
                found.append(call(token, caches))  # type: ignore[arg-type]
            if any(one is None for one in found):
                return True  # it does not apply now, and is tried when it does
            self._is_tried = True
            want, got = (one.astype(mx.float32) for one in found)
            apart, size = mx.linalg.norm(got - want), mx.linalg.norm(want)
            return bool((apart <= _CLOSE * size).item())
        except RuntimeError:  # of MLX, when something cannot be compiled
            return False


class _Step:
    """The decode step of a network as it is now.

    It has the network's weights in it as constants, so that they need not be handed over with every
    token; ``is_current`` says whether they still are the network's.
    """

    def __init__(self, model: CompiledModel, whole: _Whole):
        kinds = [
            layer
            for layer in model.config.layers
            if layer.attention != "none"
            for _ in range(layer.runs)
        ]
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        self._numbers = [numbers[kind] for kind in kinds]
        """Of the kind of each cache: those of one kind are written at the same place."""
        self._like = mx.zeros((1, model.config.num_key_value_heads, 0, model.config.head_dim))
        self._dtype = model.dtype
        network = copy(model.model)  # not the network itself, which holds this step
        network.layers = [
            _joined(block, number, whole) for number, block in enumerate(network.layers)
        ]
        self._watch = _Watch(model.model)
        self._thread = threading.get_ident()
        self._call = None if self._watch.is_random else _compiled(network, kinds)

    def is_current(self) -> bool:
        """Whether the network is what was compiled, and here.

        MLX keeps what it compiled for each thread, the constants with it; in a thread that is not
        the first it would keep them for good.
        """
        return self._thread == threading.get_ident() and self._watch.is_current()

    def __call__(
        self, tokens: mx.array, caches: Sequence[KVCache | RotatingKVCache]
    ) -> mx.array | None:
        """Final hidden states (B, 1, D) of token ids (B, 1); the caches are updated in place."""
        if self._call is None:
            return None
        batch = tokens.shape[0]
        if self._like.shape[0] != batch or self._like.dtype != self._dtype:
            self._like = mx.zeros((batch, *self._like.shape[1:]), self._dtype)
        offset = caches[0].offset
        starts: dict[int, int] = {}
        for number, cache in zip(self._numbers, caches, strict=True):
            start = cache.reserve(self._like, 1)
            if cache.offset != offset or starts.setdefault(number, start) != start:
                return None
        arrays = [array for cache in caches for array in cache.arrays]
        hidden, *arrays = self._call(tokens, mx.array([offset, *starts.values()]), arrays)
        for cache, keys, values in zip(caches, arrays[::2], arrays[1::2], strict=True):
            cache.exchange(keys, values)
            cache.advance(1)
        return hidden


def _compiled(network: Any, kinds: Sequence[LayerConfig]) -> Any:
    """A function of token ids (B, 1), of where they come, and of the caches' arrays.

    Its second argument is the position of the tokens and then, for every kind of block, the place
    in the arrays at which they are written. It gives hidden states (B, 1, D) and the arrays as they
    are then; MLX writes into those that were given where nobody else holds them.
    """
    order = {kind: place for place, kind in enumerate(dict.fromkeys(kinds), start=1)}

    def step(tokens: mx.array, places: mx.array, arrays: list[mx.array]) -> list[mx.array]:
        offset = mx.broadcast_to(places[:1], (tokens.shape[0],))
        rooms: list[Any] = [
            _Room(kind, keys, values, offset, places[order[kind]])
            for kind, keys, values in zip(kinds, arrays[::2], arrays[1::2], strict=True)
        ]
        hidden = network(tokens, rooms)
        return [hidden, *(array for room in rooms for array in (room.keys, room.values))]

    return mx.compile(step)


class _Room:
    """What stands in a cache's place while a step is traced: where it writes is not known yet.

    Attention sees the whole arrays (B, K, capacity, E); a mask hides what holds nothing.
    """

    kind = "room"

    def __init__(
        self,
        layer: LayerConfig,
        keys: mx.array,
        values: mx.array,
        offset: mx.array,
        start: mx.array,
    ):
        self.keys, self.values, self.offset = keys, values, offset
        self._layer, self._start = layer, start

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        # One kernel on a GPU, where a slice with a computed start takes two.
        place = self._start.reshape(1, 1, 1, 1)
        self.keys = mx.put_along_axis(self.keys, place, keys, axis=2)
        self.values = mx.put_along_axis(self.values, place, values, axis=2)
        return self.keys, self.values

    def mask(self, length: int) -> mx.array:
        """What the token may see: boolean, (1, capacity)."""
        keys, window = mx.arange(self.keys.shape[2]), self._layer.window or 0
        seen = keys <= self._start
        if self._layer.attention == "sliding":
            seen = seen & (keys > self._start - window)
        if self._layer.attention == "chunked":
            seen = seen & (keys // window == self._start // window)
        return seen[None]


class _JoinedAttention(Attention):
    """Attention that has queries, keys and values from one product; of single tokens."""

    def _heads(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (B, H, 1, E), keys and values (B, K, 1, E) of hidden states, in their places."""
        placed = self.heads + self.kv_heads
        heads = self.qkv_proj(x).reshape(x.shape[0], -1, 1, self.head_dim)  # (B, H + 2 K, 1, E)
        turned, values = mx.split(heads, [placed], axis=1)
        queries, keys = mx.split(self._place(turned, offset), [self.heads], axis=1)
        return queries, keys, values


class _JoinedMLP(MLP):
    """SwiGLU that has both of its halves from one product."""

    def _halves(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Gate and what it lets through, each (B, L, F)."""
        gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
        return gate, up


def _joined(block: Any, number: int, whole: _Whole) -> Any:
    """A block like this one, with products put together where their matrices allow it."""
    block = copy(block)
    for name, kind, joined, parts in (
        ("self_attn", _JoinedAttention, "qkv_proj", ("q_proj", "k_proj", "v_proj")),
        (block._feed_forward, _JoinedMLP, "gate_up_proj", ("gate_proj", "up_proj")),
    ):
        if name not in block:
            continue
        matrix = whole.of((number, joined), [block[name][part] for part in parts])
        if matrix is not None:
            block[name] = copy(block[name])
            block[name].__class__ = kind
            block[name][joined] = matrix
    return block


class _Whole:
    """Matrices below each other in memory as one, of which the network's own are rows.

    A network keeps its parameters and their names: the arrays in its modules are exchanged for
    views of the same numbers, block by block, so that nothing is held twice.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], tuple[list[mx.array], nn.Module]] = {}

    def of(self, place: tuple[int, str], parts: Sequence[Any]) -> nn.Module | None:
        """One matrix in place of several that read the same; None where they are not alike.

        Args:
            place: of the matrices in the network.
            parts: the modules there.
        """
        if not _are_alike(parts):
            return None  # they have adapters, for the time being
        leaves = [leaf for leaf in _LEAVES if leaf in parts[0]]
        rows, matrix = self._known.pop(place, ([], None))
        held = [part[leaf] for leaf in leaves for part in parts]
        if matrix is None or len(rows) != len(held) or not all(map(is_, rows, held)):
            rows, matrix = [], copy(parts[0])
            for leaf in leaves:
                rows += _join(matrix, parts, leaf)
        self._known[place] = rows, matrix
        return matrix


def _join(matrix: Any, parts: Sequence[Any], leaf: str) -> list[mx.array]:
    """Put an array of several modules together, and give them back what is theirs of it."""
    *ends, _ = accumulate(part[leaf].shape[0] for part in parts)
    matrix[leaf] = mx.concatenate([part[leaf] for part in parts])
    rows = list(mx.split(matrix[leaf], ends))
    mx.eval(matrix[leaf], rows)
    for part, array in zip(parts, rows, strict=True):
        part[leaf] = array
    return rows


def _are_alike(parts: Sequence[Any]) -> bool:
    """Whether these are bare matrices of one kind, packed in one way."""
    first = parts[0]
    if type(first) not in (nn.Linear, nn.QuantizedLinear) or any("bias" in p for p in parts):
        return False
    names = ("group_size", "bits", "mode")
    packing = [
        [
            type(part),
            *(getattr(part, name, None) for name in names),
            *(part[leaf].dtype for leaf in _LEAVES if leaf in part),
        ]
        for part in parts
    ]
    return all(each == packing[0] for each in packing)


class _Watch:
    """Every module and array of a network, to see whether one of them was exchanged.

    Writing into an array in place is not seen: it stays the same array.

    Attributes:
        is_random: whether something in it leaves out other numbers at every call.
    """

    def __init__(self, network: nn.Module):
        self._places: list[Iterable[Any]] = []
        self._held: list[Any] = []
        self.is_random = False
        self._look_at(network)
        mx.eval([held for held in self._held if isinstance(held, mx.array)])

    def is_current(self) -> bool:
        """Whether everything is where it was."""
        return all(map(is_, chain.from_iterable(self._places), self._held))

    def _look_at(self, place: Any) -> None:
        self.is_random |= isinstance(place, Dropout) and place.is_on
        contents = dict.values(place) if isinstance(place, dict) else place
        self._places.append(contents)  # of a dictionary they change with it
        self._held += contents
        for held in contents:
            if isinstance(held, dict | list):
                self._look_at(held)
