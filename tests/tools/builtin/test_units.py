"""Units of measurement."""

from __future__ import annotations

import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, units
from mobilellm_mlx.tools.builtin.measures import NAMES, UNITS, Unit, find_unit, singular
from mobilellm_mlx.tools.builtin.quantities import parse_quantity
from mobilellm_mlx.tools.builtin.units import convert, converted
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import Toolbox

FUEL = [
    *("kilometres per litre", "miles per imperial gallon", "litres per 100 kilometres"),
]
CONVERSIONS = [
    ("5 miles", "km", "5 miles is 8.04672 kilometres."),
    ("1 Mile", "Kilometre", "1 mile is 1.609344 kilometres."),
    ("1 inch", "cm", "1 inch is 2.54 centimetres."),
    ("6 foot", "inches", "6 feet is 72 inches."),
    ("0.1 m", "mm", "0.1 metres is 100 millimetres."),
    ("72 °F", "celsius", "72 degrees Fahrenheit is about 22.2222 degrees Celsius."),
    ("100 C", "F", "100 degrees Celsius is 212 degrees Fahrenheit."),
    ("-40 celsius", "fahrenheit", "-40 degrees Celsius is -40 degrees Fahrenheit."),
    ("0 kelvin", "celsius", "0 kelvins is -273.15 degrees Celsius."),
    ("20 degrees", "fahrenheit", "20 degrees Celsius is 68 degrees Fahrenheit."),
    ("68 degrees", "celsius", "68 degrees Fahrenheit is 20 degrees Celsius."),
    ("180 degrees", "radians", "180 degrees is about 3.14159 radians."),
    ("8 oz", "ml", "8 fluid ounces is 236.5882365 millilitres."),
    ("16 oz", "pounds", "16 ounces is 1 pound."),
    ("3 stone", "kg", "3 stones is 19.05087954 kilograms."),
    ("1 gallon", "litres", "1 gallon is 3.785411784 litres."),
    ("1 acre", "square meters", "1 acre is 4046.8564224 square metres."),
    ("1 sq ft", "m²", "1 square foot is 0.09290304 square metres."),
    ("90 km/h", "m/s", "90 kilometres per hour is 25 metres per second."),
    ("100 kph", "mph", "100 kilometres per hour is about 62.1371 miles per hour."),
    ("1.5 hours", "min", "1.5 hours is 90 minutes."),
    ("1 year", "days", "1 year is about 365.2425 days."),
    ("1 century", "years", "1 century is 100 years."),
    ("1 GiB", "MiB", "1 gibibyte is 1024 mebibytes."),
    ("1 gb", "MB", "1 gigabyte is 1000 megabytes."),
    ("100 Mb", "MB", "100 megabits is 12.5 megabytes."),
    ("1 kWh", "MJ", "1 kilowatt hour is 3.6 megajoules."),
    ("1 kcal", "kJ", "1 kilocalorie is 4.184 kilojoules."),
    ("1 atm", "hPa", "1 atmosphere is 1013.25 hectopascals."),
    ("32 psi", "bar", "32 pounds per square inch is about 2.20632 bar."),
    ("1 hp", "watts", "1 horsepower is about 745.7 watts."),
    ("30 mpg", "l/100km", "30 miles per gallon is about 7.84049 litres per 100 kilometres."),
    ("5 l/100km", "km/l", "5 litres per 100 kilometres is 20 kilometres per litre."),
    ("5'11\"", "cm", "5 feet 11 inches is 180.34 centimetres."),
    ("5 foot 11", "cm", "5 feet 11 inches is 180.34 centimetres."),
    ("11 stone 4", "kg", "11 stones 4 pounds is 71.66759446 kilograms."),
    ("10 lbs and 6 oz", "kg", "10 pounds 6 ounces is 4.70602083875 kilograms."),
    ("5 feet 11 inches", "feet", "5 feet 11 inches is about 5.91667 feet."),
    ("two and a half cups", "ml", "2.5 cups is 591.47059125 millilitres."),
    ("half a mile", "m", "0.5 miles is 804.672 metres."),
    ("an hour", "minutes", "1 hour is 60 minutes."),
    ("1 1/2 inches", "mm", "1.5 inches is 38.1 millimetres."),
    ("½ lb", "g", "0.5 pounds is 226.796185 grams."),
    ("1,500 m", "km", "1500 metres is 1.5 kilometres."),
    ("98.6 degrees fahrenheit", "celsius", "98.6 degrees Fahrenheit is 37 degrees Celsius."),
    ("minus 40 °C", "°F", "-40 degrees Celsius is -40 degrees Fahrenheit."),
    ("5-mile", "km", "5 miles is 8.04672 kilometres."),
    ("a hundred and fifty pounds", "stone", "150 pounds is about 10.7143 stones."),
]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    (made,) = units.tools(Surroundings(data_dir=tmp_path))
    return made


@pytest.mark.parametrize(("quantity", "target", "said"), CONVERSIONS)
def test_quantities_are_converted(quantity: str, target: str, said: str) -> None:
    assert converted(quantity, target) == said


@pytest.mark.parametrize(
    ("quantity", "target", "words"),
    [
        ("5 miles", "kg", "miles measure length and kilograms measure mass"),
        ("-300 celsius", "kelvin", "-300 degrees Celsius is below absolute zero"),
        ("0 mpg", "l/100km", "0 miles per gallon has no value"),
        ("-1 l/100km", "mpg", "has no value"),
        ("1 mw", "watts", "there is no unit 'mw'"),
        ("1 parsnips", "m", "there is no unit 'parsnips'"),
        ("5", "m", "'5' has no unit"),
        ("five", "m", "'five' has no unit"),
        ("miles", "m", "'miles' is not a number with a unit"),
        ("", "m", "'' is not a number with a unit"),
        ("5 miles", "miles", "5 miles is in miles already"),
        ("5 miles", "mi", "5 miles is in miles already"),
        ("5 miles 3 kg", "km", "is not one quantity"),
        ("5 inches 3 feet", "cm", "is not one quantity"),
        ("1/0 cups", "ml", "is not a number with a unit"),
        ("1.5/2 cups", "ml", "there is no unit '/2 cups'"),
        ("1 " + "\x1b[31m" * 9, "m", "there is no unit '[31m"),
        ("1" * 81 + " m", "km", "a quantity of 83 characters is too long"),
        ("inf m", "km", "is not a number with a unit"),
        ("\ud800", "km", "is not a number with a unit"),
    ],
)
def test_what_cannot_be_converted_is_said(quantity: str, target: str, words: str) -> None:
    with pytest.raises(ToolError) as refused:
        converted(quantity, target)
    assert words in refused.value.message
    assert "\x1b" not in refused.value.message
    assert len(refused.value.message) < 150


@given(st.text(max_size=90))
def test_whatever_is_said_is_a_quantity_or_refused(text: str) -> None:
    with suppress(ToolError):
        assert parse_quantity(text).parts


@pytest.mark.parametrize(
    ("said", "quantity", "targets"),
    [
        ("Convert 5 miles to kilometres", "5 miles", ["kilometres"]),
        ("How many kilometers is 5 miles?", "5 miles", ["kilometers"]),
        ("how many ounces in a pound", "a pound", ["ounces"]),
        ("how many minutes are in a day?", "a day", ["minutes"]),
        ("what is 72 F in celsius", "72 F", ["celsius"]),
        ("convert 20 C to F", "20 C", ["F"]),
        ("I'm 5'11\", what is that in centimetres?", "5'11\"", ["centimetres"]),
        ("8 oz in ml", "8 oz", ["ml"]),
        ("20 degrees to fahrenheit", "20 degrees", ["fahrenheit"]),
        ("How tall is 180 cm in feet?", "180 cm", ["feet"]),
        ("convert 30 mpg", "30 mpg", FUEL),
    ],
)
def test_quantity_and_unit_are_told_apart(
    tool: Tool, said: str, quantity: str, targets: list[str]
) -> None:
    bound = Toolbox([tool]).schema_for(tool, said)["properties"]
    assert bound["quantity"]["enum"] == [quantity]
    assert bound["to_unit"]["enum"] == targets


def test_where_nothing_is_heard_every_unit_can_be_named(tool: Tool) -> None:
    bound = Toolbox([tool]).schema_for(tool, "convert the usual into kilometres")["properties"]
    assert "enum" not in bound["quantity"]
    assert "kilometres" in bound["to_unit"]["enum"]


def test_a_misspelled_unit_is_guessed_in_the_hint() -> None:
    with pytest.raises(ToolError) as refused:
        find_unit("kilomters")
    assert refused.value.hint == "did you mean kilometres?"


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
        schema = box.schema_for(tool, example.said)
        arguments = check_arguments(tool, example.arguments, schema)
        assert arguments == check_arguments(tool, arguments)  # said once, it stays
        result = tool.run(arguments, threading.Event())
        assert result.startswith(tool.words(arguments).split()[1])
    assert tool.words({"quantity": "5 mi", "to_unit": "km"}) == "Convert 5 miles into kilometres"


def test_incompatible_units_are_refused_before_the_call(tool: Tool) -> None:
    with pytest.raises(ToolError, match="measure"):
        check_arguments(tool, {"quantity": "1 mile", "to_unit": "hours"})
