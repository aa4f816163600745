"""Llama 3: a call is a bare JSON object with ``parameters``; Llama 3.1 and 3.2 learned it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mobilellm_mlx.grammar import Grammar, lark_grammar
from mobilellm_mlx.tools.asking import Offered, Used
from mobilellm_mlx.tools.formats.reading import (
    MAX_CALLS,
    as_data,
    check_length,
    compact,
    functions,
    make_call,
    read_json,
)
from mobilellm_mlx.tools.formats.tagged import ANYTHING, call_rules
from mobilellm_mlx.tools.tool import Call

OPENING = '{"name"'
_OPENING = re.compile(r'\{\s*"name"')

_TOOLS = """You may call functions. To call one, respond in the format {{"name": function name, \
"parameters": dictionary of argument name and its value}}, each call on a line of its own. Do not \
use variables. Respond in plain words when no function fits.

{tools}"""


class Llama3:
    """``{"name": ..., "parameters": {...}}``, one a line."""

    name = "llama3"
    opening: str | None = OPENING
    declines = False

    def render_tools(self, offered: Sequence[Offered]) -> str:
        return _TOOLS.format(tools=functions(offered))

    def render_calls(self, calls: Sequence[Call]) -> str:
        written = ({"name": call.name, "parameters": call.arguments} for call in calls)
        return "\n".join(map(compact, written))

    def parse(self, text: str) -> tuple[str, list[Call]]:
        found = _OPENING.search(text)
        if not found:
            return text.strip(), []
        check_length(text)
        speech = text[: found.start()].removesuffix("<|python_tag|>").strip()
        calls: list[Call] = []
        while found:
            value, end = read_json(text, found.start())
            calls.append(make_call(value, "parameters"))
            found = _OPENING.search(text, end)
        return speech, calls

    def render_result(self, used: Used) -> str:
        # A result that is a call's text stays a text: its quotes are escaped.
        return compact({"output": as_data(used.result)})

    def grammar(self, offered: Sequence[Offered], *, free_text: bool) -> Grammar:
        opening = _QUOTED
        first = "TEXT | trigger call" if free_text else f"{opening} call"
        rules = [
            f'start: {first} ("\\n" {opening} call){{0,{MAX_CALLS - 1}}}',
            *call_rules(offered, OPENING, "parameters"),
        ]
        if free_text:
            rules += [ANYTHING, f"trigger[lazy]: TEXT {opening}"]
        return lark_grammar("\n".join(rules))


_QUOTED = '"{\\"name\\""'
