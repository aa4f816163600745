"""Instructions with answers out of ``instructlab-training``'s sample, cleaned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_TAG = re.compile(r"</?[A-Za-z][A-Za-z_]*>")
"""Remains of templates, such as ``<noinput>``; a comparison such as ``a < b`` is none."""
_REFERS = re.compile(
    r"\b(?:the|this|these|given|provided|above|following|our|your)\s+(?:\w+\s+){0,3}?"
    r"(?:papers?|articles?|stud(?:y|ies)|texts?|passage|methods?|models?|documents?|emails?|tables?|"
    r"code|reports?|receipts?|approach|algorithms?|systems?|company|filing|data(?:set)?s?|results?|"
    r"experiments?|authors?|research|framework|review|figure|sections?|process|proposed|image|"
    r"writing|content)\b",
    re.IGNORECASE,
)
"""Speaks of something that was to stand below."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What was asked, and an answer."""

    said: str
    answer: str

    @property
    def share(self) -> float:
        """A number from 0 to 1 that depends on the question alone: its side never changes."""
        return int(hashlib.sha256(self.said.encode()).hexdigest()[:8], 16) / 16**8


def read_instructions(text: str) -> Iterator[Instruction]:
    """The rows that can be used, each question once, without the sample's own system prompt.

    Args:
        text: the file.
    """
    known: set[str] = set()
    for line in text.splitlines():
        if not line.strip():
            continue
        turns = [one for one in json.loads(line)["messages"] if one["role"] != "system"]
        if [one["role"] for one in turns] != ["user", "assistant"]:
            continue
        said, answer = (one["content"].strip() for one in turns)
        if not said or not answer or said in known or _TAG.search(said) or _TAG.search(answer):
            continue
        if "\n" not in said and _REFERS.search(said):
            continue  # nothing does stand below: the answer is made up
        known.add(said)
        yield Instruction(said, answer)
