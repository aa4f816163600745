"""A server's schemas: what we understand is kept, what could harm is not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.tools.mcp.schemas import MAX_NODES, Unusable, clean_schema, is_simple


def arguments(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_what_binds_an_answer_is_kept() -> None:
    schema = {
        **arguments(
            city={"type": "string", "enum": ["Rome", "Oslo"], "description": "Where.\n\nReally."},
            days={"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
            when={"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            code={"type": "string", "pattern": "^[A-Z]{3}-\\d+$", "maxLength": 9},
            tags={"type": "array", "items": {"type": "string"}, "maxItems": 3},
            unit={"const": "km"},
        ),
        "required": ["city", "nowhere"],
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Weather",
    }
    assert clean_schema(schema) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where. Really.", "enum": ["Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            "code": {"type": "string", "pattern": "^[A-Z]{3}-\\d+$", "maxLength": 9},
            "tags": {"type": "array", "maxItems": 3, "items": {"type": "string"}},
            "unit": {"enum": ["km"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_references_within_a_schema_are_written_out() -> None:
    schema = {
        **arguments(where={"allOf": [{"$ref": "#/$defs/Place"}], "description": "Where to."}),
        "$defs": {"Place": arguments(name={"type": "string"}) | {"required": ["name"]}},
    }
    assert clean_schema(schema)["properties"]["where"] == {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
        "description": "Where to.",
    }


def test_a_tool_without_arguments_takes_none() -> None:
    nothing = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert clean_schema({}) == clean_schema({"type": "object", "additionalProperties": True})
    assert clean_schema({}) == nothing


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return arguments(a=schema)


def both(name: str) -> dict[str, Any]:
    return arguments(a={"$ref": f"#/$defs/{name}"}, b={"$ref": f"#/$defs/{name}"})


CIRCLE = {"n": arguments(next={"$ref": "#/$defs/n"})}
DOUBLING = {**{f"d{n}": both(f"d{n + 1}") for n in range(4)}, "d4": both("e0")}
DOUBLING["e0"] = {"anyOf": [True] * 9}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ([], "is none"),
        (False, "is none"),
        ({"type": "string"}, "no object"),
        (arguments(a={"type": "text"}), "a type that there is not"),
        (arguments(a={"type": [{}]}), "a type that there is not"),
        (arguments(a={"$ref": "#"}), "refers to itself"),
        (arguments(a={"$ref": "#/properties/a"}), "refers to itself"),
        (
            {"$defs": CIRCLE, **arguments(a={"$ref": "#/$defs/n"})},
            "refers to itself",
        ),
        (arguments(a={"$ref": "https://example.org/a.json"}), "something elsewhere"),
        (arguments(a={"$ref": 7}), "something elsewhere"),
        (arguments(a={"$ref": "#/$defs/b"}), "not there"),
        ({"$defs": DOUBLING, **arguments(a={"$ref": "#/$defs/d0"})}, "nested more than"),
        (
            {"$defs": DOUBLING, **arguments(**{k: {"$ref": "#/$defs/d2"} for k in "abcdefgh"})},
            "500 parts",
        ),
        (nested(40), "nested more than"),
        (arguments(**{f"a{n}": {} for n in range(MAX_NODES + 1)}), "more than 500 parts"),
        (arguments(a={"enum": list(range(100_000))}), "more than 500 parts"),
        (arguments(a={"enum": ["\x1b[2J", "x" * 999]}), "none can be written"),
        (arguments(**{"a b": {}}), "no word"),
        (arguments(**{"x" * 99: {}}), "no word"),
        (arguments(a={"minLength": 9, "maxLength": 3}), "a minLength above its maxLength"),
        (
            arguments(**{f"a{n}": {"description": "x" * 200} for n in range(90)}),
            "more than 16,000 characters",
        ),
    ],
)
def test_a_schema_that_cannot_be_used_says_why(schema: Any, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        clean_schema(schema)


@pytest.mark.parametrize(
    "pattern",
    ["(", "x" * 201, "a{9999}", "((a{9}){9}){9}", r"(a)\1", "(?=a)b", "(?P<n>a)", r"\bword\b"],
)
def test_patterns_that_cannot_bind_are_left_out(pattern: str) -> None:
    assert not is_simple(pattern)
    cleaned = clean_schema(arguments(a={"type": "string", "pattern": pattern}))
    assert cleaned["properties"]["a"] == {"type": "string"}


KEYWORDS = (
    *("type", "properties", "required", "enum", "const", "items", "anyOf", "allOf", "$ref"),
    *("pattern", "format", "minimum", "maxLength", "minItems", "description", "a", "b"),
)
WORDS = ("object", "string", "array", "#/properties/a", "#/a")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYWORDS), inner | st.sampled_from(WORDS), max_size=5)
    ),
    max_leaves=30,
)


@given(JSON)
def test_whatever_a_server_says_the_result_is_a_schema_or_a_reason(schema: Any) -> None:
    try:
        cleaned = clean_schema(schema)
    except Unusable as error:
        assert str(error).startswith("it")
        return
    jsonschema.Draft202012Validator.check_schema(cleaned)
    assert cleaned["type"] == "object" and "$ref" not in json.dumps(cleaned)
