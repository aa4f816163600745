"""Make llama_tiny.npz: logits of three tiny random Llama models.

Reference: transformers 5.23.0 (LlamaForCausalLM, float32, eager attention, CPU), torch 2.13.0+cpu,
numpy 2.4.6. Seeds: 101, 102, 103 (one a case).
Run: python make_llama_golden.py OUT.npz

Keys, for each case a, b, c: "a/config" (JSON text), "a/ids" int32 (2, 17), "a/logits" float32
(2, 17, vocab), and every weight under its Hugging Face name, e.g.
"a/model.layers.0.self_attn.q_proj.weight". Weights lie on a grid (1/256; norms 1/128) that float16
and bfloat16 hold exactly; they are stored as float16 and were float32 in the reference.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "a": BASE,
    "b": BASE | {"head_dim": 16, "rope_theta": 100000.0, "tie_word_embeddings": False},
    "c": BASE | {"num_key_value_heads": 6, "num_hidden_layers": 2},
}
STD = {"embed_tokens": 0.2, "lm_head": 0.2, "q_proj": 0.2, "k_proj": 0.2, "v_proj": 0.12}
SEED = 101


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random weight, rounded to a grid that float16 and bfloat16 hold exactly."""
    if len(shape) == 1:
        return np.clip(np.round(rng.normal(1.0, 0.2, shape) * 128), 32, 255) / 128
    std = STD.get(name.split(".")[-2], 0.15)
    return np.clip(np.round(rng.normal(0.0, std, shape) * 256), -256, 256) / 256


def make_case(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    options = {k: v for k, v in config.items() if k not in ("model_type", "rope_theta")}
    options |= {"rope_parameters": rope, "attn_implementation": "eager"}
    model = LlamaForCausalLM(LlamaConfig(**options)).float().eval()
    assert model.config._attn_implementation == "eager"
    assert model.model.rotary_emb.config.rope_parameters["rope_theta"] == config["rope_theta"]
    weights: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a tied lm_head is not listed
            weights[name] = draw(name, tuple(parameter.shape), rng).astype(np.float16)
            parameter.copy_(torch.from_numpy(weights[name].astype(np.float32)))
        ids = rng.integers(0, config["vocab_size"], (2, 17), dtype=np.int32)
        logits = model(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
        exact = model.double()(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
    assert ("lm_head.weight" in weights) != config["tie_word_embeddings"]
    print(f"logits std {logits.std():.3f}, float32 against float64 {abs(logits - exact).max():.1e}")
    text = json.dumps(config, sort_keys=True)
    return {"config": np.array(text), "ids": ids, "logits": logits} | weights


def main(out: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    for number, (case, config) in enumerate(CASES.items()):
        made = make_case(config, SEED + number)
        arrays |= {f"{case}/{name}": value for name, value in made.items()}
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
