"""Values from one unit of measurement into another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.measures import (
    AVERAGES,
    NAMES,
    UNITS,
    Unit,
    find_unit,
    singular,
)
from mobilellm_mlx.tools.builtin.numerals import is_exact, written
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

UnitName = Annotated[str, Limits(min_length=1, max_length=40)]
LONGEST = 12
"""Digits of a broken value that is shown to its end."""
DIGITS = 9
"""Digits that are shown of a longer one."""


def tools(around: Surroundings) -> list[Tool]:
    """``convert_units``."""

    def convert_units(value: float, from_unit: UnitName, to_unit: UnitName) -> str:
        """Convert a value from one unit of measurement into another.

        Args:
            value: the number to convert
            from_unit: the unit it is in
            to_unit: the unit that is wanted
        """
        return converted(value, from_unit, to_unit)

    return [
        tool_from(
            convert_units,
            reads_only=True,
            live={"from_unit": _names, "to_unit": _names},
            examples=(
                _example("How many kilometers are 5 miles?", 5, "miles", "kilometers"),
                _example("Convert 72 °F to celsius", 72, "°F", "celsius"),
                _example("What is 2.5 kg in pounds?", 2.5, "kg", "pounds"),
            ),
            keywords=("convert", "conversion", "unit", "units", "how many", *_words()),
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


def converted(value: float, from_unit: str, to_unit: str) -> str:
    """A conversion in words, such as ``5 miles = 8.04672 kilometers``.

    Raises:
        ToolError: see ``convert``; and when a unit is not known.
    """
    source, target = _pair(from_unit, to_unit)
    amount = _exactly(value)
    result = convert(amount, source, target)
    verb = "=" if is_exact(result, LONGEST) and _is_exact_pair(source, target) else "is about"
    return (
        f"{written(amount)} {_named(amount, source)} {verb} {written(result, DIGITS, LONGEST)} "
        + (_named(result, target))
    )


def _named(amount: Fraction, unit: Unit) -> str:
    return singular(unit.name) if amount == 1 else unit.name


def _is_exact_pair(source: Unit, target: Unit) -> bool:
    """Pi has no end, and days are the same in a year only on average."""
    names = {source.name, target.name}
    return "radians" not in names and len(names & AVERAGES) != 1


def _pair(from_unit: str, to_unit: str) -> tuple[Unit, Unit]:
    source, target = find_unit(from_unit), find_unit(to_unit)
    return find_unit(from_unit, target), find_unit(to_unit, source)


def _exactly(value: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    if not math.isfinite(value):
        raise ToolError(f"{value} is not a number that can be converted")
    return Fraction(str(value))


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    source, target = _pair(arguments["from_unit"], arguments["to_unit"])
    convert(_exactly(arguments["value"]), source, target)
    return {**arguments, "from_unit": source.name, "to_unit": target.name}


def _in_words(arguments: Mapping[str, Any]) -> str:
    source, target = _pair(arguments["from_unit"], arguments["to_unit"])
    return f"Convert {written(_exactly(arguments['value']))} {source.name} into {target.name}"


def _names() -> list[str]:
    return list(NAMES)


def _words() -> list[str]:
    return [name for name in UNITS if " " not in name]


def _example(said: str, value: float, source: str, target: str) -> Example:
    return Example(said, {"value": value, "from_unit": source, "to_unit": target})
