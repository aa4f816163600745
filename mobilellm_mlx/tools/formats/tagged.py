"""JSON between tags, and bare JSON: what Hermes, SmolLM2 and Llama 3 have in common."""

from __future__ import annotations

from collections.abc import Sequence

from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.formats.binding import argument_schema, json_rule, literal

ANYTHING = r"TEXT: /(.|\n)*/"
"""Speech. It is over where a call begins: a lazy rule ends at the first chance."""


def call_rules(offered: Sequence[Offered], head: str, key: str) -> list[str]:
    """Rules for ``call``: the object of a call to one of the tools, of which ``head`` was read.

    Args:
        offered: the tools.
        head: how the object begins, such as ``{"name"``; empty when nothing of it was read.
        key: under which its arguments stand.
    """
    rules = [f"call: {' | '.join(f'call{index}' for index in range(len(offered)))}"]
    for index, each in enumerate(offered):
        begun = f'{{"name":{literal(each.tool.name)},{literal(key)}:'.removeprefix(head)
        rules.append(f'call{index}: {literal(begun)} arguments{index} "}}"')
        rules.append(f"arguments{index}: {json_rule(argument_schema(each))}")
    return rules
