"""One example as token ids."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import groupby

from mobilellm_mlx.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and which of them the model is to learn to say.

    Attributes:
        tokens: all ids, as an ``array("i")``.
        learned: one byte for each token, 1 where the loss counts the prediction of that token from
            those before it, else 0. The first one is always 0.
        source: ``file:line``, for messages.
        cut: tokens that were left out at the end because the example was too long.
    """

    tokens: array[int]
    learned: bytes
    source: str = ""
    cut: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def learned_count(self) -> int:
        """How many tokens count."""
        return self.learned.count(1)


def render_example(example: Example, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """An example as text again, in pieces with whether they are learned; special tokens by name."""
    names = {token: name for name, token in tokenizer.special.items()}
    pieces = []
    pairs = zip(example.tokens, example.learned, strict=True)
    for learned, run in groupby(pairs, key=lambda pair: pair[1]):
        parts = (
            names[token].encode() if token in names else tokenizer.token_bytes(token)
            for token, _ in run
        )
        pieces.append((b"".join(parts).decode("utf-8", "replace"), bool(learned)))
    return pieces
