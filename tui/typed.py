"""Calls that a person types: ``3*17``, ``text="buy milk"`` or JSON behind the name of a tool."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.tools.tool import Tool

_NAMED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_YES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def usage(tool: Tool) -> str:
    """How a tool is called by hand, in a line."""
    required = tool.parameters.get("required", ())
    names = [n if n in required else f"[{n}]" for n in _properties(tool)]
    said = " ".join(f"{name}=…" for name in names)
    return f"/tool {tool.name} {said}".rstrip()


def read_arguments(tool: Tool, text: str) -> dict[str, Any]:
    """What was typed behind the name of a tool; the tool checks the values itself.

    Args:
        tool: that is called.
        text: JSON, ``name=value`` as often as needed, or the value of the tool's main argument.

    Raises:
        InvalidInput: when it is none of these.
    """
    text = text.strip()
    properties = _properties(tool)
    if not text:
        return {}
    if text.startswith("{"):
        return _read_json(tool, text)
    first = _NAMED.fullmatch(text.split()[0])
    if first is not None and first[1] in properties:
        return _read_pairs(tool, text)
    if (name := main_argument(tool)) is None:
        raise InvalidInput(f"`{tool.name}` takes nothing behind it", usage(tool))
    return {name: _value(properties[name], text)}


def main_argument(tool: Tool) -> str | None:
    """The argument that needs no name: the first that must be there, or the first of all."""
    required = [name for name in tool.parameters.get("required", ()) if name in _properties(tool)]
    return next(iter([*required, *_properties(tool)]), None)


def _properties(tool: Tool) -> Mapping[str, Any]:
    properties = tool.parameters.get("properties", {})
    return properties if isinstance(properties, Mapping) else {}


def _read_json(tool: Tool, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "it is too deep"
        raise InvalidInput(f"the arguments are not JSON: {why}", usage(tool)) from None
    assert isinstance(value, dict)  # it begins with a brace
    return value


def _read_pairs(tool: Tool, text: str) -> dict[str, Any]:
    properties = _properties(tool)
    try:
        words = shlex.split(text)
    except ValueError:
        raise InvalidInput("a quotation mark is not closed", usage(tool)) from None
    read: dict[str, Any] = {}
    last = ""
    for word in words:
        found = _NAMED.fullmatch(word)
        if found is not None and found[1] in properties:
            last = found[1]
            read[last] = found[2]
        elif found is not None:
            raise InvalidInput(f"`{tool.name}` has no argument `{found[1]}`", usage(tool))
        else:  # words without quotation marks around them
            read[last] += f" {word}"
    return {name: _value(properties[name], value) for name, value in read.items()}


def _value(schema: Any, text: str) -> Any:
    """``text`` as what the schema asks for, where that is plain; the check says the rest."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "boolean":
        return _YES.get(text.lower(), text)
    if kind in ("integer", "number", "array", "object"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text.split(",") if kind == "array" else text
    return text
