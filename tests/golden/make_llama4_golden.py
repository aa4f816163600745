"""Make llama4_tiny.npz: logits of tiny networks of the `llama4_text` kind (MobileLLM-R1).

Reference: Llama4ForCausalLM of transformers 5.23.0 (torch 2.13.0+cpu), weights and activations in
float64, but its norms and RoPE compute in float32 and its logits are good to about 1e-6. numpy
2.4.6. Seed: 401. Run: python make_llama4_golden.py OUT.npz

What transformers does, as read from its code and checked here by the runs:
- A projection is split into heads, then RoPE, then the query/key norm, then the temperature.
- RoPE turns interleaved pairs (2i, 2i+1) as complex numbers by position * theta**(-2i/head_dim).
- The norm is x / sqrt(mean(x**2) + rms_norm_eps) over a head's dimensions, without weights, with
  the eps of the network's other norms (the class's own default, 1e-6, is never used). Only blocks
  with RoPE have it, and only with `use_qk_norm`.
- `no_rope_layers[i]` is 1 where block i HAS RoPE. When the list is missing or empty, every fourth
  block (`no_rope_layer_interval`) goes without.
- `layer_types`, when absent: `chunked_attention` for blocks with RoPE, `full_attention` for those
  without. When present it alone decides the mask, `no_rope_layers` still the positions. Either way
  it must have `num_hidden_layers` entries: another length of `no_rope_layers` alone is refused.
- Chunked: token i sees token j if j <= i and i // chunk == j // chunk (`attention_chunk_size`).
- Temperature, on blocks without RoPE only: queries are multiplied by
  1 + attn_scale * log1p(floor((position + 1) / floor_scale)). `attn_scale` is used nowhere else:
  the scale of the softmax is head_dim**-0.5.
- A block is dense where its number is not in `moe_layers`, and dense blocks have
  `intermediate_size_mlp`; `intermediate_size` is for experts alone. An empty `moe_layers` list
  wins over `interleave_moe_layer_step`.
- Its cache of a chunked block is a sliding window of attention_chunk_size - 1 tokens (enough: no
  chunk is longer). Token by token and in pieces it gives its own logits again: asserted below for
  every case, so the one array `logits` stands for all three ways.

Keys: "weights/SET/NAME": weights under their Hugging Face names, float16, on a grid that float16
and bfloat16 hold exactly (SET "small": tied head; "wide": head of its own, one key/value head).
Each case has "CASE/config" (JSON text in the manner of an R1 config.json), "CASE/weights" (its SET)
and "CASE/logits" float32 (2, 17, vocab). "ids" int32 (2, 17) is common to all.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig

SEED = 401
LENGTH = 17
SMALL: dict[str, Any] = {
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "vocab_size": 72,
    "hidden_size": 32,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_chunk_size": 32768,
    "attn_scale": 0.1,
    "attn_temperature_tuning": False,
    "floor_scale": 8192,
    "interleave_moe_layer_step": 0,
    "max_position_embeddings": 64,
    "moe_layers": [],
    "no_rope_layers": [1, 1, 1, 1],
    "num_local_experts": 0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "use_qk_norm": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
WIDE = SMALL | {
    "hidden_size": 40,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 24,
    "intermediate_size_mlp": 36,
    "tie_word_embeddings": False,
}
MIXED = {"no_rope_layers": [1, 1, 0, 1], "attention_chunk_size": 5}
WARM = {"attn_temperature_tuning": True, "floor_scale": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "r1": ("small", SMALL | {"rope_theta": 8_000_000.0}),
    "no_norm": ("small", SMALL | {"use_qk_norm": False}),
    "large_eps": ("small", SMALL | {"rms_norm_eps": 0.05}),
    "chunked": ("small", SMALL | {"attention_chunk_size": 5}),
    "mixed": ("small", SMALL | MIXED),
    "warm": ("small", SMALL | MIXED | WARM),
    "wide": ("wide", WIDE | MIXED | WARM | {"attn_scale": 0.5}),
    "wide_no_norm": ("wide", WIDE | MIXED | WARM | {"use_qk_norm": False}),
    "typed": (
        "small",
        SMALL
        | MIXED
        | {"layer_types": ["full_attention", "chunked_attention"] * 2, "attention_chunk_size": 4},
    ),
}
STD = {"q_proj": 0.35, "k_proj": 0.35, "v_proj": 0.2}
Weights = dict[str, np.ndarray]


def make_weights(raw: dict[str, Any], rng: np.random.Generator) -> Weights:
    hidden, inner, vocab = (raw[k] for k in ("hidden_size", "intermediate_size_mlp", "vocab_size"))
    queries = raw["num_attention_heads"] * raw["head_dim"]
    keys = raw["num_key_value_heads"] * raw["head_dim"]
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "feed_forward.gate_proj": (inner, hidden),
        "feed_forward.up_proj": (inner, hidden),
        "feed_forward.down_proj": (hidden, inner),
    }

    def matrix(std: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.clip(np.round(rng.normal(0.0, std, shape) * 128), -128, 128) / 128

    def norm() -> np.ndarray:
        return np.clip(np.round(rng.normal(1.0, 0.2, hidden) * 128), 32, 255) / 128

    weights = {"model.embed_tokens.weight": matrix(0.25, (vocab, hidden))}
    for layer in range(raw["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name, shape in shapes.items():
            std = STD.get(name.split(".")[1], 0.18)
            weights[f"{block}.{name}.weight"] = matrix(std, shape)
        weights[f"{block}.input_layernorm.weight"] = norm()
        weights[f"{block}.post_attention_layernorm.weight"] = norm()
    if not raw["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(0.25, (vocab, hidden))
    return weights | {"model.norm.weight": norm()}


def build(raw: dict[str, Any], weights: Weights, attention: str) -> Llama4ForCausalLM:
    model = Llama4ForCausalLM(Llama4TextConfig(**raw, attn_implementation=attention))
    # Norms and the temperature make float32 of what they are given; everything else is float64.
    model = model.double().eval()
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True)
    assert model.config.rope_parameters["rope_theta"] == raw["rope_theta"]
    return model


def in_pieces(model: Llama4ForCausalLM, ids: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    parts, cache, start = [], None, 0
    for length in pieces:
        piece = ids[:, start : start + length]
        given = model(piece, past_key_values=cache, use_cache=True)
        parts.append(given.logits)
        cache, start = given.past_key_values, start + length
    return torch.cat(parts, dim=1)


@torch.no_grad()
def run_case(name: str, raw: dict[str, Any], weights: Weights, ids: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(ids).long()
    model = build(raw, weights, "eager")
    logits = model(tokens, use_cache=False).logits
    ways = {
        "sdpa": build(raw, weights, "sdpa")(tokens, use_cache=False).logits,
        "one by one": in_pieces(model, tokens, [1] * LENGTH),
        "in pieces": in_pieces(model, tokens, [6, 1, 3, 7]),
    }
    apart = {way: (other - logits).abs().max().item() for way, other in ways.items()}
    print(f"{name}: std {logits.std():.3f},", ", ".join(f"{w} {d:.1e}" for w, d in apart.items()))
    assert max(apart.values()) < 1e-5
    return logits.numpy()


def main(out: str) -> None:
    rng = np.random.default_rng(SEED)
    ids = rng.integers(0, SMALL["vocab_size"], (2, LENGTH), dtype=np.int32)
    sets = {"small": make_weights(SMALL, rng), "wide": make_weights(WIDE, rng)}
    arrays: dict[str, np.ndarray] = {"ids": ids}
    for name, (which, raw) in CASES.items():
        arrays[f"{name}/config"] = np.array(json.dumps(raw, sort_keys=True))
        arrays[f"{name}/weights"] = np.array(which)
        arrays[f"{name}/logits"] = run_case(name, raw, sets[which], ids).astype(np.float32)
    for which, weights in sets.items():
        arrays |= {f"weights/{which}/{n}": v.astype(np.float16) for n, v in weights.items()}
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
