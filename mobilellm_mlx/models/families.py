"""From a checkpoint's ``config.json`` to the normalised configuration.

A family is one function here and one name table in ``convert``. A setting that would change the
maths and that the network does not have is refused; settings that only matter to other programs
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models.config import LayerConfig, ModelConfig, RopeConfig

RawConfig = Mapping[str, Any]


def build_config(raw: RawConfig) -> ModelConfig:
    """The normalised configuration of a Hugging Face style ``config.json``.

    Raises:
        ConfigError: for an unknown family, a missing or impossible value, or a setting that would
            change the maths and is not supported.
    """
    family = raw.get("model_type")
    if not isinstance(family, str):
        raise ConfigError("`model_type` is missing from the model's `config.json`")
    adapter = FAMILIES.get(family)
    if adapter is None:
        close = get_close_matches(family, FAMILIES, n=1)
        raise ConfigError(
            f"`model_type` is {family!r}, which this version cannot run",
            f"did you mean `{close[0]}`?" if close else f"supported: {', '.join(sorted(FAMILIES))}",
        )
    return adapter(raw)


def _llama(raw: RawConfig) -> ModelConfig:
    """Llama-shaped checkpoints: SmolLM2, and MobileLLM-1.5B, which ships as one."""
    return _decoder(raw, family="llama", tied=_flag(raw, "tie_word_embeddings", False), runs=1)


def _mobilellm(raw: RawConfig) -> ModelConfig:
    """MobileLLM v1. Its files say ``tie_word_embeddings: false`` beside ``share_embedding: true``;
    the second one is what its network obeys."""
    tied = _flag(raw, "share_embedding", True) or _flag(raw, "tie_word_embeddings", False)
    runs = 2 if _flag(raw, "layer_sharing", False) else 1
    return _decoder(raw, family="mobilellm", tied=tied, runs=runs)


FAMILIES: dict[str, Callable[[RawConfig], ModelConfig]] = {
    "llama": _llama,
    "mobilellm": _mobilellm,
}


def _decoder(raw: RawConfig, *, family: str, tied: bool, runs: int) -> ModelConfig:
    _refuse_unsupported(raw)
    heads = _whole(raw, "num_attention_heads")
    hidden = _whole(raw, "hidden_size")
    head_dim = _whole(raw, "head_dim", 0) or hidden // max(heads, 1)
    layer = LayerConfig(rope=RopeConfig(theta=_rope_theta(raw)), runs=runs)
    count = _whole(raw, "num_hidden_layers")
    if not 1 <= count <= 1024:
        raise ConfigError(f"`num_hidden_layers` is {count}, expected 1 to 1024")
    return ModelConfig(
        family=family,
        vocab_size=_whole(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_whole(raw, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=_whole(raw, "num_key_value_heads", heads),
        head_dim=head_dim,
        max_position_embeddings=_whole(raw, "max_position_embeddings", 2048),
        layers=(layer,) * count,
        rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
        tie_word_embeddings=tied,
    )


def _refuse_unsupported(raw: RawConfig) -> None:
    """Settings of the Llama family that would change the maths of our network."""
    if raw.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"`hidden_act` is {raw['hidden_act']!r}, expected 'silu'")
    for name in ("attention_bias", "mlp_bias"):
        if _flag(raw, name, False):
            raise ConfigError(f"`{name}` is true, but the network has no biases")
    for name in ("rope_scaling", "rope_parameters"):
        scaling = raw.get(name) or {}
        if not isinstance(scaling, Mapping):
            raise ConfigError(f"`{name}` is {scaling!r}, expected a table")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise ConfigError(f"`{name}` asks for {kind!r} scaling, which is not supported")
        for setting in ("factor", "partial_rotary_factor"):
            if scaling.get(setting) not in (None, 1):
                raise ConfigError(f"`{name}` has a `{setting}`, which is not supported")


def _rope_theta(raw: RawConfig) -> float:
    """``rope_theta`` from its old place or from ``rope_parameters`` (transformers 5)."""
    nested = _number(raw.get("rope_parameters") or {}, "rope_theta", 10_000.0)
    return _number(raw, "rope_theta", nested)


def _whole(raw: RawConfig, name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"`{name}` is missing from the model's `config.json`")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ConfigError(f"`{name}` is {value!r}, expected a whole number")
    return value


def _number(raw: RawConfig, name: str, default: float) -> float:
    value = raw.get(name)
    if value is None:
        return default
    # The bound refuses infinities, NaN and whole numbers that no float can hold.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ConfigError(f"`{name}` is {value!r}, expected a number")
    return float(value)


def _flag(raw: RawConfig, name: str, default: bool) -> bool:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` is {value!r}, expected true or false")
    return value
