"""Sums, with exact decimals."""

from __future__ import annotations

import re
from typing import Annotated

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.arithmetic import MAX_LENGTH, Apply, bare, evaluate, parse
from mobilellm_mlx.tools.builtin.hearing import readings
from mobilellm_mlx.tools.builtin.numerals import is_exact, written
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

Expression = Annotated[str, Limits(min_length=1, max_length=MAX_LENGTH)]


def tools(around: Surroundings) -> list[Tool]:
    """``calculator``."""

    def calculator(expression: Expression) -> str:
        """Work out a sum.

        Args:
            expression: the sum, such as 17 * 23, 15% of 80 or sqrt(2)
        """
        return calculate(expression)

    return [
        tool_from(
            calculator,
            reads_only=True,
            answers=True,
            spoken={"expression"},
            heard={"expression": _sums},
            examples=(
                Example("What is 17 times 23?", {"expression": "17 times 23"}),
                Example("Calculate (4.5 + 3) / 2", {"expression": "(4.5 + 3) / 2"}),
                Example("How much is 15% of 80?", {"expression": "15% of 80"}),
            ),
            keywords=(
                *("calculate", "compute", "sum", "plus", "minus", "times", "divided", "multiplied"),
                *("percent", "squared", "cubed", "square root", "cube root", "factorial"),
                *("math", "arithmetic", "power of", "sine", "cosine", "logarithm"),
            ),
            describe=lambda arguments: f"Calculate {printable(arguments['expression'])}",
            check=lambda arguments: {"expression": _checked(arguments["expression"])},
        )
    ]


def calculate(expression: str) -> str:
    """A sum and what it comes to, such as ``1/3 is about 0.333333333333.``

    Raises:
        ToolError: when it is no sum, has no value, or one that is too large.
    """
    value = evaluate(parse(expression))
    said = _tidy(expression)
    verb = "is about" if not is_exact(value) else "is" if _has_words(said) else "="
    return f"{said} {verb} {written(value)}."


def _checked(expression: str) -> str:
    parse(expression)
    return expression


def _tidy(expression: str) -> str:
    """The sum without the question around it."""
    return " ".join(bare(printable(expression)).split()) or expression


def _has_words(said: str) -> bool:
    return "%" in said or re.search(r"[a-z]{2}", said, re.IGNORECASE) is not None


def _sums(said: str) -> list[str]:
    """The sum that a message holds; none if it has other numbers too."""
    found = [text for text in map(bare, readings(said, _parse_sum)) if text in said]
    rest = said
    for text in found:
        rest = rest.replace(text, " ", 1)
    return found if not re.search(r"\d", rest) else []


def _parse_sum(text: str) -> None:
    if not isinstance(parse(text), Apply):
        raise ToolError("a number is no sum")
