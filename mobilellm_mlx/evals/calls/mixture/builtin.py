"""Sentences for the program's own tools: templates of ours, arguments that the tools take."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.evals.calls.mixture.asks import ASKS, Asked
from mobilellm_mlx.evals.calls.mixture.sample import Sample, in_order, weighted_count
from mobilellm_mlx.evals.calls.mixture.values import LIVE
from mobilellm_mlx.evals.calls.walker import Walker
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.builtin import Surroundings, builtin_tools
from mobilellm_mlx.tools.builtin.hearing import named
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.formats.grounding import ground
from mobilellm_mlx.tools.tool import Call, Tool
from mobilellm_mlx.tools.toolbox import Toolbox

KINDS: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            ("calculator", "convert_units"),
            ("current_time", "convert_time", "date_math", "days_between"),
            ("set_timer", "set_alarm", "list_timers", "cancel_timer"),
            ("add_note", "find_notes", "list_notes", "read_note", "delete_note", "search_chats"),
            ("list_files", "read_file", "search_files", "search_chats", "find_notes", "read_note"),
            ("read_clipboard", "copy_to_clipboard"),
            ("open_url", "open_app", "run_shortcut"),
            ("system_status",),
        ),
    )
)
"""Tools that may do in each other's place; they are never on offer where none is to be called."""

_TRIES = 20
_SHUFFLED = 0.5
_HARD = 0.3


def usable_tools() -> list[Tool]:
    """The built-in tools as if all could be used here, with things of an invented person."""
    found = []
    for tool in builtin_tools(Surroundings(platform="darwin", search_chats=lambda _: [])):
        live = {**tool.live, **{name: _constant(v) for name, v in LIVE.get(tool.name, {}).items()}}
        heard = dict(tool.heard)
        if tool.name == "search_files":
            heard["folder"] = lambda said: named(LIVE["search_files"]["folder"], said)
        if tool.name == "run_shortcut":
            heard.pop("input", None)
        found.append(replace(tool, live=live, heard=heard, missing=""))
    return found


def _constant(values: Sequence[str]) -> Any:
    return lambda: values


class BuiltinSentences:
    """Samples for the built-in tools.

    Args:
        seed: of what is drawn.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self.tools = usable_tools()
        self._by_name = {tool.name: tool for tool in self.tools}
        self._toolbox = Toolbox(self.tools)
        self._walker = Walker({})

    def asked(self) -> Iterator[tuple[str, Call]]:
        """Sentences and their calls for ever, one tool after the other, few of them twice."""
        draw = random.Random(f"{self._seed} builtin")
        by_tool: dict[str, list[Asked]] = {}
        for one in ASKS:
            by_tool.setdefault(one.tool, []).append(one)
        said: set[str] = set()
        while True:
            for name in draw.sample(sorted(by_tool), len(by_tool)):
                one = draw.choices(by_tool[name], [each.weight for each in by_tool[name]])[0]
                for attempt in range(_TRIES):
                    sentence, arguments = self._say(one, draw)
                    is_new = sentence not in said or attempt == _TRIES - 1
                    if is_new and self.takes(name, sentence, arguments):
                        said.add(sentence)
                        yield sentence, Call(name, arguments)
                        break

    def takes(self, name: str, said: str, arguments: Mapping[str, Any]) -> bool:
        """Whether a tool takes arguments as it is offered after a sentence."""
        tool = self._by_name[name]
        try:
            schema = ground(self._toolbox.schema_for(tool, said), tool.spoken, said)
            check_arguments(tool, arguments, schema)
        except ToolError:
            return False
        return True

    def wanted(self, said: str, call: Call, draw: random.Random, extra: Sequence[Tool]) -> Sample:
        """A sentence with its call, the tools on offer being those that a chat would offer.

        Args:
            said: by the person.
            call: that is right.
            draw: decides.
            extra: tools of other kinds that may be on offer too.
        """
        right = self._offered(call.name, said)
        count = weighted_count(draw)
        found = [one for one in self._toolbox.offer(said) if one.tool.name != call.name]
        others = found[: draw.randint(0, count - 1)]
        taken = {call.name, *(one.tool.name for one in others)}
        for tool in draw.sample([*self.tools, *extra], len(self.tools)):
            if len(others) >= count - 1:
                break
            if tool.name not in taken and (one := self._try_offered(tool, said)):
                others.append(one)
                taken.add(tool.name)
        offered = [right, *others]
        if draw.random() < _SHUFFLED:
            draw.shuffle(offered)
        call = Call(call.name, in_order(call.arguments, right.schema))
        return Sample("builtin", said, (call,), tuple(offered))

    def unwanted(self, said: str, call: Call, draw: random.Random, extra: Sequence[Tool]) -> Sample:
        """A sentence for which no tool on offer will do."""
        kin = frozenset[str]().union(*(some for some in KINDS if call.name in some))
        return self._declined("none: absent", said, kin, draw, extra)

    def talk(self, said: str, draw: random.Random, kind: str = "none: talk") -> Sample:
        """Talk, often with the tools on offer that its words bring to mind.

        Sums, units and times are left out: talk about them may well want them.
        """
        left_out = KINDS[0] | KINDS[1] | KINDS[7]
        return self._declined(kind, said, left_out, draw, ())

    def _declined(
        self,
        kind: str,
        said: str,
        without: frozenset[str],
        draw: random.Random,
        extra: Sequence[Tool],
    ) -> Sample:
        count = weighted_count(draw)
        offered = [one for one in self._toolbox.offer(said) if one.tool.name not in without][:count]
        taken = {*without, *(one.tool.name for one in offered)}
        for tool in draw.sample([*self.tools, *extra], len(self.tools) + len(extra)):
            if len(offered) >= count:
                break
            if tool.name not in taken and (one := self._try_offered(tool, said)):
                offered.append(one)
        draw.shuffle(offered)
        return Sample(kind, said, (), tuple(offered))

    def _say(self, one: Asked, draw: random.Random) -> tuple[str, dict[str, Any]]:
        arguments: dict[str, Any] = dict(one.constant)

        def fill(list_name: str, slot: str, draw: random.Random) -> str:
            value = one.filled[slot](draw)
            words, meant = value if isinstance(value, tuple) else (value, value)
            arguments[slot] = meant
            return words

        text = self._walker.walk(draw.choice(one.texts), draw, fill)
        return text, arguments

    def _offered(self, name: str, said: str) -> Offered:
        tool = self._by_name[name]
        return Offered(tool, self._toolbox.schema_for(tool, said))

    def _try_offered(self, tool: Tool, said: str) -> Offered | None:
        try:
            return Offered(tool, self._toolbox.schema_for(tool, said))
        except ToolError:
            return None
