"""The published sizes of MobileLLM v1 as data (arXiv 2402.14905v2, table 9).

Head size 64, vocabulary 32,000, context 2,048, embeddings tied. The layer-sharing variants have the
same stored weights and run every block twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """One row of table 9; ``parameters`` is the exact count with tied embeddings."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    ffn: int
    parameters: int


SIZES: dict[str, Size] = {
    "125m": Size(30, 9, 3, 576, 1536, 124_635_456),
    "350m": Size(32, 15, 5, 960, 2560, 345_355_200),
    "600m": Size(40, 18, 6, 1152, 3072, 603_188_352),
    "1b": Size(54, 20, 5, 1280, 3584, 1_005_461_760),
    "1.5b": Size(54, 25, 5, 1600, 4352, 1_511_188_800),
}


def checkpoint_config(name: str, *, layer_sharing: bool = False) -> dict[str, Any]:
    """The ``config.json`` that a MobileLLM v1 checkpoint of this size carries.

    Raises:
        KeyError: when ``name`` is not a key of ``SIZES``.
    """
    size = SIZES[name]
    return {
        "architectures": ["MobileLLMForCausalLM"],
        "model_type": "mobilellm",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": size.dim,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "vocab_size": 32_000,
        "share_embedding": True,
        "tie_word_embeddings": False,
        "layer_sharing": layer_sharing,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
