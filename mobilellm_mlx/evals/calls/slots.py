"""Slots of the templates: drawn values with their words, and the schema of an argument."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.evals.calls import rooms
from mobilellm_mlx.evals.calls.walker import Walker, parsed
from mobilellm_mlx.tools.tool import Live

if TYPE_CHECKING:
    from mobilellm_mlx.evals.calls.home import Template

NAMED = ("zone",)
"""Lists in which the data allows anything, and the house knows some."""


def mentioned(template: str, rules: Mapping[str, str]) -> set[tuple[str, str]]:
    """List and slot of everything that a template can fill in."""
    return set(_mentioned(parsed(template), rules))


def _mentioned(part: Any, rules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    kind = type(part).__name__
    if kind == "ListReference":
        yield part.list_name, part.slot_name
    elif kind == "RuleReference":
        yield from _mentioned(parsed(rules[part.rule_name]), rules)
    else:
        for item in getattr(part, "items", ()):
            yield from _mentioned(item, rules)


def always(template: str, rules: Mapping[str, str]) -> set[str]:
    """Slots that every sentence of a template fills."""
    return _always(parsed(template), rules)


def _always(part: Any, rules: Mapping[str, str]) -> set[str]:
    kind = type(part).__name__
    if kind == "ListReference":
        return {part.slot_name}
    if kind == "RuleReference":
        return _always(parsed(rules[part.rule_name]), rules)
    sets = [_always(item, rules) for item in getattr(part, "items", ())]
    if not sets:
        return set()
    return set.intersection(*sets) if kind == "Alternative" else set.union(*sets)


@dataclass(slots=True)
class Arguments:
    """What a tool's slots come to: their schemas, live values, and which are free words."""

    properties: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Live] = field(default_factory=dict)
    spoken: list[str] = field(default_factory=list)


class Slots:
    """Fills the slots of one sentence.

    Args:
        lists: of the data, by name.
        domains: that a name may be of.
        walker: for values that are templates themselves.
    """

    def __init__(self, lists: Mapping[str, Any], domains: Sequence[str], walker: Walker):
        self._lists = lists
        self._domains = domains
        self._walker = walker
        self.values: dict[str, Any] = {}
        """What was filled in, by slot."""

    def fill(self, list_name: str, slot: str, draw: random.Random) -> str:
        words, value = self._draw(list_name, draw)
        self.values[slot] = value
        return words

    def _draw(self, name: str, draw: random.Random) -> tuple[str, Any]:
        if values := house_values(name, self._domains):
            text = draw.choice(values)
            return text, text
        entry = self._lists[name]
        if "range" in entry:
            limits = entry["range"]
            number = draw.randrange(limits["from"], limits["to"] + 1, limits.get("step", 1))
            return str(number), number * limits.get("multiplier", 1)
        value = draw.choice(entry["values"])
        if isinstance(value, str):
            return value, value
        return self._walker.walk(value["in"], draw, self.fill), value["out"]

    @staticmethod
    def schemas(
        lists: Mapping[str, Any], rules: Mapping[str, str], templates: Iterable[Template]
    ) -> Arguments:
        """The arguments of a tool, out of all templates of its intent."""
        used: dict[str, set[str]] = {}
        constants: dict[str, set[str]] = {}
        domains: set[str] = set()
        for template in templates:
            for list_name, slot in mentioned(template.text, rules):
                used.setdefault(slot, set()).add(list_name)
                if list_name == "name":
                    domains |= set(template.domains)
            for slot, value in template.constant.items():
                constants.setdefault(slot, set()).add(value)
        made = Arguments()
        for slot in sorted({*used, *constants}):
            _add(made, slot, used.get(slot, set()), constants.get(slot, set()), lists, domains)
        return made


def house_values(name: str, domains: Iterable[str]) -> tuple[str, ...]:
    """What the house has for a list; nothing for lists of the data."""
    if name == "area":
        return rooms.AREAS
    if name == "floor":
        return rooms.FLOORS
    if name == "name":
        return tuple(
            one for domain in rooms.NAMES if domain in domains for one in rooms.NAMES[domain]
        )
    return rooms.WORDS.get(name, ())


def _add(
    made: Arguments,
    slot: str,
    used: set[str],
    constants: set[str],
    lists: Mapping[str, Any],
    domains: set[str],
) -> None:
    """Add an argument that can be what any of its lists holds."""
    real = [name for name in sorted(used) if name in ("area", "floor", "name")]
    if real:
        values = tuple(one for name in real for one in house_values(name, domains))
        made.properties[slot] = {"type": "string"}
        made.live[slot] = lambda: values
        return
    texts, numbers, is_free = set(constants), [], False
    for name in used:
        entry = lists[name]
        if name in NAMED:
            texts |= set(rooms.WORDS[name])
        elif entry.get("wildcard"):
            is_free = True
        elif "range" in entry:
            limits, sign = entry["range"], entry["range"].get("multiplier", 1)
            numbers += [limits["from"] * sign, limits["to"] * sign]
        else:
            outs = [one if isinstance(one, str) else one["out"] for one in entry["values"]]
            texts |= {one for one in outs if isinstance(one, str)}
            numbers += [one for one in outs if not isinstance(one, str)]
    if is_free:
        made.properties[slot] = {"type": "string"}
        made.spoken.append(slot)
        return
    kinds: list[dict[str, Any]] = []
    if texts:
        kinds.append({"type": "string", "enum": sorted(texts)})
    if numbers:
        kinds.append({"type": "integer", "minimum": min(numbers), "maximum": max(numbers)})
    made.properties[slot] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
