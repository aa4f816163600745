"""The configuration of a converted model describes the same network."""

from dataclasses import replace

import pytest
from tiny import LLAMA, MOBILELLM

from convert.target import generation_config, target_config, token_ids
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.models import build_config
from mobilellm_mlx.models.config import LayerConfig, RopeConfig

V1 = {**MOBILELLM, "layer_sharing": False}


def written(raw, dtype="BF16", quantization=None):
    return target_config(build_config(raw), raw, dtype, quantization)


@pytest.mark.parametrize(
    "raw",
    [
        LLAMA,
        {**LLAMA, "tie_word_embeddings": False},
        {**LLAMA, "rope_theta": 500_000.0, "head_dim": 16, "rms_norm_eps": 1e-6},
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        V1,
        {**V1, "share_embedding": False},
        MOBILELLM,
        {**MOBILELLM, "share_embedding": False},
    ],
)
def test_it_is_read_as_the_same_network(raw) -> None:
    ours, again = build_config(raw), build_config(written(raw))
    assert replace(again, family=ours.family) == ours


def test_unshared_blocks_are_a_llama_that_every_program_knows() -> None:
    made = written(V1)
    assert (made["model_type"], made["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert made["tie_word_embeddings"] is True
    assert not {"share_embedding", "layer_sharing"} & made.keys()


def test_shared_blocks_keep_a_name_that_other_programs_refuse() -> None:
    made = written(MOBILELLM)
    assert made["model_type"] == "mobilellm" and made["architectures"] == ["MobileLLMForCausalLM"]
    assert made["layer_sharing"] is True and made["share_embedding"] is True
    assert made["num_hidden_layers"] == MOBILELLM["num_hidden_layers"]


def test_every_setting_that_others_would_guess_is_written_out() -> None:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    made = written({"model_type": "llama", "num_attention_heads": 2, **dict.fromkeys(names, 8)})
    assert (made["head_dim"], made["num_key_value_heads"]) == (4, 2)
    assert (made["rope_theta"], made["rms_norm_eps"]) == (10_000.0, 1e-6)
    assert made["max_position_embeddings"] == 2048 and made["torch_dtype"] == "bfloat16"


def test_nothing_of_the_source_but_the_network_and_its_tokens_is_carried_over() -> None:
    raw = {**LLAMA, "auto_map": {"AutoModel": "evil.Evil"}, "_name_or_path": "/home/me", "x": 1}
    made = written(raw)
    assert not {"auto_map", "_name_or_path", "x", "quantization"} & made.keys()


def test_the_table_is_under_both_names() -> None:
    table = {"group_size": 32, "bits": 4, "mode": "affine", "lm_head": False}
    made = written(LLAMA, quantization=table)
    assert made["quantization"] == made["quantization_config"] == table


@pytest.mark.parametrize(
    "layers",
    [
        (LayerConfig(), LayerConfig(runs=2)),
        (LayerConfig(runs=3), LayerConfig(runs=2)),
        (LayerConfig(rope=RopeConfig(traditional=True)),) * 2,
    ],
)
def test_a_network_that_it_cannot_describe_is_refused(layers) -> None:
    config = replace(build_config(LLAMA), layers=layers)
    with pytest.raises(ConvertError, match="cannot be written as a configuration yet"):
        target_config(config, LLAMA, "F16", None)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 2}),
        ({"eos_token_id": [2, 3], "bos_token_id": 0}, {"eos_token_id": [2, 3], "bos_token_id": 0}),
        ({"eos_token_id": None, "pad_token_id": -1, "bos_token_id": True}, {}),
        ({"eos_token_id": [], "pad_token_id": "0", "bos_token_id": 1.0}, {}),
        ({"eos_token_id": [2, None]}, {}),
        ({"eos_token_id": {"a": 1}}, {}),
        ({"unk_token_id": 5}, {}),
    ],
)
def test_only_ids_that_are_ids_are_carried_over(raw, found) -> None:
    assert token_ids(raw) == found


def test_the_generation_configuration_has_stops_and_sampling_of_both_files() -> None:
    theirs = {"eos_token_id": [7, 8], "temperature": 0.6, "do_sample": True, "max_length": 20}
    made = generation_config({"eos_token_id": 7, "bos_token_id": 1}, theirs)
    assert made == {
        "bos_token_id": 1, "eos_token_id": [7, 8], "do_sample": True, "temperature": 0.6,
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "hot", {"a": 1}, -1, True], ids=str)
def test_sampling_that_no_model_can_have_is_not_carried_over(value) -> None:
    assert "temperature" not in generation_config({}, {"do_sample": True, "temperature": value})


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_blocks_that_run_often_keep_their_count(runs) -> None:
    config = build_config({**MOBILELLM, "layer_sharing": False, "layer_runs": runs})
    written = target_config(config, {}, "F16", None)
    assert written["model_type"] == "mobilellm" and build_config(written) == config
