"""The block-by-block comparison is that of two whole models."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import exp, inf, nan
from typing import Any

import numpy as np
import pytest
from tiny import LLAMA, MOBILELLM, random_weights
from tolerances import as_float64

from convert import verify
from convert.verify import Quality, budget, compare
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.models import LanguageModel, ModelConfig, build_config

FAMILIES = {
    "llama": LLAMA,
    "own head": {**LLAMA, "tie_word_embeddings": False},
    "shared": MOBILELLM,
    "shared, own head": {**MOBILELLM, "share_embedding": False},
}
WINDOWS = [[3, 1, 4, 1, 5, 9, 2, 6], [200, 100, 257], [7, 7]]


def rounded(weights: Mapping[str, mx.array], bits: int = 4) -> dict[str, mx.array]:
    """What packing leaves of the weights."""

    def through(array: mx.array) -> mx.array:
        if array.ndim == 1:
            return array
        parts = mx.quantize(array, group_size=32, bits=bits)
        return mx.dequantize(*parts, group_size=32, bits=bits)

    return {name: through(array) for name, array in weights.items()}


def measured(
    config: ModelConfig, before: Mapping[str, mx.array], after: Mapping[str, mx.array], windows: Any
) -> list:
    return list(compare(config, before.__getitem__, after.__getitem__, windows))


def log_softmax(config: ModelConfig, weights: Mapping[str, mx.array], ids: list[int]) -> np.ndarray:
    model = LanguageModel(config)
    model.load_weights(list(weights.items()))
    logits = as_float64(model(mx.array([ids])))[0]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def by_hand(
    config: ModelConfig,
    before: Mapping[str, mx.array],
    after: Mapping[str, mx.array],
    windows: list[list[int]],
) -> Quality:
    """The definition, written out: whole models, float64."""
    divergences, agreements, losses, references = [], [], [], []
    for window in windows:
        reference, ours = (log_softmax(config, weights, window) for weights in (before, after))
        divergences += list((np.exp(reference) * (reference - ours)).sum(-1))
        agreements += list(reference.argmax(-1) == ours.argmax(-1))
        for place, token in enumerate(window[1:]):
            losses.append(-ours[place, token])
            references.append(-reference[place, token])
    return Quality(
        tokens=len(divergences),
        mean_kl=float(np.mean(divergences)),
        top1_agreement=float(np.mean(agreements)),
        perplexity=exp(np.mean(losses)),
        reference_perplexity=exp(np.mean(references)),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_two_whole_models_give(family) -> None:
    config, before = build_config(FAMILIES[family]), random_weights(FAMILIES[family])
    after = rounded(before)
    *_, got = measured(config, before, after, WINDOWS)
    wanted = by_hand(config, before, after, WINDOWS)
    assert asdict(got) == pytest.approx(asdict(wanted), rel=1e-4)
    assert got.mean_kl > 0.01 and got.tokens == 13  # or else nothing was compared
    assert got.top1_agreement < 1 and got.perplexity != got.reference_perplexity


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_weights_agree_on_everything(family) -> None:
    config, weights = build_config(FAMILIES[family]), random_weights(FAMILIES[family])
    *_, got = measured(config, weights, weights, WINDOWS)
    assert (got.mean_kl, got.top1_agreement) == (0, 1)
    assert got.perplexity == got.reference_perplexity


def test_more_bits_are_closer() -> None:
    config, before = build_config(LLAMA), random_weights(LLAMA)
    kls = [
        measured(config, before, rounded(before, bits), WINDOWS)[-1].mean_kl for bits in (3, 4, 8)
    ]
    assert kls[0] > kls[1] > kls[2] > 0


def test_a_window_is_read_by_itself() -> None:
    config, before = build_config(LLAMA), random_weights(LLAMA)
    after = rounded(before)
    together = measured(config, before, after, WINDOWS)[-1]
    alone = [measured(config, before, after, [window])[-1] for window in WINDOWS]
    assert together.mean_kl == pytest.approx(
        sum(one.mean_kl * one.tokens for one in alone) / together.tokens, rel=1e-5
    )


def test_progress_counts_the_blocks_and_the_head() -> None:
    config, weights = build_config(LLAMA), random_weights(LLAMA)
    steps = measured(config, weights, weights, WINDOWS)
    assert steps[:-1] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_holds_one_block_of_each_model(family) -> None:
    """Each side's tensors are read when their block has its turn, not before."""
    config, weights = build_config(FAMILIES[family]), random_weights(FAMILIES[family])
    asked: list[str] = []

    def watched(name: str) -> mx.array:
        asked.append(name)
        return weights[name]

    steps = compare(config, watched, watched, WINDOWS)
    next(steps)
    assert {name.split(".")[2] for name in asked if ".layers." in name} == {"0"}
    list(steps)
    in_blocks = [name for name in asked if ".layers." in name]
    assert sorted(in_blocks) == sorted(2 * [name for name in weights if ".layers." in name])


def with_value(value: float) -> Callable[[Mapping[str, mx.array]], dict[str, mx.array]]:
    name = "model.layers.1.mlp.up_proj.weight"
    return lambda weights: {**weights, name: mx.full(weights[name].shape, value)}


@pytest.mark.parametrize("value", [nan, inf])
def test_a_reference_that_computes_no_numbers_gives_no_quality(value) -> None:
    config, weights = build_config(LLAMA), random_weights(LLAMA)
    broken = with_value(value)(weights)
    assert not any(isinstance(s, Quality) for s in measured(config, broken, broken, WINDOWS))


@pytest.mark.parametrize("value", [nan, inf])
def test_a_conversion_that_breaks_a_model_is_an_error(value) -> None:
    config, weights = build_config(LLAMA), random_weights(LLAMA)
    with pytest.raises(ConvertError, match="values that are not numbers") as caught:
        measured(config, weights, with_value(value)(weights), WINDOWS)
    assert "bfloat16" in str(caught.value.hint)


def test_a_hopeless_model_has_a_perplexity_that_is_a_number() -> None:
    config, weights = build_config(LLAMA), random_weights(LLAMA)
    name = "model.norm.weight"
    got = measured(config, weights, {**weights, name: weights[name] * 1e6}, WINDOWS)[-1]
    assert 1e30 < got.perplexity < inf


@pytest.mark.parametrize("windows", [[], [[5]]], ids=str)
def test_nothing_to_read_gives_no_quality(windows) -> None:
    config, weights = build_config(LLAMA), random_weights(LLAMA)
    assert not any(isinstance(s, Quality) for s in measured(config, weights, weights, windows))


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [(1_000, 1536), (125_000_000, 1536), (600_000_000, 333), (10**12, 256)],
)
def test_larger_models_read_less(parameters, tokens) -> None:
    assert budget(parameters) == tokens >= verify.WINDOW
