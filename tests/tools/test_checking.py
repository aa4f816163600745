"""Arguments are checked in plain sentences, and no schema keeps the checking busy."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.checking import MAX_ARGUMENTS, check_arguments, matches
from mobilellm_mlx.tools.tool import Tool


def a_tool(schema: dict[str, Any], **more: Any) -> Tool:
    return Tool("act", "Act.", schema, lambda arguments, cancel: "", source="mcp:odd", **more)


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


NUMBER = {"type": "integer", "minimum": 1, "maximum": 9}


@pytest.mark.parametrize(
    ("schema", "arguments", "says"),
    [
        (of(a=NUMBER), {"a": 12}, "`a` of `act` is 12, expected at most 9"),
        (of(a=NUMBER), {"a": 0}, "`a` of `act` is 0, expected at least 1"),
        (of(a=NUMBER), {"a": "x"}, "`a` of `act` is `x`, expected a whole number"),
        (of(a=NUMBER), {"a": True}, "`a` of `act` is true, expected a whole number"),
        (of(a=NUMBER), {}, "`act` needs `a`"),
        (of(a=NUMBER), [], "the arguments of `act` are a list, not an object"),
        (
            of(a={"type": "string", "maxLength": 3}),
            {"a": "x" * 900},
            f"`a` of `act` is `{'x' * 59}…`, expected a text of at most 3 characters",
        ),
        (
            of(a={"type": "string", "pattern": "^b"}),
            {"a": "x\x1b[31m"},
            "`a` of `act` is `x[31m`, expected a text that matches `^b`",
        ),
        (
            of(a=of(b={"type": "array", "items": NUMBER})),
            {"a": {"b": [1, 10]}},
            "`a.b[1]` of `act` is 10, expected at most 9",
        ),
        (of(a={"type": "number"}), {"a": float("nan")}, "`a` is nan, expected a finite number"),
        (of(a={}), {"a": {1, 2}}, "`a` is of type set, which JSON cannot say"),
        (of(a={}), {"a": "\ud800"}, "`a` is no valid text: it holds half a character"),
        (of(a={"type": "number", "multipleOf": 0.1}), {"a": 0.35}, "expected a multiple of 0.1"),
        (of(a={}), {3: 4}, "3 is not the name of an argument"),
        (of(a={"not": {}}), {"a": 1}, "which its schema does not allow (`not`)"),
    ],
)
def test_what_is_wrong_is_said_with_name_value_and_expectation(
    schema: dict[str, Any], arguments: Any, says: str
) -> None:
    with pytest.raises(ToolError) as raised:
        check_arguments(a_tool(schema), arguments)
    assert says in raised.value.message
    assert "\n" not in raised.value.message


def test_the_nearest_name_and_value_are_suggested() -> None:
    schema = of(unit={"enum": ["meters", "miles", "feet", "yards", "inches", "stones"]})
    with pytest.raises(ToolError) as raised:
        check_arguments(a_tool(schema), {"unit": "mile"})
    assert raised.value.message.endswith("expected one of `meters`, `miles`, `feet`, `yards`, "
                                         "`inches` and 1 more")  # fmt: skip
    assert raised.value.hint == "did you mean `miles`?"
    with pytest.raises(ToolError) as raised:
        check_arguments(a_tool(schema), {"unit": "miles", "unti": 1})
    assert (raised.value.message, raised.value.hint) == (
        "`act` takes no `unti`",
        "did you mean `unit`?",
    )


def test_whole_floats_are_whole_numbers_and_decimals_are_exact() -> None:
    schema = of(a=NUMBER, b={"type": "array", "items": NUMBER})
    checked = check_arguments(a_tool(schema), {"a": 3.0, "b": (2.0, 1)})
    assert checked == {"a": 3, "b": [2, 1]}
    assert [type(checked["a"]), type(checked["b"][0])] == [int, int]
    schema = of(a={"type": "number", "multipleOf": 0.1})
    assert check_arguments(a_tool(schema), {"a": 0.3}) == {"a": 0.3}


def test_live_values_are_checked_where_they_are_given() -> None:
    tool = a_tool(of(a={"type": "string"}))
    assert check_arguments(tool, {"a": "x"}) == {"a": "x"}
    with pytest.raises(ToolError, match="expected one of `y`"):
        check_arguments(tool, {"a": "x"}, of(a={"enum": ["y"]}))


def test_the_tools_own_check_comes_last_and_may_change_the_arguments() -> None:
    def check(arguments: Any) -> dict[str, Any]:
        return {"a": arguments["a"] + 1}

    assert check_arguments(a_tool(of(a=NUMBER), check=check), {"a": 3}) == {"a": 4}

    def broken(_: Any) -> dict[str, Any]:
        raise KeyError("x")

    with pytest.raises(ToolError, match="`act` could not check its arguments"):
        check_arguments(a_tool(of(a=NUMBER), check=broken), {"a": 3})


def test_the_arguments_are_a_copy() -> None:
    given = {"a": [1]}
    checked = check_arguments(a_tool(of(a={})), given)
    checked["a"].append(2)
    assert given == {"a": [1]}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"$ref": "#"}, "endless"),
        ({"type": 3}, "malformed"),
        ({"minimum": "x", "properties": {"a": {"minimum": "x"}}}, "malformed"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "malformed"),
        ({"$ref": "file:///etc/passwd"}, "malformed"),
        ({"properties": 5}, "malformed"),
    ],
)
def test_a_schema_that_cannot_be_used_is_said_with_its_source(
    schema: dict[str, Any], kind: str
) -> None:
    with pytest.raises(ToolError) as raised:
        check_arguments(a_tool(schema), {"a": 1})
    assert raised.value.message.startswith(f"the schema of `act` is {kind}")
    assert raised.value.hint == "it comes from mcp:odd"


def test_references_that_double_each_other_come_to_an_end() -> None:
    levels = {
        f"level{n}": {"anyOf": [{"$ref": f"#/$defs/level{n + 1}"}] * 2} for n in range(40)
    } | {"level40": {"type": "null"}}
    started = time.perf_counter()
    with pytest.raises(ToolError, match="endless"):
        check_arguments(a_tool({"$defs": levels, "$ref": "#/$defs/level0"}), {})
    assert time.perf_counter() - started < 5


def test_patterns_match_as_json_schema_means_them() -> None:
    assert matches("b", "abc")
    assert not matches("^b", "abc")
    assert matches("^a\\d{2}$", "a12")
    assert not matches("^a\\d{2}$", "a123")
    assert matches('^"\\n$', '"\n')
    assert matches("^é+$", "éé")


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "^(a*)*$", "^([a-z]+)*$"])
def test_no_pattern_goes_back_for_ever(pattern: str) -> None:
    started = time.perf_counter()
    assert not matches(pattern, "a" * 5_000 + "!")
    assert time.perf_counter() - started < 5


def test_patterns_for_names_are_not_matched_by_python() -> None:
    schema = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    started = time.perf_counter()
    check_arguments(a_tool(schema), {"a" * 60 + "!": 1})
    assert time.perf_counter() - started < 5


def test_a_pattern_that_cannot_be_compiled_is_left_to_the_tool() -> None:
    assert matches("(?=x)y", "z")
    assert matches("(", "z")


def test_too_much_and_too_deep_is_refused() -> None:
    with pytest.raises(ToolError, match="longer than"):
        check_arguments(a_tool(of(a={})), {"a": "x" * (MAX_ARGUMENTS + 1)})
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ToolError, match="nested"):
        check_arguments(a_tool(of(a={})), {"a": deep})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_SCHEMA = st.recursive(
    st.dictionaries(
        st.sampled_from(["type", "enum", "minimum", "pattern", "required", "$ref", "multipleOf"]),
        _JSON,
        max_size=3,
    ),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"properties": st.dictionaries(st.text(max_size=3), inner, max_size=2),
                      "items": inner, "anyOf": st.lists(inner, max_size=2), "not": inner}
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=60)
@given(_SCHEMA, st.dictionaries(st.text(max_size=3), _JSON, max_size=3))
def test_whatever_the_schema_and_the_arguments_only_tool_errors_come(
    schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    try:
        checked = check_arguments(a_tool(schema), arguments)
    except ToolError as error:
        assert error.message and "\n" not in error.message
    else:
        assert checked.keys() == arguments.keys()


@pytest.mark.parametrize("value", [3.141592653589793, 1e-9, 6.02e23])
def test_the_finest_step_of_a_model_is_none_of_a_persons(value: float) -> None:
    schema = of(a=bounded({"type": "number", "maximum": 1e30}))
    assert check_arguments(a_tool(schema), {"a": value}, schema) == {"a": value}


@pytest.mark.parametrize(
    ("value", "step", "fits"),
    [
        (1e30, 0.1, True),
        (1e300, 1e-7, True),
        (0.3, 0.1, True),
        (10**40 + 1, 2, False),
        (1e-300, 0.5, False),
        (0.25, 0.1, False),
    ],
)
def test_a_number_far_from_its_step_is_no_fault_of_the_schema(
    value: float, step: float, fits: bool
) -> None:
    schema = of(a={"type": "number", "multipleOf": step})
    if fits:
        assert check_arguments(a_tool(schema), {"a": value}, schema) == {"a": value}
    else:
        with pytest.raises(ToolError, match="expected a multiple of"):
            check_arguments(a_tool(schema), {"a": value}, schema)
