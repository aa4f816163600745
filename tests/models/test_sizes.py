"""Every published size, built lazily: nothing is evaluated, so 1.5B parameters cost no memory."""

import pytest

from mobilellm_mlx.backend import tree_flatten
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.sizes import SIZES, checkpoint_config

PUBLISHED = {
    "125m": 124_635_456,
    "350m": 345_355_200,
    "600m": 603_188_352,
    "1b": 1_005_461_760,
    "1.5b": 1_511_188_800,
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
