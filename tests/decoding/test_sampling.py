"""Choosing tokens: exact candidate sets, exact penalties, and frequencies where chance rules."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FP32, assert_close

from mobilellm_mlx.backend import BACKENDS, mx
from mobilellm_mlx.decoding import sampling
from mobilellm_mlx.decoding.sampling import _truncate, draw_seed, make_sampler, penalize
from mobilellm_mlx.options import GenerationOptions

# Probabilities of tokens 0 to 6, deliberately not in order.
SHARES = [0.05, 0.4, 0.0, 0.1, 0.25, 0.15, 0.05]
BEST = 1


def logits_of(shares: list[float]) -> mx.array:
    return mx.array([math.log(share) if share else -1e9 for share in shares])


LOGITS = logits_of(SHARES)


def candidates(options: GenerationOptions, logits: mx.array = LOGITS) -> set[int]:
    """The tokens that truncation leaves."""
    order, kept = _truncate(logits.astype(mx.float32) / options.temperature, options)
    return {
        token
        for token, left in zip(order.tolist(), kept.tolist(), strict=True)
        if left > -1e8  # token 2 is impossible from the start
    }


def draws(
    options: GenerationOptions, count: int, seed: int = 5, logits: mx.array = LOGITS
) -> list[int]:
    sampler = make_sampler(options, seed)
    return [int(token) for token in mx.stack([sampler(logits) for _ in range(count)]).tolist()]


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=50, unique=True))
def test_temperature_zero_takes_the_likeliest_token(values: list[float]) -> None:
    sampler = make_sampler(GenerationOptions(temperature=0, top_k=2, top_p=0.5), 1)
    assert int(sampler(mx.array(values))) == int(np.argmax(np.array(values, np.float32)))


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30, 1e-40, 1e-300])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9, "top_k": 5}])
def test_temperatures_near_zero_take_it_too(temperature: float, more: dict[str, float]) -> None:
    options = GenerationOptions(temperature=temperature, **more)  # type: ignore[arg-type]
    assert draws(options, 20) == [BEST] * 20


def test_a_very_high_temperature_makes_all_tokens_alike() -> None:
    """Of 3,000 draws from 7 tokens each has 429 +- 19: six sigma fail once in 10^8."""
    counts = Counter(draws(GenerationOptions(temperature=1e300), 3000))
    assert all(abs(counts[token] - 3000 / 7) < 6 * 19.2 for token in range(7))


def test_the_same_seed_draws_the_same_tokens() -> None:
    options = GenerationOptions(temperature=1)
    assert draws(options, 50, seed=9) == draws(options, 50, seed=9)


def test_another_seed_draws_other_tokens() -> None:
    options = GenerationOptions(temperature=1)
    even = mx.zeros(1000)  # 20 equal draws of 1,000: once in 10^60
    assert draws(options, 20, 1, even) != draws(options, 20, 2, even)


def test_the_draws_of_one_sampler_differ_from_each_other() -> None:
    assert len(set(draws(GenerationOptions(temperature=1), 20, logits=mx.zeros(10**6)))) > 10


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_every_allowed_seed_works(seed: int) -> None:
    assert 0 <= draws(GenerationOptions(temperature=1, seed=seed), 1, seed)[0] < 7


def test_sampling_leaves_the_global_random_state_alone() -> None:
    mx.random.seed(3)
    wanted = mx.random.uniform().item()
    mx.random.seed(3)
    draws(GenerationOptions(temperature=1, top_p=0.5), 5)
    assert mx.random.uniform().item() == wanted


def test_drawn_seeds_differ_and_are_allowed() -> None:
    seeds = {draw_seed() for _ in range(10)}  # two equal ones: once in 10^8
    assert len(seeds) == 10
    for seed in seeds:
        GenerationOptions(seed=seed)


@pytest.mark.parametrize(("k", "left"), [(1, {1}), (2, {1, 4}), (3, {1, 4, 5}), (4, {1, 3, 4, 5})])
def test_top_k_leaves_the_k_likeliest(k: int, left: set[int]) -> None:
    assert candidates(GenerationOptions(temperature=1, top_k=k)) == left


@pytest.mark.parametrize("k", [0, 7, 8, 1000])
def test_top_k_of_all_tokens_or_none_leaves_all(k: int) -> None:
    options = GenerationOptions(temperature=1, top_k=k, min_p=1e-9)
    assert candidates(options) == {0, 1, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("p", "left"),
    [
        (1e-6, {1}),
        (0.39, {1}),
        (0.41, {1, 4}),
        (0.64, {1, 4}),
        (0.66, {1, 4, 5}),
        (0.79, {1, 4, 5}),
        (0.81, {1, 3, 4, 5}),
        (0.89, {1, 3, 4, 5}),
        (0.96, {0, 1, 3, 4, 5, 6}),
    ],
)
def test_top_p_leaves_the_smallest_set_that_reaches_p(p: float, left: set[int]) -> None:
    assert candidates(GenerationOptions(temperature=1, top_p=p)) == left


@pytest.mark.parametrize(
    ("p", "left"),
    [
        (1.0, {1}),
        (0.63, {1}),
        (0.62, {1, 4}),
        (0.37, {1, 4, 5}),
        (0.24, {1, 3, 4, 5}),
        (0.12, {0, 1, 3, 4, 5, 6}),
    ],
)
def test_min_p_drops_what_is_less_than_a_share_of_the_likeliest(p: float, left: set[int]) -> None:
    assert candidates(GenerationOptions(temperature=1, min_p=p)) == left


def test_top_p_counts_what_top_k_left() -> None:
    """Of the three best (0.4, 0.25, 0.15; together 0.8) two make 81% and reach 0.8."""
    assert candidates(GenerationOptions(temperature=1, top_k=3, top_p=0.8)) == {1, 4}


def test_all_three_limits_count() -> None:
    options = GenerationOptions(temperature=1, top_k=4, top_p=0.95, min_p=0.5)
    assert candidates(options) == {1, 4}


def test_the_temperature_comes_before_top_p() -> None:
    """At temperature 2 the shares become alike (0.26, 0.21, 0.16, 0.13, ...): more are needed."""
    assert candidates(GenerationOptions(temperature=1, top_p=0.6)) == {1, 4}
    assert candidates(GenerationOptions(temperature=2, top_p=0.6)) == {1, 4, 5}
    assert candidates(GenerationOptions(temperature=0.5, top_p=0.6)) == {1}


def sorted_twin(logits: mx.array, options: GenerationOptions) -> dict[int, float]:
    """Candidates with their shares, by sorting all tokens, in double precision."""
    values = np.array(logits, np.float64)
    order = np.argsort(-values)[: options.top_k or None]
    shares = np.exp(values[order] - values[order[0]])
    shares /= shares.sum()
    keep = np.cumsum(shares) - shares < options.top_p
    keep &= shares >= options.min_p * shares[0]
    kept = np.where(keep, shares, 0) / shares[keep].sum()
    return {int(token): float(share) for token, share in zip(order, kept, strict=True) if share}


@given(
    vocab=st.sampled_from([7, 512, 513, 1600, 2048, 33_000, 40_960]),
    scale=st.sampled_from([0.01, 1.0, 3.0, 10.0]),
    limits=st.sampled_from(
        [
            {"top_p": 0.9},
            {"top_p": 0.3, "min_p": 0.02},
            {"top_p": 0.999, "min_p": 0.2},
            {"top_k": 1},
            {"top_k": 25},
            {"top_k": 600},
            {"top_k": 25, "top_p": 0.8, "min_p": 0.05},
            {"min_p": 0.1},
        ]
    ),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_candidates_and_their_shares_are_those_of_sorting_all_tokens(
    vocab: int, scale: float, limits: dict[str, Any], seed: int
) -> None:
    """But for one that lies on the very line, by rounding: it has a share of 10^-4 at most."""
    logits = mx.array(np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32))
    options = GenerationOptions(temperature=1, **limits)
    order, kept = _truncate(logits, options)
    shares = mx.softmax(kept).tolist()
    got = {token: share for token, share in zip(order.tolist(), shares, strict=True) if share}
    wanted = sorted_twin(logits, options)
    for token in got.keys() | wanted.keys():
        assert got.get(token, 0) == pytest.approx(wanted.get(token, 0), abs=1e-4, rel=1e-4)
    assert abs(len(got) - len(wanted)) <= 3 + len(wanted) // 1000


def test_a_gpu_does_not_wait_for_top_p(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a few tokens are enough would have to be known before the draw."""
    logits = mx.arange(40_000).astype(mx.float32) / 1000
    options = GenerationOptions(temperature=1, top_p=0.5)
    assert _truncate(logits, options)[0].size == 40_000  # 512 do not reach a half
    sharp = logits * 100
    assert _truncate(sharp, options)[0].size == 512
    ahead = replace(BACKENDS["cpu"], look_ahead=True)
    monkeypatch.setattr(sampling, "backend", lambda: ahead)
    assert _truncate(sharp, options)[0].size == 40_000


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(temperature=1),
        GenerationOptions(temperature=1, top_k=3),
        GenerationOptions(temperature=1, top_p=0.7),
        GenerationOptions(temperature=1, min_p=0.3),
        GenerationOptions(temperature=0.5),
        GenerationOptions(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(options: GenerationOptions) -> None:
    """4,000 draws; every count within six sigma: fails once in about 10^8 seeds."""
    tempered = np.array(SHARES) ** (1 / options.temperature)
    left = candidates(options) if options.top_k or options.top_p < 1 or options.min_p else range(7)
    tempered[[token not in left for token in range(7)]] = 0
    expected = tempered / tempered.sum()
    counts, n = Counter(draws(options, 4000)), 4000
    for token in range(7):
        sigma = math.sqrt(n * expected[token] * (1 - expected[token]))
        assert abs(counts[token] - n * expected[token]) <= 6 * sigma + 1e-9, token


def test_sixteen_bit_logits_are_drawn_from_as_well() -> None:
    counts = Counter(
        draws(GenerationOptions(temperature=1, top_k=2), 200, logits=LOGITS.astype(mx.bfloat16))
    )
    assert counts.keys() == {1, 4}


def test_a_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = mx.array([3.0, -3.0, 0.0, 2.0, -2.0])
    got = penalize(logits, mx.array([0, 1, 2], dtype=mx.uint32), 2.0)
    assert_close(got, [1.5, -6.0, 0.0, 2.0, -2.0], FP32, "penalty 2")


def test_a_penalty_below_one_encourages() -> None:
    got = penalize(mx.array([3.0, -3.0]), mx.array([0, 1], dtype=mx.uint32), 0.5)
    assert_close(got, [6.0, -1.5], FP32, "penalty 0.5")


def test_a_repeated_token_is_penalized_once() -> None:
    got = penalize(mx.array([8.0, 1.0]), mx.array([0, 0, 0], dtype=mx.uint32), 2.0)
    assert_close(got, [4.0, 1.0], FP32, "repeats")


def test_a_penalty_does_not_change_the_logits_it_was_given() -> None:
    logits = mx.array([3.0, -3.0])
    mx.eval(penalize(logits, mx.array([0, 1], dtype=mx.uint32), 2.0))
    assert logits.tolist() == [3.0, -3.0]
