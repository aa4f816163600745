"""One conversation to learn calls from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.formats import Format
from mobilellm_mlx.tools.styles.one_step import OneStep
from mobilellm_mlx.tools.tool import Call

_WEIGHTS = (12, 20, 22, 21, 25)
"""How often one tool, two, ... are on offer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was said, which tools were on offer, which calls are right.

    Attributes:
        kind: where it comes from; ``none: ...`` where nothing is to be called.
        said: by the person.
        calls: the right ones, their arguments in the order of the schemas.
        offered: tools to choose from.
        system: what the system prompt says before the tools; mostly nothing.
    """

    kind: str
    said: str
    calls: tuple[Call, ...]
    offered: tuple[Offered, ...]
    system: str = ""

    def messages(self, format: Format) -> tuple[Message, ...]:
        """The conversation just as a model is asked in a chat and in a measurement, and the answer.

        Args:
            format: how tools and calls are written.
        """
        begun = [Message("system", self.system)] if self.system else []
        asks = OneStep(format, bound=False).asks([*begun, Message("user", self.said)], self.offered)
        asked = next(asks).messages
        asks.close()
        return *asked, Message("assistant", format.render_calls(self.calls))


def in_order(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in the order of their schema, the only one that grammars allow.

    Raises:
        KeyError: when the schema does not have one of them.
    """
    properties = list(schema.get("properties") or {})
    if unknown := set(arguments) - set(properties):
        raise KeyError(f"the schema has no {sorted(unknown)}")
    return {name: arguments[name] for name in properties if name in arguments}


def weighted_count(draw: random.Random) -> int:
    """How many tools are on offer: one to five, often five, for so many are in a chat."""
    return draw.choices(range(1, 6), _WEIGHTS)[0]
