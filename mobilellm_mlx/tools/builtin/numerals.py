"""Numbers as people write them, in words too, and as they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction

_SMALL = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
}
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
SCALES: Mapping[str, int] = {
    "hundred": 100,
    "thousand": 1_000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}

_EXACT_DIGITS = 20
"""A broken number with more digits is taken for a rounded one: people's sums have fewer."""
_TOO_LONG: int = 10**100
"""The first whole number that is not written in full."""


def read_words(words: Sequence[str]) -> tuple[int, int] | None:
    """The number that some words begin with, such as "two hundred and five".

    Args:
        words: in small letters, hyphens taken apart.

    Returns:
        The number and how many words it took; None when they begin with none.
    """
    total = group = used = place = 0
    kind = ""  # what the last word was: after "seven" no second "seven" can follow
    while place < len(words):
        word = words[place]
        if word in _SMALL and (kind in ("", "scale") or (kind == "tens" and _SMALL[word] < 10)):
            group += _SMALL[word]
            kind = "small"
        elif word in _TENS and kind in ("", "scale"):
            group += _TENS[word]
            kind = "tens"
        elif word == "hundred" and kind in ("small", "tens") and group < 100:
            group *= 100
            kind = "scale"
        elif word in SCALES and kind and group:
            total, group = total + group * SCALES[word], 0
            kind = "scale"
        elif word == "and" and kind == "scale" and place + 1 < len(words):
            if words[place + 1] not in _SMALL and words[place + 1] not in _TENS:
                break
            place += 1
            continue
        else:
            break
        place += 1
        used = place
    return (total + group, used) if used else None


def join_words(tokens: Sequence[Fraction | str]) -> list[Fraction | str]:
    """``tokens`` with numbers in place of the words for them."""
    joined: list[Fraction | str] = []
    place = 0
    while place < len(tokens):
        words: list[str] = []
        ends: list[int] = []  # behind each word, in ``tokens``
        for end, token in enumerate(tokens[place:], start=place + 1):
            if isinstance(token, str) and token.isalpha():
                words.append(token)
                ends.append(end)
            elif token != "-" or not words or words[-1] not in _TENS:
                break  # "twenty-one" is one number
        taken = read_words(words)
        if taken is None:
            joined.append(tokens[place])
            place += 1
        else:
            joined.append(Fraction(taken[0]))
            place = ends[taken[1] - 1]
    return joined


def is_exact(value: Fraction, longest: int = _EXACT_DIGITS) -> bool:
    """Whether ``written`` shows all of ``value``: its digits end, and are not too many.

    Args:
        value: the number.
        longest: how many digits of a broken number may be shown.
    """
    if value.denominator == 1:
        return abs(value) < _TOO_LONG
    rest = value.denominator
    if rest >= _TOO_LONG:
        return False
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1 and len(_quotient(value, 400).as_tuple().digits) <= longest


def _quotient(value: Fraction, digits: int) -> Decimal:
    context = Context(prec=digits)
    quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return quotient.normalize(context)


def written(value: Fraction, digits: int = 12, longest: int = _EXACT_DIGITS) -> str:
    """``value`` in decimal digits: all of them if it has an end, else the first few, rounded.

    Args:
        value: the number.
        digits: how many that count are shown of a number that is rounded.
        longest: how many are shown of one that is not.
    """
    if value.denominator == 1 and is_exact(value):
        return str(value.numerator)
    quotient = _quotient(value, longest if is_exact(value, longest) else digits)
    if -7 <= quotient.adjusted() < 15:
        return f"{quotient:f}"
    mantissa, _, exponent = f"{quotient:e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
