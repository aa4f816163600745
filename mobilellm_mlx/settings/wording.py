"""How a wrong value is shown, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from mobilellm_mlx.plain import STEERING


def shown(value: Any) -> str:
    """A value of any origin in a few words."""
    if type(value) in (int, float, bool):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        text = STEERING.sub("", value.replace("\n", " "))
        return f"`{text}`" if len(text) <= 30 else f"`{text[:29]}…`"
    names = {"list": "a list", "dict": "a table"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def close(word: object, words: Iterable[str]) -> str:
    """The nearest of ``words``; empty when none is near."""
    found = get_close_matches(str(word)[:100], list(words), n=1)
    return found[0] if found else ""
