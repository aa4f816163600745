"""How fast a training goes at which step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.optimizer import learning_rate


def rates(steps, **changed):
    config = TrainConfig(learning_rate=1.0, **changed)
    return [learning_rate(config, step, steps) for step in range(1, steps + 1)]


def test_the_rate_climbs_evenly_and_then_falls_to_its_share():
    found = rates(100, warmup=9, final_rate=0.2)
    assert found[:9] == pytest.approx([n / 10 for n in range(1, 10)])
    assert all(a > b for a, b in pairwise(found[9:]))
    assert found[9] == pytest.approx(1.0, abs=1e-3)
    assert found[-1] == pytest.approx(0.2)


def test_a_cosine_is_at_the_middle_halfway_and_above_a_line_before():
    cosine, line = (
        rates(100, warmup=0.0, final_rate=0.0, schedule=s) for s in ("cosine", "linear")
    )
    assert cosine[49] == pytest.approx(0.5) and line[49] == pytest.approx(0.5)
    assert cosine[24] == pytest.approx(0.8536, abs=1e-3) and line[24] == pytest.approx(0.75)


def test_a_warm_up_below_one_is_a_share_of_all_steps():
    assert rates(40, warmup=0.25) == rates(40, warmup=10)


def test_a_constant_rate_stays():
    assert rates(20, warmup=0.0, schedule="constant") == [1.0] * 20


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0, 500])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_short_runs_have_rates_above_nothing_and_not_above_the_highest(steps, warmup, schedule):
    assert all(0 < rate <= 1 for rate in rates(steps, warmup=warmup, schedule=schedule))
