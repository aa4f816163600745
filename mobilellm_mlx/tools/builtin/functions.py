"""What a calculator can do with numbers: exactly where that is possible, within bounds always."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction

from mobilellm_mlx.errors import ToolError

MAX_BITS = 14_000
"""Of a numerator or denominator: some 4,200 decimal digits, more than Python likes to print."""
_MAX_FACTORIAL = 1_000
_MAX_ANGLE = 10**15
_TRUSTED_DIGITS = 30
_WORKING = Context(prec=60)

Action = Callable[..., Fraction]


@dataclass(frozen=True, slots=True)
class Function:
    """An action and how many numbers it takes."""

    action: Action
    least: int = 1
    most: int = 1


def compute(name: str, operands: Sequence[Fraction]) -> Fraction:
    """What an operator or function makes of numbers.

    Raises:
        ToolError: when that has no value, or one that is too large.
    """
    action = OPERATORS[name] if name in OPERATORS else FUNCTIONS[name].action
    return _bounded(action(*operands))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _too_large()
    return value


def _too_large() -> ToolError:
    return ToolError(
        "the result, or a step towards it, has more than 4,000 digits", "use smaller numbers"
    )


def _decimal(value: Fraction) -> Decimal:
    return _WORKING.divide(Decimal(value.numerator), Decimal(value.denominator))


def _trusted(value: Decimal) -> Fraction:
    """Without the last digits, so that what is whole but for rounding is whole."""
    return Fraction(Context(prec=_TRUSTED_DIGITS).plus(value))


def _no_value(what: str) -> ToolError:
    return ToolError(f"{what} has no value", "change the sum")


def _divide(left: Fraction, right: Fraction) -> Fraction:
    if right == 0:
        raise ToolError("a number is divided by zero", "change the divisor")
    return left / right


def _floor_divide(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(math.floor(_divide(left, right)))


def _modulo(left: Fraction, right: Fraction) -> Fraction:
    return left - right * _floor_divide(left, right)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent <= 0:
        raise _no_value("zero to a power that is not above zero")
    if base in (0, 1):
        return base
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        # One bit may be all there is to a -1, whose powers do not grow.
        if (bits - 1) * abs(exponent) > MAX_BITS:
            raise _too_large()
        if base == -1:
            return Fraction(1 - 2 * (exponent.numerator % 2))
        return Fraction(base**exponent.numerator)
    if base < 0:
        raise _no_value("a negative number to a broken power")
    if exponent == Fraction(1, 2):
        return _square_root(base)
    logarithm = _decimal(base).ln(_WORKING)
    return _exponential(Fraction(_WORKING.multiply(logarithm, _decimal(exponent))))


def _exponential(value: Fraction) -> Fraction:
    if abs(value) > MAX_BITS * 0.69:
        raise _too_large()
    return _trusted(_decimal(value).exp(_WORKING))


def _square_root(value: Fraction) -> Fraction:
    if value < 0:
        raise _no_value("the square root of a negative number")
    above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if above**2 == value.numerator and below**2 == value.denominator:
        return Fraction(above, below)
    return _trusted(_decimal(value).sqrt(_WORKING))


def _cube_root(value: Fraction) -> Fraction:
    if value < 0:
        return -_cube_root(-value)
    return value and _power(value, Fraction(1, 3))


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise _no_value("the factorial of a number that is broken or negative")
    if value > _MAX_FACTORIAL:
        raise ToolError(
            f"factorials are computed up to that of {_MAX_FACTORIAL:,}", "use a smaller number"
        )
    return Fraction(math.factorial(value.numerator))


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > _TRUSTED_DIGITS:
        raise ToolError(
            f"a number is rounded to a whole number of places up to {_TRUSTED_DIGITS}",
            "as in `round(2.345, 2)`",
        )
    unit = Fraction(10) ** -places.numerator
    # Halves go away from zero, as at school.
    return math.floor(abs(value) / unit + Fraction(1, 2)) * unit * (-1 if value < 0 else 1)


def _natural_logarithm(value: Fraction) -> Fraction:
    if value <= 0:
        raise _no_value("the logarithm of a number that is not above zero")
    return _trusted(_decimal(value).ln(_WORKING))


def _logarithm(value: Fraction, base: Fraction = Fraction(10)) -> Fraction:
    below = _natural_logarithm(base)
    if below == 0:
        raise _no_value("a logarithm to the base 1")
    quotient = _decimal(_natural_logarithm(value) / below)
    return Fraction(Context(prec=_TRUSTED_DIGITS - 4).plus(quotient))


def _sine(angle: Fraction) -> Fraction:
    if abs(angle) > _MAX_ANGLE:
        raise ToolError("the angle is above 10^15, too large to be placed", "use a smaller angle")
    angle -= 2 * CONSTANTS["pi"] * round(angle / (2 * CONSTANTS["pi"]))
    with localcontext(_WORKING):
        term = total = x = _decimal(angle)
        n = 1
        while abs(term) > Decimal("1e-50"):  # Taylor; the angle is at most pi
            n += 2
            term = -term * x * x / (n * (n - 1))
            total += term
        return Fraction(round(total, _TRUSTED_DIGITS))


def _cosine(angle: Fraction) -> Fraction:
    return _sine(angle + CONSTANTS["pi"] / 2)


def _tangent(angle: Fraction) -> Fraction:
    below = _cosine(angle)
    if below == 0:
        raise _no_value("the tangent of a right angle")
    return _trusted(_decimal(_sine(angle) / below))


def _smallest(*values: Fraction) -> Fraction:
    return min(values)


def _largest(*values: Fraction) -> Fraction:
    return max(values)


CONSTANTS: Mapping[str, Fraction] = {
    "pi": Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781641"),
    "e": Fraction("2.71828182845904523536028747135266249775724709369995957496696762772407663"),
}

OPERATORS: Mapping[str, Action] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
    "//": _floor_divide,
    "mod": _modulo,
    "^": _power,
    "negative": lambda value: -value,
    "percent": lambda value: value / 100,
    "squared": lambda value: value**2,
    "cubed": lambda value: value**3,
    "!": _factorial,
    "degrees": lambda value: value * CONSTANTS["pi"] / 180,
}

FUNCTIONS: Mapping[str, Function] = {
    "sqrt": Function(_square_root),
    "cbrt": Function(_cube_root),
    "abs": Function(abs),
    "round": Function(_round, most=2),
    "floor": Function(lambda value: Fraction(math.floor(value))),
    "ceil": Function(lambda value: Fraction(math.ceil(value))),
    "min": Function(_smallest, most=50),
    "max": Function(_largest, most=50),
    "sin": Function(_sine),
    "cos": Function(_cosine),
    "tan": Function(_tangent),
    "exp": Function(_exponential),
    "ln": Function(_natural_logarithm),
    "log": Function(_logarithm, most=2),
    "log2": Function(lambda value: _logarithm(value, Fraction(2))),
    "log10": Function(_logarithm),
    "factorial": Function(_factorial),
}
