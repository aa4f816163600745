"""From a checkpoint's config.json to the normalised one: what is read, what is refused."""

from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM

from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models import build_config

NAN, INF = float("nan"), float("inf")


def refused(**changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_config({**LLAMA, **changes})
    return caught.value


def test_values_arrive_where_they_belong() -> None:
    config = build_config(
        {
            **LLAMA,
            "head_dim": 16,
            "rope_theta": 50_000,
            "rms_norm_eps": 1e-6,
            "num_hidden_layers": 3,
        }
    )
    assert (config.family, config.vocab_size, config.hidden_size) == ("llama", 258, 32)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 16)
    assert (config.intermediate_size, config.max_position_embeddings) == (64, 1024)
    assert (config.rms_norm_eps, config.tie_word_embeddings) == (1e-6, True)
    assert [(layer.rope.theta, layer.runs) for layer in config.layers] == [(50_000.0, 1)] * 3
    assert not any(layer.rope.traditional for layer in config.layers)


def test_what_a_checkpoint_does_not_say_has_llamas_defaults() -> None:
    optional = (
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    config = build_config({k: v for k, v in LLAMA.items() if k not in optional})
    assert config.num_key_value_heads == config.num_attention_heads
    assert config.head_dim == config.hidden_size // config.num_attention_heads
    assert (config.max_position_embeddings, config.rms_norm_eps) == (2048, 1e-6)
    assert config.tie_word_embeddings is False
    assert config.layers[0].rope.theta == 10_000.0


def test_null_is_the_same_as_missing() -> None:
    config = build_config({**LLAMA, "head_dim": None, "num_key_value_heads": None})
    assert (config.head_dim, config.num_key_value_heads) == (8, 4)


@pytest.mark.parametrize(
    ("share", "tie", "tied"),
    [(True, False, True), (False, False, False), (False, True, True), (None, False, True)],
)
def test_mobilellm_obeys_share_embedding(share: bool | None, tie: bool, tied: bool) -> None:
    raw = {**MOBILELLM, "share_embedding": share, "tie_word_embeddings": tie}
    assert build_config(raw).tie_word_embeddings is tied


def test_llama_obeys_tie_word_embeddings_alone() -> None:
    raw = {**LLAMA, "tie_word_embeddings": False, "share_embedding": True}
    assert build_config(raw).tie_word_embeddings is False


@pytest.mark.parametrize(("flag", "runs"), [(True, 2), (False, 1), (None, 1)])
def test_layer_sharing_runs_every_block_twice(flag: bool | None, runs: int) -> None:
    config = build_config({**MOBILELLM, "layer_sharing": flag})
    assert {layer.runs for layer in config.layers} == {runs}
    assert config.attention_runs == 2 * runs


def test_layer_sharing_is_no_business_of_llamas() -> None:
    assert build_config({**LLAMA, "layer_sharing": True}).attention_runs == 2


def test_an_unknown_family_is_refused_with_the_nearest_one() -> None:
    error = refused(model_type="mobilelm")
    assert "'mobilelm'" in error.message
    assert error.hint == "did you mean `mobilellm`?"


def test_a_wholly_unknown_family_is_refused_with_those_there_are() -> None:
    assert (
        refused(model_type="rwkv7").hint
        == "supported: llama, llama4_text, mobilellm, mobilellm_pro"
    )


@pytest.mark.parametrize("value", [None, 3, ["llama"]])
def test_a_family_that_is_no_name_is_refused(value: Any) -> None:
    assert "`model_type`" in refused(model_type=value).message


@pytest.mark.parametrize(
    "name",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_a_missing_key_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is missing"):
        build_config({k: v for k, v in LLAMA.items() if k != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", "258"),
        ("vocab_size", 258.0),
        ("vocab_size", True),
        ("num_attention_heads", True),
        ("hidden_size", [32]),
        ("hidden_size", -32),
        ("hidden_size", 2**31),
        ("max_position_embeddings", "many"),
        ("rms_norm_eps", "1e-5"),
        ("rms_norm_eps", True),
        ("rope_theta", "10000"),
        ("rope_theta", False),
        ("tie_word_embeddings", 1),
        ("tie_word_embeddings", "false"),
        ("attention_bias", "no"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name_and_value(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert f"`{name}`" in error.message and repr(value) in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 0),
        ("hidden_size", 0),
        ("hidden_size", 2),  # less than the heads: no head dim left
        ("intermediate_size", 0),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", 8),
        ("head_dim", 7),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 1025),
        ("max_position_embeddings", 0),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 1),
        ("rms_norm_eps", NAN),
        ("rope_theta", 0),
        ("rope_theta", -1.0),
        ("rope_theta", NAN),
        ("rope_theta", INF),
        ("rope_theta", 10**400),
    ],
)
def test_an_impossible_value_is_refused(name: str, value: Any) -> None:
    refused(**{name: value})


@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias"])
def test_biases_are_refused(name: str) -> None:
    assert f"`{name}`" in refused(**{name: True}).message
    build_config({**LLAMA, name: False})


def test_another_activation_is_refused() -> None:
    assert "'gelu'" in refused(hidden_act="gelu").message


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    "table",
    [
        {"type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0},
        {"rope_type": "yarn"},
        {"factor": 2.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
    ],
)
def test_scaled_positions_are_refused(name: str, table: dict[str, Any]) -> None:
    assert f"`{name}`" in refused(**{name: table}).message


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_a_rope_table_that_is_none_is_refused(name: str) -> None:
    assert "expected a table" in refused(**{name: [2.0]}).message


@pytest.mark.parametrize("table", [None, {}, {"rope_type": "default"}])
def test_a_rope_table_that_changes_nothing_is_fine(table: Any) -> None:
    build_config({**LLAMA, "rope_scaling": table, "rope_parameters": table})


@pytest.mark.parametrize("old", [{}, {"rope_theta": None}])
def test_the_rope_base_is_found_in_its_new_place(old: dict[str, Any]) -> None:
    raw = {**LLAMA, **old, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert build_config(raw).layers[0].rope.theta == 5e5


def test_settings_of_other_programs_are_ignored() -> None:
    build_config({**LLAMA, "torch_dtype": "bfloat16", "use_cache": True, "pretraining_tp": 1})
