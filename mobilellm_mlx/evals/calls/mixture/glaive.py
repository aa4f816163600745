"""Glaive's dialogues: tools of many other kinds, and requests that none of them does."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.evals.calls.home import _never
from mobilellm_mlx.evals.calls.mixture.sample import Sample, in_order, weighted_count
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Call, Tool

MAX_SAID = 200
"""Characters of a first turn that is used."""
MAX_TOOL = 240
"""Characters of a tool's signature and description together."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PROMISED = re.compile(r"\b(?:could|can|may|please|would) (?:you|provide|tell)\b|\?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """How a dialogue begins."""

    said: str
    tools: tuple[Tool, ...]
    call: Call | None
    """The call that follows; None where the answer is that there is no such tool, or just talk."""


def read_dialogues(text: str) -> list[Dialogue]:
    """The beginnings that can be used, in the order of the file.

    Left out are those whose arguments do not stand in what was said, those whose answer asks back,
    and what is too long.

    Args:
        text: the file.
    """
    return list(filter(None, map(_read, json.loads(text))))


def _read(row: Mapping[str, Any]) -> Dialogue | None:
    first, second = row["conversations"][:2]
    said = " ".join(str(first["value"]).split())
    described = json.loads(row["tools"] or "[]")
    if first["from"] != "human" or len(said) > MAX_SAID or "<" in said:
        return None
    tools = tuple(_tool(one) for one in described if _can_be_used(one))
    if second["from"] != "function_call":
        if second["from"] != "gpt" or (tools and _PROMISED.search(second["value"])):
            return None
        return Dialogue(said, tools, None)
    value = json.loads(second["value"])
    call = Call(value["name"], value["arguments"])
    tool = next((one for one in tools if one.name == call.name), None)
    if tool is None or not _follows(call.arguments, said):
        return None
    if set(call.arguments) - set(tool.parameters.get("properties") or {}):
        return None
    try:
        check_arguments(tool, call.arguments)
    except ToolError:
        return None
    return Dialogue(said, tools, call)


def _can_be_used(described: Mapping[str, Any]) -> bool:
    parameters = described.get("parameters") or {}
    size = len(str(described.get("description"))) + len(", ".join(parameters.get("properties", {})))
    return bool(_NAME.fullmatch(str(described.get("name")))) and size <= MAX_TOOL


def _tool(described: Mapping[str, Any]) -> Tool:
    parameters = described.get("parameters") or {}
    schema = bounded({"type": "object", "properties": {}, **parameters})
    schema["additionalProperties"] = False
    text = " ".join(str(described.get("description", "")).split())
    name = str(described["name"])
    return Tool(name, text if text.endswith(".") else f"{text}.", schema, _never, source="glaive")


def _follows(value: Any, said: str) -> bool:
    """Whether everything in some arguments stands in what was said."""
    if isinstance(value, Mapping):
        return all(_follows(each, said) for each in value.values())
    if isinstance(value, list):
        return bool(value) and all(_follows(each, said) for each in value)
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return (
            re.search(rf"(?<![\d.]){re.escape(text)}(?![\d]|\.\d)", said.replace(",", ""))
            is not None
        )
    return str(value).casefold() in said.casefold()


class GlaiveSentences:
    """Samples out of dialogues.

    Args:
        dialogues: of one side.
        others: those whose tools may be on offer too.
    """

    def __init__(self, dialogues: list[Dialogue], others: list[Dialogue]):
        self._dialogues = dialogues
        known: dict[str, Tool] = {}
        for one in others:
            known.update({tool.name: tool for tool in one.tools})
        self._tools = [known[name] for name in sorted(known)]

    def samples(self, draw: random.Random, *, times: int) -> Iterator[Sample]:
        """Every dialogue's beginning a few times, with other tools on offer each time."""
        for _ in range(times):
            for one in draw.sample(self._dialogues, len(self._dialogues)):
                yield self._sample(one, draw)

    def _sample(self, one: Dialogue, draw: random.Random) -> Sample:
        count = weighted_count(draw)
        right = [tool for tool in one.tools if one.call and tool.name == one.call.name]
        offered = list(right or one.tools[:count])
        names = {tool.name for tool in one.tools}
        family = _words(right[0].name) if right else _words(" ".join(names))
        for tool in draw.sample(self._tools, len(self._tools)):
            if len(offered) >= count:
                break
            # Of two tools with almost the same name only one can be right.
            if tool.name not in names and not _words(tool.name) & family:
                offered.append(tool)
        draw.shuffle(offered)
        shown = tuple(Offered(tool, bounded(tool.parameters)) for tool in offered)
        if one.call is None:
            return Sample("none: glaive", one.said, (), shown)
        arguments = in_order(one.call.arguments, right[0].parameters)
        return Sample("glaive", one.said, (Call(one.call.name, arguments),), shown)


def _words(name: str) -> set[str]:
    """What a tool is about, by its name."""
    return set(re.split(r"[_\s]", name.lower())) - {"get", "calculate", "find", "search", "a", "to"}
