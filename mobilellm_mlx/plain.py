"""Text from models, files and people, without what it could do to a terminal."""

from __future__ import annotations

import re

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn the direction of writing; line feeds and tabs do not."""


UNSEEN = re.compile(
    r"[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u2028\u2029"
    r"\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
"""Characters that take no ink, so that nobody can tell what stands there. Joiners, which scripts
and emoji are made with, are not among them."""


def printable(text: str) -> str:
    """``text`` without what could steer a terminal or turn the direction of writing.

    Line breaks of any kind become ``\\n``; tabs stay.
    """
    return STEERING.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
