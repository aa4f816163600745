"""Means, intervals and tests: against known values."""

import math
import random

import pytest

from mobilellm_mlx.evals.statistics import MOST_RESAMPLED, measure, sign_test, summarise, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_share_is_wilson_s(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_all_has_an_interval_that_ends_at_one() -> None:
    metric = measure([1.0] * 5)
    assert (metric.mean, metric.high, metric.interval) == (1.0, 1.0, "wilson")
    assert metric.low is not None and 0.5 < metric.low < 0.6


def test_other_values_are_resampled_and_the_same_every_time() -> None:
    values = [random.Random(1).gauss(10, 2) for _ in range(1)] + [8.0, 12.0, 9.0, 11.0, 10.5]
    metric = measure(values, seed=3)
    assert metric.interval == "bootstrap"
    assert metric == measure(values, seed=3)
    assert metric.low < metric.mean < metric.high


def test_the_bootstrap_agrees_with_the_normal_interval_where_both_hold() -> None:
    draw = random.Random(0)
    few = [draw.gauss(0, 1) for _ in range(MOST_RESAMPLED)]
    many = [*few, 0.0]
    one, other = measure(few), measure(many)
    assert (one.interval, other.interval) == ("bootstrap", "normal")
    assert one.low == pytest.approx(other.low, abs=0.01)
    assert one.high == pytest.approx(other.high, abs=0.01)


def test_nan_is_counted_and_not_averaged() -> None:
    metric = measure([1.0, math.nan, 0.0, math.inf])
    assert (metric.n, metric.mean, metric.nonfinite) == (2, 0.5, 2)
    assert measure([math.nan]).mean is None


def test_a_metric_counts_only_where_it_applies() -> None:
    found = summarise({"a": {"x": 1.0}, "b": {"x": 0.0, "y": 1.0}})
    assert (found["x"].n, found["y"].n) == (2, 1)


def test_the_sign_test_is_mcnemar_s_exact_one() -> None:
    assert sign_test([1] * 8 + [-1] * 2 + [0] * 90) == pytest.approx(0.109375)
    assert sign_test([]) == 1.0
    assert sign_test([1, -1]) == 1.0
    assert sign_test([1] * 3000) < 1e-300
