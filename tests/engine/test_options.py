"""Options are checked when they are said."""

from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.options import GenerationOptions, LoadOptions

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", NAN),
        ("temperature", INF),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", NAN),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", INF),
        ("repetition_penalty", NAN),
        ("repetition_window", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("thinking_budget", -1),
        ("stop", ("a", "")),
    ],
)
def test_an_impossible_value_is_refused_with_its_name_and_flag(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        GenerationOptions(**{name: value})
    assert f"`{name}` is {value!r}" in caught.value.message
    flag = {"temperature": "temp"}.get(name, name).replace("_", "-")
    assert caught.value.hint is not None and f"`--{flag}`" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", None),
        ("max_tokens", 1),
        ("temperature", 0),
        ("top_k", 0),
        ("top_p", 1),
        ("min_p", 1),
        ("repetition_window", 1),
        ("seed", 0),
        ("seed", 2**64 - 1),
        ("thinking_budget", None),
        ("thinking_budget", 0),
        ("stop", ("a", "b")),
    ],
)
def test_the_outermost_values_are_allowed(name: str, value: Any) -> None:
    assert getattr(GenerationOptions(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", "END"),
        ("top_k", 2.5),
        ("max_tokens", 1.5),
        ("seed", 0.5),
        ("thinking_budget", 2.5),
        ("repetition_window", 2.0),
        ("speculation", 1),
        ("speculation", "no"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: Any) -> None:
    """``stop="END"`` would end every answer at an E, an N or a D."""
    with pytest.raises(InvalidOption):
        GenerationOptions(**{name: value})


def test_merging_replaces_what_was_given_and_keeps_the_rest() -> None:
    defaults = GenerationOptions(temperature=0.5, top_k=9)
    merged = defaults.merged({"temperature": 0.0, "top_p": None, "seed": 3})
    assert merged == GenerationOptions(temperature=0.0, top_k=9, seed=3)
    assert defaults.temperature == 0.5


def test_merging_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidOption, match="temprature"):
        GenerationOptions().merged({"temprature": 1})


def test_merging_checks_the_values() -> None:
    with pytest.raises(InvalidOption, match="`top_p` is 2"):
        GenerationOptions().merged({"top_p": 2})


@pytest.mark.parametrize("options", [{"compute": "fast"}, {"context": 15}, {"context": 0}])
def test_impossible_loading_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        LoadOptions(**options)
