"""Small trained matrices beside frozen weights: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353).

Parameters have mlx-lm's names and shapes, so adapter files go both ways: ``lora_a`` (in, R) and
``lora_b`` (R, out), for DoRA also ``m`` (out,). ``lora_b`` is zero at first, so that attaching
changes nothing. A block that runs several times (layer sharing) has one adapter for all its runs,
or one for each: then the matrices have a leading axis of runs.

Shapes in comments: B batch, L tokens, D inputs, O outputs, R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from mobilellm_mlx.backend import mx, nn, tree_flatten, tree_unflatten
from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models.network import LanguageModel, Turn

LEAVES = ("lora_a", "lora_b", "m")
"""Last parts of the names of trained parameters."""
BLOCKS = "model.layers."


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """What is attached to a network.

    Attributes:
        method: ``lora`` or ``dora``.
        rank: of the matrices, R.
        scale: what their product is multiplied by.
        paths: of the modules, in full: ``model.layers.3.self_attn.q_proj``.
        dropout: share of inputs that the matrices do not see while training.
        per_run: whether shared blocks have an adapter for each run.
    """

    method: Literal["lora", "dora"]
    rank: int
    scale: float
    paths: tuple[str, ...]
    dropout: float = 0.0
    per_run: bool = False


class Dropout(nn.Module):
    """Leaves out a share of numbers while training; the same ones when a pass is computed again.

    That is what a recomputed block and the chunks of the loss do for their gradients: with numbers
    from MLX's own state they would leave out others the second time.

    Args:
        share: of what is left out.
    """

    def __init__(self, share: float):
        super().__init__()
        self._share = share
        self._key: mx.array | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is left out."""
        return bool(self._share and self.training)

    def draw(self, key: mx.array) -> None:
        """Choose what the next pass leaves out."""
        self._key = key

    def __call__(self, x: mx.array) -> mx.array:
        """Numbers of any shape to some of them, the others scaled up for those left out."""
        if not self.is_on:
            return x
        kept = mx.random.bernoulli(1 - self._share, x.shape, key=self._key)
        return (kept * x) * (1 / (1 - self._share))


class LoRALinear(nn.Module):
    """``y = x W^T + scale * (x A) B``; the base may be packed.

    Args:
        linear: the frozen base.
        rank: R.
        scale: of the change.
        dropout: share of inputs left out while training.
        turn: tells which run of a shared block this is; None for one adapter for all runs.
    """

    def __init__(
        self,
        linear: nn.Module,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        turn: Turn | None = None,
    ):
        super().__init__()
        outputs, inputs = weight_shape(linear)
        self.linear = linear
        self.linear.freeze()
        self.scale, self._turn = scale, turn
        self.dropout = Dropout(dropout)
        runs = (turn.runs,) if turn else ()
        # As mlx-lm begins, so that a comparison of the two compares nothing else.
        bound = inputs**-0.5
        self.lora_a = mx.random.uniform(-bound, bound, (*runs, inputs, rank))
        self.lora_b = mx.zeros((*runs, rank, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        """Inputs (..., D) to outputs (..., O)."""
        return self.linear(x) + self._change(x).astype(x.dtype)

    def _change(self, x: mx.array) -> mx.array:
        a, b = self._matrices()
        return (self.scale * (self.dropout(x) @ a)) @ b

    def _matrices(self) -> tuple[mx.array, mx.array]:
        """Those of this run: A (D, R) and B (R, O)."""
        if self._turn is None:
            return self.lora_a, self.lora_b
        return self.lora_a[self._turn.run], self.lora_b[self._turn.run]


class DoRALinear(LoRALinear):
    """LoRA of the direction of every row of W, beside a trained length ``m`` of the row.

    The length of a changed row, ``|w + d|``, comes from ``|w|^2 + 2 w.d + |d|^2``, so the changed
    matrix is never made: with small A and B that is a product of R rows.
    """

    def __init__(
        self,
        linear: nn.Module,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        turn: Turn | None = None,
    ):
        super().__init__(linear, rank, scale, dropout, turn)
        weight = dense_weight(linear).astype(mx.float32)  # (O, D)
        self._squares = mx.square(weight).sum(axis=1)  # (O,)
        lengths = mx.sqrt(self._squares)
        self.m = mx.stack([lengths] * turn.runs) if turn else lengths

    def __call__(self, x: mx.array) -> mx.array:
        """Inputs (..., D) to outputs (..., O)."""
        a, b = self._matrices()
        m = self.m if self._turn is None else self.m[self._turn.run]
        length = mx.stop_gradient(self._lengths(a, b))  # the paper's section 4.3
        outputs = self.linear(x) + self._change(x).astype(x.dtype)
        return (m / length).astype(x.dtype) * outputs

    def _lengths(self, a: mx.array, b: mx.array) -> mx.array:
        """Of the rows of the changed matrix, (O,)."""
        dtype = self.linear.scales.dtype if "scales" in self.linear else self.linear.weight.dtype
        along = self.linear(a.T.astype(dtype)).T.astype(mx.float32)  # W A, (O, R)
        crossed = (along * b.T).sum(axis=1)  # w.d / scale, (O,)
        own = ((b.T @ (a.T @ a)) * b.T).sum(axis=1)  # |d|^2 / scale^2, (O,)
        squares = self._squares + 2 * self.scale * crossed + self.scale**2 * own
        return mx.sqrt(mx.maximum(squares, 1e-20))


class LoRAEmbedding(nn.Module):
    """A table of vectors with a change of low rank; also as the head, where that is tied to it.

    Args:
        embedding: the frozen base.
        rank: R.
        scale: of the change.
        dropout: share of the change left out while training.
    """

    def __init__(self, embedding: nn.Module, rank: int, scale: float, dropout: float = 0.0):
        super().__init__()
        count, size = weight_shape(embedding)
        self.embedding = embedding
        self.embedding.freeze()
        self.scale = scale
        self.dropout = Dropout(dropout)
        bound = count**-0.5
        self.lora_a = mx.random.uniform(-bound, bound, (count, rank))
        self.lora_b = mx.zeros((rank, size))

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids (...) to vectors (..., D)."""
        vectors = self.embedding(tokens)
        change = self.dropout(self.lora_a[tokens] @ self.lora_b)
        return vectors + (self.scale * change).astype(vectors.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Hidden states (..., D) to logits (..., V)."""
        change = (self.dropout(x) @ self.lora_b.T) @ self.lora_a.T
        return self.embedding.as_linear(x) + (self.scale * change).astype(x.dtype)


Adapted = LoRALinear | LoRAEmbedding


def weight_shape(module: nn.Module) -> tuple[int, int]:
    """Rows and columns of a module's weight, packed or not."""
    rows, columns = module.weight.shape
    if "scales" in module:
        columns = columns * 32 // module.bits
    return rows, columns


def dense_weight(module: nn.Module) -> mx.array:
    """A module's weight, unpacked if need be."""
    if "scales" not in module:
        return module.weight
    return mx.dequantize(
        module.weight,
        module.scales,
        module.get("biases"),
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    )


# -------------------------------------------------------------------- choosing


def find_modules(model: LanguageModel, patterns: Sequence[str], layers: str) -> tuple[str, ...]:
    """Full paths of the modules that get an adapter.

    Args:
        model: the network.
        patterns: of names: ``q_proj``, ``self_attn.*``, ``*_proj``, or in full. The embedding and
            the head have to be named: ``embed_tokens``, ``lm_head``.
        layers: ``all``, ``last 8``, ``first 4``, or numbers such as ``0-3,29``.

    Raises:
        ConfigError: when nothing fits, or a number is no block's.
    """
    chosen = parse_layers(layers, len(model.model.layers))
    found = []
    for path, _ in bases(model):
        inside = path.startswith(BLOCKS)
        number, _, name = path.removeprefix(BLOCKS).partition(".") if inside else ("", "", path)
        if inside and int(number) not in chosen:
            continue
        names = {path, name} | ({name.rpartition(".")[2]} if inside else {path.rpartition(".")[2]})
        if any(fnmatchcase(each, pattern) for each in names for pattern in patterns):
            found.append(path)
    if not found:
        raise ConfigError(
            f"no module is named like {', '.join(f'`{p[:40]}`' for p in patterns[:4])} "
            f"in the blocks `{layers[:40]}`",
            "names are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, embed_tokens",
        )
    return tuple(sorted(found, key=_in_order))


def bases(model: LanguageModel) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can have an adapter, by path; one that has is given without it."""
    for path, module in model.named_modules():
        if isinstance(module, Adapted):
            yield path, _base(module)
        elif isinstance(
            module, nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding
        ) and not path.endswith((".linear", ".embedding")):
            yield path, module


def _base(module: Any) -> nn.Module:
    return module.embedding if isinstance(module, LoRAEmbedding) else module.linear


def _in_order(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def parse_layers(text: str, count: int) -> frozenset[int]:
    """The numbers of blocks that a text names.

    Args:
        text: ``all``, ``last 8``, ``first 4``, or numbers and ranges: ``0-3,29``.
        count: of the blocks that there are.

    Raises:
        ConfigError: when it names none, or one that is not there.
    """
    words = text.split()
    if words == ["all"]:
        return frozenset(range(count))
    if len(words) == 2 and words[0] in ("last", "first") and words[1].isdecimal():
        size = min(int(words[1][:9]), count)
        found = range(count - size, count) if words[0] == "last" else range(size)
        if found:
            return frozenset(found)
    numbers: set[int] = set()
    for part in text.replace(" ", "").split(","):
        start, dash, stop = part.partition("-")
        if not start.isdecimal() or (dash and not stop.isdecimal()):
            raise ConfigError(
                f"`layers` is {text[:40]!r}, expected `all`, `last 8`, `first 4` or `0-3,29`"
            )
        last = int((stop or start)[:9])
        if last >= count or int(start[:9]) > last:
            raise ConfigError(
                f"`layers` is {text[:40]!r}, but the model has the blocks 0 to {count - 1}"
            )
        numbers.update(range(int(start), last + 1))
    return frozenset(numbers)


# -------------------------------------------------------------------- putting on and taking off


def attach(model: LanguageModel, spec: LoraSpec) -> None:
    """Put fresh adapters on a network, in place; everything else is frozen.

    Raises:
        ConfigError: when a path is no module that can have one.
    """
    detach(model)
    model.freeze()
    modules = dict(bases(model))
    wrapped: list[tuple[str, nn.Module]] = []
    for path in spec.paths:
        module = modules.get(path)
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
            if spec.method == "dora":
                raise ConfigError(f"`{path}` is an embedding, which DoRA is not for", "use lora")
            wrapped.append((path, LoRAEmbedding(module, spec.rank, spec.scale, spec.dropout)))
        elif isinstance(module, nn.Linear | nn.QuantizedLinear):
            kind = DoRALinear if spec.method == "dora" else LoRALinear
            turn = _turn(model, path) if spec.per_run else None
            wrapped.append((path, kind(module, spec.rank, spec.scale, spec.dropout, turn)))
        else:
            raise ConfigError(f"`{path[:80]}` is no module of this network that can be adapted")
    model.update_modules(tree_unflatten(wrapped))


def detach(model: LanguageModel) -> None:
    """Take all adapters off again, in place."""
    plain = [(path, _base(module)) for path, module in adapted_modules(model)]
    if plain:
        model.update_modules(tree_unflatten(plain))


def adapted_modules(model: LanguageModel) -> Iterator[tuple[str, Any]]:
    """The modules with an adapter, by path."""
    for path, module in model.named_modules():
        if isinstance(module, Adapted):
            yield path, module


def adapter_parameters(model: LanguageModel) -> dict[str, mx.array]:
    """The trained arrays by name: ``model.layers.3.self_attn.q_proj.lora_a``."""
    return {
        f"{path}.{leaf}": module[leaf]
        for path, module in adapted_modules(model)
        for leaf in LEAVES
        if leaf in module
    }


def _turn(model: LanguageModel, path: str) -> Turn | None:
    """What tells the run of a shared block; None where it has only one."""
    if not path.startswith(BLOCKS):
        return None
    block = model.model.layers[int(path.removeprefix(BLOCKS).partition(".")[0])]
    turn: Turn = block.turn
    return turn if turn.runs > 1 else None


def count_parameters(model: nn.Module) -> int:
    """Trained ones."""
    return sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
