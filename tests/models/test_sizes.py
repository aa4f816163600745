"""Every published size, built lazily: nothing is evaluated, so 1.5B parameters cost no memory."""

import pytest

from mobilellm_mlx.backend import tree_flatten
from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.sizes import (
    PRO,
    R1_SIZES,
    SIZES,
    checkpoint_config,
    pro_config,
    r1_config,
)

PUBLISHED = {
    "125m": 124_635_456,
    "350m": 345_355_200,
    "600m": 603_188_352,
    "1b": 1_005_461_760,
    "1.5b": 1_511_188_800,
}
PUBLISHED_R1 = {"140m": 140_248_512, "360m": 359_431_168, "950m": 949_685_760}
UNKNOWN_OF_PRO = {
    "rope_theta": 500_000.0,  # no count depends on it, nor on the others
    "use_qk_norm": True,
    "no_rope_layers": [1] * 30,
    "tie_word_embeddings": True,
}


def stored_parameters(model: LanguageModel) -> int:
    return sum(array.size for _, array in tree_flatten(model.parameters()))


def test_the_table_of_sizes_lists_exactly_the_published_ones() -> None:
    assert {name: size.parameters for name, size in SIZES.items()} == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_of_a_published_size_has_exactly_its_parameters(name: str) -> None:
    model = LanguageModel(build_config(checkpoint_config(name)))
    assert stored_parameters(model) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_counts_the_same_parameters_as_the_network_holds(name: str) -> None:
    assert build_config(checkpoint_config(name)).parameter_count() == PUBLISHED[name]


def test_an_untied_head_is_counted_in_the_configuration_as_in_the_network() -> None:
    config = build_config({**checkpoint_config("125m"), "share_embedding": False})
    assert config.parameter_count() == PUBLISHED["125m"] + 32_000 * 576
    assert stored_parameters(LanguageModel(config)) == config.parameter_count()


@pytest.mark.parametrize("name", PUBLISHED)
def test_layer_sharing_stores_the_same_parameters(name: str) -> None:
    config = build_config(checkpoint_config(name, layer_sharing=True))
    assert config.parameter_count() == PUBLISHED[name]
    assert stored_parameters(LanguageModel(config)) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_layer_sharing_needs_twice_the_caches(name: str) -> None:
    plain = LanguageModel(build_config(checkpoint_config(name))).make_cache()
    shared = LanguageModel(build_config(checkpoint_config(name, layer_sharing=True))).make_cache()
    assert len(plain) == SIZES[name].layers
    assert len(shared) == 2 * len(plain)


def test_layer_sharing_doubles_the_bytes_of_a_cached_token() -> None:
    plain = build_config(checkpoint_config("125m"))
    shared = build_config(checkpoint_config("125m", layer_sharing=True))
    assert plain.kv_bytes_per_token(2) == 23_040
    assert shared.kv_bytes_per_token(2) == 46_080


def test_building_a_published_size_evaluates_nothing() -> None:
    from mobilellm_mlx.backend import mx

    before = mx.get_active_memory()
    model = LanguageModel(build_config(checkpoint_config("1.5b")))
    assert mx.get_active_memory() - before < 1_000_000
    assert stored_parameters(model) == PUBLISHED["1.5b"]


def test_the_table_of_r1_lists_exactly_the_published_ones() -> None:
    assert {name: size.parameters for name, size in R1_SIZES.items()} == PUBLISHED_R1


@pytest.mark.parametrize("name", PUBLISHED_R1)
def test_a_size_of_r1_has_exactly_its_parameters(name: str) -> None:
    config = build_config(r1_config(name))
    assert config.parameter_count() == PUBLISHED_R1[name]
    assert stored_parameters(LanguageModel(config)) == PUBLISHED_R1[name]


def test_every_block_of_r1_sees_the_whole_context() -> None:
    config = build_config(r1_config("360m"))
    assert {layer.attention for layer in config.layers} == {"full"}
    assert config.kv_bytes_per_token(2) == 15_360 and config.max_position_embeddings == 32_768


def test_pro_has_exactly_its_parameters() -> None:
    config = build_config({**pro_config(), **UNKNOWN_OF_PRO})
    assert config.parameter_count() == PRO.parameters == 1_084_453_120
    assert stored_parameters(LanguageModel(config)) == PRO.parameters


def test_every_fourth_block_of_pro_and_the_last_see_everything() -> None:
    layers = build_config({**pro_config(), **UNKNOWN_OF_PRO}).layers
    assert [n for n, layer in enumerate(layers) if layer.attention == "full"] == [
        *range(0, 30, 4),
        29,
    ]
    assert {layer.window for layer in layers} == {None, 512}


@pytest.mark.parametrize("name", UNKNOWN_OF_PRO)
def test_what_is_not_known_of_pro_is_not_guessed(name: str) -> None:
    rest = {key: value for key, value in UNKNOWN_OF_PRO.items() if key != name}
    with pytest.raises(ConfigError, match=f"`{name}` is missing"):
        build_config({**pro_config(), **rest})
