"""How many tokens may be judged at once, so that a model and its work stay within a budget.

A budget counts what MLX holds: weights included, Python and its libraries not (about 100 MB more).
What a batch takes is foretold from the lengths of its rows, rather too much than too little: keys
and values of what is read once, then the larger of one block's attention and of the last logits.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import InsufficientMemory, InvalidOption, format_bytes
from mobilellm_mlx.events import Event, ModelLoaded

if TYPE_CHECKING:
    from mobilellm_mlx.decoding.likelihood import Row
    from mobilellm_mlx.engine import Engine
    from mobilellm_mlx.evals.choice.task import Judge
    from mobilellm_mlx.models.config import ModelConfig

    Group = Sequence[Row]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_MOST = 2**63

# What follows is measured (on a CPU): MLX allocates for some operations ahead of the one at work.
_SCORES = 1.5
"""Copies of one block's attention scores that are there at once."""
_FEED_FORWARD = 4
"""Copies of what one block's feed-forward part is in the middle of."""
_STATES = 6
"""Copies of the hidden states."""
_LOGITS = 2.6
"""Copies of a chunk of logits in float32."""
_FILLING = 4 / 3
"""Of rows that are read together, as a share of what is asked for."""


def parse_memory(text: str) -> int:
    """Bytes, from words such as ``2GB``, ``1.5 GiB`` or ``800M``.

    Raises:
        InvalidOption: when it is not a size, or nothing.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or len(text) > 32:
        raise InvalidOption(
            f"`max-memory` is {text[:32]!r}, expected a number and a unit", "for example `2GB`"
        )
    number, unit, is_binary = found.groups()
    units = _BINARY_UNITS if is_binary else _UNITS
    count = int(float(number) * units[unit.lower()])
    if not 0 < count < _MOST:
        raise InvalidOption(
            f"`max-memory` is {text[:32]!r}, expected a size above zero that a computer can have",
            "for example `2GB`",
        )
    return count


@dataclass(frozen=True, slots=True)
class Budget:
    """A bound on memory, and the model that has to keep to it.

    Attributes:
        max_bytes: that MLX may hold, weights included.
        weight_bytes: of the model as it lies in memory.
        config: of the model.
        item_bytes: of one activation.
        other_bytes: of what else is held all the time.
    """

    max_bytes: int
    weight_bytes: int
    config: ModelConfig
    item_bytes: int
    other_bytes: int = 0

    def batch_tokens(self, groups: Sequence[Group], most: int | None = None) -> int:
        """The ``batch_tokens`` with which judging these groups keeps to the budget.

        Args:
            groups: all that will be judged; how their rows are spread over batches counts.
            most: what would be read at once if memory did not matter; None for what suits the
                backend.

        Raises:
            InsufficientMemory: when the longest group alone does not fit.
        """
        from mobilellm_mlx.backend import backend
        from mobilellm_mlx.decoding.likelihood import CPU_BATCH, GPU_BATCH, batches

        tokens = most or (CPU_BATCH if backend().name == "cpu" else GPU_BATCH)
        room = self.max_bytes - self.weight_bytes - self.other_bytes
        while tokens > 1:
            parts = batches(groups, tokens)
            if all(self.batch_bytes([groups[at] for at in part], tokens) <= room for part in parts):
                return tokens
            tokens //= 2
        self.require_room_for_each(groups)
        return 1

    def require_room_for_each(self, groups: Sequence[Group], beside: int = 0) -> None:
        """Make sure that each of some groups can be judged alone.

        Args:
            groups: to judge; a batch of one token is a group alone.
            beside: bytes of what is done with it meanwhile.

        Raises:
            InsufficientMemory: when one cannot.
        """
        most = max((self.batch_bytes([one], 1) for one in groups), default=0)
        least = self.weight_bytes + self.other_bytes + most + beside
        if least > self.max_bytes:
            raise InsufficientMemory(
                f"judging needs {format_bytes(least)} ({format_bytes(self.weight_bytes)} are "
                f"weights), but `max-memory` is {format_bytes(self.max_bytes)}",
                f"pass `--max-memory {-(-least // 10**6)}MB` or more, a shorter `--context`, or "
                "choose a smaller model or `--compute packed`",
            )

    def batch_bytes(self, groups: Sequence[Group], tokens: int | None = None) -> int:
        """What judging groups at once takes beside the weights.

        Args:
            groups: of a batch.
            tokens: of a batch; what rows have of their own is read in parts of about so many. None
                for all of it together.
        """
        from mobilellm_mlx.decoding.likelihood import HEAD_BYTES, PIECE, shared_tokens

        if not groups:
            return 0
        config, item = self.config, self.item_bytes
        shared = [shared_tokens(group) for group in groups]
        begun = max(shared)  # every beginning is filled up to it
        rests = [
            len(row.tokens) - 1 - start
            for group, start in zip(groups, shared, strict=True)
            for row in group
        ]
        count = sum(rest > 0 for rest in rests)  # of rows that are read at once
        read = min(ceil(sum(rests) * _FILLING), count * max(rests))
        if tokens is not None and count:
            most = ceil(tokens * _FILLING)
            read = min(read, max(most, max(rests)))
            count = min(count, max(1, most // min(rest for rest in rests if rest)))
        kept = len(groups) * begun * config.kv_bytes_per_token(item)
        first = self._block_bytes(len(groups) * begun, begun)
        second = self._block_bytes(read, begun + max(rests))
        second += 2 * count * begun * self._layer_bytes()  # keys and values of beginnings, spread
        # No more positions are judged at once than are read.
        judged = min(
            sum(row.judged for group in groups for row in group), max(read, len(groups) * begun)
        )
        head = min(judged * config.vocab_size * 4, max(HEAD_BYTES, config.vocab_size * 4))
        copies = _LOGITS + (config.vocab_size % PIECE > 0)  # filled up to whole pieces
        return int(kept + max(first, second, copies * head))

    def _block_bytes(self, tokens: int, seen: int) -> float:
        """Of one block that reads tokens which see so many."""
        config = self.config
        scores = _SCORES * config.num_attention_heads * seen
        states = _FEED_FORWARD * config.intermediate_size + _STATES * config.hidden_size
        return tokens * (scores + states) * self.item_bytes

    def _layer_bytes(self) -> int:
        """Keys and values of a token in one block."""
        return 2 * self.config.num_key_value_heads * self.config.head_dim * self.item_bytes


def budget_of(info: ModelLoaded, max_bytes: int, other_bytes: int = 0) -> Budget:
    """A bound on what a model, as it was loaded, and judging with it may hold.

    Args:
        info: of the model.
        max_bytes: that MLX may hold.
        other_bytes: of what it holds beside the model all the time.
    """
    from mobilellm_mlx.loading import read_json
    from mobilellm_mlx.models import build_config

    config = build_config(read_json(Path(info.path) / "config.json"))
    item_bytes = info.kv_bytes_per_token // config.kv_bytes_per_token(1)
    return Budget(max_bytes, info.weight_bytes, config, item_bytes, other_bytes)


def within(engine: Engine, max_bytes: int | None) -> Judge:
    """An engine's ``judge`` that keeps to a budget.

    Args:
        engine: with its model in memory.
        max_bytes: that MLX may hold, weights included; None for what suits the backend.
    """
    if max_bytes is None:
        return engine.judge
    assert engine.info is not None
    budget = budget_of(engine.info, max_bytes)

    def judge(groups: Sequence[Group], cancel: threading.Event) -> Iterator[Event]:
        return engine.judge(groups, cancel, batch_tokens=budget.batch_tokens(groups))

    return judge
