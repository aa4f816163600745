"""Limits for schemas that have none, so that an answer bound to one comes to an end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.errors import ToolError

MAX_TEXT = 500
"""Characters of a text without a limit of its own."""
MAX_ITEMS = 16
"""Items of a list without a limit of its own."""
MAX_WHOLE = 10**15
"""How large numbers are without limits of their own; whole ones are exact as floats too."""
FINEST = 1e-6
"""The finest step of a number: decimals go on for ever otherwise."""

_MAX_DEPTH = 32
_IN_ONE = ("items", "additionalProperties", "not", "contains", "if", "then", "else")
_IN_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_IN_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")


_OURS = (
    ("maxLength", MAX_TEXT),
    ("maxItems", MAX_ITEMS),
    ("minimum", -MAX_WHOLE),
    ("maximum", MAX_WHOLE),
    ("multipleOf", FINEST),
)


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a schema in which texts, lists and numbers have limits.

    Limits that are there stay. The copy shares nothing with the original.

    Raises:
        ToolError: the schema is nested too deeply.
    """
    return _bound(schema, 0)


def _bound(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ToolError(f"the schema is nested more than {_MAX_DEPTH} deep")
    made = dict(schema)
    for key in _IN_ONE:
        if isinstance(made.get(key), Mapping):
            made[key] = _bound(made[key], depth + 1)
    for key in _IN_MANY:
        if isinstance(made.get(key), list):
            made[key] = [_any(each, depth) for each in made[key]]
    for key in _IN_NAMED:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: _any(each, depth) for name, each in made[key].items()}
    if isinstance(made.get("required"), list):
        made["required"] = list(made["required"])
    if "enum" in made or "const" in made:
        return made
    kinds = made.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        made |= {key: value for key, value in _limits(kind, made).items() if key not in made}
    return made


def without_ours(schema: Any) -> Any:
    """A schema without the limits that ``bounded`` gave it: who reads it need not know them."""
    if isinstance(schema, list):
        return [without_ours(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    # A property may be called like a limit; then its value is a schema.
    return {key: without_ours(value) for key, value in schema.items() if (key, value) not in _OURS}


def _any(schema: Any, depth: int) -> Any:
    return _bound(schema, depth + 1) if isinstance(schema, Mapping) else schema


def _limits(kind: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema of this kind gains."""
    if kind == "string":
        # A format has an end of its own, and most engines take no second limit beside it.
        return (
            {}
            if "format" in schema
            else {"maxLength": max(MAX_TEXT, _number_at(schema, "minLength"))}
        )
    if kind == "array":
        return {"maxItems": max(MAX_ITEMS, _number_at(schema, "minItems"))}
    if kind in ("integer", "number"):
        made: dict[str, Any] = {} if kind == "integer" else {"multipleOf": FINEST}
        if "exclusiveMinimum" not in schema:
            made["minimum"] = min(-MAX_WHOLE, _number_at(schema, "maximum"))
        if "exclusiveMaximum" not in schema:
            made["maximum"] = max(MAX_WHOLE, _number_at(schema, "minimum"))
        return made
    return {}


def _number_at(schema: Mapping[str, Any], key: str) -> int | float:
    """A limit that is there; 0 where there is none, or nonsense."""
    value = schema.get(key)
    return value if isinstance(value, int | float) else 0
