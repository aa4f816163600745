"""From a checkpoint's ``config.json`` to the normalised configuration.

A family is one function here and one name table in ``convert``. A setting that would change the
maths and that the network does not have is refused; settings that only matter to other programs
are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models.config import (
    AttentionKind,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    TemperatureConfig,
)

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
    kinds = raw.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * _whole(raw, "num_hidden_layers"):
        raise ConfigError(f"`layer_types` is {kinds!r}, but all blocks of a Llama attend in full")
    return _decoder(raw, family="llama", tied=_flag(raw, "tie_word_embeddings", False), runs=1)


_MAX_RUNS = 8


def _mobilellm(raw: RawConfig) -> ModelConfig:
    """MobileLLM v1. Its files say ``tie_word_embeddings: false`` beside ``share_embedding: true``;
    the second one is what its network obeys.

    Two settings are ours: ``layer_runs``, how often each block runs (the paper studies 1 to 4), and
    ``layer_types``, which may leave attention out of blocks (the design of MobileLLM-Flash).
    """
    tied = _flag(raw, "share_embedding", True) or _flag(raw, "tie_word_embeddings", False)
    sharing = _flag(raw, "layer_sharing", False)
    runs = _whole(raw, "layer_runs", 2 if sharing else 1)
    if not 1 <= runs <= _MAX_RUNS or (sharing and runs == 1):
        shared = " beside `layer_sharing: true`" if sharing else ""
        raise ConfigError(
            f"`layer_runs` is {runs}{shared}, expected {2 if sharing else 1} to {_MAX_RUNS}"
        )
    config = _decoder(raw, family="mobilellm", tied=tied, runs=runs)
    kinds = _layer_types(raw, len(config.layers), {"full_attention": "full", "none": "none"})
    if kinds is None:
        return config
    if "full" not in kinds:
        raise ConfigError("`layer_types` leaves no attention: the model could not see its text")
    layers = zip(config.layers, kinds, strict=True)
    return replace(config, layers=tuple(replace(layer, attention=kind) for layer, kind in layers))


_LLAMA4_TYPES: dict[str, AttentionKind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
}


_LLAMA4_NEEDS = (
    "rope_theta",
    "rms_norm_eps",
    "max_position_embeddings",
    "num_key_value_heads",
    "head_dim",
    "use_qk_norm",
    "no_rope_layers",
    "tie_word_embeddings",
)


def _llama4(raw: RawConfig) -> ModelConfig:
    """MobileLLM-R1 and R1.5, which are dense Llama 4 text models, and Pro, which adds windows.

    Nothing that would change the maths is guessed: what a file does not say is an error.
    """
    _refuse_experts(raw)
    nested = raw.get("rope_parameters")
    known = raw
    if isinstance(nested, Mapping) and raw.get("rope_theta") is None:
        known = {**raw, "rope_theta": nested.get("rope_theta")}
    for name in _LLAMA4_NEEDS:
        if known.get(name) is None:
            raise _missing(name)
    base = _decoder(
        {**raw, "intermediate_size": _whole(raw, "intermediate_size_mlp")},
        family="llama4_text",
        tied=_flag(raw, "tie_word_embeddings", False),
        runs=1,
    )
    count = len(base.layers)
    positions = raw["no_rope_layers"]  # 1 means that the block has positions
    if not isinstance(positions, list) or any(value not in (0, 1) for value in positions):
        raise ConfigError(f"`no_rope_layers` is {positions!r}, expected a list of 0 and 1")
    if len(positions) < count:  # longer ones exist: a 22-long list in a model of 15 blocks
        raise ConfigError(
            f"`no_rope_layers` has {len(positions)} entries, expected one for each of {count} "
            "blocks"
        )
    if raw.get("sliding_window") is not None and raw.get("layer_types") is None:
        raise ConfigError("`sliding_window` is given, but no `layer_types` say whose it is")
    # Unless listed it is as in Llama 4: blocks with positions attend in chunks.
    kinds: list[AttentionKind] = _layer_types(raw, count, _LLAMA4_TYPES) or [
        "chunked" if placed else "full" for placed in positions[:count]
    ]
    layers = [_llama4_layer(raw, base, k, bool(p)) for k, p in zip(kinds, positions, strict=False)]
    return replace(base, layers=tuple(layers), feed_forward_name="feed_forward")


def _llama4_layer(
    raw: RawConfig, base: ModelConfig, kind: AttentionKind, placed: bool
) -> LayerConfig:
    """One block; ``placed`` is whether it has positions."""
    rope = base.layers[0].rope
    assert rope is not None
    kind, window = _llama4_window(raw, base, kind)
    return LayerConfig(
        attention=kind,
        window=window,
        rope=replace(rope, traditional=True) if placed else None,
        qk_norm=placed and _flag(raw, "use_qk_norm", False),
        temperature=None if placed else _temperature(raw),
    )


def _llama4_window(
    raw: RawConfig, base: ModelConfig, kind: AttentionKind
) -> tuple[AttentionKind, int | None]:
    if kind == "full":
        return kind, None
    name = "sliding_window" if kind == "sliding" else "attention_chunk_size"
    if name not in raw or (kind == "sliding" and raw[name] is None):
        raise _missing(name)
    window = _whole(raw, name, base.max_position_embeddings)  # a null chunk is no bound
    if window == 0:
        raise ConfigError(f"`{name}` is 0, expected at least 1")
    if window >= base.max_position_embeddings:  # it holds all tokens that there can be
        return "full", None
    return kind, window


def _temperature(raw: RawConfig) -> TemperatureConfig | None:
    """Of blocks without positions."""
    if raw.get("attn_temperature_tuning") is None:
        raise _missing("attn_temperature_tuning")
    if not _flag(raw, "attn_temperature_tuning", False):
        return None
    values = [_number(raw, name, -1.0) for name in ("floor_scale", "attn_scale")]
    for name, value in zip(("floor_scale", "attn_scale"), values, strict=True):
        if raw.get(name) is None:
            raise _missing(name)
        if value <= 0:
            raise ConfigError(f"`{name}` is {value}, expected more than 0")
    return TemperatureConfig(*values)


def _refuse_experts(raw: RawConfig) -> None:
    layers, step = raw.get("moe_layers"), raw.get("interleave_moe_layer_step")
    if not (layers == [] or (layers is None and step == 0)):
        raise ConfigError(
            f"`moe_layers` is {layers!r} and `interleave_moe_layer_step` {step!r}: mixtures of "
            "experts are not supported"
        )


def _layer_types(
    raw: RawConfig, count: int, known: Mapping[str, AttentionKind]
) -> list[AttentionKind] | None:
    """The kind of every block; None when the configuration does not list them."""
    listed = raw.get("layer_types")
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) != count:
        found = f"{len(listed)} entries" if isinstance(listed, list) else repr(listed)
        raise ConfigError(f"`layer_types` has {found}, expected one for each of {count} blocks")
    for kind in listed:
        if not isinstance(kind, str) or kind not in known:
            raise ConfigError(
                f"`layer_types` names {kind!r}, expected one of {', '.join(map(repr, known))}"
            )
    return [known[kind] for kind in listed]


FAMILIES: dict[str, Callable[[RawConfig], ModelConfig]] = {
    "llama": _llama,
    "mobilellm": _mobilellm,
    "llama4_text": _llama4,
    "mobilellm_pro": _llama4,  # what we call those that other programs would run wrong
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
        if any(isinstance(value, Mapping) for value in scaling.values()):
            raise ConfigError(f"`{name}` differs between kinds of blocks, which is not supported")
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


def _missing(name: str) -> ConfigError:
    return ConfigError(f"`{name}` is missing from the model's `config.json`")


def _whole(raw: RawConfig, name: str, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if value is None:
        raise _missing(name)
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
