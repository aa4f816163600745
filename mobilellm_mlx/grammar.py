"""What an answer may look like, said so that it cannot look otherwise.

A grammar is plain data and crosses threads; ``decoding.grammar`` makes a constraint of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm_mlx.errors import InvalidGrammar

Kind = Literal["json", "regex", "choice", "lark"]

MAX_SOURCE = 400_000
"""Characters of a grammar; a schema with a thousand live values is far below."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A language that an answer has to belong to.

    Attributes:
        kind: ``json``: a JSON Schema, whose values are written without white space; ``regex``;
            ``choice``: one of several texts, as a JSON list; ``lark``: Lark's notation with what
            llguidance adds to it (``%json``, ``%regex``, ``[lazy]``).
        source: in that notation.
    """

    kind: Kind
    source: str

    def __post_init__(self) -> None:
        if len(self.source) > MAX_SOURCE:
            raise InvalidGrammar(
                f"the grammar has {len(self.source):,} characters, at most {MAX_SOURCE:,} are taken"
            )


def json_grammar(schema: Mapping[str, Any] | bool) -> Grammar:
    """JSON values that a schema allows.

    Args:
        schema: a JSON Schema.
    """
    return Grammar("json", json.dumps(schema, ensure_ascii=False))


def regex_grammar(pattern: str) -> Grammar:
    """Texts that a regular expression matches from end to end."""
    return Grammar("regex", pattern)


def choice_grammar(choices: Sequence[str]) -> Grammar:
    """One of several texts.

    Raises:
        InvalidGrammar: when there is nothing to choose.
    """
    if not choices or not all(choices):
        raise InvalidGrammar("a choice needs texts to choose from, none of them empty")
    return Grammar("choice", json.dumps(list(choices), ensure_ascii=False))


def literal(text: str) -> str:
    """A text as a grammar in Lark's notation writes it."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def lark_grammar(source: str) -> Grammar:
    """Texts that a grammar in Lark's notation allows; its first rule is ``start``."""
    return Grammar("lark", source)
