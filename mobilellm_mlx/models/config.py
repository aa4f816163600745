"""One normalised description of a network, whatever family its checkpoint comes from.

Families differ by data: a small adapter (``families.py``) reads a checkpoint's ``config.json`` into
this form and the one network (``network.py``) is built from it. What may differ from block to block
sits in ``LayerConfig``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilellm_mlx.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of one block."""

    theta: float = 10_000.0
    traditional: bool = False
    """Rotate interleaved pairs (2i, 2i+1) instead of the two halves (i, i + E/2)."""


@dataclass(frozen=True, slots=True)
class TemperatureConfig:
    """Attention that sharpens with distance from the start, on blocks without positions.

    Queries are scaled by ``log(1 + floor((position + 1) / floor_scale)) * attn_scale + 1``
    (Llama 4; arXiv 2501.19399).
    """

    floor_scale: float
    attn_scale: float


AttentionKind = Literal["full", "sliding", "chunked", "none"]


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One stored block: what may differ from block to block."""

    attention: AttentionKind = "full"
    """``sliding`` sees the last ``window`` tokens (Pro), ``chunked`` those of the same ``window``
    counted from the start (Llama 4), ``none`` is a block that only feeds forward (Flash)."""
    window: int | None = None
    rope: RopeConfig | None = RopeConfig()
    """None leaves positions out."""
    qk_norm: bool = False
    """Queries and keys are normalised after RoPE, without weights (R1)."""
    temperature: TemperatureConfig | None = None
    runs: int = 1
    """How often the block is applied in a row: 2 is MobileLLM's immediate block-wise layer sharing
    (paper section 3.2.2). Each run attends over keys and values of its own."""

    def cached_tokens(self, tokens: int) -> int:
        """How many of ``tokens`` tokens one run keeps keys and values of."""
        if self.attention == "none":
            return 0
        return min(tokens, self.window) if self.attention == "sliding" and self.window else tokens


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer: pre-norm RMSNorm, SwiGLU, grouped-query attention, no biases."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    feed_forward_name: Literal["mlp", "feed_forward"] = "mlp"
    """What checkpoints of the family call the feed-forward part of a block."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            self._require(name, getattr(self, name) >= 1, "a positive whole number")
        self._require(
            "num_key_value_heads",
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"a divisor of num_attention_heads ({self.num_attention_heads})",
        )
        self._require("head_dim", self.head_dim % 2 == 0, "an even number (RoPE turns pairs)")
        self._require("rms_norm_eps", 0 < self.rms_norm_eps < 1, "between 0 and 1")
        if not self.layers:
            raise ConfigError("`num_hidden_layers` is 0, expected at least 1")
        for number, layer in enumerate(self.layers):
            if layer.runs < 1:
                raise ConfigError(f"block {number} has {layer.runs} runs, expected at least one")
            if layer.rope is not None and layer.rope.theta <= 0:
                raise ConfigError(f"`rope_theta` is {layer.rope.theta}, expected more than 0")
            windowed = layer.attention in ("sliding", "chunked")
            if windowed != (layer.window is not None and layer.window >= 1):
                raise ConfigError(
                    f"block {number} with {layer.attention} attention has the window {layer.window}"
                )

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ConfigError(f"`{name}` is {getattr(self, name)}, expected {expected}")

    @property
    def attention_runs(self) -> int:
        """How many times attention runs in one forward pass; each needs its own cache."""
        return sum(layer.runs for layer in self.layers if layer.attention != "none")

    @property
    def rope_theta(self) -> float:
        """The base of all blocks' positions; 10,000 when none has any."""
        thetas = [layer.rope.theta for layer in self.layers if layer.rope is not None]
        return thetas[0] if thetas else RopeConfig().theta

    def parameter_count(self) -> int:
        """Stored parameters, a tied head counted once and a shared block counted once."""
        attention = (
            2 * self.hidden_size * self.head_dim
            * (self.num_attention_heads + self.num_key_value_heads)
        )  # fmt: skip
        feed_forward = 3 * self.hidden_size * self.intermediate_size + self.hidden_size
        attending = sum(layer.attention != "none" for layer in self.layers)
        blocks = len(self.layers) * feed_forward + attending * (attention + self.hidden_size)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return blocks + embeddings + self.hidden_size

    def kv_bytes_per_token(self, item_bytes: int) -> int:
        """Bytes of keys and values that one more token costs while every window has room."""
        return self.attention_runs * 2 * self.num_key_value_heads * self.head_dim * item_bytes

    def kv_bytes(self, tokens: int, item_bytes: int) -> int:
        """Bytes of keys and values of ``tokens`` tokens, at ``item_bytes`` an element."""
        cached = sum(layer.runs * layer.cached_tokens(tokens) for layer in self.layers)
        return cached * 2 * self.num_key_value_heads * self.head_dim * item_bytes
