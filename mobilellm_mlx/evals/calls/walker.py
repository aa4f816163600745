"""Sentences out of templates such as ``(turn|switch) on [the] {area} light[s]``, drawn at random.

The notation is hassil's, and hassil parses it. Its own sampler goes through every combination, of
which there are millions; this one walks one way through a template.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

FillSlot = Callable[[str, str, random.Random], str]
"""Draws a value for a list and a slot, notes it, and gives the words for it."""

_MAX_DEPTH = 40


@lru_cache(maxsize=4096)
def parsed(template: str) -> Any:
    """A template as hassil's expression."""
    return import_module("hassil.parse_expression").parse_sentence(template).expression


class Walker:
    """Walks through templates.

    Args:
        rules: templates by the name under which others refer to them.
    """

    def __init__(self, rules: Mapping[str, str]):
        self._rules = rules

    def walk(self, template: str, draw: random.Random, fill: FillSlot) -> str:
        """A sentence of a template.

        Args:
            template: in hassil's notation.
            draw: decides.
            fill: gives words for slots.

        Raises:
            ValueError: when a rule refers to itself, or there is no such rule.
        """
        return " ".join(self._walk(parsed(template), draw, fill, 0).split())

    def _walk(self, part: Any, draw: random.Random, fill: FillSlot, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise ValueError("a rule of the templates refers to itself")
        kind = type(part).__name__
        if kind == "TextChunk":
            return str(part.original_text)
        if kind == "ListReference":
            return fill(part.list_name, part.slot_name, draw)
        if kind == "RuleReference":
            if part.rule_name not in self._rules:
                raise ValueError(f"the templates have no rule <{part.rule_name}>")
            return self._walk(parsed(self._rules[part.rule_name]), draw, fill, depth + 1)
        items = list(part.items)
        if kind == "Alternative":
            items = [draw.choice(items)]
        elif kind == "Permutation":
            draw.shuffle(items)
        return "".join(self._walk(item, draw, fill, depth + 1) for item in items)
