"""Sentencepiece models for tests: trained on a few lines, or written piece by piece."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from sentencepiece import SentencePieceTrainer

BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
START = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]

LLAMA_LIKE = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}
WORDS = ["the", "quick", "haha", "banana", "===", "foo", "\u65e5", "12", "  ", "    ", "\n"]


def lines(seed: int = 0) -> list[str]:
    """Words, periodic strings and indented code."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(300)]
    texts += [rng.choice(["ab", "ha", "=", "aba"]) * rng.randint(2, 9) for _ in range(80)]
    return texts + [f"return{' ' * rng.randint(1, 12)}x" for _ in range(80)]


def train(**options: Any) -> bytes:
    """A BPE model of some 340 pieces, unless the options say otherwise."""
    out = io.BytesIO()
    options = {"model_type": "bpe", "vocab_size": 340, **options}
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_writer=out,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **options,
    )
    return out.getvalue()


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def numbers(values: Mapping[int, int]) -> bytes:
    """Fields of whole numbers."""
    return b"".join(varint(number << 3) + varint(value) for number, value in values.items())


def write(
    pieces: Iterable[tuple[str, float, int]],
    trainer: Mapping[int, int] | None = None,
    normaliser: Mapping[int, int] | None = None,
) -> bytes:
    """A model with these pieces: text, score, kind.

    By default BPE with byte fallback that keeps all spaces and puts one before a text.
    """
    out = b""
    for text, score, kind in pieces:
        fields = message(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += message(1, fields + numbers({3: kind}))
    out += message(2, numbers({3: 2, 35: 1, **(trainer or {})}))
    return out + message(3, numbers({3: 1, 4: 0, 5: 1, **(normaliser or {})}))


def vocabulary(scores: Mapping[str, float]) -> list[tuple[str, float, int]]:
    """Everything that a model with byte fallback needs, and these pieces with their characters."""
    single = sorted({"\u2581", *"".join(scores)} - scores.keys())
    characters = [(text, -1e6 - i, 1) for i, text in enumerate(single)]
    return [*START, *BYTES, *((text, score, 1) for text, score in scores.items()), *characters]
