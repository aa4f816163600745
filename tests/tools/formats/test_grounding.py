"""Arguments bound to what was said can be nothing else."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mobilellm_mlx.grammar import MAX_SOURCE
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.formats.grounding import MAX_CHARACTERS, ground, pieces
from mobilellm_mlx.tools.tool import Call
from tests.tools.formats.languages import accepts, object_of, offer

NOTE = object_of({"text": {"type": "string", "maxLength": 40}, "pinned": {"type": "boolean"}})


def test_a_piece_is_a_run_of_whole_words_without_the_punctuation_around_it() -> None:
    assert pieces('Note: "buy milk", now!') == [
        "Note",
        'Note: "buy',
        'Note: "buy milk',
        'Note: "buy milk", now',
        "buy",
        "buy milk",
        'buy milk", now',
        "milk",
        'milk", now',
        "now",
    ]


def test_sums_can_be_copied_as_they_are() -> None:
    assert pieces("Calculate (4.5 + 3) / 2, please.")[0] == "Calculate"
    for expression in ("(4.5 + 3) / 2", "(4.5 + 3)", "sqrt(2)", ".5 * -3", "5!", "15% of 80"):
        found = pieces(f"What is {expression}?")
        assert expression in found, expression
    assert "4.5" in pieces("What is (4.5 + 3) / 2?")


def test_nothing_said_leaves_nothing_to_copy() -> None:
    assert pieces("") == []
    assert pieces(" \n ?! ") == []
    assert ground(NOTE, {"text"}, " ?! ") == NOTE


def test_a_spoken_argument_is_one_of_the_pieces_and_the_others_stay() -> None:
    bound = ground(NOTE, {"text"}, "Buy milk")["properties"]

    assert bound["text"]["enum"] == ["Buy", "Buy milk", "milk"]
    assert bound["pinned"] == {"type": "boolean"}
    assert "enum" not in NOTE["properties"]["text"]


def test_pieces_that_the_schema_refuses_are_left_out() -> None:
    schema = object_of({"n": {"type": "string", "pattern": "^[0-9]+$", "minLength": 2}})

    assert ground(schema, {"n"}, "room 7 or 12 or x12")["properties"]["n"]["enum"] == ["12"]


def test_lists_and_choices_of_texts_are_bound_inside() -> None:
    schema = object_of(
        {
            "words": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        }
    )
    grammar = find_format("hermes").grammar(
        [offer("find", ground(schema, {"words", "maybe"}, "red wine"))], free_text=False
    )

    def allows(**arguments: object) -> bool:
        return accepts(grammar, find_format("hermes").render_calls([Call("find", arguments)]))

    assert allows(words=["red", "wine"], maybe=None)
    assert allows(words=[], maybe="red wine")
    assert not allows(words=["beer"], maybe=None)
    assert not allows(words=[], maybe="white wine")


@given(st.text(max_size=80))
@settings(max_examples=40)
def test_every_piece_of_any_text_can_be_said_and_nothing_else(said: str) -> None:
    format = find_format("paper")
    grammar = format.grammar(
        [offer("note", ground(NOTE, {"text"}, said)), offer("other", object_of({}))],
        free_text=False,
    )
    found = [piece for piece in pieces(said) if len(piece) <= 40]

    for piece in [*found[:2], *found[-2:]]:
        assert accepts(
            grammar, format.render_calls([Call("note", {"text": piece, "pinned": True})])
        )
    if found:
        stranger = Call("note", {"text": "zzz" + found[0], "pinned": True})
        assert not accepts(grammar, format.render_calls([stranger]))


def test_a_long_text_stays_within_bounds_and_can_be_copied_to_the_end_of_a_sentence() -> None:
    sentence = " ".join(f"word{index}" for index in range(60)) + "."
    found = pieces(f"Note {sentence} " + "more words " * 2000)

    assert sum(map(len, found)) <= MAX_CHARACTERS
    assert pieces("Note " + sentence)[0] == "Note"
    assert sentence.rstrip(".") in pieces("Note " + sentence)
    schema = ground(object_of({"a": {"type": "string"}, "b": {"type": "string"}}), {"a", "b"}, "x")
    assert len(json.dumps(schema)) < MAX_SOURCE


def test_no_piece_spans_what_was_left_out_of_a_long_text() -> None:
    found = pieces(" ".join(f"w{index}" for index in range(1000)))

    assert "w0" in found and "w999" in found and "w500" not in found
    assert all(
        int(after[1:]) == int(before[1:]) + 1
        for piece in found
        for before, after in pairwise(piece.split())
    )


def test_a_word_without_end_is_left_out() -> None:
    assert pieces("a " + "b" * 100_000 + " c") == ["a", "a c", "c"]


def test_rows_of_punctuation_take_no_time() -> None:
    assert pieces(" ".join(["Contents", *["." * 200] * 100, "end"]))[0] == "Contents"
