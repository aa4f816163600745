"""From a model directory to everything that a conversation needs, in memory.

The directory is a Hugging Face style one (``config.json``, ``*.safetensors``, a tokenizer), the
same that mlx-lm reads; ``mobilellm.json`` adds where it came from and under which licence.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx import weights
from mobilellm_mlx.backend import (
    allocation_errors,
    available_memory_bytes,
    backend,
    mx,
    tree_flatten,
)
from mobilellm_mlx.errors import (
    ConfigError,
    InsufficientMemory,
    InvalidOption,
    ModelNotFound,
    TemplateError,
    TokenizerError,
    format_bytes,
)
from mobilellm_mlx.events import ModelLoaded
from mobilellm_mlx.kernels import kernels
from mobilellm_mlx.models import LanguageModel, ModelConfig, build_config
from mobilellm_mlx.models.accelerated import AcceleratedModel
from mobilellm_mlx.models.compiled import CompiledModel
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import Tokenizer, load_tokenizer, token_name

_KEPT_FREE_BYTES = 256_000_000
"""Left for activations, the interface and the rest of the machine when memory is checked."""


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """What a model writes around its reasoning, ahead of the answer."""

    start: str = "<think>"
    end: str = "</think>"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with its words and manners."""

    model: LanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate | None
    stop_tokens: frozenset[int]
    defaults: GenerationOptions
    """What the checkpoint recommends."""
    context_limit: int
    info: ModelLoaded
    reasoning: ReasoningMarkers | None = None
    """None where nothing in the checkpoint says that it marks reasoning."""


def read_json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        missing: given back when there is no such file; None makes that an error.

    Raises:
        ModelNotFound: when the file is missing and must not be.
        ConfigError: when it is not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise ModelNotFound(
            f"`{path.parent}` is not a model directory: it has no `{path.name}`",
            "fetch a model of `mobilellm models list` with `mobilellm models pull NAME`, or name a "
            "directory with a converted model",
        ) from None
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"`{path}` is not valid JSON: {error}") from error
    if not _is_text(value):
        raise ConfigError(f"`{path}` holds a text that is not Unicode")
    if not isinstance(value, dict):
        raise ConfigError(f"`{path}` holds {type(value).__name__}, expected a JSON object")
    return value


def _is_text(value: object) -> bool:
    """Whether all strings in a JSON value can be written again: half a surrogate pair cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def load_model(directory: Path, options: LoadOptions | None = None) -> LoadedModel:
    """Bring a model directory into memory, ready to generate.

    Args:
        directory: a complete model directory.
        options: compute form and context; the defaults suit the machine.

    Raises:
        MobileLLMError: one of its kinds, for whatever is wrong with the directory or the machine.
    """
    started = time.perf_counter()
    options = options or LoadOptions()
    raw = read_json(directory / "config.json")
    config = build_config(raw)
    context = _context_limit(config, options)
    packing = weights.read_quantization(raw)
    files = weights.weight_files(directory)
    compute = _compute(options, packing)
    plan = _plan(config, files, compute, context)
    if not plan.fits:
        raise InsufficientMemory(plan.arithmetic)

    generation = read_json(directory / "generation_config.json", missing={})
    with ThreadPoolExecutor(1) as pool, allocation_errors("loading the model"):
        model = build_model(config, weights.load_tensors(files), packing, compute)
        # The words are read while MLX, on this thread, reads and unpacks the weights. Not before:
        # reading a tokenizer keeps the interpreter's lock, which building the network needs.
        words = pool.submit(_load_words, directory, config)
        read_weights(model)
    tokenizer, template, reasoning, ending = words.result()
    manifest = read_json(directory / MANIFEST, missing={})
    dtype = str(model.dtype).removeprefix("mlx.core.")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        template=template,
        reasoning=reasoning,
        stop_tokens=_stop_tokens(raw, generation) or ending,
        defaults=_generation_defaults(generation),
        context_limit=context,
        info=ModelLoaded(
            model=str(manifest.get("name") or directory.name),
            path=str(directory),
            family=config.family,
            parameters=config.parameter_count(),
            bits=packing.default.bits if packing else None,
            weight_bytes=model.weight_bytes(),
            kv_bytes_per_token=model.kv_bytes_per_token(),
            context_limit=context,
            compute=compute,
            dtype=dtype,
            backend=backend().name,
            chat=template is not None,
            licence=manifest.get("licence"),
            load_s=time.perf_counter() - started,
            fingerprint=_fingerprint(directory, files, compute, dtype, backend().name),
        ),
    )


def build_model(
    config: ModelConfig,
    tensors: dict[str, mx.array],
    packing: weights.QuantizationTable | None,
    compute: Literal["packed", "dense"],
) -> LanguageModel:
    """The network with its weights, lazily: nothing is read or computed before it is evaluated.

    ``packed`` keeps packed weights as stored and gives all floats the type of the embedding; on
    backends without fast 16-bit arithmetic they are widened to float32, which changes no value.
    ``dense`` unpacks everything to float32.

    Raises:
        WeightsError: when names or shapes do not match the network.
    """
    fast = AcceleratedModel(config) if compute == "packed" and kernels().module else None
    # Only where thin blocks cost launches, and where MLX's attention takes masks.
    plain = CompiledModel if backend().name == "metal" else LanguageModel
    model = fast or plain(config)
    tensors = {name: a for name, a in tensors.items() if not _is_redundant(name, config)}
    if compute == "dense":
        tensors = weights.unpack_tensors(tensors, packing, mx.float32)
    else:
        if packing is not None:
            weights.pack_modules(model, tensors, packing)
        dtype = activation_dtype(tensors) if backend().half_precision else mx.float32
        tensors = {name: _uniform(array, dtype) for name, array in tensors.items()}
    weights.assign(model, tensors)
    if fast:
        fast.speed_up()
    return model


def read_weights(model: LanguageModel) -> None:
    """Read and compute all weights of a network that was built."""
    if isinstance(model, AcceleratedModel):
        model.gather()
    # One after another: of all at once, what they are computed from would be there at once too.
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Tensors that checkpoints carry and that follow from others: a tied head, RoPE's table."""
    tied_head = name == "lm_head.weight" and config.tie_word_embeddings
    return tied_head or name.endswith(".rotary_emb.inv_freq")


_ACTIVATION_TYPE = (
    "model.embed_tokens.scales",
    "model.embed_tokens.weight",
    "model.norm.weight",
)
"""The tensors whose type the activations take: the narrowest floating one of them. (Norms may be
float32 beside 16-bit weights, scales that must stay exact beside 16-bit norms; the scales of
``mxfp4`` and its like are bytes.)"""


def activation_dtype(tensors: Mapping[str, mx.array]) -> mx.Dtype:
    """The type that activations take from a checkpoint's tensors."""
    found = [tensors[name].dtype for name in _ACTIVATION_TYPE if name in tensors]
    floats = [dtype for dtype in found if mx.issubdtype(dtype, mx.floating)]
    return min(floats, key=lambda dtype: dtype.size, default=mx.float32)


def _uniform(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """One type for all floats: a single float32 norm would promote everything behind it."""
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _context_limit(config: ModelConfig, options: LoadOptions) -> int:
    trained = config.max_position_embeddings
    if options.context is not None and options.context > trained and not options.clip_context:
        raise InvalidOption(
            f"`context` is {options.context:,} but the model was trained for {trained:,} tokens",
            f"pass `--context {trained}` or less",
        )
    return min(options.context or trained, trained)


def _compute(
    options: LoadOptions, packing: weights.QuantizationTable | None
) -> Literal["packed", "dense"]:
    return best_compute(packing) if options.compute == "auto" else options.compute


def best_compute(packing: weights.QuantizationTable | None) -> Literal["packed", "dense"]:
    """The form in which weights so packed are computed soonest on this machine."""
    module = kernels().module
    if module is None or packing is None:
        return backend().default_compute
    has_kernels = all(
        one is None or (one.mode == "affine" and module.takes(one.bits, one.group_size))
        for one in (packing.default, *packing.modules.values())
    )
    return "packed" if has_kernels else backend().default_compute


_WORDS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json")
"""Files that say which tokens a text is: other ones make other figures of the same weights."""


def _fingerprint(directory: Path, files: list[Path], *form: str) -> str:
    """What tells a model from every other, and from itself computed in another form.

    The weights' values are not read: their files' sizes and times stand for them.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in files:
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(int.from_bytes(file.read(8), "little")))
    for path in (directory / name for name in _WORDS):
        if path.is_file():
            digest.update(f"\n{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    digest.update("\n".join(form).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model would take of the memory there is."""

    weight_bytes: int
    cache_bytes: int
    """Keys and values of a full context."""
    context: int
    """Tokens of that context."""
    available_bytes: int
    """What there is, ``freed_bytes`` among it."""
    freed_bytes: int = 0
    """What the model gives back that has to make way."""
    kept_free_bytes: int = _KEPT_FREE_BYTES

    @property
    def needed_bytes(self) -> int:
        """All that must be available."""
        return self.weight_bytes + self.cache_bytes + self.kept_free_bytes

    @property
    def fits(self) -> bool:
        """Whether the model can be loaded: swapping would be worse than an answer."""
        return self.needed_bytes <= self.available_bytes

    @property
    def fits_beside(self) -> bool:
        """Whether it can be loaded before the other one makes way."""
        return self.needed_bytes <= self.available_bytes - self.freed_bytes

    @property
    def arithmetic(self) -> str:
        """The sum as a sentence."""
        freed = f", {format_bytes(self.freed_bytes)} of it from the model now in memory"
        return (
            f"the model needs {format_bytes(self.weight_bytes)} for weights and "
            f"{format_bytes(self.cache_bytes)} for {self.context:,} tokens of context, beside "
            f"{format_bytes(self.kept_free_bytes)} kept free, {'and' if self.fits else 'but'} "
            f"there is {format_bytes(self.available_bytes)}{freed if self.freed_bytes else ''}"
        )


def plan_memory(
    directory: Path, options: LoadOptions | None = None, freed_bytes: int = 0
) -> MemoryPlan:
    """What loading a model directory would take, from its configuration and headers alone.

    Args:
        directory: a complete model directory.
        options: compute form and context.
        freed_bytes: what a model that makes way for it gives back.

    Raises:
        MobileLLMError: one of its kinds, for whatever is wrong with the directory.
    """
    options = options or LoadOptions()
    raw = read_json(directory / "config.json")
    config = build_config(raw)
    context = _context_limit(config, options)
    files = weights.weight_files(directory)
    compute = _compute(options, weights.read_quantization(raw))
    return _plan(config, files, compute, context, freed_bytes)


def _plan(
    config: ModelConfig,
    files: list[Path],
    compute: Literal["packed", "dense"],
    context: int,
    freed_bytes: int = 0,
) -> MemoryPlan:
    item = _planned_item_bytes(_headers(files), compute)
    return MemoryPlan(
        weight_bytes=planned_weight_bytes(config, files, compute),
        cache_bytes=config.kv_bytes(context, item),
        context=context,
        available_bytes=available_memory_bytes() + freed_bytes,
        freed_bytes=freed_bytes,
    )


def planned_weight_bytes(
    config: ModelConfig, files: list[Path], compute: Literal["packed", "dense"]
) -> int:
    """Bytes the weights will take in memory, from the file headers alone."""
    if compute == "dense":
        return config.parameter_count() * 4
    tensors = _headers(files)
    item = _planned_item_bytes(tensors, compute)
    return sum(
        prod(info.shape) * item if info.dtype in _FLOAT_BYTES else info.stop - info.start
        for info in tensors.values()
    )


def _headers(files: list[Path]) -> dict[str, weights.TensorInfo]:
    return {n: i for path in files for n, i in weights.read_safetensors_header(path).items()}


_FLOAT_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


def _planned_item_bytes(
    tensors: Mapping[str, weights.TensorInfo], compute: Literal["packed", "dense"]
) -> int:
    """Bytes of one activation, and so of one cached key: what `build_model` will choose."""
    if compute == "dense" or not backend().half_precision:
        return 4
    found = [tensors[name].dtype for name in _ACTIVATION_TYPE if name in tensors]
    return min((_FLOAT_BYTES[dtype] for dtype in found if dtype in _FLOAT_BYTES), default=4)


@dataclass(frozen=True, slots=True)
class Words:
    """What a model says and hears, without its weights.

    Attributes:
        tokenizer: text to token ids.
        template: of its conversations; None for a model that completes text.
        stop_tokens: end an answer.
        context_limit: tokens that it was trained to see.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    stop_tokens: frozenset[int]
    context_limit: int


def load_words(directory: Path) -> Words:
    """The words of a model directory.

    Raises:
        MobileLLMError: one of its kinds, for whatever is wrong with the directory.
    """
    raw = read_json(directory / "config.json")
    config = build_config(raw)
    generation = read_json(directory / "generation_config.json", missing={})
    tokenizer, template, _, ending = _load_words(directory, config)
    stops = _stop_tokens(raw, generation) or ending
    return Words(tokenizer, template, stops, config.max_position_embeddings)


def _load_words(
    directory: Path, config: ModelConfig
) -> tuple[Tokenizer, ChatTemplate | None, ReasoningMarkers | None, frozenset[int]]:
    """Tokenizer, chat template, reasoning, and the tokenizer's own idea of the end of a text.

    Nothing of MLX, so any thread may do it.
    """
    tokenizer_config = read_json(directory / "tokenizer_config.json", missing={})
    tokenizer = load_tokenizer(directory, tokenizer_config)
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"the model only {config.vocab_size:,}",
            "the directory mixes files of different models",
        )
    source = load_template_source(directory, tokenizer_config)
    template = None if source is None else make_template(source, tokenizer_config)
    if template is not None:
        with suppress(TemplateError):  # a broken one is reported when it is used, if ever
            template.compile()
    end = tokenizer.special.get(token_name(tokenizer_config.get("eos_token")) or "")
    ending = frozenset() if end is None else frozenset({end})
    return tokenizer, template, find_reasoning(source, tokenizer), ending


def load_template_source(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The chat template of a model directory as text; None where it has none.

    Args:
        directory: may hold ``chat_template.jinja``, which comes first.
        tokenizer_config: its ``tokenizer_config.json``; of several templates there the one that is
            named ``default`` counts.

    Raises:
        TemplateError: when the file cannot be read or is not UTF-8.
    """
    source = tokenizer_config.get("chat_template")
    if (path := directory / "chat_template.jinja").is_file():
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TemplateError(f"`{path}` cannot be read: {error}") from error
    if isinstance(source, list):  # several by name, in files of some years ago
        named = {e.get("name"): e.get("template") for e in source if isinstance(e, dict)}
        source = named.get("default")
    return source if isinstance(source, str) and source.strip() else None


def find_reasoning(source: str | None, tokenizer: Tokenizer) -> ReasoningMarkers | None:
    """The markers of a chat model that has any; nothing is guessed from its name.

    Args:
        source: its chat template, which may name them; None is no chat model.
        tokenizer: may have a token for each of them.
    """
    if source is None:
        return None
    markers = ReasoningMarkers()
    names = (markers.start, markers.end)
    told = any(name in source for name in names)
    return markers if told or all(_is_token(name, tokenizer) for name in names) else None


def _is_token(name: str, tokenizer: Tokenizer) -> bool:
    if name in tokenizer.special:
        return True
    ids = tokenizer.encode(name)
    return len(ids) == 1 and tokenizer.token_bytes(ids[0]) == name.encode()


def make_template(source: str, tokenizer_config: Mapping[str, Any]) -> ChatTemplate:
    """A chat template that knows the names of a model's special tokens.

    Args:
        source: its text.
        tokenizer_config: the model's ``tokenizer_config.json``.
    """
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    found = {name: token_name(tokenizer_config.get(name)) for name in names}
    return ChatTemplate(source, {name: v for name, v in found.items() if v is not None})


def _stop_tokens(*configs: dict[str, Any]) -> frozenset[int]:
    """End-of-text tokens: a checkpoint names one or several, in one or two files."""
    stops: set[int] = set()
    for config in configs:
        value = config.get("eos_token_id")
        for token in value if isinstance(value, list) else [value]:
            if type(token) is int:
                stops.add(token)
    return frozenset(stops)


def _generation_defaults(generation: dict[str, Any]) -> GenerationOptions:
    """The sampling that a checkpoint recommends; greedy when it says nothing."""
    if generation.get("do_sample") is not True:
        return GenerationOptions()
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = {name: generation.get(name) for name in names}
    try:
        return GenerationOptions(temperature=1.0).merged(values)
    except (InvalidOption, TypeError) as error:
        raise ConfigError(f"`generation_config.json`: {error}") from error
