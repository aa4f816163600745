"""Means, intervals and tests: against known values."""

import math
import random
import statistics
from dataclasses import asdict, replace

import pytest

from mobilellm_mlx.evals.statistics import (
    MOST_RESAMPLED,
    Metric,
    chance,
    error_of,
    error_of_mean,
    measure,
    metric_from,
    sign_test,
    standard_error,
    summarise,
    wilson,
)


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


@pytest.mark.parametrize("values", [[0.0] * 30 + [1.0] * 70, [n * n / 10 for n in range(40)]])
def test_the_standard_error_is_that_of_means_drawn_with_repetition(values: list[float]) -> None:
    draw = random.Random(7)
    means = [statistics.fmean(draw.choices(values, k=len(values))) for _ in range(4000)]
    # The deviation of 4,000 draws strays by 1.1 % itself; 5 % fails once in 100,000 runs.
    assert standard_error(values) == pytest.approx(statistics.stdev(means), rel=0.05)


def test_every_kind_of_metric_has_a_standard_error() -> None:
    share = measure([1.0] * 70 + [0.0] * 30)
    assert (share.interval, share.stderr) == ("wilson", pytest.approx(math.sqrt(0.7 * 0.3 / 100)))
    few, many = measure(range(MOST_RESAMPLED)), measure(range(MOST_RESAMPLED + 1))
    assert (few.interval, many.interval) == ("bootstrap", "normal")
    assert many.stderr == pytest.approx(few.stderr, rel=0.01)
    assert many.high - many.mean == pytest.approx(1.96 * many.stderr, rel=0.001)


def test_one_value_tells_nothing_of_its_error() -> None:
    assert measure([1.0]).stderr is None
    assert measure([]).stderr is None


@pytest.mark.parametrize(
    "values",
    [[1.0] * 7 + [0.0] * 3, list(range(400)), list(range(3000))],
    ids=["share", "", "many"],
)
def test_where_it_was_not_measured_the_error_is_read_from_the_interval(values: list[float]) -> None:
    metric = measure(values)
    assert error_of(replace(metric, stderr=None)) == pytest.approx(metric.stderr, rel=0.05)


def test_a_metric_of_an_older_file_has_no_standard_error() -> None:
    kept = {"n": 4, "mean": 0.5, "low": 0.15, "high": 0.85, "interval": "wilson", "nonfinite": 0}
    assert metric_from(kept).stderr is None
    assert error_of(metric_from(kept)) == 0.25
    assert metric_from(asdict(measure([1.0, 0.0]))) == measure([1.0, 0.0])


@pytest.mark.parametrize(
    "change",
    [{"mean": "high"}, {"stderr": [1]}, {"low": math.nan}, {"n": "3"}, {"n": 1.5}, {"interval": 3}],
    ids=str,
)
def test_a_metric_of_other_types_is_none(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        metric_from({**asdict(measure([1.0, 0.0])), **change})


def test_errors_of_independent_figures_add_as_squares() -> None:
    assert error_of_mean([3.0, 4.0]) == 2.5
    assert error_of_mean([3.0, None]) is None
    assert error_of_mean([]) is None


def test_how_likely_a_change_is_by_chance() -> None:
    assert chance(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert chance(-1.96, 1.0) == chance(1.96, 1.0)
    assert (chance(0.0, 0.0), chance(1.0, 0.0), chance(0.0, None)) == (1.0, None, None)


def test_a_metric_without_values_has_no_error() -> None:
    assert error_of(Metric(0, None, None, None, "none", 3)) is None
