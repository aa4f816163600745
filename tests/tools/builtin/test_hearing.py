"""Values read out of what somebody said."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin.hearing import named, readings, topics, trimmed


def number(text: str) -> None:
    if not text.replace(" ", "").isdigit():
        raise ToolError("no number")


def test_the_longest_runs_are_taken_in_the_order_they_stand_in() -> None:
    assert readings("of 1 2 3, or (45) and 6 7.", number) == ["1 2 3", "45", "6 7"]
    assert readings("none", number) == readings("", number) == []


def test_words_that_only_lead_to_a_value_are_left_out_unless_they_belong() -> None:
    def anything(_: str) -> None:
        return

    assert readings("at the door", anything) == ["door"]
    assert readings("the door", anything, belong=frozenset(("the",))) == ["the door"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("is it late in new york?", ["New York"]),
        ("from Oslo to York, or New York", ["Oslo", "York", "New York"]),
        ("yorkshire", []),
        ("the TAXES folder", ["Documents/taxes"]),
    ],
)
def test_values_are_named_by_whole_words_and_the_longest_counts(
    said: str, found: list[str]
) -> None:
    values = ["York", "New York", "Oslo", "Documents/taxes"]
    assert sorted(named(values, said)) == sorted(found)


@pytest.mark.parametrize(
    ("said", "topic"),
    [
        ("what did we say about rust?", "rust"),
        ("what did we talk about last week regarding Lisbon?", "Lisbon"),
        ("look for the word passport in my documents", "passport"),
        ("Which of my files mention the boiler?", "boiler"),
        ("find it", None),
        ("tell me about", None),
    ],
)
def test_a_topic_stands_behind_the_words_for_one(said: str, topic: str | None) -> None:
    assert topics(said) == ([topic] if topic else [])


def test_marks_of_feet_and_inches_are_no_punctuation() -> None:
    assert trimmed("“5'11\",") == "5'11\""
    assert trimmed("(words).") == "words"


@given(st.text(max_size=300))
def test_hearing_never_fails(said: str) -> None:
    for text in (*readings(said, number), *topics(said), *named(["a", "b c"], said)):
        assert text


def test_hearing_is_quick_whatever_was_said() -> None:
    for said in ("about " * 400, "1 " * 1_000, "for the " * 300, "in " * 700):
        started = time.perf_counter()
        readings(said, number)
        topics(said)
        named(["York"] * 700, said)
        assert time.perf_counter() - started < 1
