"""llama.cpp's GGUF, imported without loss: packed weights stay packed.

MLX reads Q4_0, Q4_1 and Q8_0 blocks as its own affine triples (``scale * code + bias``, groups of
32), so nothing is unpacked and packed again. Three things are undone or made good here:

- llama.cpp stores the rows of q and k permuted for its interleaved RoPE; rows carry their groups
  with them, so the packed rows are moved back.
- norms are float32 in the file; they are stored in the type of the scales, or one float32 norm
  would promote the whole network's activations.
- the tokenizer comes as lists in the metadata and becomes a ``tokenizer.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import ConvertError, WeightsError
from mobilellm_mlx.loading import activation_dtype, build_model
from mobilellm_mlx.models import build_config
from mobilellm_mlx.weights import read_quantization

from . import gguf_tokenizer

GROUP_SIZE = 32

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
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


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A foreign checkpoint in our form, ready to be written."""

    config: dict[str, Any]
    tensors: dict[str, mx.array]
    tokenizer_json: str
    tokenizer_config: dict[str, Any]
    chat_template: str | None


def import_gguf(path: Path) -> ImportedModel:
    """Read a GGUF file whose origin has been checked.

    Args:
        path: the file; MLX's reader trusts it, so verify its digest before.

    Raises:
        ConvertError: for another architecture, block types that MLX cannot read, or tensors that
            do not fit the network. Block types that MLX unpacks while reading (K-quants) arrive as
            float16.
    """
    raw, meta = _read(path)
    if (architecture := meta.text("general.architecture")) != "llama":
        raise ConvertError(
            f"`{path.name}` has the architecture {architecture!r}, expected 'llama'",
            "only Llama-shaped GGUF files can be imported",
        )
    tensors = _uniform_floats(_renamed(raw, meta))
    config = _config(meta, tensors)
    _check_fit(config, tensors)
    return ImportedModel(
        config=config,
        tensors=tensors,
        tokenizer_json=gguf_tokenizer.tokenizer_json(meta),
        tokenizer_config=gguf_tokenizer.tokenizer_config(meta),
        chat_template=meta.text("tokenizer.chat_template", None),
    )


def _read(path: Path) -> tuple[dict[str, mx.array], Metadata]:
    try:
        loaded = mx.load(str(path), return_metadata=True)
    except RuntimeError as error:
        raise ConvertError(f"`{path.name}` cannot be read as GGUF: {error}") from error
    tensors, metadata = loaded  # MLX's type hints do not know what return_metadata gives
    assert isinstance(tensors, dict) and isinstance(metadata, dict)
    return tensors, Metadata(metadata)


class Metadata:
    """Typed access to a GGUF file's key-value table."""

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def text(self, key: str, default: str | None = "") -> Any:
        """A string."""
        value = self._values.get(key, default)
        if value is not None and not isinstance(value, str):
            raise ConvertError(f"GGUF key `{key}` is not a string")
        return value

    def number(self, key: str, default: Any = None) -> Any:
        """A scalar: int, float or bool."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise ConvertError(f"GGUF key `{key}` is missing")
            return default
        if not isinstance(value, mx.array) or value.size != 1:
            raise ConvertError(f"GGUF key `{key}` is not a number")
        return value.item()

    def numbers(self, key: str) -> list[int]:
        """A list of integers."""
        value = self._values.get(key)
        if not isinstance(value, mx.array) or value.ndim != 1:
            raise ConvertError(f"GGUF key `{key}` is not a list of numbers")
        return value.tolist()  # type: ignore[return-value]

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._values.get(key)
        if not isinstance(value, list):
            raise ConvertError(f"GGUF key `{key}` is not a list of strings")
        return value


def _renamed(raw: Mapping[str, mx.array], meta: Metadata) -> dict[str, mx.array]:
    heads = {
        "attn_q": meta.number("llama.attention.head_count"),
        "attn_k": meta.number(
            "llama.attention.head_count_kv", meta.number("llama.attention.head_count")
        ),
    }
    tensors: dict[str, mx.array] = {}
    unused: list[str] = []
    for name, array in raw.items():
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|scales|biases)", name)
        top = re.fullmatch(r"(\w+)\.(weight|scales|biases)", name)
        if block and block[2] in _BLOCK:
            if block[2] in heads:
                array = unpermute_rows(array, heads[block[2]])
            tensors[f"model.layers.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"] = array
        elif top and top[1] in _TOP:
            tensors[f"{_TOP[top[1]]}.{top[2]}"] = array
        else:  # `rope_freqs` too: it holds a scaling of positions, which would change the maths
            unused.append(name)
    if unused:
        raise ConvertError(
            f"{len(unused)} tensors have no place in the network: {', '.join(sorted(unused)[:3])}"
        )
    return tensors


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


def _uniform_floats(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """All floating tensors in the type of the embedding (float16 in most GGUF files).

    Norms are float32 in the file; rounding them to float16 is what every 16-bit checkpoint of the
    same model did.

    Raises:
        ConvertError: when a value is too large for that type.
    """
    dtype = activation_dtype(tensors)
    uniform: dict[str, mx.array] = {}
    for name, array in tensors.items():
        if mx.issubdtype(array.dtype, mx.floating) and array.dtype != dtype:
            cast = array.astype(dtype)
            if not mx.all(mx.isfinite(cast)).item():
                raise ConvertError(f"tensor `{name}` does not fit into {dtype}")
            array = cast
        uniform[name] = array
    return uniform


def _config(meta: Metadata, tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """A Hugging Face style configuration that stock mlx-lm reads too."""
    heads = meta.number("llama.attention.head_count")
    hidden = meta.number("llama.embedding_length")
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise ConvertError("the GGUF file has no token embedding")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.number("llama.feed_forward_length"),
        "num_hidden_layers": meta.number("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.number("llama.attention.head_count_kv", heads),
        "head_dim": meta.number("llama.attention.key_length", hidden // heads),
        "max_position_embeddings": meta.number("llama.context_length"),
        # Seven digits are what float32 holds: 1e-05 again instead of 9.999999747378752e-06.
        "rms_norm_eps": float(f"{meta.number('llama.attention.layer_norm_rms_epsilon'):.7g}"),
        "rope_theta": float(f"{meta.number('llama.rope.freq_base', 10_000.0):.7g}"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "torch_dtype": "float16",
        **gguf_tokenizer.special_ids(meta),
    }
    if scaling := meta.text("llama.rope.scaling.type", None):
        config["rope_scaling"] = {"rope_type": scaling}
    if quantization := _quantization(tensors):
        config["quantization"] = config["quantization_config"] = quantization
    return config


def _quantization(tensors: Mapping[str, mx.array]) -> dict[str, Any] | None:
    """mlx-lm's ``quantization`` table: the commonest width, and every module that differs."""
    bits: dict[str, int] = {}
    for name, scales in tensors.items():
        if name.endswith(".scales"):
            module = name.removesuffix(".scales")
            words = tensors[f"{module}.weight"].shape[1]  # 32 bits a word, GROUP_SIZE codes a scale
            bits[module] = words * 32 // (scales.shape[1] * GROUP_SIZE)
    if not bits:
        return None
    widths = list(bits.values())
    usual = max(set(widths), key=widths.count)
    table: dict[str, Any] = {"group_size": GROUP_SIZE, "bits": usual, "mode": "affine"}
    for module, width in bits.items():
        if width != usual:
            table[module] = {"group_size": GROUP_SIZE, "bits": width}
    return table


def _check_fit(config: Mapping[str, Any], tensors: dict[str, mx.array]) -> None:
    """Every tensor used and every parameter filled, or an error that names them."""
    table = read_quantization(config)
    try:
        model = build_model(build_config(config), tensors, table, "packed")
    except WeightsError as error:
        raise ConvertError(error.message, "only Llama-shaped GGUF files can be imported") from error
    assert len(tree_flatten(model.parameters())) == len(tensors)
