"""Quantities as people say them: a number and its unit, or several of one kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin.measures import UNITS, Unit, find_unit, singular
from mobilellm_mlx.tools.builtin.numerals import read_words, written

MAX_LENGTH = 80
"""Characters of a quantity."""
_HINT = "say a number and its unit, as in 5 miles"

_FIGURES = re.compile(
    r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:e[-+]?\d{1,2}(?![a-z\d]))?|[-+]?\.\d+"
)
_BROKEN = re.compile(r"(?:[ -](?=\d+/))?(?:(\d+)/(\d+)|([½¼¾⅓⅔⅛]))")
_BROKEN_SIGNS = {
    "½": Fraction(1, 2),
    "¼": Fraction(1, 4),
    "¾": Fraction(3, 4),
    "⅓": Fraction(1, 3),
    "⅔": Fraction(2, 3),
    "⅛": Fraction(1, 8),
}
_SHARES = {
    "half": Fraction(1, 2),
    "third": Fraction(1, 3),
    "quarter": Fraction(1, 4),
}
_SHARE = re.compile(r"(?:an? )?(half|third|quarter)(?: of)?(?: an?\b)? ?")
_AND_A_HALF = re.compile(r" ?and an? (half|third|quarter)\b")
_FEET = re.compile(r"(\d{1,4}) ?['′’](?: ?(\d{1,2}(?:\.\d{1,3})?) ?(?:[\"″”]|'')?)?")
_INCHES = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?(?:[\"″”]|'')")
_NEXT = re.compile(r",? (?:and )?(?=\d)")
_SMALLER = {"feet": "inches", "stones": "pounds", "pounds": "ounces"}
"""What a second number without a unit counts: five foot eleven."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """So much of something.

    Attributes:
        parts: numbers and their units, all of one kind, the largest first.
    """

    parts: tuple[tuple[Fraction, Unit], ...]

    @property
    def unit(self) -> Unit:
        """The unit that it is counted in; the first of several."""
        return self.parts[0][1]

    @property
    def amount(self) -> Fraction:
        """How many of ``unit``, all parts together."""
        return sum((n * unit.factor for n, unit in self.parts), Fraction(0)) / self.unit.factor

    @property
    def words(self) -> str:
        """``5 feet 11 inches``."""
        return " ".join(counted(number, unit) for number, unit in self.parts)

    def beside(self, target: Unit) -> Quantity:
        """The same where the unit that is wanted tells what an ounce or a degree is."""
        return Quantity(tuple((n, find_unit(unit.name, target)) for n, unit in self.parts))


def counted(number: Fraction, unit: Unit, digits: int = 9, longest: int = 12) -> str:
    """A number and its unit, as they are shown: ``1 mile``, ``8.04672 kilometres``."""
    name = singular(unit.name) if number == 1 else unit.name
    return f"{written(number, digits, longest)} {name}"


def parse_quantity(text: str) -> Quantity:
    """A quantity, such as ``5 miles``, ``two and a half cups`` or ``5'11"``.

    Raises:
        ToolError: when it is none, or has no unit that is known.
    """
    said = " ".join(printable(text).strip(" \t\n.,;:!?").split())
    if len(said) > MAX_LENGTH:
        raise ToolError(f"a quantity of {len(said):,} characters is too long", _HINT)
    said = said.replace("−", "-")
    said = re.sub(r"^(?:minus|negative) (?=\S)", "-", said, flags=re.IGNORECASE)
    if found := _FEET.fullmatch(said):
        parts = [(Fraction(found[1]), UNITS["feet"])]
        parts += [(Fraction(found[2]), UNITS["inches"])] if found[2] else []
        return Quantity(tuple(parts))
    if found := _INCHES.fullmatch(said):
        return Quantity(((Fraction(found[1]), UNITS["inches"]),))
    return Quantity(tuple(_parts(said, text)))


def _parts(said: str, whole: str) -> list[tuple[Fraction, Unit]]:
    number, rest = _number(said)
    shown = repr(printable(whole)[:60])
    if number is None:
        raise ToolError(f"{shown} is not a number with a unit", _HINT)
    rest = rest.strip(" -")
    if not rest:
        raise ToolError(f"{shown} has no unit", _HINT)
    try:
        return [(number, find_unit(rest))]
    except ToolError as unknown:
        for cut in _NEXT.finditer(rest):
            try:
                unit = find_unit(rest[: cut.start()])
            except ToolError:
                continue
            more = _smaller(rest[cut.end() :], unit, whole)
            if number < 0 or any(part.kind != unit.kind for _, part in more):
                raise ToolError(f"{shown} is not one quantity", _HINT) from None
            return [(number, unit), *more]
        raise unknown from None


def _smaller(said: str, unit: Unit, whole: str) -> list[tuple[Fraction, Unit]]:
    """The second part of a quantity: each unit must be smaller than the one before it."""
    if said.isdigit() and unit.name in _SMALLER:
        said = f"{said} {_SMALLER[unit.name]}"
    parts = _parts(said, whole)
    if parts[0][1].factor >= unit.factor:
        raise ToolError(f"{printable(whole)[:60]!r} is not one quantity", _HINT)
    return parts


def _number(said: str) -> tuple[Fraction | None, str]:
    """The number that a text begins with, and what follows it."""
    if found := _FIGURES.match(said):
        rest = said[found.end() :]
        if found[0].isdigit() and (broken := re.match(r"/(\d{1,9})(?!\d)", rest)):
            return _divided(found[0], broken[1]), rest[broken.end() :]
        number = Fraction(found[0].replace(",", ""))
        if (broken := _BROKEN.match(rest)) and number.denominator == 1 and number >= 0:
            share = _BROKEN_SIGNS.get(broken[3] or "")
            share = share if share is not None else _divided(broken[1], broken[2])
            return (None if share is None else number + share), rest[broken.end() :]
        return _with_share(number, rest)
    if said[:1] in _BROKEN_SIGNS:
        return _BROKEN_SIGNS[said[0]], said[1:]
    low = said.casefold()
    sign = -1 if low.startswith("-") else 1
    low, said = low.removeprefix("-"), said.removeprefix("-")
    if found := _SHARE.match(low):
        return sign * _SHARES[found[1]], said[found.end() :]
    if found := re.match(r"an? (?=\S)", low):
        if found.end() < len(low) and not low[found.end() :].startswith(("hundred", "thousand")):
            return Fraction(sign), said[found.end() :]
        low = "one " + low[found.end() :]
        said = "one " + said[found.end() :]
    words = re.findall(r"[a-z]+", low)
    if (taken := read_words(words)) is None:
        return None, said
    spans = [match.end() for match in re.finditer(r"[a-z]+", low)]
    return _with_share(Fraction(sign * taken[0]), said[spans[taken[1] - 1] :])


def _with_share(number: Fraction, rest: str) -> tuple[Fraction, str]:
    """``two and a half``."""
    if found := _AND_A_HALF.match(rest.casefold()):
        return number + _SHARES[found[1]], rest[found.end() :]
    return number, rest


def _divided(top: str, bottom: str) -> Fraction | None:
    return Fraction(int(top.replace(",", "")), int(bottom)) if int(bottom) else None
