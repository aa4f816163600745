"""Which examples come when, and how they lie in memory. Everything follows from the seed.

Every example is seen once an epoch, those too few for a whole batch as well. Examples of like
length come together, so that little is padded; packed, several share a row and do not see each
other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.training.data.example import Example

Row = tuple[int, ...]
"""Numbers of the examples in a row: one, or several when packed."""
_POOL = 16
"""Batches whose examples are sorted by length among themselves."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of token ids, and where in them what is learned.

    Attributes:
        tokens: ids, (B, L), padded behind.
        segments: number of the example of each token within its row, (B, L); None without packing.
        positions: of the states that predict learned tokens, in the flattened batch, (T,).
        targets: ids of those tokens, (T,).
        weights: 1 for them, 0 for what fills up the shape, (T,).
        learned: how many count.
        total: how many tokens there are, without padding.
    """

    tokens: mx.array
    segments: mx.array | None
    positions: mx.array
    targets: mx.array
    weights: mx.array
    learned: int
    total: int


class Order:
    """The batches of every epoch.

    Args:
        examples: to train on.
        batch_size: rows in a batch.
        seed: of the order.
        pack: the longest row in tokens, where examples share rows; None where they do not.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, seed: int, pack: int | None = None
    ):
        self._lengths = [len(one) for one in examples]
        self._batch_size, self._seed, self._pack = batch_size, seed, pack
        self._kept: tuple[int, list[list[Row]]] | None = None

    def epoch(self, number: int) -> list[list[Row]]:
        """The batches of an epoch, the first one being 0; always the same for a seed."""
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._make(number)
        return self._kept[1]

    def __len__(self) -> int:
        """Batches in the first epoch; when packed, others may have one more or less."""
        return len(self.epoch(0))

    def _make(self, number: int) -> list[list[Row]]:
        # Seeding by a text is the same on every machine and for every version of Python.
        draw = random.Random(f"epoch {number} of {self._seed}")
        indices = list(range(len(self._lengths)))
        draw.shuffle(indices)
        rows = self._packed(indices) if self._pack else [(index,) for index in indices]
        pool = self._batch_size * _POOL
        batches: list[list[Row]] = []
        for start in range(0, len(rows), pool):
            some = sorted(rows[start : start + pool], key=self._row_length)
            batches += [
                some[at : at + self._batch_size] for at in range(0, len(some), self._batch_size)
            ]
        draw.shuffle(batches)
        return batches

    def _row_length(self, row: Row) -> int:
        return sum(self._lengths[index] for index in row)

    def _packed(self, indices: Sequence[int]) -> list[Row]:
        """First fit: each example goes into the first of the open rows that has room for it."""
        assert self._pack is not None
        open_rows: list[tuple[int, list[int]]] = []
        done: list[Row] = []
        for index in indices:
            length = self._lengths[index]
            for at, (room, row) in enumerate(open_rows):
                if length <= room:
                    row.append(index)
                    open_rows[at] = (room - length, row)
                    break
            else:
                open_rows.append((self._pack - length, [index]))
                if len(open_rows) > 64:
                    done.append(tuple(open_rows.pop(0)[1]))
        return [*done, *(tuple(row) for _, row in open_rows)]


def in_order(examples: Sequence[Example], batch_size: int) -> list[list[Row]]:
    """All examples once, sorted by length: the order in which losses are measured."""
    rows: list[Row] = [(i,) for i in sorted(range(len(examples)), key=lambda i: len(examples[i]))]
    return [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]


def make_batch(examples: Sequence[Example], rows: Sequence[Row], *, packed: bool = False) -> Batch:
    """Rows as arrays.

    On GPUs lengths are rounded up, so that few shapes have to be compiled.

    Args:
        examples: all of them.
        rows: which of them are in each row.
        packed: whether several may be.
    """
    fixed = backend().name != "cpu"
    longest = max(sum(len(examples[index]) for index in row) for row in rows)
    width = _rounded(longest, 32) if fixed else longest
    tokens: list[list[int]] = []
    segments: list[list[int]] = []
    positions: list[int] = []
    targets: list[int] = []
    total = 0
    for at, row in enumerate(rows):
        line: list[int] = []
        marks: list[int] = []
        for number, index in enumerate(row):
            example = examples[index]
            begin = at * width + len(line)
            learned = [place for place, counts in enumerate(example.learned) if counts]
            positions += [begin + place - 1 for place in learned]
            targets += [example.tokens[place] for place in learned]
            line += example.tokens
            marks += [number] * len(example)
        total += len(line)
        padding = width - len(line)
        tokens.append(line + [0] * padding)
        segments.append(marks + [-1] * padding)
    learned_count = len(targets)
    # A batch in which nothing counts must not be empty of shape either.
    filling = (_rounded(learned_count, 64) if fixed else max(1, learned_count)) - learned_count
    return Batch(
        tokens=mx.array(tokens, mx.int32),
        segments=mx.array(segments, mx.int32) if packed else None,
        positions=mx.array(positions + [0] * filling, mx.int32),
        targets=mx.array(targets + [0] * filling, mx.int32),
        weights=mx.array([1.0] * learned_count + [0.0] * filling),
        learned=learned_count,
        total=total,
    )


def _rounded(count: int, step: int) -> int:
    return max(1, -(-count // step)) * step
