"""Several processes that train one model together, each on its share of every batch.

``mlx.launch`` starts them and ``mx.distributed`` joins them. All hold the same weights; gradients
and losses are summed, weighted by tokens, so that a step is the one that a single process would make
of the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from mobilellm_mlx.backend import as_number, mx, tree_map

_Row = TypeVar("_Row")


class Workers:
    """The processes of a training; one, where nobody launched more.

    Args:
        group: of ``mx.distributed``; None for one process.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self.rank = 0 if group is None else int(group.rank())
        self.size = 1 if group is None else int(group.size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share(self, rows: Sequence[_Row]) -> list[_Row]:
        """The rows of a batch that are this process's."""
        return list(rows[self.rank :: self.size])

    def sum(self, tree: Any) -> Any:
        """Arrays, added up over all processes."""
        if self.size == 1:
            return tree
        return tree_map(lambda array: mx.distributed.all_sum(array, group=self._group), tree)

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Numbers, added up over all processes."""
        if self.size == 1:
            return numbers
        # Counts of tokens are exact in float32 up to 16 million, far beyond a batch.
        summed = mx.distributed.all_sum(mx.array(numbers, mx.float32), group=self._group)
        return tuple(as_number(summed[at]) for at in range(len(numbers)))


def join_workers() -> Workers:
    """The processes that this one was launched with."""
    group = mx.distributed.init()
    return Workers(group if group.size() > 1 else None)
