"""What all formats share: reading JSON that a stranger wrote, and texts that are only data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.bounds import without_ours
from mobilellm_mlx.tools.tool import Call

MAX_TEXT = 20_000
"""Characters of an answer that are looked at for calls."""
MAX_DEPTH = 16
MAX_CALLS = 4
"""Calls in one answer; small models repeat themselves without end."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_MARKS = re.compile(
    r"<[\s/]*(?:tools?|tool_calls?|tool_response|tool_result|result)\s*>|<\|[^<>|]{0,60}\|>"
    r"|\[/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]",
    re.IGNORECASE,
)
_LONGEST_LIST = 24
"""Values of an argument that a model is shown; the grammar knows all of them."""


def as_data(text: str) -> str:
    """A text in which every mark of a prompt is broken, so that it cannot end the block it is in.

    Names of a model's own signs are kept from becoming signs elsewhere (``Tokenizer.guard``); this
    is about marks that are mere text.
    """
    return _MARKS.sub(lambda mark: "(" + mark[0].strip("<>[]") + ")", text)


def as_line(text: str, longest: int = 1_000) -> str:
    """A text as data on one line, such as what a stranger's tool says of itself."""
    return as_data(" ".join(text.split()))[:longest]


def compact(value: Any) -> str:
    """JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def check_length(text: str) -> None:
    """Refuse answers that are far too long to be a call.

    Raises:
        ToolError: when it is longer than ``MAX_TEXT``.
    """
    if len(text) > MAX_TEXT:
        raise ToolError(
            f"the answer with the call has {len(text):,} characters, at most {MAX_TEXT:,} are read"
        )


def read_json(text: str, at: int) -> tuple[Any, int]:
    """A JSON value inside a text, and where it ends.

    Raises:
        ToolError: when there is none, or it is nested too deep, names a key twice, or has numbers
            or characters that JSON does not know.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_number)
    try:
        value, end = decoder.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ToolError(f"a call is not valid JSON: {reason[:200]}") from None
    check_value(value)
    return value, end


def check_value(value: Any) -> None:
    """Refuse what later steps would stumble over.

    Raises:
        ToolError: for nesting beyond ``MAX_DEPTH``, infinite numbers and half characters.
    """
    rest = [(value, 1)]
    while rest:
        item, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise ToolError(f"a call is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, float) and not math.isfinite(item):
            raise ToolError("a call has a number that is too large")
        if isinstance(item, str) and any("\ud800" <= char <= "\udfff" for char in item):
            raise ToolError("a call has half a character in a text")
        if isinstance(item, dict):
            rest += [(key, depth) for key in item]
            rest += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]


def make_call(value: Any, key: str) -> Call:
    """A call out of the object that a model wrote.

    Args:
        value: ``{"name": ..., key: {...}}``.
        key: under which the arguments stand; they may be left out.

    Raises:
        ToolError: when it is anything else.
    """
    if not isinstance(value, dict):
        raise ToolError(f"a call is not a JSON object but {_kind(value)}")
    name, arguments = value.get("name"), value.get(key, {})
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError('a call has no "name" that a tool can have')
    if not isinstance(arguments, dict):
        raise ToolError(
            f'the "{key}" of the call to `{name}` are not an object but {_kind(arguments)}'
        )
    if unknown := [each for each in value if each not in ("name", key)]:
        raise ToolError(f'the call to `{name}` has "{unknown[0][:40]}" beside "name" and "{key}"')
    return Call(name, arguments)


def skip_space(text: str, at: int) -> int:
    """The first place from ``at`` on that is no white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def told(offered: Offered) -> str:
    """A tool in the words of ``describe`` as JSON, in which nothing ends the list it stands in."""
    return as_data(compact(describe(offered)))


def functions(offered: Iterable[Offered]) -> str:
    """Tools as most formats list them, one on a line."""
    return "\n".join(f'{{"type":"function","function":{told(each)}}}' for each in offered)


def describe(offered: Offered) -> dict[str, Any]:
    """A tool as models are told about it: name, description and parameters.

    Long lists of values are left out: the grammar keeps to them whether the model knows them or
    not, and every token of a prompt has to be read.
    """
    tool = offered.tool
    known = without_ours(offered.schema)
    parameters = {key: v for key, v in known.items() if key != "additionalProperties"}
    properties = parameters.get("properties")
    if isinstance(properties, dict):
        parameters["properties"] = {key: _shortened(v) for key, v in properties.items()}
    return {
        "name": tool.name,
        "description": as_line(tool.description),
        "parameters": parameters,
    }


def _shortened(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    kept = dict(schema)
    values = kept.get("enum")
    if isinstance(values, list) and len(values) > _LONGEST_LIST:
        kept["enum"] = values[:_LONGEST_LIST]
    return kept


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", type(None): "null", dict: "one"}
    return names.get(type(value), "a number")
