"""Words of a server as they may be shown and put into a prompt."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Kinds of characters that are not seen: a person could not tell what a model is told by them."""


def one_line(text: str, limit: int) -> str:
    """``text`` without anything unseen, on one line of at most ``limit`` characters."""
    text = text[: 4 * limit].replace("\r", " ").replace("\n", " ").replace("\t", " ")
    seen = "".join(c for c in text if unicodedata.category(c) not in _HIDDEN)
    line = " ".join(seen.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def sentence(text: str, limit: int) -> str:
    """As ``one_line``, but for a full stop at the end: errors are put together from such pieces."""
    return one_line(text, limit).rstrip(".")
