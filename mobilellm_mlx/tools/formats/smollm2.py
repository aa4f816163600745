"""SmolLM2: a JSON list of calls between one pair of tags; an empty list calls nothing."""

from __future__ import annotations

from collections.abc import Sequence

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.grammar import Grammar, lark_grammar
from mobilellm_mlx.tools.asking import Offered, Used
from mobilellm_mlx.tools.formats.hermes import CLOSING, OPENING
from mobilellm_mlx.tools.formats.reading import (
    MAX_CALLS,
    as_data,
    check_length,
    compact,
    make_call,
    read_json,
    skip_space,
    told,
)
from mobilellm_mlx.tools.formats.tagged import ANYTHING, call_rules
from mobilellm_mlx.tools.tool import Call

_TOOLS = """You are an expert in composing functions. You are given a question and a set of \
possible functions. Based on the question, you will need to make one or more function/tool calls \
to achieve the purpose. If none of the functions can be used, answer with an empty list.

You have access to the following tools:
<tools>{tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
<tool_call>[
{{"name": "func_name1", "arguments": {{"argument1": "value1", "argument2": "value2"}}}},
... (more tool calls as required)
]</tool_call>"""


class SmolLM2:
    """``<tool_call>[{"name": ..., "arguments": {...}}]</tool_call>``."""

    name = "smollm2"
    opening: str | None = OPENING
    declines = True

    def render_tools(self, offered: Sequence[Offered]) -> str:
        return _TOOLS.format(tools=f"[{','.join(map(told, offered))}]")

    def render_calls(self, calls: Sequence[Call]) -> str:
        written = [{"name": call.name, "arguments": call.arguments} for call in calls]
        return f"{OPENING}{compact(written)}{CLOSING}"

    def parse(self, text: str) -> tuple[str, list[Call]]:
        speech, opening, _ = text.partition(OPENING)
        if not opening:
            return speech.strip(), []
        check_length(text)
        value, end = read_json(text, skip_space(text, len(speech) + len(OPENING)))
        if not text.startswith(CLOSING, skip_space(text, end)):
            raise ToolError(f"the calls do not end with {CLOSING}")
        if not isinstance(value, list):
            raise ToolError("the calls are not a JSON list")
        return speech.strip(), [make_call(each, "arguments") for each in value]

    def render_result(self, used: Used) -> str:
        return f"<tool_response>\n{as_data(used.result)}\n</tool_response>"

    def grammar(self, offered: Sequence[Offered], *, free_text: bool) -> Grammar:
        first = "TEXT | trigger calls" if free_text else f'"{OPENING}" calls'
        rules = [
            f"start: {first}",
            f'calls: "[]{CLOSING}" | "[" call ("," call){{0,{MAX_CALLS - 1}}} "]{CLOSING}"',
            *call_rules(offered, "", "arguments"),
        ]
        if free_text:
            rules += [ANYTHING, f'trigger[lazy]: TEXT "{OPENING}"']
        return lark_grammar("\n".join(rules))
