"""A request for a call: what was said, which tools were on offer, which call is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class Case:
    """What a model is asked.

    Attributes:
        said: by the person.
        offered: tools to choose from.
        reply: what would be said after the right call; empty where nothing is known.
    """

    said: str
    offered: tuple[Offered, ...]
    reply: str = ""

    def schema(self, name: str) -> tuple[Tool, dict[str, Any]] | None:
        """A tool on offer, and what its arguments are bound to."""
        for one in self.offered:
            if one.tool.name == name:
                return one.tool, one.schema
        return None


@dataclass(frozen=True, slots=True)
class Gold:
    """What is right.

    Attributes:
        calls: the calls, none where no tool is wanted.
        answer: the right answer in the form of the data set's own checker, where it has one.
    """

    calls: tuple[Call, ...] = ()
    answer: Any = None


def calls_of(values: Sequence[Any]) -> list[Call]:
    """The calls that a response holds."""
    return [Call(value["name"], value["arguments"]) for value in values]
