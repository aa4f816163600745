"""A slow network in NumPy float64: what every kind of block computes, spelled out.

It is the specification that the fast network is held against, written from the papers (MobileLLM,
arXiv 2402.14905; MobileLLM-R1, 2509.24945; -Pro, 2511.06719; -Flash, 2603.15954) and from what
transformers' Llama 4 was seen to do (``tests/golden/make_llama4_golden.py``). It shares no code
with the package, has no cache, and computes every score of every pair of tokens before it hides
those that may not be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Kind:
    """What one stored block does."""

    attention: str = "full"
    """``full``, ``sliding``, ``chunked`` or ``none`` (then the block is a feed-forward alone)."""
    size: int = 0
    """Tokens of the window or of a chunk."""
    theta: float | None = 10_000.0
    """Base of RoPE; None is no positions."""
    interleaved: bool = False
    """RoPE turns pairs (2i, 2i+1); else dim i with dim i + E/2."""
    qk_norm: bool = False
    """Norm without weights of queries and keys, a head at a time, after RoPE."""
    temperature: tuple[float, float] | None = None
    """(floor_scale, attn_scale): queries grow with their position."""
    runs: int = 1


def forward(
    ids: np.ndarray,
    weights: Weights,
    kinds: Sequence[Kind],
    *,
    heads: int,
    kv_heads: int,
    eps: float = 1e-5,
    feed_forward: str = "mlp",
) -> np.ndarray:
    """Ids (B, L) to logits (B, L, V); the head is the embedding where there is no ``lm_head``."""
    weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    x = weights["model.embed_tokens.weight"][ids]  # (B, L, D)
    for index, kind in enumerate(kinds):
        block = f"model.layers.{index}"
        for _ in range(kind.runs):
            if kind.attention != "none":
                normed = _norm(x, eps) * weights[f"{block}.input_layernorm.weight"]
                x = x + _attend(normed, weights, f"{block}.self_attn", kind, heads, kv_heads, eps)
            normed = _norm(x, eps) * weights[f"{block}.post_attention_layernorm.weight"]
            x = x + _feed(normed, weights, f"{block}.{feed_forward}")
    x = _norm(x, eps) * weights["model.norm.weight"]
    return x @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


def seen(kind: Kind, length: int) -> np.ndarray:
    """Which token each token sees, (L, L): row i is what token i may look at."""
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    if kind.attention == "sliding":  # itself and the `size - 1` before it
        return (j <= i) & (j > i - kind.size)
    if kind.attention == "chunked":
        return (j <= i) & (j // kind.size == i // kind.size)
    assert kind.attention == "full", kind
    return j <= i


def _norm(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def _rope(x: np.ndarray, kind: Kind) -> np.ndarray:
    """Turn (B, heads, L, E) by position; the pairs' angles fall from 1 to 1/theta a token."""
    if kind.theta is None:
        return x
    half = x.shape[-1] // 2
    angle = np.outer(np.arange(x.shape[-2]), kind.theta ** (-np.arange(half) / half))  # (L, E/2)
    turn = np.exp(1j * angle)
    if kind.interleaved:
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _attend(
    x: np.ndarray,
    weights: Weights,
    prefix: str,
    kind: Kind,
    heads: int,
    kv_heads: int,
    eps: float,
) -> np.ndarray:
    batch, length, _ = x.shape

    def project(name: str, count: int) -> np.ndarray:
        flat = x @ weights[f"{prefix}.{name}.weight"].T
        return flat.reshape(batch, length, count, -1).transpose(0, 2, 1, 3)  # (B, H, L, E)

    query, key = _rope(project("q_proj", heads), kind), _rope(project("k_proj", kv_heads), kind)
    if kind.qk_norm:
        query, key = _norm(query, eps), _norm(key, eps)
    if kind.temperature is not None:
        floor_scale, attn_scale = kind.temperature
        steps = np.floor((np.arange(length) + 1) / floor_scale)
        query = query * (np.log1p(steps) * attn_scale + 1.0)[:, None]
    share = heads // kv_heads  # query heads 0..share-1 look at key head 0, and so on
    key, value = key.repeat(share, axis=1), project("v_proj", kv_heads).repeat(share, axis=1)
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])  # (B, H, L, L)
    scores = np.where(seen(kind, length), scores, -np.inf)
    parts = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (parts / parts.sum(-1, keepdims=True)) @ value  # (B, H, L, E)
    flat = mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    return flat @ weights[f"{prefix}.o_proj.weight"].T


def _feed(x: np.ndarray, weights: Weights, prefix: str) -> np.ndarray:
    gate, up = (x @ weights[f"{prefix}.{name}.weight"].T for name in ("gate_proj", "up_proj"))
    return (gate / (1.0 + np.exp(-gate)) * up) @ weights[f"{prefix}.down_proj.weight"].T
