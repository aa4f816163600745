"""Sentences about a house for the training of calls: all tools equally often, more words for them.

The templates are Home Assistant's, those of one side. A test has the same few rooms and things as
``rooms`` has; here many of them are replaced, so that words are copied rather than known.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mobilellm_mlx.evals.calls import rooms
from mobilellm_mlx.evals.calls.home import Home, Side, Template, Utterance, talk_of
from mobilellm_mlx.evals.calls.mixture import words
from mobilellm_mlx.evals.calls.mixture.held_out import HeldOut
from mobilellm_mlx.evals.calls.mixture.own import OWN
from mobilellm_mlx.evals.calls.mixture.sample import Sample, in_order, weighted_count
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Tool
from mobilellm_mlx.tools.toolbox import Toolbox

FAMILIES: tuple[frozenset[str], ...] = tuple(
    map(
        frozenset,
        (
            ("turn_on", "turn_off", "set_position", "light_set", "get_state", "fan_set_speed"),
            ("start_timer", "cancel_timer", "cancel_all_timers", "pause_timer", "unpause_timer"),
            ("start_timer", "increase_timer", "decrease_timer", "timer_status", "cancel_timer"),
            ("media_next", "media_previous", "media_pause", "media_unpause"),
            ("media_pause", "media_player_mute", "media_player_unmute", "media_search_and_play"),
            ("set_volume", "set_volume_relative", "media_player_mute", "media_player_unmute"),
            ("list_add_item", "list_complete_item", "list_remove_item", "shopping_list_add_item"),
            ("shopping_list_add_item", "shopping_list_complete_item", "list_complete_item"),
            ("climate_get_temperature", "climate_set_temperature", "get_weather", "light_set"),
            ("climate_set_fan_mode", "climate_set_temperature", "fan_set_speed", "turn_on"),
            ("vacuum_start", "vacuum_clean_area", "vacuum_return_to_base", "turn_on"),
            ("lawn_mower_start_mowing", "lawn_mower_dock", "vacuum_start", "turn_on", "turn_off"),
            ("get_current_time", "get_current_date", "get_weather", "timer_status"),
            ("broadcast", "media_search_and_play", "start_timer"),
        ),
    )
)
"""Tools that are easily taken for each other."""

OPPOSITES = (
    ("media_player_mute", "media_player_unmute"),
    ("media_next", "media_previous"),
    ("list_add_item", "list_remove_item"),
    ("increase_timer", "decrease_timer"),
    ("pause_timer", "unpause_timer"),
    ("vacuum_start", "vacuum_return_to_base"),
    ("lawn_mower_start_mowing", "lawn_mower_dock"),
    ("start_timer", "timer_status"),
    ("climate_get_temperature", "climate_set_temperature"),
)
"""Tools of one family of which none does for the other."""

_HARD = 0.5
"""Share of the other tools on offer that are of the right one's family."""
_TRIES = 12
_REPEATS = 12
"""How often a sentence comes, with other tools on offer, where there are few to say."""
_REPLACED = 0.4
_REPLACED_FREE = 0.75


class HomeSentences:
    """Samples out of the templates of one side.

    Args:
        home: the templates.
        held_out: knows what is not to be said.
        side: whose templates, other than ``test``.
        seed: of what is drawn.
    """

    def __init__(self, home: Home, held_out: HeldOut, side: Side, seed: int):
        if side == "test":
            raise ValueError("sentences of the test are not for training")
        self._home, self._side, self._seed = home, side, seed
        self._held_out = held_out
        self._toolbox = Toolbox(home.tools.values())
        self._by_name = {tool.name: tool for tool in self._toolbox.tools}

    def utterances(self) -> Iterator[Utterance]:
        """Sentences that want a call, one tool after the other, until there is no more to say."""
        by_intent = {
            intent: sorted(templates, key=lambda one: one.text)
            for intent, templates in sorted(self._home.of_side(self._side).items())
            if intent in self._home.tools
        }
        if self._side == "train":
            for intent, (domains, texts) in OWN.items():
                own = [Template(intent, text, {}, domains) for text in texts]
                by_intent[intent] = [*by_intent.get(intent, ()), *own]
        draw = random.Random(f"{self._seed} {self._side} utterances")
        said: Counter[str] = Counter()
        turn = 0
        while by_intent:
            for intent in draw.sample(sorted(by_intent), len(by_intent)):
                templates = by_intent[intent]
                one = self._fresh(templates[turn % len(templates)], said, draw)
                if one is None:
                    if turn >= len(templates):
                        del by_intent[intent]
                    continue
                said[one.said] += 1
                yield one
            turn += 1

    def _fresh(
        self, template: Template, said: Counter[str], draw: random.Random
    ) -> Utterance | None:
        """A sentence of a template that has come seldom so far; never one of the test's."""
        found: list[Utterance] = []
        for _ in range(_TRIES):
            one = self._home.say(template, draw)
            if self._held_out.means(one.said, one.template.intent, one.slots):
                continue
            if not said[one.said]:
                return one
            found.append(one)
        one_of = min(found, key=lambda one: said[one.said], default=None)
        return one_of if one_of is not None and said[one_of.said] < _REPEATS else None

    def wanted(self, one: Utterance, draw: random.Random, extra: Sequence[Tool] = ()) -> Sample:
        """A sentence with its call, the right tool among one to five on offer.

        Args:
            one: the sentence.
            draw: decides.
            extra: tools of other kinds that may be on offer too.
        """
        tool = self._home.tools[one.template.intent]
        said, slots = self._reworded(one, tool, draw)
        right = self._offered(tool, said, slots)
        others = self._others(tool, weighted_count(draw) - 1, draw, extra)
        offered = [right, *(self._offered(other, said) for other in others)]
        draw.shuffle(offered)
        call = Call(tool.name, in_order(slots, right.schema))
        return Sample("home", said, (call,), tuple(offered))

    def unwanted(self, one: Utterance, draw: random.Random) -> Sample:
        """A sentence for which no tool on offer will do."""
        tool = self._home.tools[one.template.intent]
        said, _ = self._reworded(one, tool, draw)
        kin = frozenset[str]().union(*(some for some in FAMILIES if tool.name in some))
        far = [other for other in self._toolbox.tools if other.name not in kin | {tool.name}]
        near = [self._by_name[b] for a, b in _both_ways(OPPOSITES) if a == tool.name]
        count = weighted_count(draw)
        others = draw.sample(far, count)
        if near and draw.random() < 0.6:
            others[-1] = draw.choice(near)
        draw.shuffle(others)
        offered = tuple(self._offered(other, said) for other in others)
        return Sample("none: absent", said, (), offered)

    def talk(self, said: str, draw: random.Random, extra: Sequence[Tool] = ()) -> Sample:
        """Talk, with tools on offer."""
        count = weighted_count(draw)
        chosen = draw.sample([*self._toolbox.tools, *extra], count)
        return Sample("none: talk", said, (), tuple(self._offered(one, said) for one in chosen))

    def talks(self) -> list[str]:
        """Sentences of this side that want nothing done."""
        found = talk_of(self._side)
        for intent, templates in sorted(self._home.of_side(self._side).items()):
            if intent in rooms.NOT_TOOLS:
                for template in templates:
                    draws = (random.Random(f"{template.text} {n}") for n in range(4))
                    found += [self._home.say(template, draw).said for draw in draws]
        return sorted(one for one in set(found) if not self._held_out.says(one))

    def _others(
        self, tool: Tool, count: int, draw: random.Random, extra: Sequence[Tool]
    ) -> list[Tool]:
        kin = sorted(set().union(*(some for some in FAMILIES if tool.name in some)) - {tool.name})
        hard = [self._by_name[name] for name in kin if name in self._by_name]
        easy = [*(one for one in self._toolbox.tools if one is not tool), *extra]
        chosen: list[Tool] = []
        while len(chosen) < count:
            one = draw.choice(hard if hard and draw.random() < _HARD else easy)
            if one.name not in {other.name for other in chosen}:
                chosen.append(one)
        return chosen

    def _offered(self, tool: Tool, said: str, slots: dict[str, Any] | None = None) -> Offered:
        """A tool with the things of the house, and with those that a sentence has beside them."""
        schema = self._toolbox.live_schema(tool, said)
        for name in tool.live:
            values = schema["properties"].get(name, {}).get("enum", [])
            if slots and name in slots and slots[name] not in values:
                values.append(slots[name])
        return Offered(tool, schema)

    def _reworded(
        self, one: Utterance, tool: Tool, draw: random.Random
    ) -> tuple[str, dict[str, Any]]:
        """The same sentence about other things now and then."""
        said, slots = one.said, dict(one.slots)
        for slot, value in one.slots.items():
            free = slot in tool.spoken
            if not free and slot not in tool.live:
                continue
            if draw.random() >= (_REPLACED_FREE if free else _REPLACED):
                continue
            pattern = re.compile(rf"(?<!\w){re.escape(str(value))}(?!\w)")
            choices = _alternatives(value, free=free)
            if choices and len(pattern.findall(said)) == 1:
                slots[slot] = new = draw.choice(choices)
                said = new.join(pattern.split(said))
        return said, slots


def _alternatives(value: str, *, free: bool) -> Sequence[str]:
    """What could stand in the place of a value: another of its kind."""
    if free:
        kinds = [kind for kind, values in rooms.WORDS.items() if value in values]
        return words.WORDS.get(kinds[0], ()) if kinds else ()
    if value in rooms.AREAS:
        return words.AREAS
    domains = [domain for domain, names in rooms.NAMES.items() if value in names]
    return words.NAMES.get(domains[0], ()) if domains else ()


def _both_ways(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for first, second in pairs:
        yield first, second
        yield second, first
