"""Text from models, files and people, without what it could do to a terminal."""

from __future__ import annotations

import re

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn the direction of writing; line feeds and tabs do not."""


def printable(text: str) -> str:
    """``text`` without what could steer a terminal or turn the direction of writing.

    Line breaks of any kind become ``\\n``; tabs stay.
    """
    return STEERING.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
