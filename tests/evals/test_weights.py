"""Means in which requests count by their size: bits per byte of passages of any length."""

import math
from pathlib import Path

import pytest

from mobilellm_mlx.evals import corpora
from mobilellm_mlx.evals.perplexity import figures
from mobilellm_mlx.evals.results import compare, load_result
from mobilellm_mlx.evals.statistics import measure
from mobilellm_mlx.evals.task import Response
from tests.evals.test_perplexity import WORDS, Judge, answers, run


def test_a_mean_counts_values_by_their_weights() -> None:
    found = measure([1.0, 3.0, math.nan], weights=[3.0, 1.0, 5.0])
    assert (found.mean, found.n, found.nonfinite) == (1.5, 2, 1)


def test_kept_means_are_those_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 40)
    _, summary = run(Judge())
    (result,) = summary.results
    responses = answers([WORDS, "Fire is hot."])
    exact = figures(Response(id, values) for id, values in responses.items()).bits_per_byte
    kept = result["metrics"]["bits_per_byte"]
    assert (kept["mean"], kept["stderr"]) == pytest.approx((exact.value, exact.stderr))
    read = load_result(Path(result["path"]))
    difference = compare(read, read)[0]
    assert difference.before == pytest.approx(exact.value)
    assert difference.change.mean == 0
