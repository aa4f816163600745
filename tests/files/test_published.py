"""The published repositories: which there are, and whether their numbers are the network's."""

from math import prod
from types import SimpleNamespace
from typing import Any

import pytest

from convert.plan import ConvertOptions, make_plan
from convert.readers.tensors import Entry
from convert.sources import local_directory
from mobilellm_mlx import huggingface, published
from mobilellm_mlx.backend import tree_flatten
from mobilellm_mlx.catalogue import CATALOGUE
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.sizes import R1_SIZES, SIZES, checkpoint_config, pro_config, r1_config
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.published import LINES, PUBLISHED, PublishedModel

WIDTHS = {"BF16": None, "1-bit": "1", "1.58-bit": "1.58", "2-bit": "2", "3-bit": "3", "4-bit": "4"}
V1 = ("125M", "350M", "600M", "1B", "1.5B")
R1 = ("140M", "360M", "950M")
REPOSITORIES = {
    *(f"facebook/MobileLLM-{size}" for size in V1),
    "facebook/MobileLLM-125M-layer-share",
    "facebook/MobileLLM-350M-layer-share",
    *(
        f"facebook/MobileLLM-{kind}"
        for s in R1
        for kind in (f"R1-{s}", f"R1-{s}-base", f"R1.5-{s}")
    ),
    "facebook/MobileLLM-Pro",
    "facebook/MobileLLM-Pro-base",
    "facebook/MobileLLM-Pro-base-int4-cpu",
    "facebook/MobileLLM-Pro-base-int4-accelerator",
    *(f"facebook/MobileLLM-ParetoQ-{size}-{width}" for size in V1 for width in WIDTHS),
}


def config_of(model: PublishedModel) -> dict[str, Any]:
    """A ``config.json`` of its shape."""
    size = model.size.lower()
    if "-Pro" in model.repo_id:
        unknown = {"rope_theta": 1e6, "use_qk_norm": True, "no_rope_layers": [1] * 30}
        return {**pro_config(), **unknown, "tie_word_embeddings": True}
    if size in R1_SIZES:
        return r1_config(size)
    config = checkpoint_config(size, layer_sharing="layer-share" in model.name)
    if size == "1.5b":  # published as a Llama with a head of its own
        config["model_type"] = "llama"
    return config


SHAPED = [model for model in PUBLISHED.values() if model.parameters]


def test_every_published_repository_is_listed_once() -> None:
    assert {model.repo_id for model in PUBLISHED.values()} == REPOSITORIES
    assert len(PUBLISHED) == len(REPOSITORIES) == 50


def test_names_are_short_unlike_those_of_the_catalogue_and_of_a_line() -> None:
    for name, model in PUBLISHED.items():
        assert name == model.name == model.repo_id.removeprefix("facebook/").lower()
        assert name not in CATALOGUE and model.line in LINES and model.about
        assert name.endswith(model.variant)


@pytest.mark.parametrize("model", SHAPED, ids=lambda model: model.name)
def test_parameters_are_those_of_the_network(model: PublishedModel) -> None:
    assert build_config(config_of(model)).parameter_count() == model.parameters


@pytest.mark.parametrize("model", SHAPED, ids=lambda model: model.name)
def test_a_context_that_is_known_fits_the_networks(model: PublishedModel) -> None:
    longest = build_config(config_of(model)).max_position_embeddings
    shorter = {"MobileLLM-R1 base": 4096, "MobileLLM-R1.5": None}
    assert model.context == shorter.get(model.line, longest)


@pytest.mark.parametrize(
    "model",
    # One for each shape: the others repeat its numbers.
    {model.packed_bytes: model for model in SHAPED if model.packed_bytes}.values(),
    ids=lambda model: model.name,
)
def test_the_size_on_disk_is_what_the_default_recipe_makes(model: PublishedModel) -> None:
    network = LanguageModel(build_config(config_of(model)))
    entries = {
        name: Entry(name, tuple(array.shape), "BF16", prod(array.shape) * 2)
        for name, array in tree_flatten(network.parameters())
    }
    shapes = {name: entry.shape for name, entry in entries.items()}
    source: Any = SimpleNamespace(shapes=shapes, entry=entries.__getitem__)
    assert make_plan(source, ConvertOptions()).nbytes == model.packed_bytes


def test_a_download_holds_every_parameter_in_16_or_32_bits() -> None:
    known = [model for model in PUBLISHED.values() if model.download_bytes]
    assert {model.download_bytes / SIZES_HELD[model.name] for model in known} == {2, 4}


# 600M and 1B are published with the head beside the embedding that it equals.
SIZES_HELD = {
    model.name: model.parameters
    + (32_000 * SIZES[model.size.lower()].dim if model.title.endswith(("-600M", "-1B")) else 0)
    for model in SHAPED
}


def test_nothing_that_is_known_of_a_licence_allows_commerce() -> None:
    for model in PUBLISHED.values():
        if "ParetoQ" in model.repo_id:
            assert model.licence is None
        else:
            assert model.licence and ("Noncommercial" in model.licence or "-NC-" in model.licence)


def test_r1_and_pro_are_gated_and_of_the_others_it_is_not_known() -> None:
    gated = {model.title for model in PUBLISHED.values() if model.gated}
    assert gated == {
        model.title
        for model in PUBLISHED.values()
        if model.title.startswith(("MobileLLM-R1-", "MobileLLM-Pro"))
    }
    assert {model.gated for model in PUBLISHED.values()} == {True, None}


def test_the_width_of_a_quantised_model_is_the_one_in_its_name() -> None:
    for model in PUBLISHED.values():
        width = model.title.partition("ParetoQ-")[2].partition("-")[2]
        assert model.weight_bits == WIDTHS.get(width)
        assert (model.fake_quant == "int4") == ("int4" in model.name)
        ConvertOptions(weight_bits=model.weight_bits, fake_quant=model.fake_quant)  # it is taken


def test_a_converted_one_lies_where_the_converter_puts_it(home) -> None:
    for model in PUBLISHED.values():
        assert huggingface.is_repo_id(model.repo_id)
        assert model.path == local_directory(model.repo_id)


def test_only_a_whole_directory_is_installed(home) -> None:
    model = PUBLISHED["mobilellm-125m"]
    model.path.mkdir(parents=True)
    assert not model.is_installed
    (model.path / MANIFEST).write_text("{}")
    assert model.is_installed


@pytest.mark.parametrize(
    "name",
    [
        "mobilellm-r1-950m",
        "MobileLLM-R1-950M",
        "facebook/MobileLLM-R1-950M",
        "Facebook/mobilellm-r1-950m",
    ],
)
def test_it_is_found_by_its_short_name_and_by_its_repository(name: str) -> None:
    assert published.find(name) is PUBLISHED["mobilellm-r1-950m"]


@pytest.mark.parametrize(
    "name", ["", "/", "mobilellm", "other/MobileLLM-R1-950M", "./mobilellm-125m"]
)
def test_nothing_else_is_found(name: str) -> None:
    assert published.find(name) is None
