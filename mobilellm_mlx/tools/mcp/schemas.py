"""A server's schema of arguments, made anew from what we understand of it.

A keyword that is left out only lets more through, and the server checks its arguments itself. What
cannot be left out, such as a schema that refers to itself, makes the tool unusable.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.tools.mcp.wording import one_line

MAX_CHARACTERS = 16_000
MAX_DEPTH = 10
MAX_NODES = 500
"""Schemas in a schema, arguments and values of its lists; what it refers to counts each time."""
MAX_TEXT = 200
"""Characters of a value or a pattern, and of the words about an argument."""

_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})
_FORMATS = frozenset({"date", "time", "date-time", "email", "uuid", "uri", "ipv4", "ipv6"})
_LENGTHS = {"minLength": 2_000, "maxLength": 10_000, "minItems": 50, "maxItems": 1_000}
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LARGEST = 1e15
_NAME = re.compile(r"[A-Za-z_$@][\w$@.:-]{0,63}", re.ASCII)
_IRREGULAR = re.compile(r"\\[1-9bBkpP]|\(\?(?!:)")
_LARGE = re.compile(r"\d{4}|\)\{")


class Unusable(ValueError):
    """A schema that no arguments can be made for; says why as "it ..."."""


def clean_schema(schema: Any) -> dict[str, Any]:
    """The schema of an object with what we understand of ``schema``; nothing in it refers.

    Raises:
        Unusable: it describes no object, or is too much, or goes round in a circle.
    """
    made = _Cleaner(schema).made(schema, 0, ())
    if made.setdefault("type", "object") != "object":
        raise Unusable("its arguments are no object")
    kept = {
        "type": "object",
        "properties": made.get("properties", {}),
        "required": made.get("required", []),
        "additionalProperties": False,
    }
    if len(json.dumps(kept)) > MAX_CHARACTERS:
        raise Unusable(f"its schema has more than {MAX_CHARACTERS:,} characters")
    return kept


def is_simple(pattern: str) -> bool:
    """Whether answers can be bound to ``pattern``: what is regular, and not made to be large."""
    if len(pattern) > MAX_TEXT or _IRREGULAR.search(pattern) or _LARGE.search(pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


class _Cleaner:
    """Goes through one schema; everything that it meets counts."""

    def __init__(self, root: Any):
        self._root = root
        self._nodes = 0

    def made(self, schema: Any, depth: int, path: tuple[str, ...]) -> dict[str, Any]:
        """What is kept of ``schema``; ``path`` are the references that led here."""
        self._count(1)
        if depth > MAX_DEPTH:
            raise Unusable(f"its schema is nested more than {MAX_DEPTH} deep")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise Unusable("its schema is none")
        if "$ref" in schema:
            return self._referred(schema["$ref"], depth, path)
        parts = schema.get("allOf")
        if isinstance(parts, list) and len(parts) == 1:
            return self.made(parts[0], depth + 1, path) | self._words(schema)
        kept = self._kind(schema) | self._words(schema) | self._text(schema)
        kept |= _bounds(schema) | self._choices(schema, depth, path)
        if "items" in schema and not isinstance(schema["items"], list):
            kept["items"] = self.made(schema["items"], depth + 1, path)
        return kept | self._members(schema, depth, path)

    def _count(self, more: int) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            raise Unusable(f"its schema has more than {MAX_NODES} parts")

    def _referred(self, target: Any, depth: int, path: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(target, str) or not target.startswith("#"):
            raise Unusable("its schema refers to something elsewhere")
        if target in path or target == "#":
            raise Unusable("its schema refers to itself")
        found = self._root
        for part in target.removeprefix("#/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise Unusable("its schema refers to something that is not there")
            found = found[name]
        return self.made(found, depth + 1, (*path, target))

    @staticmethod
    def _kind(schema: Mapping[str, Any]) -> dict[str, Any]:
        if "type" not in schema:
            return {}
        said = schema["type"]
        kinds = [said] if isinstance(said, str) else said
        known = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
        if not known or not kinds or not _TYPES.issuperset(kinds):
            raise Unusable("its schema has a type that there is not")
        return {"type": kinds[0] if len(kinds) == 1 else list(dict.fromkeys(kinds))}

    @staticmethod
    def _words(schema: Mapping[str, Any]) -> dict[str, Any]:
        said = schema.get("description")
        words = one_line(said, MAX_TEXT) if isinstance(said, str) else ""
        return {"description": words} if words else {}

    def _text(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of values as such: which there are, and how texts look."""
        kept: dict[str, Any] = {}
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list):
            self._count(len(values))
            kept["enum"] = [value for value in values if _is_plain(value)]
            if not kept["enum"]:
                raise Unusable("its schema lists values of which none can be written")
        pattern, form = schema.get("pattern"), schema.get("format")
        if isinstance(pattern, str) and is_simple(pattern):
            kept["pattern"] = pattern
        if isinstance(form, str) and form in _FORMATS:
            kept["format"] = form
        return kept

    def _choices(
        self, schema: Mapping[str, Any], depth: int, path: tuple[str, ...]
    ) -> dict[str, Any]:
        options = schema.get("anyOf", schema.get("oneOf"))
        if not isinstance(options, list) or not options:
            return {}
        return {"anyOf": [self.made(option, depth + 1, path) for option in options]}

    def _members(
        self, schema: Mapping[str, Any], depth: int, path: tuple[str, ...]
    ) -> dict[str, Any]:
        members = schema.get("properties")
        if not isinstance(members, dict) or not members:
            return {}
        self._count(len(members))
        for name in members:
            if not _NAME.fullmatch(name):
                raise Unusable("it has an argument whose name is no word")
        required = schema.get("required")
        return {
            "properties": {
                name: self.made(member, depth + 1, path) for name, member in members.items()
            },
            "required": [n for n in members if isinstance(required, list) and n in required],
            "additionalProperties": False,
        }


def _is_plain(value: Any) -> bool:
    """Whether a value can be shown and said as it is."""
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and value == one_line(value, MAX_TEXT)
    return value is None or isinstance(value, bool) or _is_number(value)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= _LARGEST
    )


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Limits on numbers and lengths, where they are such that something is between them."""
    kept = {key: schema[key] for key in _NUMBERS if _is_number(schema.get(key))}
    for key, most in _LENGTHS.items():
        value = schema.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            kept[key] = value
    pairs = (
        *(("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")),
        ("exclusiveMinimum", "exclusiveMaximum"),
    )
    for low, high in pairs:
        if low in kept and high in kept and kept[low] > kept[high]:
            raise Unusable(f"its schema has a {low} above its {high}")
    return kept
