"""One normalised description of a network, whatever family its checkpoint comes from.

Families differ by data: a small adapter (``families.py``) reads a checkpoint's ``config.json`` into
this form and the one network (``network.py``) is built from it. What may differ from block to block
sits in ``LayerConfig``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mobilellm_mlx.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of one block."""

    theta: float = 10_000.0
    traditional: bool = False
    """Rotate interleaved pairs (2i, 2i+1) instead of the two halves (i, i + E/2)."""


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One stored block.

    Room for the rest of the family is here and nowhere else: a sliding window (Pro), no attention
    (Flash), no positions and query/key norms (R1) become fields of this class.
    """

    rope: RopeConfig = RopeConfig()
    runs: int = 1
    """How often the block is applied in a row: 2 is MobileLLM's immediate block-wise layer sharing
    (paper section 3.2.2). Each run attends over keys and values of its own."""


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
        if any(layer.runs < 1 or layer.rope.theta <= 0 for layer in self.layers):
            raise ConfigError("every block needs at least one run and a positive `rope_theta`")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise ConfigError(f"`{name}` is {getattr(self, name)}, expected {expected}")

    @property
    def attention_runs(self) -> int:
        """How many times attention runs in one forward pass; each needs its own cache."""
        return sum(layer.runs for layer in self.layers)

    def parameter_count(self) -> int:
        """Stored parameters, a tied head counted once and a shared block counted once."""
        attention = (
            2 * self.hidden_size * self.head_dim
            * (self.num_attention_heads + self.num_key_value_heads)
        )  # fmt: skip
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return len(self.layers) * block + embeddings + self.hidden_size

    def kv_bytes_per_token(self, item_bytes: int) -> int:
        """Bytes of keys and values that one more token costs, at ``item_bytes`` an element."""
        return self.attention_runs * 2 * self.num_key_value_heads * self.head_dim * item_bytes
