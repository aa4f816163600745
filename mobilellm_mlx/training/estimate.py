"""What a training will take of the memory, counted before it takes it.

Four things lie there at once: weights, gradients, the optimiser's state, and what the forward pass
keeps for the backward one. The last is counted array by array: MLX keeps what the slope of an
operation needs, and nothing below the lowest thing that is trained. On top comes the larger of what
one chunk of logits and one block's backward pass hold for a moment.

Dims: B rows, L tokens of a row, D model, H query heads, K key/value heads, E head dim, F feed-forward,
V vocabulary, R rank; T tokens of a batch, B x L.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from mobilellm_mlx.backend import available_memory_bytes, backend, nn, tree_flatten
from mobilellm_mlx.errors import ConfigError, format_bytes
from mobilellm_mlx.events import MemoryEstimated
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import BLOCKS, bases, find_modules, weight_shape
from mobilellm_mlx.training.batches import Order
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.optimizer import state_copies

_FLOAT32 = 4
_LEAST_SAVING = 0.05
# What follows is measured: MLX allocates some operations ahead of those that are done.
_LOGITS = 2.1
"""Copies of a chunk of logits in float32 that its loss and slope hold at once."""
_NARROW_LOGITS = 1.3
"""Copies beside them in the network's own type, where that is another."""
_CHUNKS = 3
"""Chunks of which something lies there at once."""
_BACKWARD = 1.4
"""What going back through a block holds, as a share of what the block kept."""
_ARRAYS = 20
"""Gradients of which the step makes a copy at once."""
_MUON = 3.5
"""What Muon holds of them instead."""


def estimate_memory(
    model: LanguageModel, config: TrainConfig, examples: Sequence[Example]
) -> MemoryEstimated:
    """What a training will take, and what would make it smaller.

    Args:
        model: as it will be trained: with its adapters, or unfrozen.
        config: of the training.
        examples: all that it will read.
    """
    parts = _Parts.of(model, config, examples)
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    available = available_memory_bytes() + held
    fits = parts.total <= available
    return MemoryEstimated(
        weights_bytes=parts.weights,
        gradients_bytes=parts.gradients,
        optimizer_bytes=parts.optimizer,
        activations_bytes=parts.activations,
        total_bytes=parts.total,
        available_bytes=available,
        fits=fits,
        remedies=_remedies(model, config, examples, parts.total),
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """The shape of a batch: rows, tokens of a row, and tokens that are learned."""

    rows: int
    width: int
    learned: int

    @property
    def tokens(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True, slots=True)
class _Parts:
    """Bytes of each kind."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    @classmethod
    def of(cls, model: LanguageModel, config: TrainConfig, examples: Sequence[Example]) -> _Parts:
        """Those of a training."""
        chosen = _chosen(model, config)
        modules = dict(bases(model))
        base = sum(
            array.nbytes for name, array in tree_flatten(model.parameters())
            if name.rpartition(".")[2] not in ("lora_a", "lora_b", "m")
        )  # fmt: skip
        if config.method == "full":
            trained, added = base, 0
        else:
            trained = added = sum(
                _adapter_bytes(model, config, path, modules[path]) for path in chosen
            )
        summed = trained if config.accumulate > 1 else 0  # of the passes before
        state = trained * state_copies(config)
        count = _Activations(model, config, chosen)
        shapes = set(_batches(config, examples))
        most = max((count.bytes(batch) for batch in shapes), default=0)
        # Gradients grow as what the forward pass kept goes: both are never there in full.
        activations = max(most - trained, count.step_bytes())
        return cls(base + added, trained + summed, int(state), activations)


def _chosen(model: LanguageModel, config: TrainConfig) -> tuple[str, ...]:
    if config.method == "full":
        return tuple(path for path, _ in bases(model))
    return find_modules(model, config.modules, config.layers)


def _adapter_bytes(model: LanguageModel, config: TrainConfig, path: str, module: nn.Module) -> int:
    outputs, inputs = weight_shape(module)
    numbers = (inputs + outputs) * config.rank + (outputs if config.method == "dora" else 0)
    runs = 1
    if config.per_run and path.startswith(BLOCKS):
        block = model.model.layers[int(path.removeprefix(BLOCKS).partition(".")[0])]
        runs = block.turn.runs
    return numbers * runs * _FLOAT32


def _batches(config: TrainConfig, examples: Sequence[Example]) -> Iterator[_Batch]:
    """The shapes of an epoch's batches."""
    most = config.max_tokens
    short = [
        Example(one.tokens[:most], one.learned[:most]) if len(one) > most else one
        for one in examples
    ]
    order = Order(short, config.batch_size, config.seed, most if config.pack else None)
    learned = [one.learned_count for one in short]
    step = 1 if backend().name == "cpu" else 32
    for rows in order.epoch(0):
        width = max(sum(len(short[index]) for index in row) for row in rows)
        count = sum(learned[index] for row in rows for index in row)
        yield _Batch(len(rows), ceil(width / step) * step, count)


class _Activations:
    """Counts what passes hold.

    Args:
        model: the network.
        config: of the training.
        chosen: paths of the modules that are trained.
    """

    def __init__(self, model: LanguageModel, config: TrainConfig, chosen: Sequence[str]):
        self._model, self._config = model, config
        self._item = model.dtype.size
        self._full = config.method == "full"
        self._trained: dict[int, set[str]] = {}
        for path in chosen:
            if path.startswith(BLOCKS):
                number, _, name = path.removeprefix(BLOCKS).partition(".")
                self._trained.setdefault(int(number), set()).add(name.rpartition(".")[2])
        below = any("embed_tokens" in path for path in chosen)
        self._lowest = 0 if below else min(self._trained, default=len(model.config.layers))

    def bytes(self, batch: _Batch) -> int:
        """The most that one forward and backward pass of a batch holds."""
        layers = self._model.config.layers
        blocks = [
            (self._kept(number, batch), layers[number].runs)
            for number in range(self._lowest, len(layers))
        ]
        largest = max((kept for kept, _ in blocks), default=0.0)
        hidden = batch.tokens * self._model.config.hidden_size * self._item
        if self._config.checkpoint_layers:
            kept = sum(hidden * runs for _, runs in blocks)
            backward = largest * (1 + _BACKWARD)
        else:
            kept = sum(each * runs for each, runs in blocks)
            backward = largest * _BACKWARD
        return int(kept + 2 * hidden + max(backward, self._loss(batch)))

    def _kept(self, number: int, batch: _Batch) -> float:
        """What a run of a block keeps for its backward pass."""
        model, names = self._model.config, self._trained.get(number, set())
        gpu = backend().name != "cpu"
        layer, item = model.layers[number], self._item
        wide = item if gpu else _FLOAT32  # on a CPU norms compute in float32
        dim, ffn = model.hidden_size, model.intermediate_size
        queries, keys = (
            heads * model.head_dim
            for heads in (model.num_attention_heads, model.num_key_value_heads)
        )
        kept = dim * wide  # what the norm reads
        kept += (2 if gpu else 4) * ffn * item  # gate and up; on a CPU also the steps between
        inputs = [({"gate_proj", "up_proj"}, dim), ({"down_proj"}, ffn)]
        if layer.attention != "none":
            kept += dim * wide + (queries + 2 * keys) * item
            kept += (queries + keys) * item if layer.qk_norm else 0
            kept += model.num_attention_heads * batch.width * item  # probabilities
            inputs += [({"q_proj", "k_proj", "v_proj"}, dim), ({"o_proj"}, queries)]
        for users, size in inputs:
            if using := users & names:
                kept += self._input(size, len(using), norm=size == dim)
        sizes = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": dim,
                 "gate_proj": ffn, "up_proj": ffn, "down_proj": dim}  # fmt: skip
        if not self._full:
            kept += len(names) * self._config.rank * _FLOAT32
        if self._config.method == "dora":
            kept += sum(sizes[name] for name in names) * item
        return kept * batch.tokens

    def _input(self, size: int, users: int, *, norm: bool) -> float:
        """An input of trained modules, by token."""
        if self._full:
            return size * self._item * (2 if norm else 1)
        if self._config.dropout:
            return 2 * size * _FLOAT32 * users
        if self._item != _FLOAT32:  # small matrices are float32, and so is what they read
            return size * _FLOAT32 * users
        return size * _FLOAT32

    def _loss(self, batch: _Batch) -> float:
        """What the loss of some chunks holds, and the gradient of the head if it is trained."""
        model, learned = self._model.config, max(1, batch.learned)
        tokens = min(self._config.loss_chunk, learned)
        chunks = min(_CHUNKS, ceil(learned / tokens))
        number = _LOGITS * _FLOAT32  # bytes
        if self._item != _FLOAT32:
            number += _NARROW_LOGITS * self._item
        held = chunks * tokens * model.vocab_size * number
        if self._full:
            held += (2 + 2 * chunks) * self._head_bytes()
        return held

    def _head_bytes(self) -> int:
        model = self._model.config
        return model.vocab_size * model.hidden_size * self._item

    def step_bytes(self) -> int:
        """What a step of the optimiser holds beside gradients and its state."""
        if not self._full:
            return 0
        sizes = sorted((array.nbytes for _, array in tree_flatten(self._model.parameters())))
        held = sum(sizes[-_ARRAYS:])
        held = held * _MUON if self._config.optimizer == "muon" else held
        return int(max(held, 2 * self._head_bytes()))


def _remedies(
    model: LanguageModel, config: TrainConfig, examples: Sequence[Example], total: int
) -> list[str]:
    """Options that make a training smaller, with what each saves, most first."""
    longest = max((len(one) for one in examples), default=0)
    if config.pack:
        longest = config.max_tokens
    changes: dict[str, dict[str, Any]] = {}
    if config.batch_size > 1:
        half = config.batch_size // 2
        changes[f"`--batch-size {half}`"] = {"batch_size": half}
    if (shorter := min(longest, config.max_tokens) // 2) >= 32:
        changes[f"`--max-tokens {shorter}`"] = {"max_tokens": shorter}
    if not config.checkpoint_layers:
        changes["`--checkpoint-layers`"] = {"checkpoint_layers": True}
    if config.loss_chunk > 64:
        changes["`--loss-chunk 64`"] = {"loss_chunk": 64}
    if config.method == "full":
        changes["`lora` in place of `full`"] = {"method": "lora"}
    elif config.layers == "all" and (half := len(model.model.layers) // 2):
        changes[f'`--layers "last {half}"`'] = {"layers": f"last {half}"}
    if config.method != "full" and config.rank > 1:
        changes[f"`--rank {config.rank // 2}`"] = {"rank": config.rank // 2}
    savings = []
    for words, change in changes.items():
        try:
            saved = total - _Parts.of(model, config.merged(change), examples).total
        except ConfigError:
            continue
        if saved > _LEAST_SAVING * total:
            savings.append((saved, f"{words} saves {format_bytes(saved)}"))
    return [words for _, words in sorted(savings, reverse=True)]
