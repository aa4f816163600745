"""Means with intervals, and whether two runs differ by more than chance."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z95 = 1.959963984540054
"""Standard deviations on either side that hold 95 % of a normal distribution."""
RESAMPLES = 1000
MOST_RESAMPLED = 2000
"""With more values than this the mean is as good as normally distributed."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean and the interval that holds the true one in 95 of 100 cases.

    Attributes:
        n: values that it is the mean of.
        mean: of the finite ones; None when there is none.
        low: lower end of the interval.
        high: upper end.
        interval: how it was found: ``wilson`` for shares, ``bootstrap``, ``normal``.
        nonfinite: values that were NaN or infinite; they are named and not averaged.
        stderr: standard error of the mean; None of fewer than two values, and in results that were
            kept before it was measured.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    interval: str
    nonfinite: int = 0
    stderr: float | None = None


def measure(
    values: Iterable[float],
    seed: int = 0,
    *,
    shares: bool = True,
    weights: Iterable[float] | None = None,
) -> Metric:
    """The mean of some values.

    Args:
        values: of one metric, one for each request that it applies to.
        seed: of the resampling.
        shares: values that are all 0 or 1 are a share; differences of such values are none.
        weights: how much each counts; all the same if None.
    """
    given = [float(value) for value in values]
    if weights is not None:
        return _weighted(given, list(weights))
    kept = [value for value in given if math.isfinite(value)]
    lost = len(given) - len(kept)
    if not kept:
        return Metric(0, None, None, None, "none", lost)
    mean = math.fsum(kept) / len(kept)
    error = standard_error(kept)
    if shares and all(value in (0.0, 1.0) for value in kept):
        low, high = wilson(round(math.fsum(kept)), len(kept))
        return Metric(len(kept), mean, low, high, "wilson", lost, error)
    if len(kept) > MOST_RESAMPLED:
        variance = math.fsum((value - mean) ** 2 for value in kept) / (len(kept) - 1)
        reach = Z95 * math.sqrt(variance / len(kept))
        return Metric(len(kept), mean, mean - reach, mean + reach, "normal", lost, error)
    low, high = bootstrap(kept, seed)
    return Metric(len(kept), mean, low, high, "bootstrap", lost, error)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> Metric:
    """A weighted mean; its error is that of a ratio of sums, to first order."""
    pairs = zip(values, weights, strict=True)
    kept = [(value, weight) for value, weight in pairs if math.isfinite(value) and weight > 0]
    lost = sum(not math.isfinite(value) for value in values)
    if not kept:
        return Metric(0, None, None, None, "none", lost)
    total = math.fsum(weight for _, weight in kept)
    mean = math.fsum(value * weight for value, weight in kept) / total
    if len(kept) < 2:
        return Metric(1, mean, mean, mean, "normal", lost)
    square = math.fsum((weight * (value - mean)) ** 2 for value, weight in kept)
    error = math.sqrt(square) / total
    return Metric(len(kept), mean, mean - Z95 * error, mean + Z95 * error, "normal", lost, error)


def standard_error(values: Sequence[float]) -> float | None:
    """How far the mean strays from the true one, as a standard deviation.

    It is the bootstrap's, that of the means of samples drawn with repetition from the values. Of a
    mean it can be written down (Efron and Tibshirani, 1993, section 5.3), so nothing is drawn. The
    usual analytic one, which divides by n - 1, is larger by 1 part in 2 n.
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values)) / n


def error_of(metric: Metric) -> float | None:
    """The standard error of a metric, read from its interval where it was not measured itself."""
    if metric.stderr is not None or metric.n < 2 or metric.mean is None:
        return metric.stderr
    if metric.interval == "wilson":
        return math.sqrt(metric.mean * (1 - metric.mean) / metric.n)
    if metric.low is None or metric.high is None:
        return None
    return (metric.high - metric.low) / (2 * Z95)


def shown_error(metric: Metric) -> float | None:
    """The standard error to show beside a metric.

    Of a share of nothing or all the error is zero, however few values there are, which says more
    than is known: there it is a normal one as wide as Wilson's interval.
    """
    if metric.interval == "wilson" and metric.mean in (0.0, 1.0) and metric.n:
        low, high = wilson(round(metric.mean * metric.n), metric.n)
        return (high - low) / (2 * Z95)
    return error_of(metric)


def error_of_mean(errors: Sequence[float | None]) -> float | None:
    """The standard error of the mean of independent figures; None when one of theirs is unknown."""
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.hypot(*known) / len(known)


def chance(change: float, error: float | None) -> float | None:
    """How likely a normal figure of this standard error strays so far from zero (two-sided)."""
    if not error:
        return None if change or error is None else 1.0
    return math.erfc(abs(change) / error / math.sqrt(2))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share; it stays within 0 and 1 and has a width at both ends."""
    share, square = hits / n, Z95 * Z95
    middle = (share + square / (2 * n)) / (1 + square / n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    low = 0.0 if hits == 0 else middle - reach
    return low, (1.0 if hits == n else middle + reach)


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the means of samples drawn with repetition from the values."""
    draw = random.Random(seed)
    n = len(values)
    means = sorted(math.fsum(draw.choices(values, k=n)) / n for _ in range(RESAMPLES))
    return means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def sign_test(differences: Iterable[float]) -> float:
    """How likely so uneven a count of ups and downs is by chance (two-sided, exact).

    On values of 0 and 1 this is McNemar's exact test.
    """
    signs = [difference > 0 for difference in differences if difference]
    n, fewer = len(signs), min(sum(signs), len(signs) - sum(signs))
    if n == 0:
        return 1.0
    # Whole numbers as long as can be: of many requests the powers are beyond any float.
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / (1 << n))


def summarise(
    scores: Mapping[str, Mapping[str, float]],
    seed: int = 0,
    weights: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Metric]:
    """Every metric of some requests.

    Args:
        scores: metrics by request.
        seed: of the resampling.
        weights: of the metrics by request; without any all requests count the same.
    """
    columns: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    for id, one in scores.items():
        for name, value in one.items():
            columns.setdefault(name, []).append(value)
            sizes.setdefault(name, []).append((weights or {}).get(id, {}).get(name, 1.0))
    return {
        name: measure(values, seed, weights=sizes[name] if weights else None)
        for name, values in columns.items()
    }


def metric_from(values: Mapping[str, Any]) -> Metric:
    """The metric that a file holds.

    Raises:
        ValueError: when it is none.
    """
    try:
        found = Metric(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
    figures = (found.mean, found.low, found.high, found.stderr)
    if not all(value is None or _is_number(value) for value in figures):
        raise ValueError("a figure of a metric is no number")
    if not all(_is_count(count) for count in (found.n, found.nonfinite)):
        raise ValueError("what a metric counts is no whole number, or none that can be")
    if not isinstance(found.interval, str):
        raise ValueError("the name of an interval is no text")
    if found.interval == "wilson" and not 0 <= (found.mean or 0) <= 1:
        raise ValueError("a share is not between 0 and 1")
    if (found.stderr or 0) < 0:
        raise ValueError("a standard error is below zero")
    return found


def _is_number(value: object) -> bool:
    # Whole numbers of JSON may be longer than any float.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63
