"""The code blocks of an answer, taken from what the model wrote and not from the screen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..text import printable
from .pieces import make_parser


@dataclass(frozen=True, slots=True)
class Code:
    """A block of code.

    Attributes:
        text: the code, without fence, indentation of a list, or the last line's end: pasting it
            into a shell must not run it.
        language: as the model named it; empty when it did not.
        start: where in the answer the block begins.
    """

    text: str
    language: str
    start: int

    @property
    def description(self) -> str:
        """What it is, in a few words: ``python, 14 lines``."""
        count = self.text.count("\n") + 1
        lines = f"{count:,} line{'' if count == 1 else 's'}"
        return f"{self.language}, {lines}" if self.language else lines


def find_code(answer: str) -> Sequence[Code]:
    """All blocks of code in an answer, in order; one that is still being written is among them."""
    text = printable(answer)
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    return [
        Code(
            token.content.removesuffix("\n"),
            language_of(token.info),
            starts[token.map[0]] if token.map else 0,
        )
        for token in make_parser().parse(text)
        if token.type in ("fence", "code_block")
    ]


def language_of(info: str) -> str:
    """The first word behind a fence, short enough for a sentence."""
    return next(iter(info.split()), "")[:20]
