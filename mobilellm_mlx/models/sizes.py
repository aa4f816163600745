"""The published shapes of the family as data: MobileLLM v1, R1 and Pro.

Head size 64 and tied embeddings throughout. The layer-sharing variants have the same stored weights
and run every block twice. R1.5 has the shapes of R1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """One published shape; ``parameters`` is the exact count with tied embeddings."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    ffn: int
    parameters: int
    vocab: int = 32_000


SIZES: dict[str, Size] = {
    "125m": Size(30, 9, 3, 576, 1536, 124_635_456),
    "350m": Size(32, 15, 5, 960, 2560, 345_355_200),
    "600m": Size(40, 18, 6, 1152, 3072, 603_188_352),
    "1b": Size(54, 20, 5, 1280, 3584, 1_005_461_760),
    "1.5b": Size(54, 25, 5, 1600, 4352, 1_511_188_800),
}
"""MobileLLM v1 (arXiv 2402.14905v2, table 9)."""

R1_SIZES: dict[str, Size] = {
    "140m": Size(15, 9, 3, 576, 2048, 140_248_512, 128_256),
    "360m": Size(15, 16, 4, 1024, 4096, 359_431_168, 128_256),
    "950m": Size(22, 24, 6, 1536, 6144, 949_685_760, 128_256),
}
"""MobileLLM-R1 (arXiv 2509.24945, and the README of facebookresearch/MobileLLM-R1)."""

PRO = Size(30, 20, 4, 1280, 6144, 1_084_453_120, 202_048)
"""MobileLLM-Pro (arXiv 2511.06719)."""


def checkpoint_config(name: str, *, layer_sharing: bool = False) -> dict[str, Any]:
    """The ``config.json`` that a MobileLLM v1 checkpoint of this size carries.

    Raises:
        KeyError: when ``name`` is not a key of ``SIZES``.
    """
    return {
        "architectures": ["MobileLLMForCausalLM"],
        "model_type": "mobilellm",
        "mlp_bias": False,
        "hidden_act": "silu",
        **_shape(SIZES[name]),
        "max_position_embeddings": 2048,
        "rope_theta": 10_000.0,
        "share_embedding": True,
        "tie_word_embeddings": False,
        "layer_sharing": layer_sharing,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def r1_config(name: str) -> dict[str, Any]:
    """The ``config.json`` of a post-trained MobileLLM-R1 of this size.

    Its settings are those of the 360M; they are taken to be the same in the others, whose files are
    behind a gate.

    Raises:
        KeyError: when ``name`` is not a key of ``R1_SIZES``.
    """
    size = R1_SIZES[name]
    return {
        "architectures": ["Llama4ForCausalLM"],
        **_llama4(size),
        "attention_chunk_size": 32_768,
        "max_position_embeddings": 32_768,
        "rope_theta": 8_000_000.0,
        "use_qk_norm": True,
        "no_rope_layers": [1] * size.layers,
        "tie_word_embeddings": True,
        "bos_token_id": 128_000,
        "eos_token_id": [128_001, 128_008, 128_009],
        "pad_token_id": 0,
    }


def pro_config() -> dict[str, Any]:
    """What is known of MobileLLM-Pro's ``config.json``.

    ``rope_theta``, ``use_qk_norm``, ``no_rope_layers`` and ``tie_word_embeddings`` are not: its
    file is behind a gate and no copy shows them. ``build_config`` refuses the rest without them.
    """
    last = PRO.layers - 1
    return {
        "architectures": ["MobileLLMP1ForCausalLM"],
        **_llama4(PRO),
        "attention_chunk_size": 8192,
        "sliding_window": 512,
        "layer_types": [
            "full_attention" if block % 4 == 0 or block == last else "sliding_attention"
            for block in range(PRO.layers)
        ],
        "max_position_embeddings": 131_072,
        "bos_token_id": 200_000,
        "eos_token_id": [200_001, 200_007, 200_008],
        "pad_token_id": 200_018,
    }


def _llama4(size: Size) -> dict[str, Any]:
    return {
        "model_type": "llama4_text",
        **_shape(size),
        "intermediate_size_mlp": size.ffn,
        "attn_scale": 0.1,
        "attn_temperature_tuning": False,
        "floor_scale": 8192,
        "interleave_moe_layer_step": 0,
        "moe_layers": [],
        "num_local_experts": 0,
        "rope_scaling": None,
    }


def _shape(size: Size) -> dict[str, Any]:
    return {
        "attention_bias": False,
        "head_dim": 64,
        "hidden_size": size.dim,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": size.vocab,
    }
