"""Units of measurement: what they are called and what they are worth, exactly where that is so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin.functions import CONSTANTS

Table = Mapping[str, tuple[str | int | Fraction, str]]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit.

    Attributes:
        name: as it is shown, in the plural.
        kind: what it measures; only units of a kind can be converted.
        factor: what one of it is in the kind's base unit.
        zero: where its zero lies, in the base unit: temperatures.
        is_inverse: whether more of it is less: litres per 100 km.
    """

    name: str
    kind: str
    factor: Fraction
    zero: Fraction = Fraction(0)
    is_inverse: bool = False


_INCH = Fraction("0.0254")
_POUND = Fraction("0.45359237")
_US_GALLON = Fraction("3.785411784")
_UK_GALLON = Fraction("4.54609")
_MILE = Fraction("1609.344")
_G = Fraction("9.80665")
_PSI = _POUND * _G / _INCH**2

# Of every kind: name -> (worth in the base unit, other names parted by commas).
_LENGTH: Table = {
    "nanometres": ("1e-9", "nm"),
    "micrometres": ("1e-6", "µm,um,microns"),
    "millimetres": ("0.001", "mm"),
    "centimetres": ("0.01", "cm"),
    "metres": (1, "m"),
    "kilometres": (1000, "km,kms"),
    "inches": (_INCH, "in,″"),
    "feet": (12 * _INCH, "ft,′"),
    "yards": (36 * _INCH, "yd,yds"),
    "miles": (_MILE, "mi"),
    "nautical miles": (1852, "nmi,sea miles"),
    "astronomical units": (149_597_870_700, "au"),
    "light years": (9_460_730_472_580_800, "ly,lightyears"),
}
_MASS: Table = {
    "milligrams": ("1e-6", "mg"),
    "grams": ("0.001", "g,gr"),
    "kilograms": (1, "kg,kgs,kilos"),
    "metric tons": (1000, "t,tonnes"),
    "ounces": (_POUND / 16, "oz"),
    "pounds": (_POUND, "lb,lbs"),
    "stones": (14 * _POUND, "st"),
    "US tons": (2000 * _POUND, "tons,short tons"),
    "carats": ("0.0002", "ct"),
}
_VOLUME: Table = {
    "millilitres": ("0.001", "ml,cc,cubic centimetres,cm3,cm³"),
    "centilitres": ("0.01", "cl"),
    "decilitres": ("0.1", "dl"),
    "litres": (1, "l,cubic decimetres"),
    "cubic metres": (1000, "m3,m³,cbm"),
    "cubic inches": (_INCH**3 * 1000, "in3,in³"),
    "cubic feet": ((12 * _INCH) ** 3 * 1000, "ft3,ft³"),
    "teaspoons": (_US_GALLON / 768, "tsp"),
    "tablespoons": (_US_GALLON / 256, "tbsp"),
    "fluid ounces": (_US_GALLON / 128, "fl oz,floz"),
    "cups": (_US_GALLON / 16, ""),
    "pints": (_US_GALLON / 8, "pt,US pints"),
    "quarts": (_US_GALLON / 4, "qt"),
    "gallons": (_US_GALLON, "gal,US gallons"),
    "imperial pints": (_UK_GALLON / 8, "UK pints"),
    "imperial gallons": (_UK_GALLON, "UK gallons"),
}
_AREA: Table = {
    "square millimetres": ("1e-6", "mm2,mm²"),
    "square centimetres": ("0.0001", "cm2,cm²"),
    "square metres": (1, "m2,m²,sqm"),
    "ares": (100, ""),
    "hectares": (10_000, "ha"),
    "square kilometres": (1_000_000, "km2,km²"),
    "square inches": (_INCH**2, "in2,in²,sq in"),
    "square feet": ((12 * _INCH) ** 2, "ft2,ft²,sq ft,sqft"),
    "square yards": ((36 * _INCH) ** 2, "yd2,yd²"),
    "acres": (4840 * (36 * _INCH) ** 2, "ac"),
    "square miles": (_MILE**2, "mi2,mi²,sq mi"),
}
_SPEED: Table = {
    "metres per second": (1, "m/s,mps"),
    "kilometres per hour": (Fraction(1000, 3600), "km/h,kmh,kph,kmph"),
    "miles per hour": (_MILE / 3600, "mph,mi/h"),
    "feet per second": (12 * _INCH, "ft/s,fps"),
    "knots": (Fraction(1852, 3600), "kn,kt"),
    "speeds of light": (299_792_458, ""),
}
_TIME: Table = {
    "nanoseconds": ("1e-9", "ns"),
    "microseconds": ("1e-6", "µs,us"),
    "milliseconds": ("0.001", "ms,msec"),
    "seconds": (1, "s,sec,secs"),
    "minutes": (60, "min,mins"),
    "hours": (3600, "h,hr,hrs"),
    "days": (86_400, "d"),
    "weeks": (604_800, "wk,wks"),
    "fortnights": (1_209_600, ""),
    # From here on averages of the Gregorian calendar.
    "months": (31_556_952 // 12, ""),
    "years": (31_556_952, "yr,yrs"),
    "decades": (315_569_520, ""),
    "centuries": (3_155_695_200, ""),
}
_DATA: Table = {
    "bits": (Fraction(1, 8), ""),
    "kilobits": (125, "kbit,Kb"),
    "megabits": (125_000, "Mbit,Mb"),
    "gigabits": (125_000_000, "Gbit,Gb"),
    "bytes": (1, "B"),
    "kilobytes": (10**3, "kB,KB,kb"),
    "megabytes": (10**6, "MB,mb"),
    "gigabytes": (10**9, "GB,gb"),
    "terabytes": (10**12, "TB,tb"),
    "petabytes": (10**15, "PB,pb"),
    "kibibytes": (2**10, "KiB"),
    "mebibytes": (2**20, "MiB"),
    "gibibytes": (2**30, "GiB"),
    "tebibytes": (2**40, "TiB"),
}
_ENERGY: Table = {
    "joules": (1, "J"),
    "kilojoules": (1000, "kJ"),
    "megajoules": (1_000_000, "MJ"),
    "calories": ("4.184", "cal"),
    "kilocalories": (4184, "kcal"),
    "watt hours": (3600, "Wh"),
    "kilowatt hours": (3_600_000, "kWh"),
    "British thermal units": ("1055.05585262", "BTU"),
    "electronvolts": ("1.602176634e-19", "eV"),
}
_PRESSURE: Table = {
    "pascals": (1, "Pa"),
    "hectopascals": (100, "hPa"),
    "kilopascals": (1000, "kPa"),
    "bar": (100_000, ""),
    "millibars": (100, "mbar"),
    "atmospheres": (101_325, "atm"),
    "pounds per square inch": (_PSI, "psi"),
    "millimetres of mercury": ("133.322387415", "mmHg"),
    "torr": (Fraction(101_325, 760), ""),
}
_POWER: Table = {
    "milliwatts": ("0.001", "mW"),
    "watts": (1, "W"),
    "kilowatts": (1000, "kW"),
    "megawatts": (1_000_000, "MW"),
    "horsepower": (550 * 12 * _INCH * _POUND * _G, "hp"),
    "metric horsepower": (75 * _G, "PS"),
}
_ANGLE: Table = {
    "degrees": (1, "deg,°"),
    "radians": (180 / CONSTANTS["pi"], "rad"),
    "gradians": ("0.9", "grad,gon"),
    "turns": (360, "revolutions"),
    "arcminutes": (Fraction(1, 60), "arcmin"),
    "arcseconds": (Fraction(1, 3600), "arcsec"),
}
_FUEL: Table = {
    "kilometres per litre": (1, "km/l"),
    "miles per gallon": (_MILE / 1000 / _US_GALLON, "mpg"),
    "miles per imperial gallon": (_MILE / 1000 / _UK_GALLON, "UK mpg"),
}
_TABLES: Mapping[str, Table] = {
    "length": _LENGTH,
    "mass": _MASS,
    "volume": _VOLUME,
    "area": _AREA,
    "speed": _SPEED,
    "time": _TIME,
    "data": _DATA,
    "energy": _ENERGY,
    "pressure": _PRESSURE,
    "power": _POWER,
    "angle": _ANGLE,
    "fuel economy": _FUEL,
}
AVERAGES = {"months", "years", "decades", "centuries"}
"""Units of time that are not always of the same length."""
_FAHRENHEIT_ZERO = Fraction("273.15") - 32 * Fraction(5, 9)
_OTHERS: tuple[tuple[Unit, str], ...] = (
    (
        Unit("degrees Celsius", "temperature", Fraction(1), Fraction("273.15")),
        "celsius,°C,C,degrees C,centigrade",
    ),
    (
        Unit("degrees Fahrenheit", "temperature", Fraction(5, 9), _FAHRENHEIT_ZERO),
        "fahrenheit,°F,F,degrees F",
    ),
    (Unit("kelvins", "temperature", Fraction(1)), "K"),
    (
        Unit("litres per 100 kilometres", "fuel economy", Fraction(100), is_inverse=True),
        "l/100km,l/100 km,litres per 100 km",
    ),
)


def _collect() -> tuple[tuple[Unit, tuple[str, ...]], ...]:
    plain = [
        (Unit(name, kind, Fraction(worth)), names)
        for kind, table in _TABLES.items()
        for name, (worth, names) in table.items()
    ]
    return tuple(
        (unit, tuple(filter(None, names.split(",")))) for unit, names in (*plain, *_OTHERS)
    )


_ALL = _collect()
UNITS: Mapping[str, Unit] = {unit.name: unit for unit, _ in _ALL}
"""By the name that is shown."""
NAMES: Mapping[str, Unit] = {
    **UNITS,
    **{name: unit for unit, names in _ALL for name in names},
}
"""By every name and sign, as these are written."""


_IRREGULAR = {"feet": "foot", "inches": "inch", "centuries": "century"}


def singular(name: str) -> str:
    """The name of one unit: mile, degree Celsius, square foot."""
    words = name.split(" ")
    for place, word in enumerate(words):
        one = _IRREGULAR.get(word) or (word[:-1] if word.endswith("s") and len(word) > 3 else "")
        if one:  # the noun is the first word in the plural: kilometres per hour
            return " ".join([*words[:place], one, *words[place + 1 :]])
    return name


def _loose(text: str) -> str:
    """``text`` as it is compared: case, dots and British spelling apart."""
    text = " ".join(text.casefold().replace("-", " ").replace("_", " ").replace(".", "").split())
    for british, american in (("metre", "meter"), ("litre", "liter"), ("kilogramme", "kilogram")):
        text = text.replace(british, american)
    return text


def _fold() -> dict[str, Unit]:
    found: dict[str, Unit | None] = {}
    for name, unit in (*NAMES.items(), *((singular(name), unit) for name, unit in UNITS.items())):
        form = _loose(name)
        # A sign that means two units but for its case, as mW and MW do, is not guessed.
        found[form] = unit if found.get(form, unit) == unit else None
    for form in ("kb", "mb", "gb"):  # who writes these means bytes
        found[form] = NAMES[form]
    return {form: unit for form, unit in found.items() if unit is not None}


_FOLDED = _fold()
_MEANT = {
    ("ounces", "volume"): "fluid ounces",
    ("degrees", "degrees Celsius"): "degrees Fahrenheit",
    ("degrees", "temperature"): "degrees Celsius",
}
"""What a word means beside another unit, or beside one of another kind."""


def find_unit(name: str, beside: Unit | None = None) -> Unit:
    """The unit that somebody means.

    Args:
        name: its name or sign.
        beside: the other unit of the conversion, which tells what an ounce is.

    Raises:
        ToolError: when there is none of that name.
    """
    unit = NAMES.get(name.strip()) or _FOLDED.get(_loose(name))
    if unit is None:
        shown = printable(name)[:40]
        near = get_close_matches(_loose(name)[:40], _FOLDED, n=1)
        hint = f"did you mean {_FOLDED[near[0]].name}?" if near else "name it in full, as in miles"
        raise ToolError(f"there is no unit {shown!r} known here", hint)
    if beside:
        meant = _MEANT.get((unit.name, beside.name)) or _MEANT.get((unit.name, beside.kind))
        return UNITS[meant] if meant else unit
    return unit
