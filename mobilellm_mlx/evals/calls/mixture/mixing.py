"""What a tools adapter learns from: sentences of four sources, and many that want no tool.

Everything follows from one seed. Nothing here was written for, or is taken from, the sentence
templates of the test.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mobilellm_mlx.evals.calls.home import Home
from mobilellm_mlx.evals.calls.mixture import words
from mobilellm_mlx.evals.calls.mixture.builtin import BuiltinSentences
from mobilellm_mlx.evals.calls.mixture.glaive import Dialogue, GlaiveSentences
from mobilellm_mlx.evals.calls.mixture.held_out import HeldOut
from mobilellm_mlx.evals.calls.mixture.home import HomeSentences
from mobilellm_mlx.evals.calls.mixture.sample import Sample
from mobilellm_mlx.evals.calls.walker import Walker
from mobilellm_mlx.evals.instructions import Instruction
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.tool import Tool

FORMAT = "paper"
SHARES: Mapping[str, float] = {
    "home": 0.61,
    "two": 0.02,
    "builtin": 0.15,
    "glaive": 0.03,
    "none: absent": 0.07,
    "none: talk": 0.06,
    "none: instruction": 0.05,
    "none: glaive": 0.01,
}
"""What a mixture is made of."""
MAX_CHARACTERS = 680
"""Of a conversation altogether; some 220 tokens. What is longer costs more than it teaches."""
MAX_INSTRUCTION = 140
"""Characters of an instruction that stands for ordinary chat."""
_VALID = 0.1
"""Share of what has no sides of its own that is for validation."""

Side = Literal["train", "dev"]

_FOREIGN_TO_HOME = frozenset(
    (
        *("calculator", "convert_units", "convert_time", "days_between", "read_clipboard"),
        *("copy_to_clipboard", "open_url", "read_file", "list_files", "search_files"),
        *("search_chats", "delete_note", "read_note"),
    )
)
"""Built-in tools that do nothing that a sentence about the house could mean."""
_FOREIGN_TO_BUILTIN = frozenset(
    (
        *("turn_on", "turn_off", "light_set", "set_volume", "media_next", "media_pause"),
        *("vacuum_start", "climate_set_temperature", "fan_set_speed", "lawn_mower_dock"),
    )
)
"""Tools of the house that do nothing that the built-in ones do."""


@dataclass(frozen=True)
class Sources:
    """What a mixture is drawn from."""

    home: Home
    dialogues: Sequence[Dialogue]
    instructions: Sequence[Instruction]


class Mixture:
    """Conversations of one side.

    Args:
        sources: to draw from.
        side: ``train`` or ``dev``; they share no template of the house, no dialogue, no
            instruction and no sentence.
        seed: of all that is drawn.
    """

    def __init__(self, sources: Sources, side: Side, seed: int):
        self._draw = random.Random(f"{seed} {side} mixture")
        self._side = side
        self._format = find_format(FORMAT)
        self._made: set[tuple[Message, ...]] = set()
        self._held_out = HeldOut(sources.home)
        self._home = HomeSentences(sources.home, self._held_out, side, seed)
        self._builtin = BuiltinSentences(seed)
        houses = sources.home.tools.values()
        self._foreign = [one for one in self._builtin.tools if one.name in _FOREIGN_TO_HOME]
        self._house: list[Tool] = [one for one in houses if one.name in _FOREIGN_TO_BUILTIN]
        dialogues = [one for one in sources.dialogues if self._is_mine(one.said)]
        self._glaive = GlaiveSentences(dialogues, list(sources.dialogues))
        self._instructions = [
            one.said
            for one in sources.instructions
            if len(one.said) <= MAX_INSTRUCTION and "\n" not in one.said and self._is_mine(one.said)
        ]

    def samples(self, count: int) -> Iterator[Sample]:
        """So many conversations, one kind after the other.

        Fewer where the sources have run out.

        Args:
            count: of all kinds together.
        """
        streams = self._streams()
        left = count
        for kind, share in SHARES.items():
            for one in self._some(streams[kind], min(left, round(share * count))):
                left -= 1
                yield one
        # What a small source lacks is made up for by the largest one.
        yield from self._some(streams["home"], left)

    def _some(self, stream: Iterator[Sample], count: int) -> Iterator[Sample]:
        while count > 0 and (one := next(stream, None)) is not None:
            one = self._styled(one)
            messages = one.messages(self._format)
            is_short = sum(len(each.content) for each in messages) <= MAX_CHARACTERS
            if is_short and messages not in self._made:
                self._made.add(messages)
                count -= 1
                yield one

    def _streams(self) -> dict[str, Iterator[Sample]]:
        wanted = self._home.utterances()
        asked = (one for one in self._builtin.asked() if self._may_be_used(one[0]))
        times = 8 if self._side == "train" else 2
        glaive = list(self._glaive.samples(self._draw, times=times))
        return {
            "home": (self._home.wanted(one, self._draw, self._foreign) for one in wanted),
            "two": self._twos(wanted),
            "builtin": (
                self._builtin.wanted(said, call, self._draw, self._house) for said, call in asked
            ),
            "glaive": (one for one in glaive if one.calls),
            "none: absent": self._absent(wanted, asked),
            "none: talk": self._talk(),
            "none: instruction": self._ordinary(),
            "none: glaive": (one for one in glaive if not one.calls),
        }

    def _twos(self, wanted: Iterator[Any]) -> Iterator[Sample]:
        """Two requests in one breath."""
        for first, second in zip(wanted, wanted, strict=False):
            one = self._home.wanted(first, self._draw)
            two = self._home.wanted(second, self._draw)
            if one.calls[0].name == two.calls[0].name:
                continue
            names = {each.tool.name: each for each in (*one.offered, *two.offered)}
            right = {call.name for call in (*one.calls, *two.calls)}
            # Each request's own schema holds the things that it speaks of.
            for sample in (one, two):
                names.update(
                    {e.tool.name: e for e in sample.offered if e.tool.name == sample.calls[0].name}
                )
            rest = [name for name in names if name not in right]
            offered = [names[name] for name in (*sorted(right), *rest[: self._draw.randint(0, 2)])]
            self._draw.shuffle(offered)
            link = self._draw.choice((" and ", " and then ", ", then ", " and also "))
            yield Sample("two", one.said + link + two.said, one.calls + two.calls, tuple(offered))

    def _absent(self, wanted: Iterator[Any], asked: Iterator[Any]) -> Iterator[Sample]:
        while True:
            if self._draw.random() < 0.7:
                if (one := next(wanted, None)) is None:
                    return
                yield self._home.unwanted(one, self._draw)
            else:
                said, call = next(asked)
                yield self._builtin.unwanted(said, call, self._draw, self._house)

    def _talk(self) -> Iterator[Sample]:
        """Small talk, and sentences that only speak of what tools are for."""
        walker = Walker({})
        plain = [*self._home.talks(), *filter(self._is_mine, words.TALK)]
        mentions = list(words.MENTIONS)
        while True:
            said = self._draw.choice(plain)
            if self._draw.random() < 0.5:
                said = walker.walk(self._draw.choice(mentions), self._draw, lambda *_: "")
                if not self._is_mine(said):
                    continue
            if self._draw.random() < 0.65:
                yield self._home.talk(said, self._draw, self._foreign)
            else:
                yield self._builtin.talk(said, self._draw)

    def _ordinary(self) -> Iterator[Sample]:
        for said in self._draw.sample(self._instructions, len(self._instructions)):
            yield self._builtin.talk(said, self._draw, "none: instruction")

    def _styled(self, one: Sample) -> Sample:
        """As a person might write it: a capital, a mark at the end, a please; mostly not."""
        said = one.said
        # Calls with words at the very beginning keep them as they are written.
        starts = any(
            isinstance(value, str) and said.casefold().startswith(value.casefold())
            for call in one.calls
            for value in call.arguments.values()
        )
        is_plain = one.kind in ("home", "two", "builtin", "none: absent") and not starts
        if is_plain and said[:1].islower():
            asks = said.casefold().startswith(_QUESTIONS)
            if not asks and self._draw.random() < 0.08:
                said = self._draw.choice(("please ", "hey, ", "could you please ", "ok, ")) + said
            if self._draw.random() < (0.6 if one.kind == "builtin" else 0.2):
                said = said[0].upper() + said[1:]
            if self._draw.random() < (0.5 if one.kind == "builtin" else 0.12):
                said += "?" if asks else "."
        system = self._draw.choice(words.SYSTEM) if self._draw.random() < 0.04 else ""
        return replace(one, said=said, system=system)

    def _may_be_used(self, said: str) -> bool:
        return self._is_mine(said) and not self._held_out.says(said)

    def _is_mine(self, said: str) -> bool:
        """Whether a sentence that belongs to no side by itself is of this one."""
        share = random.Random(f"side {said}").random()
        return (share < _VALID) == (self._side == "dev")


_QUESTIONS = (
    *("what", "who", "where", "when", "why", "how", "which", "is ", "are ", "do ", "does ", "can "),
    *("am ", "could ", "will "),
)
