"""The one network of the family, after MobileLLM (arXiv 2402.14905): deep and thin.

What differs between MobileLLM v1, its layer-sharing form, R1, Pro and blocks without attention is
in ``LayerConfig``. Parameter names are the checkpoints' own, so files load without renaming.

Shapes in comments: B batch, L new tokens, S cached tokens, D model, H query heads, K key/value
heads, E head dim, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.backend import fused, mx, nn, tree_flatten
from mobilellm_mlx.models.cache import Cache, make_cache
from mobilellm_mlx.models.config import LayerConfig, ModelConfig
from mobilellm_mlx.models.elementary import attend, is_slow, swiglu


@fused
def _fused_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return swiglu(gate, up) if is_slow(gate.size, gate.dtype) else _fused_swiglu(gate, up)


class Attention(nn.Module):
    """Causal attention with grouped key/value heads."""

    def __init__(self, config: ModelConfig, layer: LayerConfig):
        super().__init__()
        heads, kv_heads, dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim
        self.scale = dim**-0.5
        self.layer, self.eps = layer, config.rms_norm_eps
        self.q_proj = nn.Linear(config.hidden_size, heads * dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, config.hidden_size, bias=False)

    def __call__(self, x: mx.array, cache: Cache) -> mx.array:
        """Hidden states (B, L, D) to hidden states (B, L, D); ``cache`` is updated in place."""
        batch, length, _ = x.shape
        queries, keys, values = self._heads(x, cache.offset)
        if self.layer.temperature is not None:
            queries = queries * self._sharpness(cache.offset, length).astype(queries.dtype)
        keys, values = cache.update(keys, values)  # (B, K, S + L, E)
        # Training keeps what it needs for the way back, and `attend` would keep far more.
        scores = queries.size // self.head_dim * keys.shape[2]
        slow = cache.kind != "nothing" and is_slow(scores, queries.dtype)
        attention = attend if slow else mx.fast.scaled_dot_product_attention
        mixed = attention(
            queries, keys, values, scale=self.scale, mask=cache.mask(length)
        )  # (B, H, L, E)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1))  # (B, L, D)

    def _heads(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries (B, H, L, E), keys and values (B, K, L, E) of hidden states, in their places."""
        queries = self._split(self.q_proj(x), self.heads)
        keys = self._split(self.k_proj(x), self.kv_heads)
        values = self._split(self.v_proj(x), self.kv_heads)
        return self._place(queries, offset), self._place(keys, offset), values

    def _split(self, x: mx.array, heads: int) -> mx.array:
        batch, length, _ = x.shape
        return x.reshape(batch, length, heads, self.head_dim).transpose(0, 2, 1, 3)

    def _place(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Positions, then the norm: queries or keys (B, heads, L, E) to the same."""
        if (rope := self.layer.rope) is not None:
            x = mx.fast.rope(
                x,
                self.head_dim,
                traditional=rope.traditional,
                base=rope.theta,
                scale=1.0,
                offset=offset,
            )
        return mx.fast.rms_norm(x, None, self.eps) if self.layer.qk_norm else x

    def _sharpness(self, offset: int | mx.array, length: int) -> mx.array:
        """What queries are scaled by, (L, 1) or (B, 1, L, 1); see ``TemperatureConfig``."""
        temperature = self.layer.temperature
        assert temperature is not None
        start = offset if isinstance(offset, int) else offset[:, None, None]  # (B, 1, 1)
        steps = mx.floor((mx.arange(length) + start + 1.0) / temperature.floor_scale)
        return (mx.log1p(steps) * temperature.attn_scale + 1.0)[..., None]


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim, ffn = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(dim, ffn, bias=False)
        self.up_proj = nn.Linear(dim, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """Hidden states (B, L, D) to hidden states (B, L, D)."""
        return self.down_proj(_swiglu(*self._halves(x)))

    def _halves(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Gate and what it lets through, each (B, L, F)."""
        return self.gate_proj(x), self.up_proj(x)


@dataclass(slots=True)
class Turn:
    """Which of its runs a block is in; adapters that differ from run to run look at it."""

    runs: int
    run: int = 0


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ModelConfig, layer: LayerConfig):
        super().__init__()
        self.turn = Turn(layer.runs)
        self._feed_forward = config.feed_forward_name
        attends = layer.attention != "none"
        if attends:
            self.self_attn = Attention(config, layer)
        self[self._feed_forward] = MLP(config)
        if attends:
            self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, cache: Cache | None, run: int = 0) -> mx.array:
        """Hidden states (B, L, D) to hidden states (B, L, D); no attention, no cache."""
        self.turn.run = run
        if cache is not None:
            x = x + self.self_attn(self.input_layernorm(x), cache)
        return x + self[self._feed_forward](self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, layer) for layer in config.layers]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._kinds = config.layers
        self.recomputes = False
        """Whether training computes blocks a second time instead of keeping what is inside them."""

    def __call__(self, tokens: mx.array, caches: Sequence[Cache]) -> mx.array:
        """Token ids (B, L) to final hidden states (B, L, D)."""
        # The cast is for embeddings packed as `mxfp4` and its like, which MLX unpacks to bfloat16.
        x = self.embed_tokens(tokens).astype(self.norm.weight.dtype)  # (B, L, D)
        remaining = iter(caches)
        for block, kind in zip(self.layers, self._kinds, strict=True):
            for run in range(kind.runs):
                cache = None if kind.attention == "none" else next(remaining)
                x = (_recomputed(block) if self.recomputes else block)(x, cache, run)
        return self.norm(x)


def _recomputed(block: Block) -> Callable[[mx.array, Cache | None, int], mx.array]:
    """A block of which only inputs and output are kept for the backward pass."""

    def call(x: mx.array, cache: Cache | None, run: int) -> mx.array:
        def inner(parameters: Any, x: mx.array) -> mx.array:
            block.update(parameters)
            return block(x, cache, run)

        return mx.checkpoint(inner)(block.trainable_parameters(), x)

    return call


class LanguageModel(nn.Module):
    """Token ids to logits, and what that costs.

    No generation, no printing, no guessing of dtypes: activations have the dtype of the embedding.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def __call__(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Logits of the next token at every position.

        Args:
            tokens: ids, (B, L).
            caches: from ``make_cache``, one for each attention run, updated in place; None forgets.

        Returns:
            Logits, (B, L, V).
        """
        return self.head(self.hidden(tokens, caches))

    def hidden(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Final hidden states, (B, L, D), for callers that need only some positions' logits."""
        if caches is None:
            caches = self.make_cache()
        if len(caches) != self.config.attention_runs:
            raise ValueError(f"{len(caches)} caches given, expected {self.config.attention_runs}")
        return self.model(tokens, caches)

    def head(self, hidden: mx.array, rows: mx.array | None = None) -> mx.array:
        """Hidden states (..., D) to logits, through the embedding when it is tied.

        Args:
            hidden: (..., D).
            rows: ids (C,) of the only tokens that count; None for all.

        Returns:
            Logits, (..., C) or (..., V).
        """
        is_tied = self.config.tie_word_embeddings
        head = self.model.embed_tokens if is_tied else self.lm_head
        if rows is not None and isinstance(head, nn.QuantizedEmbedding | nn.QuantizedLinear):
            biases = head.get("biases")
            return mx.quantized_matmul(
                hidden,
                head.weight[rows],
                head.scales[rows],
                None if biases is None else biases[rows],
                group_size=head.group_size,
                bits=head.bits,
                mode=head.mode,
            )
        if rows is not None and isinstance(head, nn.Embedding | nn.Linear):
            return hidden @ head.weight[rows].T
        logits = head.as_linear(hidden) if is_tied else head(hidden)
        return logits if rows is None else logits[..., rows]  # adapters are of all rows

    def make_cache(self, limit: int | None = None) -> list[Cache]:
        """Empty caches, one for each attention run.

        A shared block gets one for each of its runs: both runs in one cache would mix the keys of
        the first with those of the second.
        """
        limit = self.config.max_position_embeddings if limit is None else limit
        kinds = [kind for kind in self.config.layers if kind.attention != "none"]
        return [make_cache(kind, limit) for kind in kinds for _ in range(kind.runs)]

    @property
    def dtype(self) -> mx.Dtype:
        """Element type of activations, and so of the KV cache."""
        dtype: mx.Dtype = self.model.norm.weight.dtype
        return dtype

    def weight_bytes(self) -> int:
        """Bytes of all parameters as they lie in memory."""
        return sum(array.nbytes for _, array in tree_flatten(self.parameters()))

    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one more token of context costs."""
        return self.config.kv_bytes_per_token(self.dtype.size)
