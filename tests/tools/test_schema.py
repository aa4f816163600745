"""Typed functions become tools: schema, words, typed values, results."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools import Limits, tool
from mobilellm_mlx.tools.bounds import FINEST, MAX_ITEMS, MAX_TEXT, MAX_WHOLE, bounded
from mobilellm_mlx.tools.schema import tool_from
from mobilellm_mlx.tools.tool import Tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    label: str | None = None


@dataclass
class Knot:
    next: Knot | None = None


def run(made: Tool, **arguments: Any) -> str:
    return made.run(arguments, threading.Event())


def argument(kind: Any) -> dict[str, Any]:
    """The schema of one argument of a type."""

    def act(value: Any) -> str:
        """Act."""
        return str(value)

    act.__annotations__["value"] = kind
    schema: dict[str, Any] = tool_from(act).parameters["properties"]["value"]
    return schema


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, {"type": "string", "maxLength": MAX_TEXT}),
        (bool, {"type": "boolean"}),
        (int, {"type": "integer", "minimum": -MAX_WHOLE, "maximum": MAX_WHOLE}),
        (
            float,
            {
                "type": "number",
                "multipleOf": FINEST,
                "minimum": -MAX_WHOLE,
                "maximum": MAX_WHOLE,
            },
        ),
        (Literal["m", "s"], {"enum": ["m", "s"]}),
        (Colour, {"enum": ["red", "blue"]}),
        (Annotated[int, Limits(ge=1, le=9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (
            Annotated[str, Limits(min_length=1, max_length=3, pattern="^a")],
            {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^a"},
        ),
        (
            Annotated[list[bool], Limits(max_length=2)],
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        ),
        (list[bool], {"type": "array", "items": {"type": "boolean"}, "maxItems": MAX_ITEMS}),
        (
            Optional[bool],  # noqa: UP045 (both spellings are to work)
            {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        ),
    ],
)
def test_each_supported_type_has_a_schema_with_an_end(kind: Any, expected: Any) -> None:
    schema = argument(kind)
    assert schema == expected
    Draft202012Validator.check_schema(schema)


def test_a_dataclass_is_written_out_in_place() -> None:
    assert argument(Point) == {
        "type": "object",
        "properties": {
            "x": {"type": "integer", "minimum": -MAX_WHOLE, "maximum": MAX_WHOLE},
            "label": {"type": "string", "maxLength": MAX_TEXT},
        },
        "required": ["x"],
        "additionalProperties": False,
    }


def test_words_come_from_the_docstring_and_defaults_from_the_signature() -> None:
    @tool(reads_only=True, keywords=["walk"])
    def go(where: str, speed: Literal["slow", "fast"] = "slow", via: str | None = None) -> str:
        """Go somewhere, e.g. home. This is said to nobody.

        More about it.

        Args:
            where: the place,
                over two lines
            speed (str): how fast

        Returns:
            where: not a parameter
        """
        return f"{where} {speed} {via}"

    assert (go.name, go.description, go.reads_only) == ("go", "Go somewhere, e.g. home.", True)
    schema = go.parameters
    assert schema["properties"]["where"]["description"] == "the place, over two lines"
    assert schema["properties"]["speed"] == {
        "description": "how fast",
        "enum": ["fast", "slow"],
        "default": "slow",
    }
    assert schema["properties"]["via"] == {"type": "string", "maxLength": MAX_TEXT}
    assert schema["required"] == ["where"]
    assert schema["additionalProperties"] is False
    assert run(go, where="home") == "home slow None"


def test_the_function_gets_typed_values_and_the_flag() -> None:
    seen: list[Any] = []

    @tool
    def act(at: Point, colour: Colour, share: float, stop: threading.Event) -> None:
        """Act."""
        seen.extend([at, colour, share, stop.is_set()])

    assert "stop" not in act.parameters["properties"]
    assert run(act, at={"x": 1}, colour="blue", share=2) == "done"
    assert seen == [Point(1), Colour.BLUE, 2.0, False]
    assert isinstance(seen[2], float)


def test_values_that_are_not_of_their_type_never_reach_the_function() -> None:
    @tool
    def act(count: int, name: str = "x") -> str:
        """Act."""
        raise AssertionError("it was called")

    for arguments in ({"count": "3"}, {"count": 1, "other": 2}, {}):
        with pytest.raises(ToolError):
            run(act, **arguments)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("as it is\n", "as it is\n"),
        ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}'),
        (Point(1), '{"x":1,"label":null}'),
        (3, "3"),
        (None, "done"),
    ],
)
def test_results_become_text(given: Any, text: str) -> None:
    def act() -> Any:
        """Act."""
        return given

    assert run(tool_from(act)) == text


@pytest.mark.parametrize("given", [b"\x00", bytearray(b"x"), object(), {"a": object()}])
def test_results_that_are_no_text_are_refused(given: Any) -> None:
    def act() -> Any:
        """Act."""
        return given

    with pytest.raises(ToolError):
        run(tool_from(act))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def act(a: dict): 'Act.'", "the parameter `a` of the tool `act`"),
        ("def act(a: list): 'Act.'", "the parameter `a` of the tool `act`"),
        ("def act(a: bytes): 'Act.'", "the parameter `a` of the tool `act`"),
        ("def act(a: object): 'Act.'", "the parameter `a` of the tool `act`"),
        ("def act(a): 'Act.'", "has no type"),
        ("def act(*a: int): 'Act.'", "has no name to call it by"),
        ("def act(a: int, /): 'Act.'", "has no name to call it by"),
        ("def act(a: 'Nowhere'): 'Act.'", "cannot be read"),
        ("def act(a: int = 'x'): 'Act.'", "is not of its type"),
        ("def act(a: int): pass", "has no docstring"),
        ("async def act(a: int): 'Act.'", "asynchronous"),
        ("def Act(a: int): 'Act.'", "cannot be the name"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_named_with_its_parameter(
    source: str, says: str
) -> None:
    space: dict[str, Callable[..., Any]] = {}
    exec(source, space)
    with pytest.raises(ToolError, match="ct`") as raised:
        tool(space.get("act") or space["Act"])
    assert says in raised.value.message
    assert "\n" not in raised.value.message


def test_a_type_that_holds_itself_is_refused() -> None:
    with pytest.raises(ToolError, match="holds itself, `Knot`"):
        argument(Knot)


def test_live_and_spoken_name_parameters_that_exist() -> None:
    def act(name: str) -> str:
        """Act."""
        return name

    with pytest.raises(ToolError, match="no parameter `nam`, named in `live`"):
        tool_from(act, live={"nam": list})
    with pytest.raises(ToolError, match="no parameter `nam`, named in `spoken`"):
        tool_from(act, spoken=["nam"])


def test_cues_are_for_parameters_that_may_be_left_out_and_are_expressions() -> None:
    def act(name: str, way: str = "") -> str:
        """Act."""
        return name + way

    made = tool_from(act, cues={"way": "how"}, heard={"way": lambda said: []}, answers=True)
    assert made.cues == {"way": "how"} and made.answers and not tool_from(act).answers
    with pytest.raises(ToolError, match="`name` of the tool `act` has a cue, but is always needed"):
        tool_from(act, cues={"name": "how"})
    with pytest.raises(ToolError, match="the cue of `way` of the tool `act` is no regular"):
        tool_from(act, cues={"way": "("})
    with pytest.raises(ToolError, match="no parameter `wa`, named in `heard`"):
        tool_from(act, heard={"wa": lambda said: []})


def test_bounds_leave_limits_that_are_there_and_the_original_alone() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 3},
            "b": {"type": ["string", "null"]},
            "c": {"type": "number", "minimum": 2 * MAX_WHOLE},
            "d": {"type": "string", "format": "date"},
            "e": {"enum": ["x"], "type": "string"},
            "f": {"anyOf": [{"type": "array", "items": {"type": "string"}}, True]},
        },
    }
    before = json.dumps(schema)
    made = bounded(schema)["properties"]
    assert json.dumps(schema) == before
    assert made["a"] == {"type": "string", "maxLength": 3}
    assert made["b"]["maxLength"] == MAX_TEXT
    assert made["c"]["maximum"] >= made["c"]["minimum"] == 2 * MAX_WHOLE
    assert made["d"] == {"type": "string", "format": "date"}
    assert made["e"] == {"enum": ["x"], "type": "string"}
    assert made["f"]["anyOf"][0] == {
        "type": "array",
        "items": {"type": "string", "maxLength": MAX_TEXT},
        "maxItems": MAX_ITEMS,
    }


def test_a_schema_without_an_end_is_refused_in_a_sentence() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ToolError, match="nested"):
        bounded(schema)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "items", "minimum", "maximum", "minLength", "properties",
                             "required", "anyOf", "string", "number"]),
            inner | st.sampled_from(["string", "number", "array"]),
            max_size=4,
        ),
    )
)  # fmt: skip
def test_nonsense_that_somebody_calls_a_schema_is_no_trouble(schema: Any) -> None:
    if isinstance(schema, dict):
        assert bounded(schema).keys() >= schema.keys()


def test_whoever_only_looks_at_tools_does_not_load_what_checks_them() -> None:
    code = (
        "import sys, mobilellm_mlx.tools.asking, mobilellm_mlx.tools.toolbox;"
        "print([m for m in ('msgspec', 'jsonschema', 'llguidance', 'mcp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
