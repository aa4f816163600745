"""What a checkpoint is and what converting it would give, without converting it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .plan import ConvertOptions, Plan, make_plan
from .source import Source
from .writers.safetensors_file import TORCH_NAMES

CONTEXTS = (2048, 8192, 32768)
"""Contexts for which the memory is worked out."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint and the plan for it. Sizes in bytes."""

    name: str
    format: str
    family: str
    licence: str | None
    parameters: int
    layers: int
    runs: int
    """Blocks that a token passes: more than ``layers`` when blocks are shared."""
    context: int
    tied: bool
    tensors: int
    source_bytes: int
    converted_bytes: int
    bits_per_weight: float
    packings: dict[str, int]
    """How many matrices become what."""
    fallbacks: dict[str, str]
    """Tensors packed otherwise than asked, with the reason."""
    left_out: dict[str, str]
    memory: dict[int, int]
    """Weights and 16-bit keys and values, by tokens of context, up to the model's own."""
    notices: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return asdict(self)


def inspect(source: Source, options: ConvertOptions, name: str) -> Inspection:
    """Describe a checkpoint from its tables alone; no weights are read.

    Raises:
        InvalidOption, ConvertError: as planning does.
    """
    plan, config = make_plan(source, options), source.config
    contexts = [n for n in CONTEXTS if n <= config.max_position_embeddings]
    return Inspection(
        name=name,
        format=source.reader.format,
        family=config.family,
        licence=source.licence().name,
        parameters=config.parameter_count(),
        layers=len(config.layers),
        runs=config.attention_runs,
        context=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
        tensors=len(source.reader.entries),
        source_bytes=source.nbytes,
        converted_bytes=plan.nbytes,
        bits_per_weight=plan.bits_per_weight,
        packings=packings(plan),
        fallbacks=plan.notes,
        left_out=dict(source.unused),
        memory={
            tokens: plan.nbytes + config.kv_bytes(tokens, 2)
            for tokens in contexts or [config.max_position_embeddings]
        },
        notices=[*source.notices, *plan.notices()],
    )


def packings(plan: Plan) -> dict[str, int]:
    """How many tensors become what, in words."""
    words: Counter[str] = Counter()
    for tensor in plan.tensors:
        if tensor.packing is None:
            kind = "matrices" if len(tensor.shape) == 2 else "norms"
            words[f"{TORCH_NAMES[tensor.dtype]} {kind}"] += 1
        else:
            packing = tensor.packing
            mode = "" if packing.mode == "affine" else f" {packing.mode}"
            words[f"{packing.bits}-bit{mode}, groups of {packing.group_size}"] += 1
    return dict(words)
