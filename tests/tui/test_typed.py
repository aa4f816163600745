"""Calls typed by hand, from the text to the arguments."""

from __future__ import annotations

import pytest

from mobilellm_mlx.errors import InvalidInput
from tests.tui.calls import made
from tui.typed import main_argument, read_arguments, usage

TOOL = made(
    "convert",
    parameters={
        "type": "object",
        "properties": {
            "value": {"type": "number"},
            "unit": {"type": "string"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["value", "unit"],
        "additionalProperties": False,
    },
)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("", {}),
        ('{"value": 5, "unit": "km"}', {"value": 5, "unit": "km"}),
        ("value=5 unit=km", {"value": 5, "unit": "km"}),
        ('value=2.5 unit="square foot"', {"value": 2.5, "unit": "square foot"}),
        ("unit=square foot value=2", {"unit": "square foot", "value": 2}),
        ("value=1 exact=yes tags=a,b", {"value": 1, "exact": True, "tags": ["a", "b"]}),
        ("""value=1 tags='["a"]'""", {"value": 1, "tags": ["a"]}),
        ("5", {"value": 5}),
        ("five", {"value": "five"}),
        ("value", {"value": "value"}),
    ],
)
def test_json_pairs_and_the_main_argument_alone_are_read(typed, meant):
    assert read_arguments(TOOL, typed) == meant


def test_a_text_with_signs_of_its_own_is_taken_as_it_is():
    note = made("note")
    assert read_arguments(note, "don't forget: a=b") == {"text": "don't forget: a=b"}
    assert read_arguments(note, 'say "hi"') == {"text": 'say "hi"'}


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("{value: 5}", "not JSON"),
        ("value=5 unti=km", "no argument `unti`"),
        ('value=5 unit="km', "quotation mark is not closed"),
        ("{" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_usage(typed, why):
    with pytest.raises(InvalidInput, match=why) as caught:
        read_arguments(TOOL, typed)
    assert caught.value.hint == "/tool convert value=… unit=… [exact]=… [tags]=…"


def test_a_tool_without_arguments_takes_nothing():
    bare = made("bare", parameters={"type": "object", "properties": {}})
    assert main_argument(bare) is None and usage(bare) == "/tool bare"
    with pytest.raises(InvalidInput, match="takes nothing"):
        read_arguments(bare, "x")
