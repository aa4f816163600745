"""A model directory as one GGUF file for llama.cpp and everything built on it.

Packed weights stay as they are where llama.cpp has blocks for them: no value changes. What it
does not know is turned into what it does:

- rows of q and k are interleaved for its RoPE, which turns neighbours instead of halves;
- norms are float32;
- blocks that run twice (MobileLLM's layer sharing) are written twice, one after the other: a plain
  Llama with twice the blocks computes the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.events import Event, ExportSummary, Notice, Progress
from mobilellm_mlx.models.config import LayerConfig, RopeConfig

from ..gguf import BLOCK_NAMES
from ..readers.gguf import open_gguf
from ..readers.tensors import PackedTensor, Reader, Tensor
from ..source import EMBEDDING, HEAD, NORM
from ..transform import dense
from ..writers import gguf_file as gguf_out
from ..writers.gguf_file import BF16, BLOCK, F16, F32, Q4_0, Q4_1, Q8_0, BlockType, GgufWriter
from .source import ModelDirectory, iter_rows, map_rows, require_finite
from .words import tokenizer_metadata

_F16_MAX = 65_504.0


@dataclass(frozen=True, slots=True)
class _Plan:
    """One tensor of the file."""

    source: str
    """The parameter it comes from."""
    shape: tuple[int, ...]
    kind: BlockType
    heads: int = 0
    """Heads whose rows are interleaved; 0 leaves the rows alone."""
    repack: bool = False
    """Whether packed codes are moved as they are."""
    loss: str = ""
    """Why values may change; empty where they cannot."""

    @property
    def nbytes(self) -> int:
        return self.kind.tensor_bytes(self.shape)


def write_gguf(
    source: ModelDirectory, path: Path, asked: str
) -> Generator[Event, None, ExportSummary]:
    """Write the file, read it back and compare every tensor.

    Args:
        source: what is exported.
        path: made; removed by the caller when this raises.
        asked: ``auto`` or a key of ``gguf_out.TYPES``.

    Returns:
        What it holds; where it lies is for the caller to say.

    Raises:
        MobileLLMError: when llama.cpp cannot run such a model, or the file reads back differently.
        OSError: when it cannot be written.
    """
    words, notices = tokenizer_metadata(source)
    plans = _plan(source, asked)
    metadata = {**_metadata(source, plans), **words}
    runs = source.config.attention_runs
    if runs > len(source.config.layers):
        grown = sum(plan.nbytes for plan in plans.values())
        once = sum({p.source: p.nbytes for p in plans.values()}.values())
        notices.append(
            f"{len(source.config.layers)} shared blocks are written as {runs} of their own, which "
            f"compute the same: the file is {grown / once:.1f} times as large"
        )
    yield from map(Notice, [*notices, *_uncut(plans, asked)])
    total = sum(plan.nbytes for plan in plans.values())
    done = 0
    layout = {name: (plan.kind, plan.shape) for name, plan in plans.items()}
    with GgufWriter(path, metadata, layout) as file:
        for name, plan in plans.items():
            yield Progress("writing", done, total)
            file.write(name, _encode(source, plan))
            done += plan.nbytes
    yield Progress("writing", total, total)
    changed = yield from _check(source, path, plans)
    yield from map(Notice, _losses(changed, len(plans)))
    return ExportSummary(
        format="gguf",
        type=_main_kind(plans).name.lower(),
        tensors=len(plans),
        rounded=len(changed),
        lossless=not changed,
    )


def _main_kind(plans: dict[str, _Plan]) -> BlockType:
    """The type of most matrices."""
    kinds = Counter(plan.kind for plan in plans.values() if len(plan.shape) == 2)
    return kinds.most_common(1)[0][0]


def _plan(source: ModelDirectory, asked: str) -> dict[str, _Plan]:
    """Every tensor of the file by its name there, in the file's order."""
    config = source.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    plans = {"token_embd.weight": _plan_tensor(source, EMBEDDING, asked)}
    rope = RopeConfig(theta=config.rope_theta)
    place = 0
    for layer, settings in enumerate(config.layers):
        if replace(settings, runs=1) != LayerConfig(rope=rope):
            raise ConvertError(
                f"block {layer} has settings that llama.cpp's `llama` does not know: {settings}"
            )
        block = {
            name: replace(
                _plan_tensor(source, f"model.layers.{layer}.{ours}.weight", asked),
                heads=heads.get(name, 0),
            )
            for name, ours in BLOCK_NAMES.items()
        }
        for _ in range(settings.runs):
            plans |= {f"blk.{place}.{name}.weight": plan for name, plan in block.items()}
            place += 1
    plans["output_norm.weight"] = _plan_tensor(source, NORM, asked)
    if not config.tie_word_embeddings:
        plans["output.weight"] = _plan_tensor(source, HEAD, asked)
    return plans


def _plan_tensor(source: ModelDirectory, name: str, asked: str) -> _Plan:
    """What one parameter becomes."""
    shape = source.shapes[name]
    if len(shape) == 1:
        return _Plan(name, shape, F32)
    found: BlockType | str = ""
    if source.entry(name).packing:
        packed = source.read(name)
        assert isinstance(packed, PackedTensor)
        require_finite(name, packed)
        found = gguf_out.find_lossless(packed)
    kind = _choose(source, name, found, asked)
    # Q4_1 holds whatever Q4_0 does.
    if isinstance(found, BlockType) and (kind is found or (found, kind) == (Q4_0, Q4_1)):
        return _Plan(name, shape, kind, repack=True)
    return _Plan(name, shape, kind, loss=_loss(source, name, found, kind, asked))


def _choose(source: ModelDirectory, name: str, found: BlockType | str, asked: str) -> BlockType:
    if asked == "auto":
        if isinstance(found, BlockType):
            return found
        if found and source.shapes[name][1] % BLOCK == 0:  # packed, in a way that has no blocks
            return Q8_0
        return BF16 if not found and source.entry(name).dtype == "BF16" else F16
    kind = gguf_out.TYPES[asked]
    if kind.values == BLOCK and source.shapes[name][1] % BLOCK:
        return F16
    # As in llama.cpp's own mixtures: the embedding and the head suffer most from few bits.
    return Q8_0 if kind in (Q4_0, Q4_1) and name in (EMBEDDING, HEAD) else kind


def _loss(
    source: ModelDirectory, name: str, found: BlockType | str, kind: BlockType, asked: str
) -> str:
    """Why the values may change on the way to ``kind``; empty where they cannot."""
    entry = source.entry(name)
    if kind is F32 or (entry.packing is None and entry.dtype == kind.name):
        return ""
    if isinstance(found, BlockType):
        return f"{asked} was asked for, {found.name} would hold them exactly"
    return found or f"they were {entry.dtype}"


def _uncut(plans: dict[str, _Plan], asked: str) -> list[str]:
    """One sentence for each length of rows that blocks were asked for and cannot cut."""
    blocks = asked != "auto" and gguf_out.TYPES[asked].values == BLOCK
    shapes = [plan.shape for plan in plans.values() if len(plan.shape) == 2]
    counts = Counter(columns for _, columns in shapes if blocks and columns % BLOCK)
    return [
        f"{count} of {len(plans)} tensors are F16: rows of {columns} values cannot be cut into "
        f"blocks of {BLOCK}"
        for columns, count in counts.items()
    ]


def _losses(changed: list[_Plan], total: int) -> list[str]:
    """One sentence for each way in which tensors lost something, and how many did."""
    counts = Counter((plan.kind.name, plan.loss) for plan in changed)
    return [
        f"{count} of {total} tensors are rounded to {kind}: {loss}"
        for (kind, loss), count in counts.items()
    ]


def _metadata(source: ModelDirectory, plans: dict[str, _Plan]) -> dict[str, Any]:
    """The keys of the network and of where it came from."""
    config = source.config
    about = {
        "general.name": source.manifest.get("title") or source.path.resolve().name,
        "general.author": source.manifest.get("authors"),
        "general.license": source.manifest.get("licence") or source.licence().name,
    }
    return {
        "general.architecture": "llama",
        "general.type": "model",
        **{key: value for key, value in about.items() if isinstance(value, str)},
        "general.file_type": _main_kind(plans).file_type,
        "general.quantization_version": 2,
        "llama.block_count": config.attention_runs,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
    }


def permute_rows(array: mx.array, heads: int) -> mx.array:
    """Rows of q or k from halves to llama.cpp's interleaved order.

    Within each head row i and row i + E/2 become neighbours.

    Args:
        array: (heads * E, columns), packed or not.
        heads: query heads for q, key/value heads for k.
    """
    rows, columns = array.shape
    halves = array.reshape(heads, 2, rows // heads // 2, columns)  # (heads, 2, E/2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _tensor(source: ModelDirectory, plan: _Plan) -> Tensor:
    """What is stored, in the file's order of rows."""
    tensor = source.read(plan.source)
    return map_rows(tensor, lambda r: permute_rows(r, plan.heads)) if plan.heads else tensor


def _encode(source: ModelDirectory, plan: _Plan) -> Iterator[mx.array]:
    """The tensor's blocks as bytes, some rows at a time.

    Raises:
        ConvertError: when a value is too large for its type.
    """
    for rows in iter_rows(_tensor(source, plan)):
        if plan.repack:
            assert isinstance(rows, PackedTensor)
            yield gguf_out.packed_blocks(rows, plan.kind)
            continue
        values = dense(rows)
        require_finite(plan.source, values)
        if plan.kind is F16 and mx.any(mx.abs(values) > _F16_MAX).item():
            raise ConvertError(
                f"tensor `{plan.source}` holds values too large for float16",
                "export with `--type bf16` or `--type f32`",
            )
        yield gguf_out.to_blocks(values, plan.kind)


def _check(
    source: ModelDirectory, path: Path, plans: dict[str, _Plan]
) -> Generator[Event, None, list[_Plan]]:
    """Read the file with the reader of the way in, and compare every value.

    Returns:
        The tensors that were rounded, as they had to be.

    Raises:
        ConvertError: when a tensor is missing, or is not what was meant.
    """
    reader = open_gguf(path)
    if reader.entries.keys() != plans.keys():
        raise ConvertError(f"`{path.name}` reads back with other tensors than were written")
    total = sum(plan.nbytes for plan in plans.values())
    done, changed = 0, []
    for name, plan in plans.items():
        yield Progress("checking", done, total)
        if _compare(name, reader, source, plan):
            changed.append(plan)
        done += plan.nbytes
    yield Progress("checking", total, total)
    return changed


def _compare(name: str, reader: Reader, source: ModelDirectory, plan: _Plan) -> bool:
    """Whether rounding changed a tensor, and no more than it had to.

    Raises:
        ConvertError: when it changed more.
    """
    changed = False
    right = reader.entries[name].shape == plan.shape
    if right:
        pairs = zip(iter_rows(reader.read(name)), iter_rows(_tensor(source, plan)), strict=True)
        for rows in pairs:
            got, want = map(dense, rows)
            right = right and mx.all(mx.abs(got - want) <= _allowed(plan, want)).item() is True
            changed = changed or not mx.array_equal(got, want).item()
    if not right:
        raise ConvertError(f"tensor `{name}` reads back differently from what was meant")
    return changed


def _allowed(plan: _Plan, want: mx.array) -> mx.array:
    """How far each value may be off after rounding to the tensor's type; 0 where nothing may."""
    if not plan.loss:
        return mx.zeros((1,))
    if plan.kind in gguf_out.FLOATS:
        return mx.abs(want - want.astype(gguf_out.FLOATS[plan.kind]).astype(mx.float32))
    blocks = want.reshape(-1, BLOCK)
    size = mx.max(mx.abs(blocks), axis=1, keepdims=True)
    if plan.kind is Q8_0:
        step = size / 127
    elif plan.kind is Q4_0:
        step = size / 8 * 2  # codes reach from -8 to 7: the far end of the other side is cut off
    else:
        step = (mx.max(blocks, axis=1, keepdims=True) - mx.min(blocks, axis=1, keepdims=True)) / 15
    # Half a step, and what float16 loses of the scale and the offset.
    bound = step / 2 + size * 2.0**-9 + 2.0**-17
    return mx.broadcast_to(bound, blocks.shape).reshape(want.shape)
