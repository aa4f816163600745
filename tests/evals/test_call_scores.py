"""What counts as the right call."""

from typing import Any

import pytest

from mobilellm_mlx.evals.calls.case import Case, Gold
from mobilellm_mlx.evals.calls.normal import is_same, normalised
from mobilellm_mlx.evals.calls.scoring import exactly, score_calls
from mobilellm_mlx.evals.task import Response
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Tool

SCHEMA = {
    "type": "object",
    "properties": {"room": {"type": "string"}, "level": {"type": "integer"}},
    "required": ["room"],
    "additionalProperties": False,
}
TOOL = Tool("light", "Set a light.", SCHEMA, run=lambda arguments, cancel: "")
CASE = Case("light in the hall", (Offered(TOOL, SCHEMA),), reply="The light is on")
WANTED = Gold((Call("light", {"room": "hall"}),))
NOTHING = Gold()


def response(*calls: Call, **changes: Any) -> Response:
    values = {
        "calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
        "error": "",
        "is_cut": False,
        "tokens": 20,
        "forced_tokens": 12,
        "forward_passes": 8,
        "elapsed_s": 0.5,
    }
    return Response("r", values | changes)


def score(gold: Gold, given: Response) -> dict[str, float]:
    return score_calls(CASE, gold, given, exactly)


def test_the_right_call_is_right_in_everything() -> None:
    found = score(WANTED, response(Call("light", {"room": " HALL "})))
    assert found == {
        "em_intent": 1.0,
        "em_structure": 1.0,
        "called": 1.0,
        "valid": 1.0,
        "seconds": 0.5,
        "tokens": 20.0,
        "forward_passes": 8.0,
        "forced_share": 0.6,
        "passes_per_token": 0.4,
    }


def test_a_wrong_argument_is_the_right_intent() -> None:
    found = score(WANTED, response(Call("light", {"room": "kitchen"})))
    assert (found["em_intent"], found["em_structure"], found["valid"]) == (1.0, 0.0, 1.0)


def test_one_argument_too_many_is_no_right_structure() -> None:
    found = score(WANTED, response(Call("light", {"room": "hall", "level": 3})))
    assert found["em_structure"] == 0.0


@pytest.mark.parametrize(
    "given",
    [
        response(Call("lamp", {"room": "hall"})),
        response(Call("light", {"room": "hall"}), Call("light", {"room": "hall"})),
    ],
)
def test_another_tool_or_one_call_too_many_is_the_wrong_intent(given: Response) -> None:
    assert score(WANTED, given)["em_intent"] == 0.0


@pytest.mark.parametrize(
    "given",
    [
        response(Call("lamp", {"room": "hall"})),
        response(Call("light", {"level": 3})),
        response(Call("light", {"room": "hall", "level": "much"})),
        response(error="ToolError: a call is not valid JSON"),
        response(is_cut=True),
    ],
)
def test_what_cannot_be_run_is_not_valid(given: Response) -> None:
    found = score(WANTED, given)
    assert (found["valid"], found["called"], found["em_structure"]) == (0.0, 1.0, 0.0)


def test_no_call_where_one_is_wanted_is_wrong_and_neither_valid_nor_not() -> None:
    found = score(WANTED, response())
    assert (found["em_intent"], found["called"]) == (0.0, 0.0)
    assert "valid" not in found


def test_no_call_where_none_is_wanted_is_restraint() -> None:
    found = score(NOTHING, response())
    assert (found["em_intent"], found["restraint"]) == (1.0, 1.0)
    assert "em_structure" not in found


@pytest.mark.parametrize(
    "given", [response(Call("light", {"room": "hall"})), response(is_cut=True)]
)
def test_a_call_where_none_is_wanted_is_no_restraint(given: Response) -> None:
    found = score(NOTHING, given)
    assert (found["em_intent"], found["restraint"]) == (0.0, 0.0)


def test_a_reply_is_scored_where_there_is_one() -> None:
    found = score(WANTED, response(reply="the light is now on!"))
    assert found["rouge_1"] == pytest.approx(8 / 9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Living  Room ", "living room"),
        ("20", 20),
        ("20 %", 20),
        ("20%", 20.0),
        ("1,000.50", 1000.5),
        (3.0, 3),
        ("ﬁve", "five"),
        ("True", True),
        ({"a": None, "b": "", "c": "X"}, {"c": "x"}),
        (["A", 1.0], ["a", 1]),
    ],
)
def test_formats_do_not_count(one: Any, other: Any) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the kitchen", "kitchen"),
        ("2,0", 20),
        ("one", 1),
        (1, True),
        (0, False),
        ([1, 2], [2, 1]),
        (0, None),
        ({"x": 1}, {"x": True}),
        ("nan", 0),
        ("1e5", 100_000),
        (float("inf"), float("-inf")),
        ("9" * 400, 9),
    ],
)
def test_everything_else_does(one: Any, other: Any) -> None:
    assert not is_same(Call("t", {"a": one}), Call("t", {"a": other}))
