"""Questions, the tokens that are judged, and the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.evals.choice.question import Question, encode, encode_pair, scores
from mobilellm_mlx.testing import ByteTokenizer
from mobilellm_mlx.tokenizer import Tokenizer

PAIRS = (("Q", " a"), ("Q", " bcd"), ("Q", " ef"))


class Greedy(Tokenizer):
    """Takes the longest word it knows, as those do that join a space to the next word."""

    WORDS = ("ice cream", " ice", " cream", "ice", " ", "It", "is", ":", "\n")
    vocab_size = len(WORDS)
    special = {}  # noqa: RUF012

    def __init__(self, *prefix: int):
        self.prefix = prefix

    def encode(self, text: str) -> list[int]:
        found = []
        while text:
            at, word = next((i, one) for i, one in enumerate(self.WORDS) if text.startswith(one))
            found.append(at)
            text = text[len(word) :]
        return found

    def token_bytes(self, token: int) -> bytes:
        return self.WORDS[token].encode()


def judged(context: str, continuation: str, tokenizer: Tokenizer | None = None) -> list[str]:
    tokenizer = tokenizer or Greedy()
    row = encode_pair(tokenizer, context, continuation)
    return [tokenizer.decode([token]) for token in row.tokens[-row.judged :]]


def test_a_question_has_at_least_two_answers_and_one_is_right() -> None:
    with pytest.raises(ValueError, match="two answers"):
        Question(PAIRS[:1], 0)
    for gold in (-1, 3):
        with pytest.raises(ValueError, match="not one of 3"):
            Question(PAIRS, gold)


def test_the_continuation_is_judged_and_the_context_read() -> None:
    row = encode_pair(Greedy(), "It:", " ice cream")
    assert Greedy().decode(row.tokens) == "It: ice cream"
    assert judged("It:", " ice cream") == [" ice", " cream"]


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation() -> None:
    assert judged("It: ", "ice cream") == judged("It:", " ice cream")
    assert judged("It:\n", "ice") == ["\n", "ice"]


def test_both_are_made_into_tokens_together() -> None:
    # "ice" and " cream" join: what the context alone would not have is one token less.
    assert judged("It:ice", " cream:") == [":"]


def test_nothing_left_to_judge_is_said() -> None:
    with pytest.raises(ValueError, match="nothing is left to judge of ' cream'"):
        encode_pair(Greedy(), "It:ice", " cream")  # "ice cream" is one token, as "ice" is


def test_a_token_that_begins_every_text_is_read_and_not_judged() -> None:
    row = encode_pair(Greedy(5), "It", " ice")
    assert (row.tokens, row.judged) == ((5, 5, 1), 1)
    assert encode_pair(Greedy(5), "", "ice").judged == 1


def test_the_first_token_of_all_is_not_judged() -> None:
    assert judged("", "It ice") == [" ice"]
    with pytest.raises(ValueError, match="nothing is left"):
        encode_pair(Greedy(), "", "It")


def test_a_question_has_a_row_for_each_answer() -> None:
    rows = encode(ByteTokenizer(), Question(PAIRS, 0))
    assert [row.judged for row in rows] == [2, 4, 3]


def test_raw_and_normed_accuracy_may_differ() -> None:
    question = Question(PAIRS, 1, (1, 3, 2))
    assert scores([-2.0, -4.5, -4.0], question, 4) == {
        "acc": 0.0,
        "acc_norm": 1.0,
        "bits_per_byte": pytest.approx(4.5 / math.log(2) / 4),
    }


def test_without_lengths_there_is_no_normed_accuracy() -> None:
    assert set(scores([-1.0, -2.0, -3.0], Question(PAIRS, 0), 2)) == {"acc", "bits_per_byte"}


def test_the_first_of_equals_counts() -> None:
    for gold, acc in ((0, 1.0), (1, 0.0), (2, 0.0)):
        found = scores([-2.0, -2.0, -2.0], Question(PAIRS, gold, (2, 2, 2)), 1)
        assert (found["acc"], found["acc_norm"]) == (acc, acc)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_nan_makes_every_score_of_a_question_nan(at: int) -> None:
    values = [-1.0, -2.0, -3.0]
    values[at] = math.nan
    for lengths in (None, (1, 1, 1)):
        found = scores(values, Question(PAIRS, 0, lengths), 2)
        assert found and all(map(math.isnan, found.values()))


def test_an_impossible_right_answer_has_infinitely_many_bits() -> None:
    found = scores([-math.inf, -2.0, -3.0], Question(PAIRS, 0, (1, 1, 1)), 2)
    assert (found["acc"], found["bits_per_byte"]) == (0.0, math.inf)


@given(
    st.lists(st.tuples(st.floats(-1e3, 0), st.integers(1, 200)), min_size=2, max_size=6),
    st.data(),
)
def test_scores_are_those_of_the_harness(
    answers: list[tuple[float, int]], data: st.DataObject
) -> None:
    gold = data.draw(st.integers(0, len(answers) - 1))
    values, lengths = zip(*answers, strict=True)
    found = scores(values, Question((("", " "),) * len(answers), gold, lengths), 1)
    assert found["acc"] == float(np.argmax(values) == gold)
    assert found["acc_norm"] == float(np.argmax(np.array(values) / np.array(lengths)) == gold)
