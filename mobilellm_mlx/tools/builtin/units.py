"""Quantities from one unit of measurement into another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import readings
from mobilellm_mlx.tools.builtin.measures import (
    AVERAGES,
    NAMES,
    UNITS,
    Unit,
    find_unit,
    singular,
)
from mobilellm_mlx.tools.builtin.numerals import is_exact, written
from mobilellm_mlx.tools.builtin.quantities import (
    MAX_LENGTH,
    Quantity,
    counted,
    parse_quantity,
)
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

QuantityText = Annotated[str, Limits(min_length=1, max_length=MAX_LENGTH)]
UnitName = Annotated[str, Limits(min_length=1, max_length=40)]
LONGEST = 12
"""Digits of a broken value that is shown to its end."""
DIGITS = 6
"""Digits that are shown of a longer one."""


def tools(around: Surroundings) -> list[Tool]:
    """``convert_units``."""

    def convert_units(quantity: QuantityText, to_unit: UnitName) -> str:
        """Convert a quantity into another unit of measurement.

        Args:
            quantity: a number and its unit, such as 5 miles or 100 °F
            to_unit: the unit that is wanted
        """
        return converted(quantity, to_unit)

    return [
        tool_from(
            convert_units,
            reads_only=True,
            answers=True,
            live={"to_unit": unit_names},
            spoken={"quantity"},
            heard={"quantity": _quantities, "to_unit": _targets},
            examples=(
                _example("How many kilometres is 5 miles?", "5 miles", "kilometres"),
                _example("Convert 72 °F to celsius", "72 °F", "celsius"),
                _example("What is 2.5 kg in pounds?", "2.5 kg", "pounds"),
            ),
            keywords=("convert", "conversion", "unit", "units", *_PHRASES, *_words()),
            describe=_in_words,
            check=_checked,
        )
    ]


def convert(value: Fraction, source: Unit, target: Unit) -> Fraction:
    """``value`` in another unit.

    Raises:
        ToolError: when the units measure different things, or the value cannot be.
    """
    if source.kind != target.kind:
        raise ToolError(
            f"{source.name} measure {source.kind} and {target.name} measure {target.kind}, "
            "so one cannot be converted into the other",
            "name two units of the same kind",
        )
    if source.kind == "temperature" and value * source.factor + source.zero < 0:
        raise ToolError(
            f"{written(value)} {source.name} is below absolute zero", "give a higher temperature"
        )
    if source.is_inverse != target.is_inverse:
        if value <= 0:
            raise ToolError(
                f"{written(value)} {source.name} has no value in {target.name}",
                "give a value above zero",
            )
        return (
            source.factor / value / target.factor
            if source.is_inverse
            else target.factor / (value * source.factor)
        )
    return (value * source.factor + source.zero - target.zero) / target.factor


def converted(quantity: str, to_unit: str) -> str:
    """A conversion in words, such as ``5 miles is 8.04672 kilometres.``

    Raises:
        ToolError: see ``convert`` and ``parse_quantity``; and when a unit is not known, or is the
            one that the quantity is in.
    """
    source, target = _pair(quantity, to_unit)
    result = convert(source.amount, source.unit, target)
    is_known = is_exact(result, LONGEST) and _is_exact_pair(source.unit, target)
    verb = "is" if is_known else "is about"
    return f"{source.words} {verb} {counted(result, target, DIGITS, LONGEST)}."


def _is_exact_pair(source: Unit, target: Unit) -> bool:
    """Pi has no end, and days are the same in a year only on average."""
    names = {source.name, target.name}
    return "radians" not in names and len(names & AVERAGES) != 1


def _pair(quantity: str, to_unit: str) -> tuple[Quantity, Unit]:
    """What is converted, and into what."""
    said = parse_quantity(quantity)
    target = find_unit(to_unit, said.unit)
    source = said.beside(find_unit(to_unit))
    if source.unit == target and len(source.parts) == 1:
        raise ToolError(f"{source.words} is in {target.name} already", "name another unit")
    return source, target


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    source, target = _pair(arguments["quantity"], arguments["to_unit"])
    convert(source.amount, source.unit, target)
    return {**arguments, "to_unit": target.name}


def _in_words(arguments: Mapping[str, Any]) -> str:
    source, target = _pair(arguments["quantity"], arguments["to_unit"])
    return f"Convert {source.words} into {target.name}"


# ---------------------------------------------------------------- what was said

_PHRASES = ("minutes in", "hours in", "seconds in", "days in a", "weeks in")
_EVERYDAY = frozenset(("a", "are", "as", "at", "h", "in", "s", "st", "turn", "turns", "us", "d"))
"""Names of units that are words of their own; what is wanted is rarely an are."""
_NOT_KEYWORDS = frozenset(("ares", "bar", "bits", "degrees", "feet", "turns"))
_WANTED = re.compile(r"\b(?:to|into|in)\s+((?!(?:in|a|an|the)\b)[a-z°µ]\S*)", re.IGNORECASE)
_OTHER_KINDS = {"ounces": "volume", "degrees": "temperature"}
"""What a unit may measure besides."""


@cache
def unit_names() -> tuple[str, ...]:
    """Every name and sign of every unit, in singular and plural, in British and American spelling.

    Whoever is bound to what the person named can only say a name as it was written.
    """
    names = {name: None for unit in UNITS for name in (unit, singular(unit))}
    for british, american in (("metre", "meter"), ("litre", "liter")):
        names |= {name.replace(british, american): None for name in names}
    return tuple(names | dict.fromkeys(NAMES))


def _quantities(said: str) -> list[str]:
    return readings(said, parse_quantity, belong=frozenset(("a", "day", "days")))


def _targets(said: str) -> list[str]:
    """The units that were named beside the quantity's own, or all of its kind."""
    quantities = _quantities(said)
    kinds, own = set(), set()
    for text in quantities:
        unit = parse_quantity(text).unit
        kinds |= {unit.kind, _OTHER_KINDS.get(unit.name, unit.kind)}
        own.add(unit.name)
        said = said.replace(text, " . ", 1)
    if not quantities:
        return []
    named = readings(said, _wanted, belong=frozenset(("day", "days")))
    named = [name for name in named if name.casefold() not in _EVERYDAY]
    # Behind "to" a single letter is a unit too.
    named += [found[1].strip(".,;:!?") for found in _WANTED.finditer(said)]
    fitting = [name for name in dict.fromkeys(named) if _fits(name, kinds)]
    if fitting:
        return fitting
    return [unit.name for unit in UNITS.values() if unit.kind in kinds and unit.name not in own]


def _wanted(name: str) -> Unit:
    if len(name) < 2:  # the letters of an ordinary sentence
        raise ToolError(f"{name!r} is no name of a unit")
    return find_unit(name)


def _fits(name: str, kinds: set[str]) -> bool:
    try:
        unit = find_unit(name)
    except ToolError:
        return False
    return unit.kind in kinds or _OTHER_KINDS.get(unit.name) in kinds


def _words() -> list[str]:
    return [
        name
        for name, unit in UNITS.items()
        if " " not in name and unit.kind != "time" and name not in _NOT_KEYWORDS
    ]


def _example(said: str, quantity: str, target: str) -> Example:
    return Example(said, {"quantity": quantity, "to_unit": target})
