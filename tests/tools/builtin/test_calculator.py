"""Sums as people write them."""

from __future__ import annotations

import math
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, calculator
from mobilellm_mlx.tools.builtin.arithmetic import evaluate, parse
from mobilellm_mlx.tools.builtin.calculator import calculate
from mobilellm_mlx.tools.builtin.numerals import is_exact, read_words, written
from mobilellm_mlx.tools.checking import check_arguments

VALUES = {
    "0.1+0.2": "0.3",
    "1/3": "0.333333333333",
    "17 times 23": "391",
    "what is 17 times 23?": "391",
    "Calculate 3*4 =": "12",
    "17 x 23": "391",
    "6 × 7 ÷ 2 − 1": "20",
    "15% of 80": "12",
    "15 percent of 80": "12",
    "100 + 10%": "110",
    "200 - 5%": "190",
    "100 - 20% of 50": "90",
    "17 % 5": "2",
    "17 mod 5": "2",
    "-7 mod 3": "2",
    "7 // 2": "3",
    "1,234,567.89 * 2": "2469135.78",
    "max(1,234)": "234",
    "min(3, 1,5)": "1",
    "2^10": "1024",
    "2**10": "1024",
    "2^3^2": "512",
    "-2^2": "-4",
    "(-2)^2": "4",
    "2^-1": "0.5",
    "2 to the power of 8": "256",
    "12 squared": "144",
    "3 cubed plus 1": "28",
    "4²": "16",
    "sqrt(16)": "4",
    "sqrt 2": "1.41421356237",
    "√2 * √2": "2",
    "the square root of 144": "12",
    "cbrt(-8)": "-2",
    "8^(1/3)": "2",
    "5!": "120",
    "factorial(20)": "2432902008176640000",
    "abs(-3.5)": "3.5",
    "round(2.5)": "3",
    "round(-2.5)": "-3",
    "round(2.345, 2)": "2.35",
    "round(1234, -2)": "1200",
    "sin(pi)": "0",
    "cos(0)": "1",
    "sin 30 degrees": "0.5",
    "tan(45°)": "1",
    "sin(1)": "0.841470984808",
    "ln(e)": "1",
    "log(1000)": "3",
    "log(8, 2)": "3",
    "log2(1024)": "10",
    "exp(1)": "2.71828182846",
    "2 pi": "6.28318530718",
    "3(4 + 5)": "27",
    "half of 10 + 6": "11",
    "seven times eight please": "56",
    "twenty-one plus two hundred and five": "226",
    "20-nine": "11",
    "nine minus one": "8",
    "5 million / 4": "1250000",
    "2^100": "1267650600228229401496703205376",
    "1e-7 * 1.5": "0.00000015",
    "1/3^40": "8.22526333997e-20",
    "1e400 * 1e400": "1e800",
    ".5 + 5.": "5.5",
}

NO_SUMS = {
    "": "nothing to calculate",
    "   ?": "nothing to calculate",
    "2 +": "ends where a number was expected",
    "1 2": "`2` does not fit",
    "1,23": "`,` does not fit",
    "(1 + 2": "not closed",
    "1 + 2)": "`)` does not fit",
    "* 3": "`*` stands where",
    "import os": "`import` is no number",
    "__import__('os').system('ls')": "`_` stands where",
    "lambda: 1": "`lambda` is no number",
    "max()": "`)` stands where",
    "sqrt(1, 2)": "does not take 2 numbers",
    "$5 + $6": "`$` stands where",
    "٣ + 1": "stands where",
    "\x1b[31m1": "`[` stands where",
    "(" * 100 + "1" + ")" * 100: "nested more than 40 deep",
    "-" * 200 + "1": "nested more than 40 deep",
    "sqrt " * 50 + "1": "nested more than 40 deep",
    "1e9999": "beyond what this calculator holds",
    "1e" + "9" * 200: "beyond what this calculator holds",
    "9" * 301: "at most 300 are read",
}

NO_VALUES = {
    "1/0": "divided by zero",
    "5 mod 0": "divided by zero",
    "5 // (1 - 1)": "divided by zero",
    "0^-1": "has no value",
    "sqrt(-1)": "has no value",
    "(-8)^0.5": "has no value",
    "ln(0)": "has no value",
    "log(5, 1)": "has no value",
    "tan(pi/2)": "has no value",
    "(-3)!": "has no value",
    "2.5!": "has no value",
    "9**9**9": "more than 4,000 digits",
    "9^9^9^9": "more than 4,000 digits",
    "0.001 ^ 99999": "more than 4,000 digits",
    "2 ^ 0.5 ^ -40": "more than 4,000 digits",
    "exp(99999)": "more than 4,000 digits",
    "factorial(10**6)": "up to that of 1,000",
    "500!!": "up to that of 1,000",
    "round(1, 10**9)": "whole number of places up to 30",
    "sin(10^20)": "too large to be placed",
}


@pytest.mark.parametrize(("expression", "value"), VALUES.items())
def test_a_sum_has_its_value(expression: str, value: str) -> None:
    assert written(evaluate(parse(expression))) == value


@pytest.mark.parametrize(("expression", "words"), NO_SUMS.items())
def test_what_is_no_sum_is_refused_in_a_sentence(expression: str, words: str) -> None:
    with pytest.raises(ToolError) as refused:
        parse(expression)
    assert words in refused.value.message
    assert len(refused.value.message) < 120
    assert refused.value.hint


@pytest.mark.parametrize(("expression", "words"), NO_VALUES.items())
def test_a_sum_without_a_value_is_refused_at_once(expression: str, words: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ToolError) as refused:
        evaluate(parse(expression))
    assert words in refused.value.message
    assert time.perf_counter() - start < 1


def test_the_answer_says_whether_it_is_rounded() -> None:
    assert calculate("what is  0.1 + 0.2?") == "0.1 + 0.2 = 0.3."
    assert calculate("1/3") == "1/3 is about 0.333333333333."
    assert calculate("2/3 * 3") == "2/3 * 3 = 2."
    assert calculate("17% of 240") == "17% of 240 is 40.8."
    assert calculate("200!").startswith("200! is about 7.88657867365e374")


numbers = st.integers(-(10**9), 10**9).map(lambda value: Fraction(value, 1000))


def _sums() -> st.SearchStrategy[tuple[str, Fraction | None]]:
    """Sums and their values; None where a divisor is zero."""

    def leaf(value: Fraction) -> tuple[str, Fraction | None]:
        text = written(abs(value))
        return (f"-{text}" if value < 0 else text), value

    def branch(
        children: st.SearchStrategy[tuple[str, Fraction | None]],
    ) -> st.SearchStrategy[tuple[str, Fraction | None]]:
        return st.builds(_join, children, st.sampled_from("+-*/"), children)

    return st.recursive(numbers.map(leaf), branch, max_leaves=8)


def _join(
    left: tuple[str, Fraction | None], sign: str, right: tuple[str, Fraction | None]
) -> tuple[str, Fraction | None]:
    (first, a), (second, b) = left, right
    if a is None or b is None or (sign == "/" and b == 0):
        value = None
    else:
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
    return f"({first}) {sign} ({second})", value


@given(_sums())
@settings(max_examples=200)
def test_sums_of_decimals_are_exact(case: tuple[str, Fraction | None]) -> None:
    text, value = case
    if len(text) > 300:
        return
    if value is None:
        with pytest.raises(ToolError, match="divided by zero"):
            evaluate(parse(text))
    else:
        assert evaluate(parse(text)) == value


@given(st.text(max_size=60) | st.text("0123456789.+-*/^%!()e, xofpisqrt", max_size=60))
@example("e e e e")
@example("9" * 299 + "!")
@settings(max_examples=300)
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    try:
        value = evaluate(parse(text))
    except ToolError:
        return
    assert len(written(value)) <= 130


@given(st.floats(-50, 50), st.sampled_from(["sin", "cos", "exp", "cbrt"]))
def test_functions_agree_with_floating_point(x: float, name: str) -> None:
    reference = {"sin": math.sin, "cos": math.cos, "exp": math.exp, "cbrt": math.cbrt}[name]
    ours = float(evaluate(parse(f"{name}({x:.6f})")))
    assert ours == pytest.approx(reference(float(f"{x:.6f}")), rel=1e-12, abs=1e-14)


@given(st.integers(0, 10**12))
def test_a_whole_number_is_written_as_it_is(value: int) -> None:
    assert written(Fraction(value)) == str(value)
    assert is_exact(Fraction(value))


def test_numbers_in_words_end_where_they_end() -> None:
    assert read_words(["two", "hundred", "and", "five", "apples"]) == (205, 4)
    assert read_words(["three", "thousand", "four", "hundred", "and", "twenty", "one"]) == (3421, 7)
    assert read_words(["seven", "and", "eight"]) == (7, 1)
    assert read_words(["hundred"]) is None
    assert read_words([]) is None


def test_the_tool_takes_words_of_the_question_only(tmp_path: Path) -> None:
    (tool,) = calculator.tools(Surroundings(data_dir=tmp_path))
    assert tool.reads_only
    assert tool.spoken == {"expression"}
    for said in tool.examples:
        arguments = check_arguments(tool, said.arguments)
        assert arguments["expression"] in said.said
        assert tool.run(arguments, threading.Event())
    assert tool.words({"expression": "17 times 23"}) == "Calculate 17 times 23"
    with pytest.raises(ToolError, match="no number"):
        check_arguments(tool, {"expression": "hello"})


@pytest.mark.parametrize(
    ("said", "sums"),
    [
        ("What is 17% of 240?", ["17% of 240"]),
        ("3*17", ["3*17"]),
        ("what's twelve times eight", ["twelve times eight"]),
        ("is the square root of 144 even?", ["square root of 144"]),
        ("I have 3 apples, what is 17*4", []),
        ("what's 20% off 59.99", []),
        ("what is 7?", []),
        ("no sum", []),
    ],
)
def test_the_sum_is_heard_where_a_message_holds_nothing_else_to_calculate(
    said: str, sums: list[str]
) -> None:
    (tool,) = calculator.tools(Surroundings(data_dir=Path("/")))
    assert tool.heard["expression"](said) == sums
