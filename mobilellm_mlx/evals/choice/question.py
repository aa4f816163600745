"""A question with its answers, and the sequences of tokens that a model judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilellm_mlx.decoding.likelihood import Row
    from mobilellm_mlx.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What a model has to choose from.

    Attributes:
        pairs: context and continuation of each answer; the continuations are judged.
        gold: number of the right answer.
        lengths: of the answers, in characters, by which likelihoods are divided; None where
            answers are compared as they are.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int
    lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.pairs) < 2:
            raise ValueError("a question needs two answers to choose from")
        if not 0 <= self.gold < len(self.pairs):
            raise ValueError(f"answer {self.gold} is not one of {len(self.pairs)}")


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Row:
    """The tokens of a pair, the continuation judged.

    As lm-eval does it: spaces at the end of the context belong to the continuation, both are made
    into tokens together, and the tokens that the context alone would not have are judged. A model
    that sees texts begin with a token of its own gets it.

    Raises:
        ValueError: when there is nothing to judge.
    """
    from mobilellm_mlx.decoding.likelihood import Row  # and with it MLX

    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    before = [*tokenizer.prefix, *tokenizer.encode(stripped)]
    whole = [*tokenizer.prefix, *tokenizer.encode(stripped + continuation)]
    judged = min(len(whole) - len(before), len(whole) - 1)
    if judged < 1:
        raise ValueError(f"nothing is left to judge of {continuation!r} after its context")
    return Row(tuple(whole), judged)


def encode(tokenizer: Tokenizer, question: Question) -> list[Row]:
    """The rows of a question, one for each answer."""
    return [encode_pair(tokenizer, context, answer) for context, answer in question.pairs]


def scores(
    log_likelihoods: Sequence[float], question: Question, bytes_of_gold: int
) -> dict[str, float]:
    """Whether the right answer is the likeliest.

    ``acc`` compares log-likelihoods as they are, ``acc_norm`` divides them by the characters of
    the answers, both as lm-eval defines them (of equals the first counts). ``bits_per_byte`` is
    how many bits the right answer takes per byte of its text: it tells small changes of a model
    that choices do not show.
    """
    names = (
        ["acc", "bits_per_byte"]
        if question.lengths is None
        else ["acc", "acc_norm", "bits_per_byte"]
    )
    if any(map(math.isnan, log_likelihoods)):
        return dict.fromkeys(names, math.nan)
    found = {"acc": float(_likeliest(log_likelihoods) == question.gold)}
    if question.lengths is not None:
        pairs = zip(log_likelihoods, question.lengths, strict=True)
        normed = [value / max(length, 1) for value, length in pairs]
        found["acc_norm"] = float(_likeliest(normed) == question.gold)
    bits = -log_likelihoods[question.gold] / math.log(2)
    return {**found, "bits_per_byte": bits / max(bytes_of_gold, 1)}


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda at: (values[at], -at))
