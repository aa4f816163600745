"""Sums as people write them: parsed into a tree, computed exactly, never run as code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin.functions import CONSTANTS, FUNCTIONS, compute
from mobilellm_mlx.tools.builtin.numerals import SCALES, join_words, written

MAX_LENGTH = 300
"""Characters of a sum."""
HINT = "write it as in `3 * (4 + 5)`, `15% of 80` or `sqrt(2)`"

_MAX_DEPTH = 40
_MAX_EXPONENT = 4_000


@dataclass(frozen=True, slots=True)
class Apply:
    """A branch of the tree: an operation and what it is applied to."""

    name: str
    operands: tuple[Node, ...]


Node: TypeAlias = Fraction | Apply
Token: TypeAlias = Fraction | str

_PHRASES = {
    "to the power of": "^",
    "raised to the power of": "^",
    "raised to": "^",
    "square root of": "sqrt",
    "cube root of": "cbrt",
    "root of": "sqrt",
    "multiplied by": "*",
    "times": "*",
    "x": "*",
    "divided by": "/",
    "over": "/",
    "plus": "+",
    "minus": "-",
    "negative": "-",
    "modulo": "mod",
    "per cent": "percent",
    "degree": "degrees",
    "natural log of": "ln",
    "the": "",
    "half of": "half",
    "a half of": "half",
    "a third of": "third",
    "a quarter of": "quarter",
}
_SIGNS = {
    "×": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "∕": "/",
    "−": "-",
    "–": "-",
    "**": "^",
    "π": "pi",
    "√": "sqrt",
    "²": "squared",
    "³": "cubed",
    "°": "degrees",
    "%": "percent",
}
_SHARES = {"half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4)}
_BINDING = {"+": 10, "-": 10, "*": 20, "/": 20, "//": 20, "mod": 20, "of": 20, "^": 30}
_UNARY = 25
_POSTFIX = ("percent", "squared", "cubed", "!", "degrees")
_TAKES_COMMAS = tuple(name for name, function in FUNCTIONS.items() if function.most > 1)

_AROUND = re.compile(
    r"\s*(?:(?:what(?:'s| is| are)|how much (?:is|are)|calculate|compute|work out|please)\s+)*"
    r"(.*?)[\s?=.]*(?:\bplease\b)?[\s?=.]*",
    re.IGNORECASE | re.DOTALL,
)
_PHRASE = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(_PHRASES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)|[a-z]+\d*|\*\*|//|\S", re.IGNORECASE | re.ASCII
)
_PARTED = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)


def bare(text: str) -> str:
    """A sum without the question around it: ``what is 3 + 4?`` asks for ``3 + 4``."""
    within = _AROUND.fullmatch(text)
    return within[1] if within else text


def parse(text: str) -> Node:
    """The tree of a sum.

    Raises:
        ToolError: when it is not a sum that this calculator understands.
    """
    if len(text) > MAX_LENGTH:
        raise ToolError(
            f"the sum has {len(text):,} characters, at most {MAX_LENGTH} are read", "shorten it"
        )
    tokens = join_words(_tokens(bare(printable(text))))
    if not tokens:
        raise ToolError("there is nothing to calculate", HINT)
    parser = _Parser(tokens)
    tree = parser.expression(0)
    if parser.next is not None:
        raise ToolError(f"`{_shown(parser.next)}` does not fit where it stands in the sum", HINT)
    return tree


def evaluate(tree: Node) -> Fraction:
    """What a tree comes to.

    Raises:
        ToolError: when it has no value, or one that is too large.
    """
    if isinstance(tree, Fraction):
        return tree
    if tree.name in ("+", "-"):
        left, right = tree.operands
        if isinstance(right, Apply) and right.name == "percent":
            # As on every pocket calculator: 100 + 10% is 110.
            share = compute(tree.name, [Fraction(1), evaluate(right)])
            return compute("*", [evaluate(left), share])
    return compute(tree.name, [evaluate(operand) for operand in tree.operands])


def _shown(token: Token) -> str:
    return token[:30] if isinstance(token, str) else written(token, digits=6)


def _tokens(text: str) -> list[Token]:
    text = _PHRASE.sub(lambda found: f" {_PHRASES[found[1].lower()]} ", text)
    tokens: list[Token] = []
    brackets: list[bool] = []  # of each open one: do commas part arguments in it?
    place = 0
    while place < len(text):
        if not (brackets and brackets[-1]) and (parted := _PARTED.match(text, place)):
            # 1,234.5 is read as 1234.5.
            text = text[: parted.start()] + parted[0].replace(",", "") + text[parted.end() :]
        found = _TOKEN.match(text, place)
        if found is None:  # white space
            place += 1
            continue
        place = found.end()
        if found["number"]:
            tokens.append(_number(found[0]))
            continue
        token = _SIGNS.get(found[0], found[0].lower())
        if token == "(":
            brackets.append(bool(tokens) and tokens[-1] in _TAKES_COMMAS)
        elif token == ")" and brackets:
            brackets.pop()
        tokens.append(token)
    return tokens


def _number(digits: str) -> Fraction:
    mantissa, _, exponent = digits.lower().partition("e")
    if len(exponent) > 6 or abs(int(exponent or 0)) > _MAX_EXPONENT:
        raise ToolError(
            f"`{_shown(digits)}` is beyond what this calculator holds", "use smaller numbers"
        )
    return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)


class _Parser:
    """Precedence climbing over a list of tokens."""

    def __init__(self, tokens: list[Token]):
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    @property
    def next(self) -> Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def expression(self, floor: int) -> Node:
        """The longest expression whose operators bind more tightly than ``floor``."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ToolError(f"the sum is nested more than {_MAX_DEPTH} deep", "take it apart")
        left = self._postfix(self._operand())
        while True:
            operator, is_written = self._operator()
            if _BINDING.get(operator, 0) <= floor:
                break
            self._place += is_written
            # A power binds to the right: 2^3^2 is 2^9.
            right = self.expression(_BINDING[operator] - (operator == "^"))
            left = Apply("*" if operator == "of" else operator, (left, right))
        self._depth -= 1
        return left

    def _operator(self) -> tuple[str, bool]:
        """The operator that follows, and whether it is written: it is not in 2 pi or 3(4 + 5)."""
        token = self.next
        if isinstance(token, str) and token in _BINDING:
            return token, True
        begins = token == "(" or token in CONSTANTS or token in FUNCTIONS
        return ("*", False) if begins else ("", False)

    def _operand(self) -> Node:
        token = self.next
        if token is None:
            raise ToolError("the sum ends where a number was expected", HINT)
        self._place += 1
        if isinstance(token, Fraction):
            return self._scaled(token)
        if token in ("-", "+"):
            operand = self.expression(_UNARY)
            return Apply("negative", (operand,)) if token == "-" else operand
        if token == "(":
            inner = self.expression(0)
            self._close()
            return inner
        if token in CONSTANTS:
            return CONSTANTS[token]
        if token in _SHARES:
            return Apply("*", (_SHARES[token], self.expression(_UNARY)))
        if token in FUNCTIONS:
            return Apply(token, self._arguments(token))
        if token[0].isalpha():
            raise ToolError(f"`{_shown(token)}` is no number and no function known here", HINT)
        raise ToolError(f"`{token}` stands where a number was expected", HINT)

    def _scaled(self, number: Fraction) -> Fraction:
        """3 million, 2.5 thousand."""
        for _ in range(2):
            if isinstance(self.next, str) and self.next in SCALES:
                number *= SCALES[self.next]
                self._place += 1
        return number

    def _arguments(self, name: str) -> tuple[Node, ...]:
        if self.next == "of":
            self._place += 1
        if self.next != "(":
            return (self.expression(_UNARY),)
        self._place += 1
        arguments = [self.expression(0)]
        while self.next == ",":
            self._place += 1
            arguments.append(self.expression(0))
        self._close()
        function = FUNCTIONS[name]
        if not function.least <= len(arguments) <= function.most:
            raise ToolError(f"`{name}` does not take {len(arguments)} numbers", HINT)
        return tuple(arguments)

    def _close(self) -> None:
        if self.next != ")":
            raise ToolError("a bracket of the sum is not closed", HINT)
        self._place += 1

    def _postfix(self, node: Node) -> Node:
        while isinstance(self.next, str) and self.next in _POSTFIX:
            name = self.next
            self._place += 1
            if name == "percent" and self._begins_operand():
                # A number follows: a remainder is asked for, as in 17 % 5.
                return Apply("mod", (node, self.expression(_BINDING["mod"])))
            node = Apply(name, (node,))
        return node

    def _begins_operand(self) -> bool:
        token = self.next
        return isinstance(token, Fraction) or token == "(" or token in CONSTANTS
