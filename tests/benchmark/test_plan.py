"""Which cases a plan has, and what it refuses."""

import pytest

from mobilellm_mlx.benchmark.plan import MOST, Case, Plan
from mobilellm_mlx.errors import InvalidOption


def test_every_prompt_is_measured_at_every_depth_in_every_batch_once() -> None:
    plan = Plan(prompts=(8, 16, 8), depths=(0, 32), batches=(1, 2), generate=4)
    assert len(plan.cases) == len(set(plan.cases)) == 8
    assert plan.cases[0] == Case(8) and plan.cases[-1] == Case(16, 32, 2)
    assert plan.longest == 32 + 16 + 4 + 1


def test_a_case_says_only_what_is_not_ordinary() -> None:
    titles = [Case(2048).title, Case(8, 1024).title, Case(8, 0, 2).title]
    assert titles == ["2,048", "8 at 1,024", "8 x 2"]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"prompts": (0,)}, "--prompt"),
        ({"depths": (-1,)}, "--depth"),
        ({"batches": (0,)}, "--batch"),
        ({"generate": 0}, "--generate"),
        ({"repeats": MOST + 1}, "--repeats"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_an_impossible_number_is_refused_with_the_option_that_holds_it(options, flag) -> None:
    with pytest.raises(InvalidOption) as caught:
        Plan(**options)
    assert flag in str(caught.value.hint)
