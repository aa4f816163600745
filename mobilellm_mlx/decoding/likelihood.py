"""How likely a network finds texts that are given: what choosing, perplexity and judging need.

Sequences that belong together (a question with each of its answers) mostly begin alike. What they
share is read once for all of them, and only what differs is read for each.

Shapes in comments: B rows, L tokens read now, P tokens shared, S tokens before, K key/value heads,
E head dim, D model, V vocabulary, N positions that are judged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.errors import TokenizerError
from mobilellm_mlx.events import Judged
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.cache import Cache
from mobilellm_mlx.models.config import LayerConfig
from mobilellm_mlx.models.uncached import Uncached, make_uncached

CPU_BATCH, GPU_BATCH = 1024, 16384
"""Tokens of a batch: more makes a CPU no faster, while a GPU waits for launches."""

HEAD_BYTES = 64_000_000
"""Of logits that are there at once: a vocabulary is many times as wide as a network."""

PIECE = 256
"""Of a vocabulary, whose likelihoods are added up at once."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence whose end is judged.

    Attributes:
        tokens: ids, at least two.
        judged: of how many of the last tokens the likelihood is asked; the first token has none.
    """

    tokens: tuple[int, ...]
    judged: int

    def __post_init__(self) -> None:
        if not 0 < self.judged < len(self.tokens):
            raise ValueError(f"{self.judged} of {len(self.tokens)} tokens cannot be judged")

    def cut(self, limit: int) -> Row:
        """The row without the tokens at its beginning that a context of ``limit`` cannot hold.

        The last token is not read, so one more than ``limit`` fits.
        """
        kept = self.tokens[-(limit + 1) :]
        return Row(kept, min(self.judged, len(kept) - 1))


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a network thinks of the end of a row.

    Attributes:
        log_likelihood: of the judged tokens together, in nats.
        is_greedy: each of them was the likeliest.
        tokens: how many they were.
    """

    log_likelihood: float
    is_greedy: bool
    tokens: int


class Shelf(Uncached):
    """Keeps keys and values of rows that were read at once, for others to go on from.

    Args:
        layer: whose window or chunk counts.
    """

    def __init__(self, layer: LayerConfig):
        super().__init__(layer)
        self.keys: mx.array | None = None  # (B, K, P, E)
        self.values: mx.array | None = None  # (B, K, P, E)

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values


class Continuation(Uncached):
    """Stands in a cache's place where rows go on from beginnings of different lengths.

    Args:
        layer: whose window or chunk counts.
        begun: keys and values of the beginnings, padded behind.
        rows: which beginning each row goes on from, (B,).
        lengths: tokens of each row's beginning, (B,).
        masks: made for other runs of such a layer; they are the same for all of them.
    """

    def __init__(
        self,
        layer: LayerConfig,
        begun: Shelf,
        rows: mx.array,
        lengths: mx.array,
        masks: dict[LayerConfig, mx.array],
    ):
        super().__init__(layer)
        self._begun, self._rows, self._lengths, self._made = begun, rows, lengths, masks
        self.offset = lengths  # type: ignore[assignment]  # of each row; attention takes both

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values (B, K, L, E) behind those of the beginnings: (B, K, P + L, E)."""
        before, seen = self._begun.keys, self._begun.values
        assert before is not None and seen is not None
        return (
            mx.concatenate([before[self._rows], keys], axis=2),
            mx.concatenate([seen[self._rows], values], axis=2),
        )

    def mask(self, length: int) -> mx.array:
        """What tokens may see: boolean, (B, 1, L, P + L)."""
        if self._layer not in self._made:  # a read has one length
            self._made[self._layer] = self._make(length)
        return self._made[self._layer]

    def _make(self, length: int) -> mx.array:
        assert self._begun.keys is not None
        before = mx.arange(self._begun.keys.shape[2])  # (P,)
        starts = self._lengths[:, None]  # (B, 1)
        queries = starts + mx.arange(length)  # (B, L)
        held = mx.broadcast_to(before[None], (len(starts), len(before)))
        keys = mx.concatenate([held, queries], axis=1)[:, None]  # (B, 1, P + L)
        is_real = mx.concatenate([held < starts, mx.ones_like(queries) > 0], axis=1)[:, None]
        queries = queries[..., None]  # (B, L, 1)
        seen = is_real & (keys <= queries)
        window = self._layer.window
        if window is not None and self._layer.attention == "sliding":
            seen = seen & (keys > queries - window)
        if window is not None and self._layer.attention == "chunked":
            seen = seen & (keys // window == queries // window)
        return seen[:, None]


@dataclass(slots=True)
class _Sum:
    """A row's likelihood while its positions come in."""

    total: float = 0.0
    is_greedy: bool = True

    def add(self, log_likelihood: float, is_likeliest: bool) -> None:
        self.total += log_likelihood
        self.is_greedy = self.is_greedy and is_likeliest


@dataclass(frozen=True, slots=True)
class _Asked:
    """A token whose likelihood is asked: of which row, after which place of hidden states."""

    place: tuple[int, int]
    row: int
    token: int


Groups = Sequence[Sequence[Row]]


def judge(model: LanguageModel, groups: Groups, most: int | None = None) -> list[list[Likelihood]]:
    """The likelihoods of rows in groups that mostly begin alike.

    Args:
        model: the network.
        groups: of rows; what all rows of a group begin with is read once. How it is grouped
            changes rounding and nothing else.
        most: tokens of what rows have of their own that are read at once, filling included; a
            single row may have more. None for all that are of similar lengths.

    Returns:
        One for each row, grouped as they came.

    Raises:
        TokenizerError: for a token that the network does not have.
    """
    rows = [row for group in groups for row in group]
    for row in rows:
        _check(row, model.config.vocab_size)
    sums = [_Sum() for _ in rows]
    shared = [shared_tokens(group) for group in groups]
    begun = _read_beginnings(model, groups, shared, sums)
    origins = [number for number, group in enumerate(groups) for _ in group]  # by row
    starts = [shared[number] for number in origins]  # by row
    rests = [at for at, row in enumerate(rows) if starts[at] < len(row.tokens) - 1]
    length = {at: len(rows[at].tokens) - 1 - starts[at] for at in rests}
    for part in _evenly(rests, length.__getitem__):
        count = max(1, most // length[part[0]]) if most else len(part)  # the first is the longest
        for first in range(0, len(part), count):
            some = part[first : first + count]
            _read_rests(model, some, rows, starts, origins, begun, sums)
    found = iter(sums)
    return [
        [Likelihood((one := next(found)).total, one.is_greedy, row.judged) for row in group]
        for group in groups
    ]


def _check(row: Row, vocab_size: int) -> None:
    """A tokenizer with gaps can have such tokens; MLX would read past the embedding."""
    for token in (max(row.tokens), min(row.tokens)):
        if not 0 <= token < vocab_size:
            raise TokenizerError(f"token {token} is outside the model's {vocab_size:,} tokens")


def shared_tokens(group: Sequence[Row]) -> int:
    """Tokens that all rows of a group begin with, the last of each, which is not read, left out."""
    rows = [row.tokens for row in group]
    most = min(map(len, rows)) - 1
    # What the first and the last in order begin with, those between them begin with too.
    pairs = enumerate(zip(min(rows), max(rows), strict=False))
    return next(at for at, (one, other) in pairs if at == most or one != other)


def _read_beginnings(
    model: LanguageModel, groups: Groups, shared: Sequence[int], sums: list[_Sum]
) -> list[Cache]:
    """Read what each group shares; judge what lies in it or right behind it."""
    kinds = [layer for layer in model.config.layers if layer.attention != "none"]
    caches: list[Cache] = [Shelf(layer) for layer in kinds for _ in range(layer.runs)]
    if not any(shared):
        return make_uncached(model.config)
    hidden = model.hidden(
        _padded([g[0].tokens[:n] for g, n in zip(groups, shared, strict=True)]), caches
    )
    wanted, at = [], 0
    for number, (group, length) in enumerate(zip(groups, shared, strict=True)):
        for row in group:
            for place in range(len(row.tokens) - row.judged, length + 1):
                wanted.append(_Asked((number, place - 1), at, row.tokens[place]))
            at += 1
    _look_up(model, hidden, wanted, sums)
    return caches


def _read_rests(
    model: LanguageModel,
    part: Sequence[int],
    rows: Sequence[Row],
    shared: Sequence[int],
    origins: Sequence[int],
    begun: Sequence[Cache],
    sums: list[_Sum],
) -> None:
    """Read what rows have of their own, and judge it."""
    tokens = _padded([rows[at].tokens[shared[at] : -1] for at in part])  # (B, L)
    origin, lengths = mx.array([origins[at] for at in part]), mx.array([shared[at] for at in part])
    kinds = [k for k in model.config.layers if k.attention != "none" for _ in range(k.runs)]
    masks: dict[LayerConfig, mx.array] = {}
    caches: list[Cache] = [
        Continuation(kind, shelf, origin, lengths, masks) if isinstance(shelf, Shelf) else shelf
        for kind, shelf in zip(kinds, begun, strict=True)
    ]
    hidden = model.hidden(tokens, caches)
    wanted = []
    for number, at in enumerate(part):
        row, start = rows[at], shared[at]
        for place in range(max(len(row.tokens) - row.judged, start + 1), len(row.tokens)):
            wanted.append(_Asked((number, place - 1 - start), at, row.tokens[place]))
    _look_up(model, hidden, wanted, sums)


def _look_up(
    model: LanguageModel, hidden: mx.array, wanted: Sequence[_Asked], sums: list[_Sum]
) -> None:
    """Look up the tokens asked for; only the positions that somebody asks about pass the head.

    Args:
        model: the network.
        hidden: its last states, (B, L, D).
        wanted: what is asked.
        sums: of all rows; what is found is added there.
    """
    places = {place: at for at, place in enumerate(dict.fromkeys(one.place for one in wanted))}
    if not places:
        return
    flat = hidden.reshape(-1, hidden.shape[-1])  # (B * L, D)
    of_place = [row * hidden.shape[1] + column for row, column in places]
    by_chunk = max(1, HEAD_BYTES // (4 * model.config.vocab_size))
    asked: dict[int, list[_Asked]] = {}
    for one in wanted:
        asked.setdefault(places[one.place] // by_chunk, []).append(one)
    for chunk, some in asked.items():
        first = chunk * by_chunk
        states = flat[mx.array(of_place[first : first + by_chunk])]  # (N, D)
        logits = model.head(states).astype(mx.float32)  # (N, V)
        sizes = log_total(logits)  # (N,)
        best = mx.argmax(logits, axis=-1)  # (N,)
        at = mx.array([places[one.place] - first for one in some])
        tokens = mx.array([one.token for one in some])
        found = logits[at, tokens] - sizes[at]
        likeliest = (best[at] == tokens) & ~mx.isnan(found)  # of NaN the first counts as best
        mx.eval(found, likeliest)
        values: Any = found.tolist()
        hits: Any = likeliest.tolist()
        for one, value, is_hit in zip(some, values, hits, strict=True):
            sums[one.row].add(value, is_hit)


def log_total(logits: mx.array) -> mx.array:
    """``logsumexp`` over (N, V), in pieces: (N,).

    On a CPU MLX adds up a row in a few float32 sums. Over a whole vocabulary each term is then lost
    in part, always to the same side: 1.3e-4 nats of every token at 49,152 of them.
    """
    short = -logits.shape[-1] % PIECE
    if short:
        logits = mx.pad(logits, [(0, 0), (0, short)], constant_values=-float("inf"))
    return mx.logsumexp(mx.logsumexp(logits.reshape(len(logits), -1, PIECE), axis=-1), axis=-1)


def _padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """Ids (B, L), short rows filled up behind, where no earlier token sees it.

    They are filled with their own last token: what is not seen is multiplied by zero, and of a
    token that gives NaN that is NaN too.
    """
    longest = max(1, *(len(row) for row in rows)) if rows else 1
    filling = [row[-1] if row else 0 for row in rows]
    return mx.array(
        [[*row, *[last] * (longest - len(row))] for row, last in zip(rows, filling, strict=True)]
    )


def _evenly(
    rows: Sequence[int], length: Callable[[int], int], waste: float = 0.25
) -> Iterator[list[int]]:
    """Parts of rows of similar lengths, so that little is read for nothing.

    Args:
        rows: numbers of rows.
        length: tokens of one.
        waste: most of a part that may be filling.
    """
    part: list[int] = []
    total = 0
    for at in sorted(rows, key=length, reverse=True):
        widest = length(part[0]) if part else length(at)
        if part and widest * (len(part) + 1) * (1 - waste) > total + length(at):
            yield part
            part, total = [], 0
        part.append(at)
        total += length(at)
    if part:
        yield part


def batches(groups: Groups, tokens: int) -> Iterator[list[int]]:
    """Numbers of the groups to judge at once, of similar lengths.

    Args:
        groups: of rows.
        tokens: that a batch has to read, unless a single group has more; filling comes on top.
    """
    shared = [shared_tokens(group) for group in groups]
    rests = [
        sum(len(row.tokens) - 1 - start for row in group)
        for group, start in zip(groups, shared, strict=True)
    ]
    batch: list[int] = []
    total = 0
    for at in sorted(range(len(groups)), key=lambda at: (shared[at], rests[at]), reverse=True):
        if batch and shared[batch[0]] * (len(batch) + 1) + total + rests[at] > tokens:
            yield batch
            batch, total = [], 0
        batch.append(at)
        total += rests[at]
    if batch:
        yield batch


def judge_all(
    model: LanguageModel,
    groups: Groups,
    cancel: threading.Event,
    batch_tokens: int | None = None,
) -> Iterator[Judged]:
    """Judge groups of any number, in batches of similar lengths; results come in that order.

    Args:
        model: the network.
        groups: of rows.
        cancel: stops it after the present batch.
        batch_tokens: to read at once; None for what suits the backend.
    """
    at_once = batch_tokens or (CPU_BATCH if backend().name == "cpu" else GPU_BATCH)
    for numbers in batches(groups, at_once):
        if cancel.is_set():
            return
        # A whole batch with its filling is read at once; a group that is more than that is not.
        found = judge(model, [groups[number] for number in numbers], 4 * at_once // 3)
        for number, some in zip(numbers, found, strict=True):
            yield Judged(
                number,
                [one.log_likelihood for one in some],
                [one.is_greedy for one in some],
                [one.tokens for one in some],
            )
