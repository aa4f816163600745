"""What a training will take of the memory, counted before it takes it.

Weights, gradients and the optimiser's state are there all the time. What the forward pass keeps for
the backward one is counted array by array: MLX keeps what the slope of an operation needs, and
nothing below the lowest thing that is trained. On top of that comes the larger of what chunks of
logits and what the backward pass of one block hold for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from mobilellm_mlx.backend import available_memory_bytes, backend, tree_flatten
from mobilellm_mlx.errors import ConfigError, format_bytes
from mobilellm_mlx.events import MemoryEstimated
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import BLOCKS, LEAVES, bases, find_modules, weight_shape
from mobilellm_mlx.training.batches import Order
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.optimizer import state_copies

_FLOAT32 = 4
_LEAST_SAVING = 0.05
"""Share of the whole that a remedy has to save to be named."""
_SMALL_CHUNK = 64
_EPOCHS = 2
"""Epochs whose batches are looked at; others have like ones."""

# What follows is measured (on a CPU): MLX allocates for some operations ahead of the one at work.
_LOGITS = 3.55
"""Copies of a chunk of logits in float32 that its loss and slope hold."""
_AHEAD = 1.2
"""Copies of those of the chunks behind it that are begun meanwhile."""
_NARROW_LOGITS = 1.3
"""Copies beside them in the network's own type, where that is another."""
_CHUNKS = 3
"""Chunks of which something lies there at once."""
_HEADS = 4.5
"""Copies of a trained head that its gradient holds."""
_BACKWARD = 1.4
"""What going back through a block holds, as a share of what the block kept."""
_ARRAYS = 20
"""Trained arrays of which a step of the optimiser holds a copy at once, at most the largest."""
_MUON = 3.5
"""Copies in the case of Muon."""


def estimate_memory(
    model: LanguageModel, config: TrainConfig, examples: Sequence[Example]
) -> MemoryEstimated:
    """What a training will take, and what would make it smaller.

    Args:
        model: as it will be trained: with its adapters, or unfrozen.
        config: of the training.
        examples: all that it will read.
    """
    estimator = _Estimator(model, examples)
    parts = estimator.parts(config)
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    available = available_memory_bytes() + held
    return MemoryEstimated(
        weights_bytes=parts.weights,
        gradients_bytes=parts.gradients,
        optimizer_bytes=parts.optimizer,
        activations_bytes=parts.activations,
        total_bytes=parts.total,
        available_bytes=available,
        fits=parts.total <= available,
        remedies=_remedies(estimator, config),
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of a batch: rows, tokens of each with padding, and how many of all are learned."""

    rows: int
    width: int
    learned: int


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


class _Estimator:
    """Estimates trainings of a network on some examples, whatever the configuration.

    Args:
        model: the network, with adapters or without.
        examples: all that is read.
    """

    def __init__(self, model: LanguageModel, examples: Sequence[Example]):
        self.model, self.examples = model, examples
        self._modules = dict(bases(model))
        self._base = {
            name: array.nbytes
            for name, array in tree_flatten(model.parameters())
            if name.rpartition(".")[2] not in LEAVES
        }
        self._shapes: dict[tuple[int, int, bool], set[_Shape]] = {}

    def parts(self, config: TrainConfig) -> _Parts:
        """What a training takes.

        Raises:
            ConfigError: when it names modules or blocks that are not there.
        """
        base = sum(self._base.values())
        trained = self._trained(config)
        total = sum(trained.values())
        added = 0 if config.method == "full" else total
        count = _Activations(self.model, config, trained)
        shapes = self._shapes_of(config)
        most = max((count.pass_bytes(shape) for shape in shapes), default=0)
        # Gradients come as what the forward pass kept goes: both are never there in full.
        activations = max(most - total, count.step_bytes())
        summed = total if config.accumulate > 1 else 0  # of the passes before
        state = int(total * state_copies(config))
        return _Parts(base + added, total + summed, state, activations)

    def _trained(self, config: TrainConfig) -> dict[str, int]:
        """Bytes of what is trained, by the path of its module."""
        if config.method == "full":
            found: dict[str, int] = {}
            for name, size in self._base.items():
                path = name.rpartition(".")[0]
                found[path] = found.get(path, 0) + size
            return found
        paths = find_modules(self.model, config.modules, config.layers)
        return {path: self._adapter_bytes(path, config) for path in paths}

    def _adapter_bytes(self, path: str, config: TrainConfig) -> int:
        outputs, inputs = weight_shape(self._modules[path])
        numbers = (inputs + outputs) * config.rank
        numbers += outputs if config.method == "dora" else 0
        runs = 1
        if config.per_run and path.startswith(BLOCKS):
            runs = self.model.config.layers[_place(path)[0]].runs
        return numbers * runs * _FLOAT32

    def _shapes_of(self, config: TrainConfig) -> set[_Shape]:
        key = config.batch_size, config.max_tokens, config.pack
        if key not in self._shapes:
            self._shapes[key] = set(_iter_shapes(config, self.examples))
        return self._shapes[key]


def _iter_shapes(config: TrainConfig, examples: Sequence[Example]) -> Iterator[_Shape]:
    """Those of the batches of some epochs."""
    most = config.max_tokens
    short = [
        Example(one.tokens[:most], one.learned[:most]) if len(one) > most else one
        for one in examples
    ]
    learned = [one.learned_count for one in short]
    order = Order(short, config.batch_size, config.seed, most if config.pack else None)
    step = 1 if backend().name == "cpu" else 32  # as batches are rounded up
    for number in range(_EPOCHS):
        for rows in order.epoch(number):
            width = max(sum(len(short[index]) for index in row) for row in rows)
            counts = sum(learned[index] for row in rows for index in row)
            yield _Shape(len(rows), ceil(width / step) * step, counts)


class _Activations:
    """Counts what passes hold.

    Args:
        model: the network.
        config: of the training.
        trained: bytes of what is trained, by module.
    """

    def __init__(self, model: LanguageModel, config: TrainConfig, trained: dict[str, int]):
        self._model, self._config, self._sizes = model.config, config, trained
        self._item = model.dtype.size
        self._full = config.method == "full"
        self._on_gpu = backend().name != "cpu"
        self._names: dict[int, set[str]] = {}
        for path in trained:
            if path.startswith(BLOCKS):
                number, name = _place(path)
                self._names.setdefault(number, set()).add(name)
        lowest = min(self._names, default=len(self._model.layers))
        self._lowest = 0 if "model.embed_tokens" in trained else lowest

    def pass_bytes(self, shape: _Shape) -> int:
        """The most that the forward and backward pass of a batch holds."""
        tokens = shape.rows * shape.width
        hidden = tokens * self._model.hidden_size * self._item
        layers = self._model.layers
        kept = [
            tokens * self._kept(number, shape.width)
            for number in range(self._lowest, len(layers))
            for _ in range(layers[number].runs)
        ]
        moment = max(kept, default=0.0) * _BACKWARD
        if self._config.checkpoint_layers:
            moment += max(kept, default=0.0)
            kept = [hidden] * len(kept)
        return int(sum(kept) + 2 * hidden + max(moment, self._loss(shape)))

    def _kept(self, number: int, width: int) -> float:
        """What a run of a block keeps for its backward pass, for each token."""
        model, names, item = self._model, self._names.get(number, set()), self._item
        layer, dim, ffn = model.layers[number], model.hidden_size, model.intermediate_size
        queries = model.num_attention_heads * model.head_dim
        keys = model.num_key_value_heads * model.head_dim
        normed = dim * (item if self._on_gpu else _FLOAT32)  # what a norm reads
        # Gate and up; where nothing is compiled, the sigmoid and its product with the gate too.
        kept: float = normed + (2 if self._on_gpu else 4) * ffn * item
        inputs = [({"gate_proj", "up_proj"}, dim, True), ({"down_proj"}, ffn, False)]
        if layer.attention != "none":
            kept += normed + (queries + 2 * keys) * item
            kept += model.num_attention_heads * width * item  # probabilities
            kept += (queries + keys) * item if layer.qk_norm else 0
            inputs += [({"q_proj", "k_proj", "v_proj"}, dim, True), ({"o_proj"}, queries, False)]
        for users, size, is_normed in inputs:
            kept += self._kept_input(size, len(users & names), is_normed=is_normed)
        if not self._full:
            kept += len(names) * self._config.rank * _FLOAT32
        if self._config.method == "dora":
            outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": dim,
                       "gate_proj": ffn, "up_proj": ffn, "down_proj": dim}  # fmt: skip
            kept += sum(outputs[name] for name in names) * item
        return kept

    def _kept_input(self, size: int, users: int, *, is_normed: bool) -> float:
        """What trained modules keep of an input that they share, for each token."""
        if not users:
            return 0
        if self._full:  # a norm's weight wants its input as well
            return size * self._item * (2 if is_normed else 1)
        if self._config.dropout:
            return size * _FLOAT32 * 2 * users
        # Small matrices are float32: of 16 bits each reads a copy of its own, unless compiled.
        shared = self._item == _FLOAT32 or self._on_gpu
        return size * _FLOAT32 * (1 if shared else users)

    def _loss(self, shape: _Shape) -> float:
        """What the loss of some chunks holds, with the gradient of the head if that is trained."""
        learned, chunk = max(1, shape.learned), self._config.loss_chunk
        first = min(learned, chunk)
        behind = min(learned - first, (_CHUNKS - 1) * chunk)
        number = (_LOGITS * first + _AHEAD * behind) * _FLOAT32
        if self._item != _FLOAT32:
            number += _NARROW_LOGITS * (first + behind) * self._item
        return number * self._model.vocab_size + _HEADS * self._head

    @property
    def _head(self) -> int:
        """Bytes of what is trained of the head."""
        path = "model.embed_tokens" if self._model.tie_word_embeddings else "lm_head"
        return self._sizes.get(path, 0)

    def step_bytes(self) -> int:
        """What a step of the optimiser holds beside gradients and its state."""
        copies = _MUON if self._config.optimizer == "muon" else 1
        largest = sorted(self._sizes.values())[-_ARRAYS:]
        return int(max(sum(largest) * copies, 2 * self._head))


def _place(path: str) -> tuple[int, str]:
    """Number of the block and last part of the name."""
    number, _, name = path.removeprefix(BLOCKS).partition(".")
    return int(number), name.rpartition(".")[2]


def _remedies(estimator: _Estimator, config: TrainConfig) -> list[str]:
    """Options that make a training smaller, with what each saves, most first."""
    total = estimator.parts(config).total
    savings = []
    for words, change in _changes(estimator, config):
        try:
            saved = total - estimator.parts(config.merged(change)).total
        except ConfigError:  # half the blocks may have nothing that is named
            continue
        if saved > _LEAST_SAVING * total:
            savings.append((saved, f"{words} saves {format_bytes(saved)}"))
    return [sentence for _, sentence in sorted(savings, reverse=True)]


def _changes(estimator: _Estimator, config: TrainConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """What could be chosen in place of what is."""
    if half := config.batch_size // 2:
        yield f"`--batch-size {half}`", {"batch_size": half}
    longest = max((len(one) for one in estimator.examples), default=0)
    shorter = (config.max_tokens if config.pack else min(longest, config.max_tokens)) // 2
    if shorter >= 32:
        yield f"`--max-tokens {shorter}`", {"max_tokens": shorter}
    if not config.checkpoint_layers:
        yield "`--checkpoint-layers`", {"checkpoint_layers": True}
    if config.loss_chunk > _SMALL_CHUNK:
        yield f"`--loss-chunk {_SMALL_CHUNK}`", {"loss_chunk": _SMALL_CHUNK}
    if config.method == "full":
        yield "`lora` in place of `full`", {"method": "lora"}
        return
    half_blocks = len(estimator.model.model.layers) // 2
    if config.layers == "all" and half_blocks:
        yield f'`--layers "last {half_blocks}"`', {"layers": f"last {half_blocks}"}
    if half_rank := config.rank // 2:
        yield f"`--rank {half_rank}`", {"rank": half_rank}
