"""Units of measurement."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, units
from mobilellm_mlx.tools.builtin.measures import NAMES, UNITS, Unit, find_unit, singular
from mobilellm_mlx.tools.builtin.units import convert, converted
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import Toolbox

CONVERSIONS = [
    (5, "miles", "km", "5 miles = 8.04672 kilometers"),
    (1, "Mile", "Kilometre", "1 mile = 1.609344 kilometers"),
    (1, "inch", "cm", "1 inch = 2.54 centimeters"),
    (6, "foot", "inches", "6 feet = 72 inches"),
    (0.1, "m", "mm", "0.1 meters = 100 millimeters"),
    (72, "°F", "celsius", "72 degrees Fahrenheit is about 22.2222222 degrees Celsius"),
    (100, "C", "F", "100 degrees Celsius = 212 degrees Fahrenheit"),
    (-40, "celsius", "fahrenheit", "-40 degrees Celsius = -40 degrees Fahrenheit"),
    (0, "kelvin", "celsius", "0 kelvins = -273.15 degrees Celsius"),
    (20, "degrees", "fahrenheit", "20 degrees Celsius = 68 degrees Fahrenheit"),
    (68, "degrees", "celsius", "68 degrees Fahrenheit = 20 degrees Celsius"),
    (180, "degrees", "radians", "180 degrees is about 3.14159265 radians"),
    (8, "oz", "ml", "8 fluid ounces = 236.5882365 milliliters"),
    (16, "oz", "pounds", "16 ounces = 1 pound"),
    (3, "stone", "kg", "3 stones = 19.05087954 kilograms"),
    (1, "gallon", "litres", "1 gallon = 3.785411784 liters"),
    (1, "acre", "square meters", "1 acre = 4046.8564224 square meters"),
    (1, "sq ft", "m²", "1 square foot = 0.09290304 square meters"),
    (90, "km/h", "m/s", "90 kilometers per hour = 25 meters per second"),
    (100, "kph", "mph", "100 kilometers per hour is about 62.1371192 miles per hour"),
    (1.5, "hours", "min", "1.5 hours = 90 minutes"),
    (1, "year", "days", "1 year is about 365.2425 days"),
    (1, "century", "years", "1 century = 100 years"),
    (1, "GiB", "MiB", "1 gibibyte = 1024 mebibytes"),
    (1, "gb", "MB", "1 gigabyte = 1000 megabytes"),
    (100, "Mb", "MB", "100 megabits = 12.5 megabytes"),
    (1, "kWh", "MJ", "1 kilowatt hour = 3.6 megajoules"),
    (1, "kcal", "kJ", "1 kilocalorie = 4.184 kilojoules"),
    (1, "atm", "hPa", "1 atmosphere = 1013.25 hectopascals"),
    (32, "psi", "bar", "32 pounds per square inch is about 2.20632233 bar"),
    (1, "hp", "watts", "1 horsepower is about 745.699872 watts"),
    (30, "mpg", "l/100km", "30 miles per gallon is about 7.84048611 liters per 100 kilometers"),
    (5, "l/100km", "km/l", "5 liters per 100 kilometers = 20 kilometers per liter"),
]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    (made,) = units.tools(Surroundings(data_dir=tmp_path))
    return made


@pytest.mark.parametrize(("value", "source", "target", "said"), CONVERSIONS)
def test_values_are_converted(value: float, source: str, target: str, said: str) -> None:
    assert converted(value, source, target) == said


@pytest.mark.parametrize(
    ("value", "source", "target", "words"),
    [
        (5, "miles", "kg", "miles measure length and kilograms measure mass"),
        (-300, "celsius", "kelvin", "-300 degrees Celsius is below absolute zero"),
        (0, "mpg", "l/100km", "0 miles per gallon has no value"),
        (-1, "l/100km", "mpg", "has no value"),
        (1, "mw", "watts", "there is no unit 'mw'"),
        (1, "parsnips", "m", "there is no unit 'parsnips'"),
        (1, "", "m", "there is no unit ''"),
        (1, "\x1b[31m" * 50, "m", "there is no unit '[31m"),
        (float("inf"), "m", "km", "inf is not a number"),
        (float("nan"), "m", "km", "nan is not a number"),
    ],
)
def test_what_cannot_be_converted_is_said(
    value: float, source: str, target: str, words: str
) -> None:
    with pytest.raises(ToolError) as refused:
        converted(value, source, target)
    assert words in refused.value.message
    assert "\x1b" not in refused.value.message
    assert len(refused.value.message) < 150


def test_a_misspelled_unit_is_guessed_in_the_hint() -> None:
    with pytest.raises(ToolError) as refused:
        find_unit("kilomters")
    assert refused.value.hint == "did you mean kilometers?"


@given(
    st.sampled_from(sorted(UNITS)),
    st.data(),
    st.integers(1, 10**9).map(lambda value: Fraction(value, 1000)),
)
def test_there_and_back_is_exactly_the_same(
    name: str, data: st.DataObject, value: Fraction
) -> None:
    source = UNITS[name]
    kin = [unit for unit in UNITS.values() if unit.kind == source.kind]
    target = data.draw(st.sampled_from(kin))
    assert convert(convert(value, source, target), target, source) == value


@pytest.mark.parametrize("name", [*NAMES, *map(singular, UNITS)])
def test_every_name_finds_its_unit_in_singular_and_plural(name: str) -> None:
    unit = find_unit(name)
    assert unit == NAMES.get(name, unit)
    assert find_unit(unit.name) == unit
    assert find_unit(f"  {unit.name.upper()} ") == unit


def test_every_kind_has_a_base_unit_of_one() -> None:
    by_kind: dict[str, list[Unit]] = {}
    for unit in UNITS.values():
        by_kind.setdefault(unit.kind, []).append(unit)
    for kind, kin in by_kind.items():
        assert any(unit.factor == 1 for unit in kin), kind


def test_the_tool_understands_its_own_examples(tool: Tool) -> None:
    assert tool.reads_only
    box = Toolbox([tool])
    for example in tool.examples:
        schema = box.live_schema(tool, example.said)
        arguments = check_arguments(tool, example.arguments, schema)
        assert arguments == check_arguments(tool, arguments)  # said once, it stays
        result = tool.run(arguments, threading.Event())
        assert result.startswith(tool.words(arguments).split()[1])
    assert tool.words({"value": 5, "from_unit": "mi", "to_unit": "km"}) == (
        "Convert 5 miles into kilometers"
    )


def test_incompatible_units_are_refused_before_the_call(tool: Tool) -> None:
    with pytest.raises(ToolError, match="measure"):
        check_arguments(tool, {"value": 1, "from_unit": "miles", "to_unit": "hours"})
