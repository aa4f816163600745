"""Rouge against values worked out by hand."""

import pytest

from mobilellm_mlx.evals.rouge import longest_common, rouge_1, rouge_l, words


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert words("It's 7:30 AM, naïve_one!") == ["it", "s", "7", "30", "am", "naïve", "one"]


@pytest.mark.parametrize(
    ("said", "reference", "one", "longest"),
    [
        # Lin (2004), section 3.1: the police killed the gunman.
        ("police kill the gunman", "police killed the gunman", 0.75, 0.75),
        ("the gunman kill police", "police killed the gunman", 0.75, 0.5),
        ("Timer set.", "timer SET", 1.0, 1.0),
        ("the the the", "the cat", 0.4, 0.4),
        ("", "the cat", 0.0, 0.0),
        ("!?", "", 0.0, 0.0),
    ],
)
def test_known_pairs(said: str, reference: str, one: float, longest: float) -> None:
    assert rouge_1(said, reference) == pytest.approx(one)
    assert rouge_l(said, reference) == pytest.approx(longest)


def test_a_common_sequence_may_have_gaps() -> None:
    assert longest_common("ABCBDAB", "BDCABA") == 4
