"""When two arguments are the same: case, white space and number formats do not count.

Nothing else is forgiven: no synonyms, no articles, no order of list items.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.tools.tool import Call

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def normalised(value: Any) -> Any:
    """A value in the form in which it is compared.

    Texts lose their case, outer and repeated white space, and differences of composition (NFKC).
    A text that is a number, with thousands separated by commas or not and with a per cent sign
    or not, is that number. ``true`` and ``false`` as texts are truth values. Whole floats are
    whole numbers. Lists keep their order; arguments that are null or empty count as left out.
    """
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return int(value) if value == value // 1 else value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        named = {str(name): normalised(each) for name, each in value.items()}
        return {name: each for name, each in named.items() if each not in (None, "")}
    if isinstance(value, list | tuple):
        return [normalised(each) for each in value]
    return value


def _text(value: str) -> Any:
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if text in ("true", "false"):
        return text == "true"
    number = text.removesuffix("%").rstrip()
    if len(number) <= 30 and _NUMBER.fullmatch(number):
        return normalised(float(number.replace(",", "")))
    return text


def is_same(call: Call, other: Call) -> bool:
    """Whether two calls are of one tool with the same arguments."""
    if call.name != other.name:
        return False
    return bool(_typed(normalised(call.arguments)) == _typed(normalised(other.arguments)))


def _typed(value: Any) -> Any:
    """A form in which true is not 1."""
    if isinstance(value, dict):
        return {name: _typed(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return (isinstance(value, bool), value)
