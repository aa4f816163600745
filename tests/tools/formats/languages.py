"""What the tests of formats share: tools, and grammars walked byte by byte."""

from __future__ import annotations

import random
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Tool

END = 256


class _Bytes:
    """One token for each byte."""

    tokens = [*(bytes([byte]) for byte in range(256)), b"\xff<end>"]  # noqa: RUF012
    special_token_ids = [END]  # noqa: RUF012
    eos_token_id = END
    bos_token_id = None

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


_TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()))


def offer(name: str, schema: dict[str, Any], **flags: Any) -> Offered:
    """A tool that does nothing, offered with its own schema."""
    tool = Tool(name, f"Do {name}.", schema, lambda arguments, cancel: "", **flags)
    return Offered(tool, schema)


def object_of(
    properties: dict[str, Any], required: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    """The schema of an object without additional properties; all are required unless said."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


ALARM = offer(
    "alarm",
    object_of(
        {
            "time": {"type": "string", "maxLength": 20},
            "days": {"type": "array", "items": {"enum": ["mon", "tue"]}, "maxItems": 2},
            "loud": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]},
            "volume": {"type": "integer", "minimum": 1, "maximum": 10},
        },
        ["time"],
    ),
)
NEWS = offer("news", object_of({"query": {"type": "string", "enum": ["alien news", 'a "b" c']}}))
CLOCK = offer("clock", object_of({}))
OFFERED = [ALARM, NEWS, CLOCK]


def matcher(grammar: Grammar) -> LLMatcher:
    """Follows a text through a grammar in Lark's notation."""
    assert grammar.kind == "lark"
    found = LLMatcher(_TOKENIZER, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
    assert not found.is_error(), found.get_error()
    return found


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether a text belongs to the grammar's language."""
    follower = matcher(grammar)
    taken = follower.try_consume_tokens(list(text.encode()))
    return taken == len(text.encode()) and (follower.is_stopped() or follower.is_accepting())


def sample(grammar: Grammar, seed: int, longest: int = 1500) -> str | None:
    """A random text of the grammar's language; None when it did not end in time."""
    follower, draw, said = matcher(grammar), random.Random(seed), bytearray()
    while not follower.is_stopped() and len(said) < longest:
        if forced := follower.compute_ff_tokens():
            assert follower.consume_tokens(forced)
            said += bytes(forced)
            continue
        bits = follower.compute_bitmask()
        allowed = [token for token in range(END) if bits[token // 8] >> token % 8 & 1]
        if follower.is_accepting() and (not allowed or draw.random() < 0.3):
            return said.decode()
        # Ends of texts and calls are likelier than chance would have them.
        ends = [token for token in allowed if token in b'"])}\n']
        token = draw.choice(ends if ends and draw.random() < 0.3 else allowed)
        assert follower.consume_token(token), follower.get_error()
        said.append(token)
    return said.decode() if follower.is_stopped() and not follower.is_error() else None
