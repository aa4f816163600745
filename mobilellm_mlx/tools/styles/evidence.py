"""Arguments for which nothing that was said speaks: small models fill in whatever they may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.builtin.numerals import read_words
from mobilellm_mlx.tools.relevance import words
from mobilellm_mlx.tools.styles.words import is_named

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]*\d)")
_WORD = re.compile(r"[a-z]+")


def with_evidence(offered: Offered, said: str, *, knows_kinds: bool = False) -> Offered:
    """A tool whose optional arguments are those that something in the request speaks for.

    Numbers are those that were said; one that is optional and not said is left out, and so is a
    choice of which no value was named. Where several optional numbers could take what was said, a
    word of their names decides: "5 minutes" is no number of hours. Everything else stays.

    Args:
        offered: the tool.
        said: the request.
        knows_kinds: the model has learned choices that are meant without being named, such as a
            kind of device: only names of real things have to be said.
    """
    properties = offered.schema.get("properties")
    if not isinstance(properties, Mapping):
        return offered
    required = offered.schema.get("required", ())
    numbers, stems = said_numbers(said), set(words(said))
    named = {name for name in properties if stems & set(words(name))}
    kept: dict[str, Any] = {}
    for name, part in properties.items():
        is_free = name not in required and name not in offered.tool.spoken
        if not isinstance(part, Mapping):
            kept[name] = part
        elif isinstance(values := part.get("enum"), list):
            texts = [value for value in values if isinstance(value, str)]
            is_free = is_free and not (knows_kinds and name not in offered.tool.live)
            if not is_free or not texts or any(is_named(value, said) for value in texts):
                kept[name] = part
        elif part.get("type") in ("integer", "number"):
            fitting = [number for number in numbers if _fits(number, part)]
            others = any(_is_number(properties[other]) for other in named - {name})
            if fitting and not (is_free and others and name not in named):
                kept[name] = {**_plain(part), "enum": fitting}
            elif not is_free:
                kept[name] = part
        else:
            kept[name] = part
    return Offered(offered.tool, {**offered.schema, "properties": kept})


def said_numbers(said: str) -> list[int | float]:
    """The numbers in a text, in digits or in words, each once."""
    found: dict[int | float, None] = {}
    for match in _NUMBER.finditer(said):
        number = float(match[0].replace(",", ""))
        found[int(number) if number.is_integer() else number] = None
    spelled = _WORD.findall(said.casefold())
    place = 0
    while place < len(spelled):
        taken = read_words(spelled[place:])
        if taken is not None:
            found[taken[0]] = None
        place += taken[1] if taken else 1
    return list(found)


def _is_number(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("integer", "number")


def _fits(number: int | float, part: Mapping[str, Any]) -> bool:
    if part["type"] == "integer" and not isinstance(number, int):
        return False
    low, high = part.get("minimum", number), part.get("maximum", number)
    return bool(low <= number <= high)


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """Without the limits that an enum makes needless."""
    return {key: part[key] for key in ("type", "title", "description") if key in part}
