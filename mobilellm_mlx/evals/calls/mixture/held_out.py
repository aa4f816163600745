"""What the templates of the test could say, whoever says it.

Two templates can come to the same words, one of them trained and the other tested. hassil, which
understands sentences for Home Assistant, finds those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from mobilellm_mlx.evals.calls import rooms
from mobilellm_mlx.evals.calls.home import Home
from mobilellm_mlx.evals.calls.normal import normalised

_SPEAKER = "attic"
"""Where the speaker stands; hassil fills that in for rooms that nobody names."""


class HeldOut:
    """Hears sentences with the ears of the test's templates alone.

    Args:
        home: the templates of all sides.
    """

    def __init__(self, home: Home):
        kept: dict[str, Any] = {}
        for intent, values in home.data["intents"].items():
            blocks = []
            for block in values["data"]:
                texts = [text for text in block["sentences"] if home.sides.get(text) == "test"]
                blocks += [{**block, "sentences": texts}] if texts else []
            if blocks:
                kept[intent] = {**values, "data": blocks}
        self._recognize = import_module("hassil.recognize").recognize_all
        intents = import_module("hassil.intents")
        self._intents = intents.Intents.from_dict({**home.data, "intents": kept})
        listed = intents.TextSlotList.from_tuples
        names = [(one, one, {"domain": kind}) for kind, some in rooms.NAMES.items() for one in some]
        same = {"area": rooms.AREAS, "floor": rooms.FLOORS, "zone": rooms.WORDS["zone"]}
        self._lists = {
            "name": listed(names),
            **{name: listed((one, one) for one in values) for name, values in same.items()},
        }

    def heard(self, said: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a sentence could mean by the test's templates: intents and their slots."""
        context = {"area": _SPEAKER}
        for one in self._recognize(
            said, self._intents, slot_lists=self._lists, intent_context=context
        ):
            slots = {name: each.value for name, each in one.entities.items()}
            yield one.intent.name, {n: each for n, each in slots.items() if each != _SPEAKER}

    def says(self, said: str) -> bool:
        """Whether a template of the test could say this, in whatever sense."""
        return next(self.heard(said), None) is not None

    def means(self, said: str, intent: str, slots: Mapping[str, Any]) -> bool:
        """Whether a template of the test could say this in the same sense."""
        wanted = normalised(slots)
        return any(name == intent and normalised(each) == wanted for name, each in self.heard(said))
