"""The configuration that is written: ours to the letter, and stock mlx-lm's wherever it can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.models import ModelConfig, build_config
from mobilellm_mlx.options import GenerationOptions

from .writers.safetensors_file import TORCH_NAMES

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_MAX_ID = 2**31


def target_config(
    config: ModelConfig,
    raw: Mapping[str, Any],
    dtype: str,
    quantization: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The ``config.json`` of a converted model.

    MobileLLM v1 without shared blocks is a Llama with shared embeddings, and says so: then every
    program that knows Llama can run it. With shared blocks no other program would run it right, so
    it keeps a name that they refuse.

    Args:
        config: of the network.
        raw: the source's configuration, for the ids of special tokens.
        dtype: stored type, ``F16`` and its like.
        quantization: mlx-lm's table, None when nothing is packed.

    Raises:
        ConvertError: when it would not describe the same network.
    """
    written: dict[str, Any] = {
        **_family(config),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": TORCH_NAMES[dtype],
        **token_ids(raw),
    }
    if quantization:
        written["quantization"] = written["quantization_config"] = dict(quantization)
    _check_same(config, written)
    return written


def _family(config: ModelConfig) -> dict[str, Any]:
    """The name of the family, and what only it has."""
    if config.feed_forward_name == "feed_forward":
        return _llama4(config)
    runs = config.layers[0].runs
    skips = any(layer.attention == "none" for layer in config.layers)
    if runs == 1 and not skips:
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    family: dict[str, Any] = {
        "architectures": ["MobileLLMForCausalLM"],
        "model_type": "mobilellm",
        "share_embedding": config.tie_word_embeddings,
        "layer_sharing": runs == 2,
    }
    if runs > 2:
        family["layer_runs"] = runs
    if skips:
        names = {"full": "full_attention", "none": "none"}
        family["layer_types"] = [names[layer.attention] for layer in config.layers]
    return family


def _llama4(config: ModelConfig) -> dict[str, Any]:
    """R1 and Pro, as transformers names their settings."""
    layers = config.layers
    windows = {layer.attention: layer.window for layer in layers}
    tuned = [layer.temperature for layer in layers if layer.temperature is not None]
    family: dict[str, Any] = {
        "architectures": [f"{'MobileLLMP1' if 'sliding' in windows else 'Llama4'}ForCausalLM"],
        # Programs that know Llama 4 ignore windows and temperatures, and would say nothing.
        "model_type": "llama4_text" if set(windows) == {"full"} and not tuned else "mobilellm_pro",
        "intermediate_size_mlp": config.intermediate_size,
        "layer_types": [f"{layer.attention}_attention" for layer in layers],
        "no_rope_layers": [int(layer.rope is not None) for layer in layers],
        "use_qk_norm": any(layer.qk_norm for layer in layers),
        # Other programs want a number even where no block attends in chunks.
        "attention_chunk_size": windows.get("chunked") or config.max_position_embeddings,
        "attn_temperature_tuning": bool(tuned),
        "moe_layers": [],
        "interleave_moe_layer_step": 0,
        "num_local_experts": 0,
        "rope_scaling": None,
    }
    if "sliding" in windows:
        family["sliding_window"] = windows["sliding"]
    if tuned:
        family |= {"floor_scale": tuned[0].floor_scale, "attn_scale": tuned[0].attn_scale}
    return family


def _check_same(config: ModelConfig, written: Mapping[str, Any]) -> None:
    from dataclasses import replace

    again = build_config(written)
    if replace(again, family=config.family) != config:
        raise ConvertError(f"the family `{config.family}` cannot be written as a configuration yet")


def token_ids(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of special tokens that a configuration names, a number or several."""
    rows = raw.get("vocab_size", _MAX_ID)
    most = rows if type(rows) is int else _MAX_ID
    found: dict[str, Any] = {}
    for name in _TOKENS:
        value = raw.get(name)
        several = value if isinstance(value, list) else [value]
        if several and all(type(token) is int and 0 <= token < most for token in several):
            found[name] = value
    return found


def generation_config(raw: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Stop tokens and sampling out of the source's two files, as far as they make sense."""
    sampling = {name: theirs[name] for name in _SAMPLING if _is_possible(name, theirs.get(name))}
    if type(theirs.get("do_sample")) is bool:
        sampling = {"do_sample": theirs["do_sample"], **sampling}
    return {**token_ids(raw), **token_ids(theirs), **sampling}


def _is_possible(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        GenerationOptions().merged({name: value})
    except InvalidOption:
        return False
    return True
