"""How far two models' next-token distributions are apart, on small ones and by hand."""

import math

import numpy as np
import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack

import mobilellm_mlx.evals.divergence as module
from mobilellm_mlx.backend import mx
from mobilellm_mlx.evals.divergence import (
    Divergence,
    Reference,
    distance,
    diverge,
    head_of,
    hidden,
    logits_of,
    percentile,
)

TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 258, 40)]


def logits(values: np.ndarray) -> module.Logits:
    return lambda start, stop: mx.array(values[start:stop].astype(np.float32))


def some_logits(seed: int, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, spread, (40, 258))


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def test_the_figures_are_those_of_float64() -> None:
    one, other = some_logits(2), some_logits(3)
    found = diverge(TOKENS, logits(one), logits(other), 258)
    before, after = log_softmax(one), log_softmax(other)
    assert found.kl == pytest.approx(
        (np.exp(before) * (before - after)).sum(axis=-1).tolist(), rel=1e-4
    )
    assert found.agreed == (one.argmax(axis=-1) == other.argmax(axis=-1)).tolist()
    places, targets = np.arange(39), np.array(TOKENS[1:])
    assert found.losses == pytest.approx((-after[places, targets]).tolist(), rel=1e-5)
    assert found.reference_losses == pytest.approx((-before[places, targets]).tolist(), rel=1e-5)


def test_small_divergences_are_not_lost_in_rounding() -> None:
    one = some_logits(2, 4.0)
    other = one + np.random.default_rng(5).normal(0.0, 0.003, one.shape)
    one, other = (side.astype(np.float32).astype(np.float64) for side in (one, other))
    before, after = log_softmax(one), log_softmax(other)
    right = (np.exp(before) * (before - after)).sum(axis=-1)
    found = diverge(TOKENS, logits(one), logits(other), 258)
    assert right.mean() < 1e-5
    assert found.kl == pytest.approx(right.tolist(), abs=3e-7)


def test_it_does_not_matter_how_many_positions_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = logits(some_logits(2)), logits(some_logits(3))
    whole = diverge(TOKENS, *sides, 258)
    asked: list[int] = []

    def watched(start: int, stop: int) -> mx.array:
        asked.append(stop - start)
        return sides[0](start, stop)

    for at_once in (1, 7, 39):
        monkeypatch.setattr(module, "LOGIT_BYTES", at_once * module._WIDE * 4 * 258)
        asked.clear()
        parts = diverge(TOKENS, watched, sides[1], 258)
        assert max(asked) == at_once
        assert parts.agreed == whole.agreed
        for name in ("kl", "losses", "reference_losses"):
            assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-5), name


def test_a_model_is_no_distance_from_itself() -> None:
    same = logits(some_logits(2))
    found = distance([diverge(TOKENS, same, same, 258)])
    assert (found.mean_kl, found.p99_kl, found.top1_agreement) == (0, 0, 1)
    assert found.perplexity == found.reference_perplexity


def test_nan_is_counted_and_in_no_mean() -> None:
    broken = some_logits(3)
    broken[5] = math.nan
    parts = diverge(TOKENS, logits(some_logits(2)), logits(broken), 258)
    found = distance([parts])
    assert math.isnan(parts.kl[5])
    assert (found.tokens, found.nonfinite, found.reference_nonfinite) == (40, 1, 0)
    assert found.mean_kl is not None and math.isfinite(found.mean_kl)
    assert found.perplexity is not None and math.isfinite(found.perplexity)


def test_a_model_of_nothing_but_nan_has_no_figures() -> None:
    nothing = logits(np.full((40, 258), math.nan))
    found = distance([diverge(TOKENS, logits(some_logits(2)), nothing, 258)])
    assert (found.nonfinite, found.mean_kl, found.perplexity) == (40, None, None)
    turned = distance([diverge(TOKENS, nothing, logits(some_logits(2)), 258)])
    assert turned.reference_nonfinite == 39


def test_perplexity_is_over_all_tokens_and_not_the_mean_of_windows() -> None:
    parts = [
        Divergence([0.0] * 3, [True] * 3, [1.0, 1.0], [0.0, 0.0]),
        Divergence([2.0] * 2, [False] * 2, [4.0], [0.0]),
    ]
    found = distance(parts)
    assert found.perplexity == pytest.approx(math.exp(2.0))
    assert found.mean_kl == pytest.approx(0.8)
    assert found.top1_agreement == pytest.approx(0.6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_percentiles_are_numpys(share: float) -> None:
    values = sorted(np.random.default_rng(4).exponential(1.0, 57).tolist())
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))
    assert percentile([], share) is None


@pytest.mark.parametrize("raw", [LLAMA, MOBILELLM], ids=["tied", "shared layers"])
def test_what_is_kept_of_a_reference_gives_the_models_own_logits(raw: dict) -> None:
    model = make_model(raw)
    reference = Reference(model)
    reference.add(hidden(model, TOKENS))
    right = model(mx.array([TOKENS]))[0]
    got = reference.logits(0)(3, 17)
    assert mx.allclose(got, right[3:17], atol=1e-4).item()


def test_fewer_bits_are_farther_away() -> None:
    model = make_model(LLAMA)
    reference = Reference(model)
    reference.add(hidden(model, TOKENS))
    means = []
    for bits in (8, 4, 2):
        other = pack(make_model(LLAMA), bits=bits)
        own = logits_of(head_of(other), hidden(other, TOKENS))
        means.append(distance([diverge(TOKENS, reference.logits(0), own, 258)]).mean_kl)
    assert 0 < means[0] < means[1] < means[2]
