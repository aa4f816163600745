"""What styles have in common: what the person said, and where the instructions go."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.formats.grounding import ground

_COMMON = frozenset(
    (
        *("a", "all", "am", "an", "as", "at", "be", "here", "i", "in", "is", "it", "me", "my"),
        *("no", "now", "of", "on", "or", "pm", "so", "the", "to"),
    )
)
"""Values that are said without being meant: ``in`` is a unit of length."""


def last_said(conversation: Sequence[Message], count: int = 1) -> str:
    """The last messages of the person's, in order; empty when nobody has said anything."""
    said = [each.content for each in conversation if each.role == "user"]
    return "\n".join(said[-count:])


def grounded(offered: Sequence[Offered], said: str) -> list[Offered]:
    """Tools whose spoken arguments are bound to what was said."""
    return [replace(one, schema=ground(one.schema, one.tool.spoken, said)) for one in offered]


def mentioned(offered: Offered, said: str) -> Offered:
    """A tool whose enums are narrowed to the values that the person named, where they named any.

    Small models take the value of an example rather than the one that was asked for. Arguments
    with the same values share what was named, so nothing is narrowed until there is enough of it:
    "10 km in meters" names two units, "how far is 10 km" only one.
    """
    properties = offered.schema.get("properties")
    if not isinstance(properties, Mapping):
        return offered
    lists = {
        name: part["enum"]
        for name, part in properties.items()
        if name not in offered.tool.spoken
        and isinstance(part, Mapping)
        and isinstance(part.get("enum"), list)
    }
    sharing = Counter(json.dumps(values) for values in lists.values())
    narrow: dict[str, Any] = {}
    for name, values in lists.items():
        named = [value for value in values if isinstance(value, str) and is_named(value, said)]
        if len(named) >= sharing[json.dumps(values)]:
            narrow[name] = {**properties[name], "enum": named}
    return replace(offered, schema={**offered.schema, "properties": {**properties, **narrow}})


def instructed(conversation: Sequence[Message], instructions: str) -> tuple[Message, ...]:
    """A conversation whose system prompt has the instructions; they are not put there twice."""
    first, rest = (conversation[0], conversation[1:]) if conversation else (None, ())
    if first is None or first.role != "system":
        return Message("system", instructions), *conversation
    if instructions in first.content:
        return tuple(conversation)
    return Message("system", f"{first.content}\n\n{instructions}"), *rest


def is_named(value: str, said: str) -> bool:
    """Whether a value stands in a text; of a path its last part will do, without its ending."""
    said = said.casefold()
    whole = value.casefold()
    last = whole.rstrip("/").rpartition("/")[2]
    names = {whole, last, last.rpartition(".")[0]} - _COMMON
    return any(
        len(name) > 1 and re.search(rf"(?<!\w){re.escape(name)}(?:e?s)?(?!\w)", said)
        for name in names
    )
