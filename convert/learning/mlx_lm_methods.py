"""The three methods of mlx-lm that ``methods`` offers, called as functions with our data.

mlx-lm is imported where it is used: that takes seconds. Its functions report to bars on the
terminal; here they report to a callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from types import ModuleType
from typing import Any

from mobilellm_mlx.backend import backend, mx, nn, tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.loading import build_model
from mobilellm_mlx.models import LanguageModel, LayerConfig, ModelConfig, RopeConfig
from mobilellm_mlx.weights import Packing

from ..readers.tensors import PackedTensor, Tensor

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, steps done and steps in all; a stage may come several times."""

_GPTQ_BITS = (2, 4, 8)
_GPTQ_BATCH = 4
_HESSIAN_BYTES = 2_000_000_000
"""Most that GPTQ may hold of its inputs' second moments at a time."""
INSTEAD = "choose another method, or convert with plain rounding"


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of ``quantize_learned``, checked."""

    config: ModelConfig
    tensors: Mapping[str, mx.array]
    packings: Mapping[str, Packing]
    """By module path; a module that is not here stays as it is."""
    windows: list[list[int]]
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    progress: Progress

    def dense_model(self) -> LanguageModel:
        """The network in float32; every call makes another one of the same lazy weights."""
        return build_model(self.config, dict(self.tensors), None, "dense")

    def packed(self, path: str, module: Any) -> PackedTensor:
        """A packed layer's tensor, its scales in the type that the weight had."""
        dtype = self.tensors[f"{path}.weight"].dtype
        scales, biases = module.scales.astype(dtype), module.biases.astype(dtype)
        return PackedTensor(module.weight, scales, biases, self.packings[path])


def rounded(weight: mx.array, packing: Packing) -> PackedTensor:
    """A matrix packed without looking at any text, scales in its own type."""
    codes, scales, biases = mx.quantize(weight, group_size=packing.group_size, bits=packing.bits)
    return PackedTensor(codes, scales, biases, packing)


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Everything that can be packed, by module path."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            yield path, module


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Make ``module`` the one at ``path``."""
    *parents, name = path.split(".")
    for key in parents:
        model = model[int(key)] if isinstance(model, list) else model[key]
    model[name] = module


# GPTQ


class _HeldLinear(nn.Linear):  # type: ignore[misc]
    """A linear layer that mlx-lm leaves alone: it packs exact ``nn.Linear``, and then the rest of
    what has a ``to_quantized`` of its own."""

    def to_quantized(self, **_: Any) -> nn.Module:
        return self


class _HeldEmbedding(nn.Embedding):  # type: ignore[misc]
    """The same for the embedding."""

    def to_quantized(self, **_: Any) -> nn.Module:
        return self


def _held(module: nn.Module) -> nn.Module:
    held = (
        _HeldEmbedding(1, 1) if isinstance(module, nn.Embedding) else _HeldLinear(1, 1, bias=False)
    )
    held.weight = module.weight
    return held


def gptq(job: Job) -> dict[str, Tensor]:
    """GPTQ in parts: what it measures is the square of every input width, so not all at a time.

    Inputs are always those of the dense network, so parts do not change the outcome.
    """
    model = job.dense_model()
    dense = dict(matrices(model))
    parts = _gptq_parts(job, dense)  # refuses before mlx-lm is imported, which takes seconds
    from mlx_lm.quant import gptq as theirs

    data = mx.array(job.windows)  # (windows, L)
    learned: dict[str, Tensor] = {}
    for packing, part in parts:
        for path, module in dense.items():
            _put(model, path, module if path in part else _held(module))
        with _reporting(theirs, job.progress, "rounding"):
            model, _ = theirs.gptq_quantize(  # type: ignore[no-untyped-call]
                model,
                data,
                bits=packing.bits,
                group_size=packing.group_size,
                fallback_bits=packing.bits,
                fallback_group_size=packing.group_size,
                batch_size=_GPTQ_BATCH,
            )
        packed = dict(model.named_modules())
        learned |= {f"{path}.weight": job.packed(path, packed[path]) for path in part}
        mx.eval([tensor.scales for tensor in learned.values() if isinstance(tensor, PackedTensor)])
    return learned


def _gptq_parts(job: Job, dense: Mapping[str, nn.Module]) -> list[tuple[Packing, set[str]]]:
    """Linear layers to do at once: of one packing, and with inputs that fit into memory.

    Raises:
        ConvertError: when a block's layer has bits that GPTQ has not, or there is nothing to do.
    """
    parts: dict[Packing, list[tuple[set[str], int]]] = {}
    for path, packing in job.packings.items():
        if not isinstance(dense[path], nn.Linear):
            continue
        if packing.bits not in _GPTQ_BITS:
            if path == "lm_head":
                continue  # like the embedding, its twin, this is rounded plainly
            raise ConvertError(
                f"gptq packs in 2, 4 or 8 bits, but the plan has {packing.bits} for `{path}`",
                INSTEAD,
            )
        needed = dense[path].weight.shape[-1] ** 2 * 4
        open_parts = parts.setdefault(packing, [])
        if not open_parts or open_parts[-1][1] + needed > _HESSIAN_BYTES:
            open_parts.append((set(), 0))
        paths, held = open_parts[-1]
        open_parts[-1] = ({*paths, path}, held + needed)
    if not parts:
        raise ConvertError("gptq works on linear layers, and the plan packs none", INSTEAD)
    return [(packing, paths) for packing, some in parts.items() for paths, _ in some]


# DWQ


class _Unpacked(nn.Module):  # type: ignore[misc]
    """A packed matrix that is unpacked for every product, for training on a CPU.

    Gradients reach scales and biases as in MLX's own packed layers; on CPUs, whose packed kernels
    are slow, several times sooner. mlx-lm finds what to train by the attributes.
    """

    mode = "affine"

    def __init__(self, weight: mx.array, packing: Packing):
        super().__init__()
        self.group_size, self.bits = packing.group_size, packing.bits
        self.weight, self.scales, self.biases = mx.quantize(
            weight, group_size=packing.group_size, bits=packing.bits
        )

    def _rows(self, weight: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        return mx.dequantize(weight, scales, biases, group_size=self.group_size, bits=self.bits)

    def as_linear(self, x: mx.array) -> mx.array:
        """(..., columns) to (..., rows)."""
        return x @ self._rows(self.weight, self.scales, self.biases).T


class _UnpackedLinear(_Unpacked):
    def __call__(self, x: mx.array) -> mx.array:
        return self.as_linear(x)


class _UnpackedEmbedding(_Unpacked):
    def __call__(self, tokens: mx.array) -> mx.array:
        return self._rows(self.weight[tokens], self.scales[tokens], self.biases[tokens])


def dwq(job: Job) -> dict[str, Tensor]:
    """Scales and biases, and nothing else, trained towards the dense network's predictions."""
    trained = {path for path, packing in job.packings.items() if packing.bits < 8}
    if not trained:
        raise ConvertError("dwq trains what has fewer than 8 bits, and the plan has none", INSTEAD)
    from mlx_lm.quant import dwq as theirs

    teacher, student = job.dense_model(), _student(job)
    batch = min(job.batch_size, len(job.windows))
    train = [(window, 0) for window in islice(cycle(job.windows), batch * job.steps)]

    def target(tokens: mx.array, index: int, split: str) -> mx.array:
        return teacher(tokens)  # (B, L, V)

    with _reporting(theirs, job.progress, "tuning"):
        theirs.dwq_quantize(
            student,
            target,
            theirs.optimizers.Adam(learning_rate=job.learning_rate, bias_correction=True),  # type: ignore[attr-defined]
            train,
            train[:batch],  # its own check is only printed; ours comes after the conversion
            batch_size=batch,
            max_seq_length=len(job.windows[0]),
            seed=job.seed,
            dtype=mx.float32,
        )
    modules = dict(student.named_modules())
    return {f"{path}.weight": job.packed(path, modules[path]) for path in trained}


def _student(job: Job) -> LanguageModel:
    """The network as the plan packs it, all of it frozen; mlx-lm unfreezes what it trains."""
    model = job.dense_model()
    if backend().default_compute == "packed":

        def packed(path: str, _: nn.Module) -> bool | dict[str, int]:
            packing = job.packings.get(path)
            return packing is not None and {
                "group_size": packing.group_size,
                "bits": packing.bits,
            }

        nn.quantize(model, class_predicate=packed)
    else:
        for path, module in list(matrices(model)):
            if (packing := job.packings.get(path)) is not None:
                embedding = isinstance(module, nn.Embedding)
                kind = _UnpackedEmbedding if embedding else _UnpackedLinear
                _put(model, path, kind(module.weight, packing))
    model.freeze()
    return model


# AWQ


def awq(job: Job) -> dict[str, Tensor]:
    """mlx-lm walks blocks of its own Llama, so that is what our tensors are put into."""
    packing = _awq_packing(job)
    embedding = job.packings.get("model.embed_tokens", Packing(packing.group_size, 8))
    from mlx_lm.quant import awq as theirs

    model = _mlx_lm_llama(job)
    with _reporting(theirs, job.progress, "scaling"):
        theirs.awq_quantize(
            model,
            mx.array(job.windows),
            theirs.AWQ_MODEL_CONFIGS["llama"],
            bits=packing.bits,
            group_size=packing.group_size,
            embed_bits=embedding.bits,
            embed_group_size=embedding.group_size,
        )
    learned: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if isinstance(module, nn.QuantizedLinear) and path != "lm_head":
            learned[name] = job.packed(path, module)
        elif isinstance(module, nn.RMSNorm):
            learned[name] = module.weight.astype(job.tensors[name].dtype)
    return learned


def _awq_packing(job: Job) -> Packing:
    """The one packing of all layers in the blocks.

    Raises:
        ConvertError: when there are several, or the network is not one of mlx-lm's.
    """
    rope = RopeConfig(job.config.rope_theta)
    plain = LayerConfig(rope=rope)  # what mlx-lm's Llama can be told
    if any(layer != plain for layer in job.config.layers):
        raise ConvertError("awq cannot follow blocks that run twice or differ", INSTEAD)
    model = LanguageModel(job.config)
    planned = {job.packings.get(path) for path, _ in matrices(model) if ".layers." in path}
    packing = planned.pop()
    if packing is None or planned:
        raise ConvertError("awq packs all layers of the blocks alike, the plan does not", INSTEAD)
    return packing


def _mlx_lm_llama(job: Job) -> nn.Module:
    from mlx_lm.models import llama

    config = job.config
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=config.hidden_size,
            num_hidden_layers=len(config.layers),
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            vocab_size=config.vocab_size,
            rope_theta=config.rope_theta,
            rope_traditional=False,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    weights = tree_flatten(job.dense_model().parameters())
    model.load_weights(list(weights), strict=True)
    return model


# mlx-lm's manners

_STAGES = {
    "Computing Hessians": "measuring",
    "Quantizing": "rounding",
    "Computing validation loss": "checking",
}
"""Our words for the titles of mlx-lm's progress bars."""


class _Bars:
    """Stands in for ``tqdm`` in one of mlx-lm's modules: tells ``progress``, prints nothing."""

    def __init__(self, progress: Progress, stage: str):
        self._progress, self._stage = progress, stage

    def __call__(self, items: Iterable[Any], *, total: int = 0, desc: str = "", **_: Any) -> _Bar:
        total = len(items) if isinstance(items, Sized) else total
        return _Bar(items, total, _STAGES.get(desc, self._stage), self._progress)

    def write(self, *_: Any, **__: Any) -> None:
        """Nothing: what mlx-lm would print."""


class _Bar:
    def __init__(self, items: Iterable[Any], total: int, stage: str, progress: Progress):
        self._items, self._total, self._stage, self._progress = items, total, stage, progress

    def __iter__(self) -> Iterator[Any]:
        self._progress(self._stage, 0, self._total)
        for done, item in enumerate(self._items, 1):
            yield item
            self._progress(self._stage, done, self._total)

    def set_description(self, *_: Any, **__: Any) -> None:
        """Nothing: it would be drawn."""


@contextmanager
def _reporting(module: ModuleType, progress: Progress, stage: str) -> Iterator[None]:
    """Let a module of mlx-lm report to ``progress`` instead of the terminal.

    Its names are replaced rather than ``sys.stderr``, which would silence our own console too.
    """
    ours = {"tqdm": _Bars(progress, stage), "print_trainable_parameters": lambda _: None}
    theirs = {name: getattr(module, name) for name in ours if hasattr(module, name)}
    for name in theirs:
        setattr(module, name, ours[name])
    try:
        yield
    finally:
        for name, value in theirs.items():
            setattr(module, name, value)
