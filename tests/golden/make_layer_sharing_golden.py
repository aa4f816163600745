"""Make layer_sharing_tiny.npz: logits of a tiny MobileLLM with immediate block-wise weight sharing.

Reference: a plain NumPy float64 forward (below), written from the description in the MobileLLM
paper (arXiv 2402.14905): pre-norm RMSNorm, SwiGLU, grouped-query attention, half-split RoPE, tied
embeddings; each stored block runs twice in a row at the same positions, each run with its own
residual adds and its own attention over its own keys and values. No other code was consulted.
It is checked here against transformers 5.23.0 (torch 2.13.0+cpu, float64 but for its norms and
RoPE, which stay float32): against Llama as it is (no sharing), and against a Llama of twice the
layers with pairwise equal weights (sharing).
numpy 2.4.6. Seed: 201. Run: python make_layer_sharing_golden.py OUT.npz

Keys: "config" (JSON text in the manner of a MobileLLM v1 config.json; num_hidden_layers counts the
stored blocks), "ids" int32 (2, 17), "logits" float32 (2, 17, vocab), "logits_unshared" (the same
weights, each block once), and the weights under their Hugging Face names, float16, on a grid that
float16 and bfloat16 hold exactly. share_embedding: there is no lm_head.weight.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG: dict[str, Any] = {
    "architectures": ["MobileLLMForCausalLM"],
    "model_type": "mobilellm",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "share_embedding": True,
    "tie_word_embeddings": False,
    "layer_sharing": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STD = {"q_proj": 0.2, "k_proj": 0.2, "v_proj": 0.12}
SEED = 201
Weights = dict[str, np.ndarray]


def make_weights(rng: np.random.Generator) -> Weights:
    hidden, inner, vocab = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = hidden // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    rows = dict(zip(LINEAR, (hidden, kv, kv, hidden, inner, inner, hidden), strict=True))

    def matrix(std: float, *shape: int) -> np.ndarray:
        return np.clip(np.round(rng.normal(0.0, std, shape) * 256), -256, 256) / 256

    def norm() -> np.ndarray:
        return np.clip(np.round(rng.normal(1.0, 0.2, hidden) * 128), 32, 255) / 128

    weights = {"model.embed_tokens.weight": matrix(0.2, vocab, hidden)}
    for layer in range(CONFIG["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name in LINEAR:
            part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            columns = inner if name == "down_proj" else hidden
            value = matrix(STD.get(name, 0.15), rows[name], columns)
            weights[f"{block}.{part}.{name}.weight"] = value
        weights[f"{block}.input_layernorm.weight"] = norm()
        weights[f"{block}.post_attention_layernorm.weight"] = norm()
    return weights | {"model.norm.weight": norm()}


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + CONFIG["rms_norm_eps"]) * weight


def rope(x: np.ndarray) -> np.ndarray:
    """Rotate (batch, head, position, dim): dim i pairs with dim i + dim/2."""
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(x.shape[-2]), CONFIG["rope_theta"] ** (-np.arange(half) / half))
    cos, sin, first, second = np.cos(angle), np.sin(angle), x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attention(x: np.ndarray, w: Weights, prefix: str) -> np.ndarray:
    batch, length, _ = x.shape
    heads, kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]

    def project(name: str, count: int) -> np.ndarray:
        flat = x @ w[f"{prefix}.{name}.weight"].T
        return flat.reshape(batch, length, count, -1).transpose(0, 2, 1, 3)

    query, key = rope(project("q_proj", heads)), rope(project("k_proj", kv_heads))
    key = key.repeat(heads // kv_heads, axis=1)
    value = project("v_proj", kv_heads).repeat(heads // kv_heads, axis=1)
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (share / share.sum(-1, keepdims=True)) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1) @ w[f"{prefix}.o_proj.weight"].T


def feed_forward(x: np.ndarray, w: Weights, prefix: str) -> np.ndarray:
    gate, up = (x @ w[f"{prefix}.{name}.weight"].T for name in ("gate_proj", "up_proj"))
    return (gate / (1.0 + np.exp(-gate)) * up) @ w[f"{prefix}.down_proj.weight"].T


def forward(ids: np.ndarray, w: Weights, repeat: int) -> np.ndarray:
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(CONFIG["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for _ in range(repeat):
            normed = rms_norm(x, w[f"{block}.input_layernorm.weight"])
            x = x + attention(normed, w, f"{block}.self_attn")
            normed = rms_norm(x, w[f"{block}.post_attention_layernorm.weight"])
            x = x + feed_forward(normed, w, f"{block}.mlp")
    return rms_norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def llama_forward(ids: np.ndarray, w: Weights, repeat: int) -> np.ndarray:
    """The same by transformers' Llama, with each block's weights copied `repeat` times."""
    changed = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": CONFIG["num_hidden_layers"] * repeat,
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
        "rope_parameters": {"rope_type": "default", "rope_theta": CONFIG["rope_theta"]},
    }
    dropped = ("layer_sharing", "share_embedding", "rope_theta", "rope_scaling")
    options = {k: v for k, v in (CONFIG | changed).items() if k not in dropped}
    model = LlamaForCausalLM(LlamaConfig(**options)).double().eval()
    state: dict[str, torch.Tensor] = {}
    for name, value in w.items():
        tensor, parts = torch.from_numpy(value), name.split(".")
        if parts[1] == "layers":
            for turn in range(repeat):
                layer = str(int(parts[2]) * repeat + turn)
                state[".".join([*parts[:2], layer, *parts[3:]])] = tensor
        else:
            state[name] = tensor
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return model(torch.from_numpy(ids).long(), use_cache=False).logits.numpy()


def main(out: str) -> None:
    rng = np.random.default_rng(SEED)
    weights = make_weights(rng)
    ids = rng.integers(0, CONFIG["vocab_size"], (2, 17), dtype=np.int32)
    logits = {repeat: forward(ids, weights, repeat) for repeat in (1, 2)}
    for repeat, value in logits.items():
        difference = abs(value - llama_forward(ids, weights, repeat)).max()
        print(f"repeat {repeat}: std {value.std():.3f}, against transformers {difference:.1e}")
        assert difference < 1e-5
    arrays = {
        "config": np.array(json.dumps(CONFIG, sort_keys=True)),
        "ids": ids,
        "logits": logits[2].astype(np.float32),
        "logits_unshared": logits[1].astype(np.float32),
    } | {name: value.astype(np.float16) for name, value in weights.items()}
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
