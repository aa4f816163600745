"""The MobileLLM paper's own format: ``name(key = "value", n = 3)``, as Python writes a call.

(arXiv 2402.14905, appendix H.5.) Lists and objects inside an argument are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.grammar import Grammar, lark_grammar
from mobilellm_mlx.tools.asking import Offered, Used
from mobilellm_mlx.tools.formats.binding import argument_schema, json_rule, literal
from mobilellm_mlx.tools.formats.reading import (
    MAX_CALLS,
    as_data,
    as_line,
    check_length,
    read_json,
    skip_space,
)
from mobilellm_mlx.tools.formats.tagged import ANYTHING
from mobilellm_mlx.tools.tool import Call

DECLINED = "none()"
"""No call. The paper's conversations always have one."""

_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_CONSTANTS = {"True": True, "False": False, "None": None}
_CALL = re.compile(r"^([A-Za-z_][A-Za-z0-9_.-]{0,127})\((?=\s*\)|\s*[A-Za-z_]\w*\s*=[^=])", re.M)
_KEY = re.compile(r"([^\s=(),\"]{1,128})\s*=\s*")
_CONSTANT = re.compile(r"(?:True|False|None)\b")


class Paper:
    """``name(key = "value", n = 3, list = ["sms"], x = None)``, one call a line."""

    name = "paper"
    opening: str | None = None
    declines = True

    def render_tools(self, offered: Sequence[Offered]) -> str:
        lines = (as_line(f"{_signature(each)}: {each.tool.description}") for each in offered)
        return "\n".join([f"Write the calls that the request needs, or {DECLINED}.", *lines])

    def render_calls(self, calls: Sequence[Call]) -> str:
        return "\n".join(map(_render, calls)) or DECLINED

    def parse(self, text: str) -> tuple[str, list[Call]]:
        found = _CALL.search(text)
        if not found:
            return text.strip(), []
        check_length(text)
        speech = text[: found.start()].strip()
        calls: list[Call] = []
        while found:
            arguments, end = _read_arguments(text, found.end())
            calls.append(Call(found[1], arguments))
            found = _CALL.search(text, end)
        return speech, [call for call in calls if call != Call("none")]

    def render_result(self, used: Used) -> str:
        return f"RESULT: {json.dumps(as_data(used.result), ensure_ascii=False)}"

    def grammar(self, offered: Sequence[Offered], *, free_text: bool) -> Grammar:
        indices = range(len(offered))
        calls = f'call ("\\n" call){{0,{MAX_CALLS - 1}}}'
        rules = [
            f"call: {' | '.join(f'name{index} rest{index}' for index in indices)}",
            *(f"name{index}: {_opening(each)}" for index, each in enumerate(offered)),
        ]
        if free_text:
            begun = " | ".join(f"begun{index} rest{index}" for index in indices)
            rules += [ANYTHING, f'start: TEXT | first ("\\n" call){{0,{MAX_CALLS - 1}}}']
            rules.append(f"first: {begun}")
            rules += [f"begun{i}[lazy]: (TEXT /\\n/)? {_opening(offered[i])}" for i in indices]
        else:
            rules.append(f"start: {literal(DECLINED)} | {calls}")
        for index, each in enumerate(offered):
            rules += _argument_rules(index, each)
        return lark_grammar("\n".join(rules))


def _opening(offered: Offered) -> str:
    return literal(f"{offered.tool.name}(")


def _signature(offered: Offered) -> str:
    properties = offered.schema.get("properties") or {}
    return f"{offered.tool.name}({', '.join(properties)})"


def _render(call: Call) -> str:
    arguments = (f"{key} = {_render_value(value)}" for key, value in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def _render_value(value: Any) -> str:
    for name, constant in _CONSTANTS.items():
        if value is constant:
            return name
    return json.dumps(value, ensure_ascii=False)


def _read_arguments(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The arguments behind an opening parenthesis, and where the call ends."""
    arguments: dict[str, Any] = {}
    at = skip_space(text, at)
    while not text.startswith(")", at):
        if arguments:
            if not text.startswith(",", at):
                raise ToolError("a call has something between its arguments that is no comma")
            at = skip_space(text, at + 1)
        key = _KEY.match(text, at)
        if not key:
            raise ToolError("a call has an argument without a name")
        if key[1] in arguments:
            raise ToolError(f"a call names `{key[1][:40]}` twice")
        arguments[key[1]], at = _read_value(text, key.end())
        at = skip_space(text, at)
    return arguments, at + 1


def _read_value(text: str, at: int) -> tuple[Any, int]:
    if constant := _CONSTANT.match(text, at):
        return _CONSTANTS[constant[0]], constant.end()
    return read_json(text, at)


def _argument_rules(index: int, offered: Offered) -> list[str]:
    """Rules for what stands behind a tool's opening parenthesis.

    Arguments come in the schema's order. ``first`` is what may follow while there is none yet,
    ``more`` what may follow behind one, so that commas are where they belong.
    """
    schema = argument_schema(offered)
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    rules = [f"rest{index}: first{index}_0"]
    for at, (key, part) in enumerate(properties.items()):
        own, after = f"{index}_{at}", f"{index}_{at + 1}"
        said = f"{literal(key + ' = ')} value{own} more{after}"
        skips = ("", "") if key in required else (f" | first{after}", f" | more{after}")
        rules += [f"first{own}: {said}{skips[0]}", f'more{own}: ", " {said}{skips[1]}']
        rules += _value_rules(f"value{own}", _with_definitions(part, schema))
    last = f"{index}_{len(properties)}"
    return [*rules, f'first{last}: ")"', f'more{last}: ")"']


def _with_definitions(part: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """An argument's own schema, which may refer to definitions of the whole."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {**shared, **part} if isinstance(part, dict) else shared


def _value_rules(name: str, schema: dict[str, Any]) -> list[str]:
    """Rules for one value; what Python writes otherwise than JSON is written Python's way."""
    kinds = schema.get("type")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return [f"{name}: {' | '.join(literal(_render_value(value)) for value in values)}"]
    branches = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(branches, list) and branches:
        rules = []
        for at, branch in enumerate(branches):
            rules += _value_rules(f"{name}_{at}", _with_definitions(branch, schema))
        return [f"{name}: {' | '.join(f'{name}_{at}' for at in range(len(branches)))}", *rules]
    if isinstance(kinds, list) and kinds:
        return _value_rules(name, {"anyOf": [{**schema, "type": kind} for kind in kinds]})
    if kinds == "boolean":
        return [f'{name}: "True" | "False"']
    if kinds == "null":
        return [f'{name}: "None"']
    return [f"{name}: {json_rule(schema, _SPACED)}"]
