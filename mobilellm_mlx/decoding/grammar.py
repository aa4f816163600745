"""From a grammar to what the next token may be.

llguidance (Rust) follows the answer through the grammar; here its masks become arrays. Masks are
applied with plain MLX operations, so they work on every backend.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import InvalidGrammar
from mobilellm_mlx.grammar import Grammar, literal
from mobilellm_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""White space that is free to be or not to be costs a forward pass wherever it could be."""
_SPECIAL = b"\xff"
"""How llguidance knows a sign from text."""
_ANCHOR = "\x02"
"""A character that joins with no other into a token; see ``_Words``."""

FEW = 32
"""Possible tokens are few when this many times as many fit into the vocabulary. To read single rows
of a head takes far longer a row than to read all of it."""


class _Words:
    """A tokenizer as llguidance wants it: the bytes of every token, and a way to encode."""

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Collection[int]):
        self._tokenizer = tokenizer
        signs = {token: name for name, token in tokenizer.special.items()}
        self.tokens = [
            _SPECIAL + signs[token].encode() if token in signs else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        # A checkpoint may name ends that its tokenizer lacks. A model without any can end where its
        # grammar does; this id is never sampled.
        known = sorted(token for token in stop_tokens if 0 <= token < len(self.tokens))
        self.stops = known or [len(self.tokens)]
        if not known:
            self.tokens.append(_SPECIAL + b"<end>")
        self.special_token_ids = sorted({*signs, *self.stops})
        self.eos_token_id = self.stops[0]
        self.bos_token_id = None
        self._anchor = tokenizer.encode(_ANCHOR)

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids of a text that goes on from another one: sentencepiece puts a space before texts."""
        said = text if isinstance(text, str) else text.decode("utf-8", "replace")
        ids = self._tokenizer.encode(_ANCHOR + said)
        if ids[: len(self._anchor)] == self._anchor:
            return ids[len(self._anchor) :]
        return self._tokenizer.encode(said)


class GrammarCompiler:
    """Makes constraints for one vocabulary; making the compiler takes a fifth of a second.

    Args:
        tokenizer: of the model.
        stop_tokens: ids that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Collection[int]):
        from llguidance import LLTokenizer
        from llguidance._tokenizer import TokenizerWrapper

        self._size = tokenizer.vocab_size
        letter = b"".join(map(tokenizer.token_bytes, tokenizer.encode("a")))
        self._begins_spaced = letter == b" a"
        words = _Words(tokenizer, stop_tokens)
        self._words: LLTokenizer = LLTokenizer(TokenizerWrapper(words), eos_token=words.stops)

    def compile(self, grammar: Grammar) -> Constraint:
        """A constraint at the beginning of an answer.

        Raises:
            InvalidGrammar: when the grammar is malformed, too large, or has what is not supported.
        """
        from llguidance import LLMatcher

        try:
            parts = [{**_part(grammar), "name": "answer"}]
        except (ValueError, RecursionError) as error:
            raise _invalid(grammar, str(error)) from None
        if self._begins_spaced:
            parts.insert(0, _AFTER_SPACE)
        source = json.dumps({"grammars": parts})
        matcher = LLMatcher(self._words, source, log_level=0)
        if matcher.is_error():
            raise _invalid(grammar, matcher.get_error())
        return Constraint(matcher, self._size, begins_spaced=self._begins_spaced)


_AFTER_SPACE = {"lark_grammar": 'start: " "? @answer'}
"""A space that may stand before an answer: sentencepiece begins most texts with one, and without it
the tokens that such a model likes best at the beginning would be forbidden."""


def _part(grammar: Grammar) -> dict[str, Any]:
    """A grammar in llguidance's own notation."""
    from llguidance import LLMatcher

    match grammar.kind:
        case "json":
            options: Any = _COMPACT
            made = LLMatcher.grammar_from_json_schema(grammar.source, overrides=options)
        case "regex":
            made = LLMatcher.grammar_from_regex(grammar.source)
        case "choice":
            choices: list[str] = json.loads(grammar.source)
            return {"lark_grammar": f"start: {' | '.join(map(literal, choices))}"}
        case "lark":
            return {"lark_grammar": grammar.source}
    part: dict[str, Any] = json.loads(made)["grammars"][0]
    return part


_NAMES = {
    "json": "the JSON schema",
    "regex": "the regular expression",
    "choice": "the choice",
    "lark": "the grammar",
}


def _invalid(grammar: Grammar, reason: str) -> InvalidGrammar:
    lines = [line.strip() for line in reason.splitlines() if line.strip()] or ["it is empty"]
    # The parser of regular expressions draws a picture first.
    line = next((line for line in lines if line.startswith("error: ")), lines[0])
    line = line.removeprefix("error: ")
    line = line if len(line) <= 300 else f"{line[:297]}..."
    return InvalidGrammar(
        f"{_NAMES[grammar.kind]} cannot bind an answer: {line}",
        "docs/grammars.md says what is supported",
    )


class Constraint:
    """How far an answer has come through a grammar.

    Args:
        matcher: follows the answer.
        size: of the vocabulary that may be sampled from.
        begins_spaced: whether a space that is no part of the answer may stand before it.
    """

    def __init__(self, matcher: LLMatcher, size: int, *, begins_spaced: bool = False):
        self._matcher = matcher
        self.size = size
        self._mask: memoryview[int] | None = None
        self.begins_spaced = begins_spaced

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def is_whole(self) -> bool:
        """Whether what there is belongs to the grammar's language."""
        matcher = self._matcher
        return not matcher.is_error() and bool(matcher.is_stopped() or matcher.is_accepting())

    @property
    def forced(self) -> list[int]:
        """The tokens that come next without a choice, none of them taken yet."""
        return [] if self.is_over else list(self._matcher.compute_ff_tokens())

    @property
    def rows(self) -> mx.array | None:
        """Ids (C,) of the tokens that may come next, in order; None when they are not few."""
        words = self._words()
        allowed = int.from_bytes(words, sys.byteorder).bit_count()
        if allowed * FEW > self.size:
            return None
        ids = []
        for place, word in enumerate(words):
            while word:
                last = word & -word  # the lowest bit that is set
                ids.append(32 * place + last.bit_length() - 1)
                word ^= last
        ids = [token for token in ids if token < self.size]
        return mx.array(ids, mx.uint32) if ids else None

    def take(self, token: int) -> None:
        """The answer goes on with a token."""
        self._mask = None
        if not self._matcher.consume_token(token):
            self._check()

    def bind(self, logits: mx.array) -> mx.array:
        """Logits (V,) of the tokens there are, those of impossible ones at minus infinity.

        A model's vocabulary may be padded beyond its tokenizer's.
        """
        bits = mx.array(self._words())  # type: ignore[arg-type]  # (V / 32,)
        spread = (bits[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1  # (V / 32, 32)
        allowed = spread.reshape(-1)[: self.size] != 0  # (V,)
        return mx.where(allowed, logits[: self.size], -mx.inf)

    def _words(self) -> memoryview[int]:
        """A bit for each token, whether it may come next."""
        if self._mask is None:
            self._mask = memoryview(self._matcher.compute_bitmask()).cast("I")
            self._check()
        return self._mask

    def _check(self) -> None:
        """A grammar can turn out too complex on the way."""
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0][:300]
            raise InvalidGrammar(
                f"the grammar cannot be followed any further: {reason}", "use a simpler one"
            )
