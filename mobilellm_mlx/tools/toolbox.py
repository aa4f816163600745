"""All the tools there are, and which of them are worth offering now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.relevance import Relevance, telling_words
from mobilellm_mlx.tools.tool import Tool

MAX_OFFERED = 5
"""Tools offered at once; small models choose badly among more."""
MAX_LIVE = 200
"""Live values of one argument that a call may name."""
MAX_SAID = 2_000
"""Characters of a message that are read for cues and values."""
MAX_VALUE = 200
"""Characters of a live value; what is longer is no name."""


class Toolbox:
    """Tools by name.

    Args:
        tools: in the order in which they are listed.

    Raises:
        ToolError: two have the same name.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.tools = tuple(tools)
        self._by_name: dict[str, Tool] = {}
        for tool in self.tools:
            if other := self._by_name.get(tool.name):
                raise ToolError(
                    f"two tools are called `{tool.name}`: one of {other.source}, one of "
                    f"{tool.source}",
                    "rename one of them, or leave its source out",
                )
            self._by_name[tool.name] = tool
        self._relevance = Relevance([tool for tool in self.tools if not tool.missing])

    def find(self, name: str) -> Tool:
        """The tool called ``name``.

        Raises:
            ToolError: there is none; the hint names the nearest.
        """
        if tool := self._by_name.get(name):
            return tool
        close = get_close_matches(name[:100].lower(), self._by_name, n=1)
        raise ToolError(
            f"there is no tool `{name[:100]}`",
            f"did you mean `{close[0]}`?" if close else "`mobilellm tools list` shows all of them",
        )

    def offer(self, said: str, limit: int = MAX_OFFERED) -> list[Offered]:
        """The tools that a person may mean, the likeliest first; none for ordinary chat.

        Args:
            said: what the person wrote.
            limit: at most so many.
        """
        return self._offered(self._relevance.find(said), said, limit)

    def offer_all(self, said: str) -> list[Offered]:
        """Every tool that can be used here, whatever was said."""
        return self._offered((tool for tool in self.tools if not tool.missing), said, None)

    def _offered(self, tools: Iterable[Tool], said: str, limit: int | None) -> list[Offered]:
        offered: list[Offered] = []
        for tool in tools:
            if limit is not None and len(offered) >= limit:
                break
            try:
                offered.append(Offered(tool, self.schema_for(tool, said)))
            except ToolError:  # nothing that it could be used on
                continue
        return offered

    def schema_for(self, tool: Tool, said: str) -> dict[str, Any]:
        """The parameters of a tool as a model is bound to them by what the person said.

        Beside ``live_schema``, arguments that follow from the words can be nothing else, and those
        that may be left out are needed where the words ask for them, and are not there otherwise.

        Args:
            tool: one of these, or another.
            said: what the person wrote; empty leaves all as it is.

        Raises:
            ToolError: an argument that a call needs has no value it could be.
        """
        schema = self.live_schema(tool, said)
        if not said:
            return schema
        properties, required = schema.get("properties", {}), schema.get("required", [])
        for name, cue in tool.cues.items():
            if name not in properties or name in required:
                continue
            if re.search(cue, said[:MAX_SAID], re.IGNORECASE):
                required.append(name)
            else:
                del properties[name]
        for name, hear in tool.heard.items():
            if name not in properties:
                continue
            if values := _nameable(hear(said[:MAX_SAID])):
                _bind(properties[name], values[:MAX_LIVE])
            elif name in tool.cues and name in required:
                # It seemed to be asked for, but there is nothing it could be.
                required.remove(name)
                del properties[name]
        return schema

    def live_schema(self, tool: Tool, said: str = "") -> dict[str, Any]:
        """The parameters of a tool, bounded, with the values that exist now.

        Args:
            tool: one of these, or another.
            said: what the person wrote; where there are too many values, those that share words
                with it are kept.

        Raises:
            ToolError: an argument that a call needs has no value it could be.
        """
        schema = bounded(tool.parameters)
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        for name, live in tool.live.items():
            if name not in properties:
                continue
            try:
                values = _nameable(live())
            except Exception as error:  # a live value comes from disks, programs and servers
                raise ToolError(f"`{name}` of `{tool.name}` has no values now: {error}") from None
            if values:
                _bind(properties[name], _kept(values, said))
            elif name in required:
                raise ToolError(f"there is nothing now that `{tool.name}` could be used on")
            else:
                del properties[name]
        return schema


def _nameable(values: Iterable[Any]) -> list[str]:
    """The values that can be said, each once."""
    known = dict.fromkeys(value for value in values if isinstance(value, str))
    return [value for value in known if 0 < len(value) <= MAX_VALUE and _is_text(value)]


def _is_text(value: str) -> bool:
    """Whether it is one line of text: a file's name need not be."""
    return not any("\ud800" <= char <= "\udfff" or char < " " for char in value)


def _kept(values: Sequence[str], said: str) -> list[str]:
    """At most ``MAX_LIVE``; those that share words with what was said come first then."""
    if len(values) <= MAX_LIVE:
        return list(values)
    wanted = telling_words(said)
    return sorted(values, key=lambda value: -len(wanted & telling_words(value)))[:MAX_LIVE]


def _bind(argument: dict[str, Any], values: list[str]) -> None:
    """Let an argument, or the items of a list, be one of some values."""
    if argument.get("type") == "array":
        argument["items"] = {"type": "string", "enum": values}
        return
    for key in ("maxLength", "minLength", "pattern", "anyOf", "default"):
        argument.pop(key, None)
    argument |= {"type": "string", "enum": values}
