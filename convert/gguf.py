"""llama.cpp's GGUF as a source: packed weights stay packed.

Blocks of 32 weights become MLX's own affine groups (``scale * code + bias``), so nothing is
unpacked and packed again where MLX can hold it; see ``readers/ggml.py``. Two things are undone:

- llama.cpp stores the rows of q and k permuted for its interleaved RoPE; rows carry their groups
  with them, so the packed rows are moved back.
- the tokenizer comes as lists in the metadata and becomes a ``tokenizer.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError

from .licence import Licence
from .readers import ggml
from .readers.gguf import GGUFReader, Metadata, open_gguf
from .readers.tensors import Entry, MergedReader, PackedTensor, Reader, Tensor
from .source import Source
from .tokenizer import gguf as gguf_tokenizer
from .writers import directory as writer

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
"""The projections whose rows llama.cpp permutes, and the setting that counts their heads."""
_ROPE_FACTORS = "rope_freqs.weight"
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.sliding_window": (0,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
}
"""Settings that would change the maths, with the values that do not."""
_MAX_WIDTH = 1 << 20
_LLAMA_ONLY = "only Llama-shaped GGUF files can be imported"
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


class GGUFSource(Source):
    """A Llama-shaped GGUF file, or all parts of a split one, by our names.

    q and k are read with their rows in place, packed matrices as one tensor, all in the types of
    the file. ``raw`` is made from the metadata and has no ``quantization`` table.

    Args:
        path: what was named: a file, any part of a split file, or the directory with the parts.
        reader: what was opened there.

    Attributes:
        metadata: the key-value table; the tokenizer is in it.

    Raises:
        ConvertError: for another architecture, settings that would change the maths, tensors that
            do not fit the network, or a part that is missing.
        ConfigError: for an impossible or unsupported configuration.
    """

    def __init__(self, path: Path, reader: Reader):
        reader, self.metadata = _whole(reader)
        if (architecture := self.metadata.text("general.architecture")) != "llama":
            raise ConvertError(
                f"`{path.name}` has the architecture {architecture!r}, expected 'llama'",
                _LLAMA_ONLY,
            )
        unused = _redundant(reader)
        names = _names(reader.entries.keys() - unused.keys())
        entries = {ours: reader.entries[theirs] for ours, theirs in names.items()}
        super().__init__(path, reader, _config(self.metadata, entries), names, unused)

    def licence(self) -> Licence:
        # Files of many models may share a folder: only a directory of its own speaks for a file.
        found = super().licence() if self.path.is_dir() else Licence(None)
        named = self.metadata.text("general.license", None)
        return replace(found, name=named[:80]) if named and named.isprintable() else found

    def generation(self) -> dict[str, Any]:
        """What is advised in a directory of its own; files of many models may share a folder."""
        return super().generation() if self.path.is_dir() else {}

    def write_tokenizer(self, directory: Path, elsewhere: Path | None = None) -> list[str]:
        if elsewhere is not None:
            return super().write_tokenizer(directory, elsewhere)
        text = gguf_tokenizer.tokenizer_json(self.metadata)
        (directory / "tokenizer.json").write_text(text, encoding="utf-8")
        config = gguf_tokenizer.tokenizer_config(self.metadata)
        writer.write_json(directory / "tokenizer_config.json", config)
        if (template := self.metadata.text("tokenizer.chat_template", None)) is not None:
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        return []

    def read(self, name: str) -> Tensor:
        tensor = super().read(name)
        setting = _HEADS.get(name.split(".")[-2])
        if setting is None:
            return tensor
        heads: int = self.raw[setting]
        if isinstance(tensor, PackedTensor):
            tensor = tensor.map_rows(lambda rows: unpermute_rows(rows, heads))
            mx.eval(tensor.parts())
            return tensor
        tensor = unpermute_rows(tensor, heads)
        mx.eval(tensor)
        return tensor


def _whole(reader: Reader) -> tuple[Reader, Metadata]:
    """All parts of the file that ``reader`` opened, and the metadata, which only the first has."""
    path = reader.files[0]
    first = reader if isinstance(reader, GGUFReader) else open_gguf(path)
    count = first.metadata.whole("split.count", 1)
    if count <= 1 and len(reader.files) == 1:  # 0 where llama.cpp put parts together again
        return reader, first.metadata
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise ConvertError(
            f"`{path.name}` is one of several parts, but its name does not say which",
            "the parts must be called NAME-00001-of-00002.gguf and so on",
        )
    paths = [path.with_name(f"{named[1]}-{i + 1:05}-of-{named[3]}.gguf") for i in range(count)]
    parts = [_open_part(part, i) for i, part in enumerate(paths)]
    whole = MergedReader(parts)
    whole.notices = ggml.notices(whole.entries.values())  # one count, not one for each part
    return whole, parts[0].metadata


def _open_part(path: Path, number: int) -> GGUFReader:
    if not path.is_file():
        raise ConvertError(f"`{path.name}` is missing", "put all parts into one folder")
    reader = open_gguf(path)
    if (told := reader.metadata.whole("split.no", -1)) != number:
        raise ConvertError(f"`{path.name}` says it is part {told}, counted from 0")
    return reader


def _redundant(reader: Reader) -> dict[str, str]:
    """RoPE's factors where they are all ones; others would change the maths."""
    if _ROPE_FACTORS not in reader.entries:
        return {}
    factors = reader.read(_ROPE_FACTORS)
    if isinstance(factors, PackedTensor) or not mx.all(factors == 1).item():
        raise ConvertError(
            f"`{_ROPE_FACTORS}` stretches the positions, which the network does not do",
            "Llama 3.1 and its kin cannot be imported",
        )
    return {_ROPE_FACTORS: "all its factors are 1"}


def _names(stored: Iterable[str]) -> dict[str, str]:
    """Our name of every tensor to its name in the file."""
    names: dict[str, str] = {}
    unused: list[str] = []
    for name in sorted(stored):
        block = re.fullmatch(r"blk\.(0|[1-9][0-9]*)\.(\w+)\.weight", name)
        top = re.fullmatch(r"(\w+)\.weight", name)
        if block and block[2] in BLOCK_NAMES:
            names[f"model.layers.{block[1]}.{BLOCK_NAMES[block[2]]}.weight"] = name
        elif top and top[1] in _TOP:
            names[f"{_TOP[top[1]]}.weight"] = name
        else:
            unused.append(name)
    if unused:
        raise ConvertError(
            f"{len(unused)} tensors have no place in the network: {', '.join(unused[:3])}",
            _LLAMA_ONLY,
        )
    return names


def unpermute_rows(array: mx.array, heads: int) -> mx.array:
    """Rows of q or k back from llama.cpp's interleaved order to halves.

    Within each head llama.cpp puts row i beside row i + E/2.

    Args:
        array: (heads * E, columns), packed or not.
        heads: query heads for q, key/value heads for k.
    """
    rows, columns = array.shape
    pairs = array.reshape(heads, rows // heads // 2, 2, columns)  # (heads, E/2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _config(meta: Metadata, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """A Hugging Face style configuration that stock mlx-lm reads too."""
    embedding = entries.get("model.embed_tokens.weight")
    if embedding is None:
        raise ConvertError("the GGUF file has no token embedding")
    for entry in entries.values():
        if entry.dtype.startswith("I"):
            raise ConvertError(f"tensor `{entry.name}` is {entry.dtype}, expected weights")
    heads = _width(meta, "attention.head_count")
    hidden = _width(meta, "embedding_length")
    head_dim = _width(meta, "attention.key_length", max(1, hidden // heads))
    _require_neutral(meta, head_dim)
    if heads * head_dim > _MAX_WIDTH:
        raise ConvertError(f"the GGUF file has {heads:,} heads of {head_dim:,}, which is no model")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _width(meta, "feed_forward_length"),
        "num_hidden_layers": _width(meta, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _width(meta, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.number("llama.context_length"),
        # Seven digits are what float32 holds: 1e-05 again instead of 9.999999747378752e-06.
        "rms_norm_eps": float(f"{meta.number('llama.attention.layer_norm_rms_epsilon'):.7g}"),
        "rope_theta": float(f"{meta.number('llama.rope.freq_base', 10_000.0):.7g}"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "lm_head.weight" not in entries,
        "torch_dtype": {"F32": "float32", "BF16": "bfloat16"}.get(embedding.dtype, "float16"),
        **gguf_tokenizer.special_ids(meta),
    }
    if scaling := _rope_scaling(meta):
        config["rope_scaling"] = {"rope_type": scaling}
    return config


def _width(meta: Metadata, key: str, default: int | None = None) -> int:
    value = meta.whole(f"llama.{key}", default)
    if not 1 <= value <= _MAX_WIDTH:
        raise ConvertError(f"GGUF key `llama.{key}` is {value:,}, expected 1 to {_MAX_WIDTH:,}")
    return value


def _require_neutral(meta: Metadata, head_dim: int) -> None:
    same = {"rope.dimension_count": (head_dim,), "attention.value_length": (head_dim,)}
    for key, neutral in {**_NEUTRAL, **same}.items():
        if (value := meta.number(f"llama.{key}", neutral[0])) not in neutral:
            raise ConvertError(
                f"GGUF key `llama.{key}` is {value}, expected {neutral[0]}", _LLAMA_ONLY
            )


def _rope_scaling(meta: Metadata) -> str | None:
    """How positions are stretched; a factor without a kind is llama.cpp's linear one."""
    kind = meta.text("llama.rope.scaling.type", None)
    if kind is None and meta.number("llama.rope.scaling.factor", 1) not in (0, 1):
        return "linear"
    return None if kind == "none" else kind
