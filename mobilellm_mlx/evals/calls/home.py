"""Home Assistant's intents as tools, and its sentence templates as what people say.

``home-assistant-intents`` holds the templates, ``hassil`` parses them; both are in the extra
``evals``. Every template stands on one side only: training, development or test.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

from mobilellm_mlx.errors import InvalidInput, InvalidOption, ToolError
from mobilellm_mlx.evals.calls import rooms
from mobilellm_mlx.evals.calls.case import Case, Gold
from mobilellm_mlx.evals.calls.replies import render_reply
from mobilellm_mlx.evals.calls.scoring import exactly, score_calls
from mobilellm_mlx.evals.calls.slots import Slots, always, mentioned
from mobilellm_mlx.evals.calls.walker import Walker
from mobilellm_mlx.evals.task import Request, Response, digest
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Example, Tool
from mobilellm_mlx.tools.toolbox import Toolbox

Side = Literal["train", "dev", "test"]
Choice = Literal["drawn", "filter"]
"""Who picks the tools on offer: chance, the right one among them; or the filter that chats use."""

MOST = 400
"""Requests when nobody sets a limit."""
EVERY_NONE = 6
"""One of so many requests wants no tool."""
EXAMPLES = 3
"""Training sentences that a tool brings along for models that learn from them."""
_TRIES = 20
_ROUNDS = 1000
"""Sentences of each tool at most; those with few ways to say it run out before."""


def split(by_intent: Mapping[str, Sequence[str]]) -> dict[str, Side]:
    """The side of every template: of ten of an intent seven train, one develops, two test.

    Chance is the hash of a text, so that a side never changes; a text that several intents have is
    on one side for all of them. An intent with few templates is tested rather than trained.
    """
    sides: dict[str, Side] = {}
    for _, texts in sorted(by_intent.items()):
        new = sorted({text for text in texts if text not in sides}, key=_share)
        tested, developed = max(1, round(0.2 * len(new))), round(0.1 * len(new))
        for at, text in enumerate(new):
            sides[text] = "test" if at < tested else "dev" if at < tested + developed else "train"
    return sides


def _share(text: str) -> float:
    """A number from 0 to 1 that depends on a text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def talk_of(side: Side) -> list[str]:
    """Sentences that want no tool; half of them are for the test."""
    low, high = {"train": (0.0, 0.25), "dev": (0.25, 0.5), "test": (0.5, 1.0)}[side]
    return [text for text in rooms.SMALL_TALK if low <= _share(text) < high]


@dataclass(frozen=True, slots=True)
class Template:
    """A sentence template and what it means."""

    intent: str
    text: str
    constant: Mapping[str, Any] = field(default_factory=dict)
    """Slots that every sentence of it has, such as the domain."""
    domains: tuple[str, ...] = ()
    """A name in it has to be of one of these; empty for any."""
    response: str = ""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sentence with its label."""

    said: str
    template: Template
    slots: dict[str, Any]


class Home:
    """The templates of the installed package.

    Raises:
        InvalidInput: when the packages are not installed.
    """

    def __init__(self) -> None:
        try:
            self.data: dict[str, Any] = import_module("home_assistant_intents").get_intents("en")
            import_module("hassil")
        except ImportError as error:
            raise InvalidInput(
                f"the sentences of Home Assistant are not here: {error}",
                "install them with `pip install home-assistant-intents==2026.10.27 hassil==3.12.1`",
            ) from error
        self.rules: dict[str, str] = self.data["expansion_rules"]
        self.lists: dict[str, Any] = self.data["lists"]
        self._walker = Walker(self.rules)
        self.templates = [one for one in self._read() if self._can_be_said(one)]
        by_intent: dict[str, list[str]] = {}
        for template in self.templates:
            by_intent.setdefault(template.intent, []).append(template.text)
        self.sides = split(by_intent)

    @cached_property
    def sha256(self) -> str:
        """Of the data and of the house that is put into it."""
        own = [rooms.AREAS, rooms.FLOORS, rooms.NAMES, rooms.WORDS, rooms.TOOLS, rooms.SMALL_TALK]
        return digest([self.data, own])

    def of_side(self, side: Side) -> dict[str, list[Template]]:
        """The templates of a side by intent."""
        found: dict[str, list[Template]] = {}
        for template in self.templates:
            if self.sides[template.text] == side:
                found.setdefault(template.intent, []).append(template)
        return found

    def say(self, template: Template, draw: random.Random) -> Utterance:
        """A sentence of a template, with the slots that were filled on the way."""
        slots = Slots(self.lists, template.domains, self._walker)
        said = self._walker.walk(template.text, draw, slots.fill)
        return Utterance(said, template, {**template.constant, **slots.values})

    def reply(self, one: Utterance) -> str:
        """What Home Assistant would say after it; empty where that needs more than the call."""
        known = self.data["responses"]["intents"].get(one.template.intent, {})
        return render_reply(known.get(one.template.response, ""), one.slots)

    def _read(self) -> Iterator[Template]:
        for intent, values in self.data["intents"].items():
            for block in values["data"]:
                needed = block.get("requires_context", {}).get("domain", ())
                domains = [needed] if isinstance(needed, str) else list(needed)
                if not domains and "domain" in block.get("slots", {}):
                    domains = [block["slots"]["domain"]]
                excluded = block.get("excludes_context", {}).get("domain", ())
                for text in block["sentences"]:
                    yield Template(
                        intent,
                        text,
                        dict(block.get("slots", {})),
                        tuple(one for one in domains or rooms.NAMES if one not in excluded),
                        str(block.get("response", "")),
                    )

    def _can_be_said(self, template: Template) -> bool:
        """Whether the house has a thing of the kind that a name in the template needs."""
        lists = {name for name, _ in mentioned(template.text, self.rules)}
        return "name" not in lists or any(one in rooms.NAMES for one in template.domains)

    # ------------------------------------------------------------------ tools

    @cached_property
    def tools(self) -> dict[str, Tool]:
        """The intents that do something, as tools, by intent."""
        by_intent: dict[str, list[Template]] = {}
        for template in self.templates:
            if template.intent not in rooms.NOT_TOOLS:
                by_intent.setdefault(template.intent, []).append(template)
        return {intent: self._tool(intent, some) for intent, some in by_intent.items()}

    def _tool(self, intent: str, templates: Sequence[Template]) -> Tool:
        name = tool_name(intent)
        slots = Slots.schemas(self.lists, self.rules, templates)
        sets = [always(one.text, self.rules) | set(one.constant) for one in templates]
        examples = []
        for template in [one for one in templates if self.sides[one.text] == "train"]:
            draw = random.Random(f"example {intent} {template.text}")
            said = self.say(template, draw)
            examples.append(Example(said.said, said.slots))
        random.Random(intent).shuffle(examples)
        return Tool(
            name=name,
            description=rooms.TOOLS.get(intent, f"{name.replace('_', ' ').capitalize()}."),
            parameters={
                "type": "object",
                "properties": slots.properties,
                "required": sorted(set.intersection(*sets)),
                "additionalProperties": False,
            },
            run=_never,
            source="home-assistant-intents",
            live=slots.live,
            spoken=frozenset(slots.spoken),
            examples=tuple(examples[:EXAMPLES]),
        )


def tool_name(intent: str) -> str:
    """``HassTurnOn`` as ``turn_on``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", intent.removeprefix("Hass")).lower()


def _never(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
    raise ToolError("a tool of a data set is never run")


class HomeTask:
    """Requests out of the templates of one side, every tool as often as every other.

    Args:
        home: the templates.
        side: that the sentences are made of.
        offer: how many tools are on offer.
        choice: who picks them.
    """

    name = "calls-home"
    version = 1

    def __init__(self, home: Home, side: Side = "test", offer: int = 5, choice: Choice = "drawn"):
        if offer < 1:
            raise InvalidOption(f"`offer` is {offer}, expected at least 1", "pass `--offer 5`")
        self._home = home
        self._side: Side = side
        self._offer, self._choice = offer, choice
        self._toolbox = Toolbox(home.tools.values())

    @property
    def data_sha256(self) -> str:
        return self._home.sha256

    @property
    def settings(self) -> dict[str, Any]:
        return {"side": self._side, "offer": self._offer, "choice": self._choice}

    def requests(self, limit: int | None, seed: int) -> list[Request]:
        count = MOST if limit is None else limit
        made: list[Request] = []
        calls = self._utterances(seed)
        talk = iter(self._talk(seed))
        while len(made) < count:
            wants_none = len(made) % EVERY_NONE == EVERY_NONE - 1
            one = (next(talk, None) if wants_none else None) or next(calls, None)
            if one is None:
                break
            made.append(self._request(len(made), one, seed))
        return made

    def score(self, request: Request, response: Response) -> dict[str, float]:
        gold: Gold = request.gold
        scores = score_calls(request.payload, gold, response, exactly)
        if self._choice == "filter" and gold.calls:
            scores["found"] = float(request.payload.schema(gold.calls[0].name) is not None)
        return scores

    def _utterances(self, seed: int) -> Iterator[Utterance]:
        """Sentences that want a call, one tool after the other, none twice."""
        by_intent = {
            intent: templates
            for intent, templates in sorted(self._home.of_side(self._side).items())
            if intent in self._home.tools
        }
        order = random.Random(seed)
        for templates in by_intent.values():
            order.shuffle(templates)
        intents = list(by_intent)
        said: set[str] = set()
        for turn in range(_ROUNDS):
            order.shuffle(intents)
            for intent in intents:
                template = by_intent[intent][turn % len(by_intent[intent])]
                for attempt in range(_TRIES):
                    draw = random.Random(f"{seed} {turn} {attempt} {intent}")
                    one = self._home.say(template, draw)
                    if one.said not in said:
                        said.add(one.said)
                        yield one
                        break

    def _talk(self, seed: int) -> list[Utterance]:
        """Sentences that want nothing done, ours and those of the data."""
        found = [Utterance(text, Template("", text), {}) for text in talk_of(self._side)]
        for intent, templates in self._home.of_side(self._side).items():
            if intent in rooms.NOT_TOOLS:
                found += [self._home.say(one, random.Random(one.text)) for one in templates]
        random.Random(seed).shuffle(found)
        return found

    def _request(self, at: int, one: Utterance, seed: int) -> Request:
        tool = self._home.tools.get(one.template.intent)
        gold = Gold((Call(tool.name, one.slots),)) if tool else Gold()
        offered = self._offered(one.said, tool, random.Random(f"{seed} offer {at}"))
        return Request(
            f"{at:04d}",
            Case(one.said, tuple(offered), self._home.reply(one) if tool else ""),
            gold,
            tool.name if tool else "none",
        )

    def _offered(self, said: str, tool: Tool | None, draw: random.Random) -> list[Offered]:
        if self._choice == "filter":
            return self._toolbox.offer(said, self._offer)
        others = [one for one in self._toolbox.tools if one is not tool]
        chosen = draw.sample(others, min(self._offer - bool(tool), len(others)))
        chosen += [tool] if tool else []
        draw.shuffle(chosen)
        return [Offered(one, self._toolbox.live_schema(one, said)) for one in chosen]
