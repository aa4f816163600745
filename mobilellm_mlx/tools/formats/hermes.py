"""Hermes: every call is a JSON object between tags of its own. Qwen and many others learned it."""

from __future__ import annotations

from collections.abc import Sequence

from mobilellm_mlx.errors import ToolError
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
    skip_space,
)
from mobilellm_mlx.tools.formats.tagged import ANYTHING, call_rules
from mobilellm_mlx.tools.tool import Call

OPENING, CLOSING = "<tool_call>", "</tool_call>"

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""Word for word what the models were trained with."""


class Hermes:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, each part on a line."""

    name = "hermes"
    opening: str | None = OPENING
    declines = False

    def render_tools(self, offered: Sequence[Offered]) -> str:
        return _TOOLS.format(tools=functions(offered))

    def render_calls(self, calls: Sequence[Call]) -> str:
        written = ({"name": call.name, "arguments": call.arguments} for call in calls)
        return "\n".join(f"{OPENING}\n{compact(each)}\n{CLOSING}" for each in written)

    def parse(self, text: str) -> tuple[str, list[Call]]:
        speech, opening, _ = text.partition(OPENING)
        calls: list[Call] = []
        if opening:
            check_length(text)
        at = len(speech)
        while (at := text.find(OPENING, at)) >= 0:
            value, end = read_json(text, skip_space(text, at + len(OPENING)))
            at = skip_space(text, end)
            if not text.startswith(CLOSING, at):
                raise ToolError(f"a call does not end with {CLOSING}")
            calls.append(make_call(value, "arguments"))
        return speech.strip(), calls

    def render_result(self, used: Used) -> str:
        return f"<tool_response>\n{as_data(used.result)}\n</tool_response>"

    def grammar(self, offered: Sequence[Offered], *, free_text: bool) -> Grammar:
        first = f"TEXT | trigger {_BODY}" if free_text else f'"{OPENING}" {_BODY}'
        rules = [
            f'start: {first} ("\\n{OPENING}" {_BODY}){{0,{MAX_CALLS - 1}}}',
            *call_rules(offered, "", "arguments"),
        ]
        if free_text:
            rules += [ANYTHING, f'trigger[lazy]: TEXT "{OPENING}"']
        return lark_grammar("\n".join(rules))


_BODY = f'"\\n" call "\\n{CLOSING}"'
