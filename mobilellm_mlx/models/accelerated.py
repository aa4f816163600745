"""The network on compiled CPU kernels: the same numbers, sooner.

Packed matrices are multiplied by a kernel, and the tokens of one sequence go through all blocks in
one call (see ``kernels/src/stack.h``). Whatever that call is not made for, such as several
sequences, DoRA or training, goes the way of ``network.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import getitem, is_
from typing import Any

from mobilellm_mlx.backend import mx, nn
from mobilellm_mlx.kernels import kernels
from mobilellm_mlx.models.cache import Cache, KVCache, RotatingKVCache
from mobilellm_mlx.models.config import LayerConfig, ModelConfig
from mobilellm_mlx.models.lora import LoRALinear
from mobilellm_mlx.models.network import MLP, LanguageModel


class PackedLinear(nn.QuantizedLinear):
    """A packed matrix multiplied by a kernel."""

    def __call__(self, x: mx.array) -> mx.array:
        """Inputs (..., K) to outputs (..., N)."""
        return _product(self, x)


class PackedEmbedding(nn.QuantizedEmbedding):
    """A packed table, multiplied by a kernel where it is the head too."""

    def as_linear(self, x: mx.array) -> mx.array:
        """Hidden states (..., D) to logits (..., V)."""
        return _product(self, x)


def _product(matrix: Any, x: mx.array) -> mx.array:
    product: mx.array = kernels().module.quantized_matmul(
        x, matrix.weight, matrix.scales, matrix.biases, matrix.group_size, matrix.bits
    )
    return product


class PackedMLP(MLP):
    """SwiGLU feed-forward whose exponential is a kernel's: MLX's takes ten times as long."""

    def __call__(self, x: mx.array) -> mx.array:
        """Hidden states (B, L, D) to hidden states (B, L, D)."""
        inner: mx.array = kernels().module.swiglu(self.gate_proj(x), self.up_proj(x))
        return self.down_proj(inner)


_FAST = {nn.QuantizedLinear: PackedLinear, nn.QuantizedEmbedding: PackedEmbedding}


class AcceleratedModel(LanguageModel):
    """A network whose packed matrices are multiplied by kernels."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self._stack: _Stack | None = None

    def speed_up(self) -> None:
        """Let every packed matrix be multiplied by a kernel, where there is one for its packing."""
        takes = kernels().module.takes
        for _, module in self.named_modules():
            if type(module) is MLP:
                module.__class__ = PackedMLP
            fast = _FAST.get(type(module))
            if fast and module.mode == "affine" and takes(module.bits, module.group_size):
                module.__class__ = fast  # the same parameters, another product

    def gather(self) -> None:
        """Read the packed matrices into one piece of memory, each at its turn.

        Its pages are large where the system has such: every token reads all of it.
        """
        arrays = [
            (module, name)
            for _, module in self.named_modules()
            if isinstance(module, PackedLinear | PackedEmbedding)
            for name in ("weight", "scales", "biases")
        ]
        pages = kernels().module.Pages(sum(m[name].nbytes for m, name in arrays), len(arrays))
        for module, name in arrays:
            module[name] = pages.take(module[name])

    @property
    def called_s(self) -> float | None:
        """Seconds spent so far in the one call for all blocks; None where there is no such call."""
        return self._stack.called_s if self._stack and self._stack.call else None

    def hidden(self, tokens: mx.array, caches: Sequence[Cache] | None = None) -> mx.array:
        """Final hidden states, (B, L, D), for callers that need only some positions' logits."""
        own = [c for c in caches or () if isinstance(c, KVCache | RotatingKVCache)]
        if tokens.shape[0] == 1 and len(own) == self.config.attention_runs:
            if self._stack is None or not self._stack.is_current():
                self._stack = _Stack(self)
            if self._stack.call is not None:
                return self._stack(tokens, own)
        return super().hidden(tokens, caches)


class _Stack:
    """All blocks of a network as one call, as long as the network stays as it is.

    Attributes:
        call: None when the network has something that the call is not made for.
        called_s: seconds spent in it so far.
    """

    def __init__(self, model: AcceleratedModel):
        self._holders: list[dict[str, Any]] = []
        self._keys: list[str] = []
        self._held: list[Any] = []
        self.call: Any = None
        self.called_s = 0.0
        kv_heads, dim = model.config.num_key_value_heads, model.config.head_dim
        self._like = mx.zeros((1, kv_heads, 0, dim))
        network = model.model
        config = model.config
        blocks = [
            self._block(block, layer, config)
            for block, layer in zip(network.layers, config.layers, strict=True)
        ]
        embedding = self._matrix(network, "embed_tokens")
        norm = self._norm(network, "norm")
        if embedding is None or norm is None or any(block is None for block in blocks):
            return
        self.call = kernels().module.Stack(
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
            embedding=embedding,
            blocks=blocks,
            norm=norm,
        )

    def is_current(self) -> bool:
        """Whether the network's modules and arrays are those that were looked at."""
        try:
            return all(map(is_, map(getitem, self._holders, self._keys), self._held))
        except KeyError:
            return False

    def __call__(self, tokens: mx.array, caches: Sequence[KVCache | RotatingKVCache]) -> mx.array:
        """Final hidden states (1, L, D) of token ids (1, L); the caches are updated in place."""
        own = kernels().module.own
        ids: Any = tokens[0].tolist()
        offset, count = caches[0].offset, len(ids)
        rooms = []
        for cache in caches:
            start = cache.reserve(self._like, count)
            keys, values = map(own, cache.arrays)
            cache.exchange(keys, values)
            rooms.append((keys, values, start))
        started = time.perf_counter()
        hidden: mx.array = self.call(ids, offset, rooms)
        self.called_s += time.perf_counter() - started
        for cache in caches:
            cache.advance(count)
        return hidden

    def _see(self, holder: Any, key: str) -> Any:
        found = holder[key]
        self._holders.append(holder)
        self._keys.append(key)
        self._held.append(found)
        return found

    def _matrix(self, holder: Any, key: str) -> Any:
        module = self._see(holder, key)
        adapters = []
        if type(module) is LoRALinear and not module.dropout.is_on:
            a, b = self._see(module, "lora_a"), self._see(module, "lora_b")
            runs = range(a.shape[0]) if a.ndim == 3 else (...,)
            wide = [part.astype(mx.float32) for part in (a, b)]  # others' files may be in 16 bits
            adapters = [(wide[0][run], wide[1][run], module.scale) for run in runs]
            module = self._see(module, "linear")
        if not isinstance(module, PackedLinear | PackedEmbedding):
            return None
        arrays = [self._see(module, name) for name in ("weight", "scales", "biases")]
        return kernels().module.Matrix(*arrays, module.group_size, module.bits, adapters)

    def _norm(self, holder: Any, key: str) -> Any:
        module = self._see(holder, key)
        if type(module) is not nn.RMSNorm:
            return None
        weight = self._see(module, "weight")
        mx.eval(weight)
        return weight if weight.dtype == mx.float32 else None

    def _block(self, block: Any, layer: LayerConfig, config: ModelConfig) -> Any:
        module = kernels().module
        attention = None
        if layer.attention != "none":
            inside = self._see(block, "self_attn")
            norm = self._norm(block, "input_layernorm")
            parts = [self._matrix(inside, f"{name}_proj") for name in ("q", "k", "v", "o")]
            if norm is None or None in parts:
                return None
            rope, sharp = layer.rope, layer.temperature
            attention = module.Attention(
                norm,
                *parts,
                sight=layer.attention,
                window=layer.window or 0,
                rope=rope and (rope.theta, rope.traditional),
                qk_norm=layer.qk_norm,
                temperature=sharp and (sharp.floor_scale, sharp.attn_scale),
            )
        inside = self._see(block, config.feed_forward_name)
        norm = self._norm(block, "post_attention_layernorm")
        parts = [self._matrix(inside, f"{name}_proj") for name in ("gate", "up", "down")]
        if norm is None or None in parts:
            return None
        return module.Block(attention, module.FeedForward(norm, *parts), layer.runs)
