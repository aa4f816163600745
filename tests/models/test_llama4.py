"""The ``llama4_text`` family (MobileLLM-R1) against transformers, and what it refuses."""

import json
from typing import Any

import numpy as np
import pytest
from tiny import GOLDEN, pack
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models import LanguageModel, build_config
from tests.models import twin
from tests.models.test_incremental import feed

CASES = (
    "r1",
    "no_norm",
    "large_eps",
    "chunked",
    "mixed",
    "warm",
    "wide",
    "wide_no_norm",
    "typed",
)
Arrays = dict[str, np.ndarray]


def read_case(case: str) -> tuple[dict[str, Any], Arrays, np.ndarray, np.ndarray]:
    """A golden's configuration, weights, ids (2, 17) and logits (2, 17, V)."""
    with np.load(GOLDEN / "llama4_tiny.npz") as archive:
        prefix = f"weights/{archive[f'{case}/weights']}/"
        weights = {n.removeprefix(prefix): archive[n] for n in archive if n.startswith(prefix)}
        raw = json.loads(str(archive[f"{case}/config"]))
        return raw, weights, archive["ids"], archive[f"{case}/logits"]


def build(raw: dict[str, Any], weights: Arrays) -> LanguageModel:
    model = LanguageModel(build_config(raw))
    tensors = {name: mx.array(array).astype(mx.float32) for name, array in weights.items()}
    model.load_weights(list(tensors.items()), strict=True)
    return model


def kinds(raw: dict[str, Any]) -> list[twin.Kind]:
    """What the configuration says, for the twin."""
    types = raw.get("layer_types") or [
        "chunked_attention" if rope else "full_attention" for rope in raw["no_rope_layers"]
    ]
    warm = (raw["floor_scale"], raw["attn_scale"]) if raw["attn_temperature_tuning"] else None
    return [
        twin.Kind(
            attention=kind.removesuffix("_attention"),
            size=raw["attention_chunk_size"],
            theta=raw["rope_theta"] if rope else None,
            interleaved=True,
            qk_norm=bool(rope and raw["use_qk_norm"]),
            temperature=None if rope else warm,
        )
        for kind, rope in zip(types, raw["no_rope_layers"], strict=True)
    ]


R1: dict[str, Any] = read_case("r1")[0]
BARE = {"no_rope_layers": [1, 1, 0, 1], "attn_temperature_tuning": True}


# The goldens


@pytest.mark.parametrize("case", CASES)
def test_the_network_gives_the_logits_of_transformers(case: str) -> None:
    raw, weights, ids, logits = read_case(case)
    assert_close(build(raw, weights)(mx.array(ids)), logits, FP32_REORDERED, case)


@pytest.mark.parametrize("case", CASES)
def test_the_twin_gives_the_logits_of_transformers(case: str) -> None:
    raw, weights, ids, logits = read_case(case)
    got = twin.forward(
        ids,
        weights,
        kinds(raw),
        heads=raw["num_attention_heads"],
        kv_heads=raw["num_key_value_heads"],
        eps=raw["rms_norm_eps"],
        feed_forward="feed_forward",
    )
    # Its norms and RoPE are float64, the golden's float32.
    assert_close(got, logits, FP32_REORDERED / 5, case)


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        ("r1", {"rope_theta": 10_000.0}),
        ("r1", {"use_qk_norm": False}),
        ("r1", {"no_rope_layers": [1, 1, 1, 0]}),
        ("large_eps", {"rms_norm_eps": 1e-5}),
        ("chunked", {"attention_chunk_size": 6}),
        ("chunked", {"attention_chunk_size": 32768}),
        ("warm", {"attn_temperature_tuning": False}),
        ("warm", {"floor_scale": 5}),
        ("warm", {"attn_scale": 0.2}),
        ("typed", {"layer_types": None}),
    ],
)
def test_no_setting_of_the_goldens_is_idle(case: str, changed: dict[str, Any]) -> None:
    raw, weights, ids, logits = read_case(case)
    other = np.array(build(raw | changed, weights)(mx.array(ids)))
    assert np.abs(other - logits).max() > 0.01, changed


def test_attn_scale_is_not_the_scale_of_the_softmax() -> None:
    raw, weights, ids, logits = read_case("r1")
    got = build(raw | {"attn_scale": 0.7}, weights)(mx.array(ids))
    assert_close(got, logits, FP32_REORDERED, "attn_scale without temperature tuning")


def test_dense_blocks_have_the_width_of_intermediate_size_mlp() -> None:
    raw, _, _, _ = read_case("wide")
    assert raw["intermediate_size"] != raw["intermediate_size_mlp"]
    model = LanguageModel(build_config(raw))
    assert model.config.intermediate_size == raw["intermediate_size_mlp"]
    shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
    assert shapes["model.layers.3.feed_forward.gate_proj.weight"] == (36, 40)


def test_parameter_names_are_those_of_the_checkpoint_without_the_mlp_of_llama() -> None:
    raw, weights, _, _ = read_case("r1")
    names = {name for name, _ in tree_flatten(LanguageModel(build_config(raw)).parameters())}
    assert names == set(weights)
    assert not [name for name in names if ".mlp." in name or "norm" in name.split(".")[-3]]


def test_a_head_of_its_own_is_loaded_and_used() -> None:
    raw, weights, ids, logits = read_case("wide")
    assert not raw["tie_word_embeddings"] and "lm_head.weight" in weights
    weights["lm_head.weight"] = weights["lm_head.weight"] * 2
    assert_close(build(raw, weights)(mx.array(ids)), 2 * logits, 2 * FP32_REORDERED, "twice")


# Cached, and packed


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "pieces",
    [[1] * 17, [5] + [1] * 12, [6] + [1] * 11, [5, 5, 5, 2], [3, 13, 1]],
    ids=lambda pieces: "-".join(map(str, pieces)) if len(pieces) < 5 else f"{pieces[0]}-then-1",
)
def test_in_pieces_equals_the_logits_of_transformers(case: str, pieces: list[int]) -> None:
    raw, weights, ids, logits = read_case(case)
    got = feed(build(raw, weights), mx.array(ids), pieces)
    assert_close(got, logits, FP32_REORDERED, f"{case} in pieces {pieces}")


@pytest.mark.parametrize("kept", [0, 5, 6, 16])
@pytest.mark.parametrize("case", ["chunked", "warm"])
def test_trimming_and_going_on_equals_a_fresh_start(case: str, kept: int) -> None:
    raw, weights, ids, logits = read_case(case)
    model, tokens = build(raw, weights), mx.array(ids)
    caches = model.make_cache()
    feed(model, (tokens + 3) % raw["vocab_size"], [17], caches)
    for cache in caches:
        cache.trim(17)
    feed(model, tokens, [17], caches)
    for cache in caches:
        assert cache.can_trim(17 - kept)
        cache.trim(17 - kept)
    got = feed(model, tokens[:, kept:], [1] * (17 - kept), caches)
    assert_close(got, logits[:, kept:], FP32_REORDERED, f"{case}, {kept} kept")


@pytest.mark.parametrize("case", ["r1", "warm"])
def test_packed_in_four_bits_it_equals_its_own_unpacked_weights(case: str) -> None:
    raw, weights, ids, _ = read_case(case)
    model = pack(build(raw, weights))
    packed = model(mx.array(ids))
    assert isinstance(model.model.embed_tokens, nn.QuantizedEmbedding)  # and so the tied head
    plain: dict[str, mx.array] = {}
    for path, module in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module):
        if hasattr(module, "scales"):
            plain[f"{path}.weight"] = mx.dequantize(
                module.weight, module.scales, module.biases, module.group_size, module.bits
            )
    unpacked = build(raw, weights | {name: np.array(array) for name, array in plain.items()})
    assert_close(packed, unpacked(mx.array(ids)), FP32_REORDERED, f"{case} packed")
    assert len(plain) == 1 + 4 * 7


# Settings


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in R1.items() if key != name}


@pytest.mark.parametrize(
    "name", ["rope_theta", "use_qk_norm", "no_rope_layers", "rms_norm_eps", "intermediate_size_mlp"]
)
@pytest.mark.parametrize("null", [False, True])
def test_a_setting_that_could_only_be_guessed_is_asked_for(name: str, null: bool) -> None:
    raw = R1 | {name: None} if null else without(name)
    with pytest.raises(ConfigError, match=rf"`{name}`"):
        build_config(raw)


@pytest.mark.parametrize("nested", [{"rope_type": "default"}, {"rope_theta": None}, {}])
def test_rope_parameters_without_a_rope_theta_are_not_guessed_either(nested: Any) -> None:
    with pytest.raises(ConfigError, match="`rope_theta`"):
        build_config(without("rope_theta") | {"rope_parameters": nested})


@pytest.mark.parametrize("name", ["attn_temperature_tuning", "floor_scale", "attn_scale"])
def test_the_temperature_of_blocks_without_positions_is_asked_for(name: str) -> None:
    raw = read_case("warm")[0]
    with pytest.raises(ConfigError, match=f"`{name}`"):
        build_config({key: value for key, value in raw.items() if key != name})


def test_the_size_of_chunks_is_asked_for_where_blocks_have_them() -> None:
    with pytest.raises(ConfigError, match="`attention_chunk_size`"):
        build_config(without("attention_chunk_size"))
    build_config(without("attention_chunk_size") | {"layer_types": ["full_attention"] * 4})


def test_no_rope_layers_may_go_on_beyond_the_last_block() -> None:
    longer = BARE | {"no_rope_layers": [1, 1, 0, 1, 0, 0]}
    assert build_config(R1 | longer) == build_config(R1 | BARE)


def test_a_window_without_a_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="`sliding_window`"):
        build_config(R1 | {"layer_types": ["sliding_attention"] * 4})


def test_an_empty_no_rope_layers_is_not_guessed_either() -> None:
    with pytest.raises(ConfigError, match="`no_rope_layers`"):
        build_config(R1 | {"no_rope_layers": []})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layer_types": ["full_attention"] * 3 + ["linear_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention"] * 3}, "`layer_types`"),
        ({"layer_types": ["full_attention"] * 5}, "`layer_types`"),
        ({"layer_types": "full_attention"}, "`layer_types`"),
        ({"layer_types": [7] * 4}, "`layer_types`"),
        ({"layer_types": [["full_attention"]] * 4}, "`layer_types`"),
        ({"no_rope_layers": [1, 1, 1]}, "`no_rope_layers`"),
        ({"no_rope_layers": [1, 1, 1, 2]}, "`no_rope_layers`"),
        ({"no_rope_layers": "1111"}, "`no_rope_layers`"),
        ({"no_rope_layers": 1}, "`no_rope_layers`"),
        ({"use_qk_norm": "yes"}, "`use_qk_norm`"),
        ({"attention_chunk_size": 0}, "`attention_chunk_size`"),
        ({"attention_chunk_size": -5}, "`attention_chunk_size`"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "`rope_scaling`"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "`rope_scaling`"),
        ({"moe_layers": [1]}, "`moe_layers`"),
        ({"num_local_experts": 16, "moe_layers": [0, 1, 2, 3]}, "`(moe_layers|num_local_experts)`"),
        ({"attention_bias": True}, "`attention_bias`"),
        ({"hidden_act": "gelu"}, "`hidden_act`"),
        (BARE | {"floor_scale": 0}, "`floor_scale`"),
        ({"rope_theta": 0}, "`rope_theta`"),
        ({"rope_theta": -1.0}, "`rope_theta`"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused_by_name(
    changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        build_config(R1 | changed)


def test_experts_are_refused_even_when_moe_layers_is_left_to_the_step() -> None:
    raw = without("moe_layers") | {"num_local_experts": 16, "interleave_moe_layer_step": 1}
    with pytest.raises(ConfigError, match=r"`(moe_layers|num_local_experts)`"):
        build_config(raw)


def test_an_unknown_layer_type_gets_a_hint_or_a_list_of_the_known() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(R1 | {"layer_types": ["full_atention"] * 4})
    said = f"{caught.value.message} {caught.value.hint}"
    assert "full_atention" in said and "full_attention" in said


def test_the_golden_configuration_of_r1_is_read_as_it_says() -> None:
    config = build_config(R1)
    assert config.family == "llama4_text" and config.tie_word_embeddings
    assert config.feed_forward_name == "feed_forward"
    layer = config.layers[0]
    assert config.layers == (layer,) * 4
    assert layer.rope is not None and layer.rope.traditional and layer.rope.theta == 8_000_000
    assert layer.qk_norm and layer.temperature is None and layer.runs == 1


def test_blocks_without_positions_have_neither_norm_nor_chunks_but_the_temperature() -> None:
    config = build_config(read_case("warm")[0])
    plain, bare = config.layers[0], config.layers[2]
    assert (plain.attention, plain.window, plain.qk_norm) == ("chunked", 5, True)
    assert plain.temperature is None
    assert (bare.attention, bare.window, bare.qk_norm, bare.rope) == ("full", None, False, None)
    assert bare.temperature is not None
    assert (bare.temperature.floor_scale, bare.temperature.attn_scale) == (4, 0.1)


def test_rope_theta_is_read_from_rope_parameters_too() -> None:
    nested = {"rope_type": "default", "rope_theta": 8_000_000.0}
    config = build_config(without("rope_theta") | {"rope_parameters": nested})
    assert config == build_config(R1)


# The published sizes, built lazily: nothing is evaluated

PUBLISHED = {
    "140m": ((15, 9, 3, 576, 2048), 140_248_512, 11_520),
    "360m": ((15, 16, 4, 1024, 4096), 359_431_168, 15_360),
    "950m": ((22, 24, 6, 1536, 6144), 949_685_760, 33_792),
}


def r1_config(name: str) -> dict[str, Any]:
    """A configuration of MobileLLM-R1: 128,256 tokens, head size 64, a 32k context."""
    (layers, heads, kv_heads, dim, ffn), _, _ = PUBLISHED[name]
    return R1 | {
        "vocab_size": 128_256,
        "head_dim": 64,
        "hidden_size": dim,
        "intermediate_size": ffn,
        "intermediate_size_mlp": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "no_rope_layers": [1] * layers,
        "max_position_embeddings": 32_768,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_of_r1_has_exactly_its_parameters(name: str) -> None:
    config, parameters = build_config(r1_config(name)), PUBLISHED[name][1]
    stored = tree_flatten(LanguageModel(config).parameters())
    assert sum(array.size for _, array in stored) == parameters
    assert config.parameter_count() == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cached_token_of_r1_costs_what_its_heads_say(name: str) -> None:
    config, per_token = build_config(r1_config(name)), PUBLISHED[name][2]
    assert config.kv_bytes_per_token(2) == per_token
    assert config.kv_bytes(32_768, 2) == 32_768 * per_token
