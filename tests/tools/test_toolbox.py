"""Tools by name, and those that are worth offering, with the values that exist now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools import relevance
from mobilellm_mlx.tools.tool import Tool
from mobilellm_mlx.tools.toolbox import MAX_LIVE, Toolbox


def a_tool(name: str = "open_door", **more: Any) -> Tool:
    properties = more.pop("properties", {"name": {"type": "string", "maxLength": 9}})
    schema = {
        "type": "object",
        "properties": properties,
        "required": more.pop("required", list(properties)),
        "additionalProperties": False,
    }
    return Tool(name, "Act.", schema, lambda arguments, cancel: "", **more)


def enum(values: Callable[[], Sequence[Any]], said: str = "") -> list[str]:
    """What the argument may be."""
    tool = a_tool(live={"name": values})
    schema: dict[str, Any] = Toolbox([tool]).live_schema(tool, said)
    found: list[str] = schema["properties"]["name"]["enum"]
    return found


def test_two_tools_of_one_name_are_refused_with_their_sources() -> None:
    with pytest.raises(ToolError, match=r"called `a`: one of builtin, one of file:/x"):
        Toolbox([a_tool("a"), a_tool("a", source="file:/x")])


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    box = Toolbox([a_tool("calculator"), a_tool("add_note")])
    assert box.find("add_note").name == "add_note"
    with pytest.raises(ToolError) as raised:
        box.find("calculatr")
    assert raised.value.hint == "did you mean `calculator`?"


def test_tools_that_cannot_be_used_here_are_never_offered() -> None:
    box = Toolbox([a_tool("open_door", keywords=("door",), missing="there is no door")])
    assert box.offer("open the door") == box.offer_all("open the door") == []
    assert box.find("open_door").missing


def test_at_most_so_many_are_offered_and_all_when_all_are_wanted() -> None:
    box = Toolbox([a_tool(f"door_{n}", keywords=("door",)) for n in range(9)])
    assert len(box.offer("open the door")) == 5
    assert len(box.offer("open the door", limit=2)) == 2
    assert len(box.offer_all("nothing of the kind")) == 9
    assert box.offer("nothing of the kind") == []


def test_a_tool_without_anything_to_use_it_on_makes_room_for_the_next() -> None:
    empty = a_tool("door_a", keywords=("door",), live={"name": list})
    other = a_tool("door_b", keywords=("door",))
    assert [each.tool for each in Toolbox([empty, other]).offer("the door", limit=1)] == [other]


def test_live_values_become_an_enum_and_the_tool_stays_as_it_is() -> None:
    tool = a_tool(live={"name": lambda: ["front", "back", "front"]})
    before = json.dumps(tool.parameters)
    schema = Toolbox([tool]).live_schema(tool)
    assert schema["properties"]["name"] == {"type": "string", "enum": ["front", "back"]}
    assert json.dumps(tool.parameters) == before


def test_the_items_of_a_list_are_bound_as_well() -> None:
    kinds = {"names": {"type": "array", "items": {"type": "string"}, "maxItems": 2}}
    tool = a_tool(properties=kinds, live={"names": lambda: ["front"]})
    assert Toolbox([tool]).live_schema(tool)["properties"]["names"] == {
        "type": "array",
        "items": {"type": "string", "enum": ["front"]},
        "maxItems": 2,
    }


def test_an_argument_that_may_be_left_out_is_left_out_when_nothing_exists() -> None:
    tool = a_tool(required=[], live={"name": list})
    assert Toolbox([tool]).live_schema(tool)["properties"] == {}


def test_one_that_is_needed_is_an_error_and_so_are_values_that_fail() -> None:
    with pytest.raises(ToolError, match="there is nothing now that `open_door`"):
        enum(list)
    with pytest.raises(ToolError, match="`name` of `open_door` has no values now"):
        enum(lambda: [][0])


def test_values_that_cannot_be_said_are_left_out() -> None:
    odd = ["", "a\nb", "\x1b[31m", "\udce4", "x" * 201, 3, None, b"x", "fine"]
    assert enum(lambda: odd) == ["fine"]


def test_of_too_many_values_those_that_were_named_are_kept_first() -> None:
    many = [f"door {n}" for n in range(1_000)] + ["garden gate"]
    kept = enum(lambda: many, "open the garden gate please")
    assert len(kept) == MAX_LIVE
    assert kept[0] == "garden gate"
    assert enum(lambda: many[:MAX_LIVE], "door") == many[:MAX_LIVE]


def test_a_schema_of_somebody_else_gets_limits_before_a_model_is_bound_to_it() -> None:
    tool = a_tool(properties={"text": {"type": "string"}, "share": {"type": "number"}})
    made = Toolbox([tool]).live_schema(tool)["properties"]
    assert made["text"]["maxLength"] and made["share"]["multipleOf"]


def a_call(**more: Any) -> Tool:
    properties = {"door": {"type": "string"}, "way": {"type": "string", "maxLength": 9}}
    return a_tool(properties=properties, required=["door"], **more)


def test_an_argument_that_was_asked_for_is_needed_and_gone_where_it_was_not() -> None:
    tool = a_call(cues={"way": r"\bslowly|quickly\b"})
    box = Toolbox([tool])
    asked = box.schema_for(tool, "open it SLOWLY")
    assert asked["required"] == ["door", "way"]
    unasked = box.schema_for(tool, "open it")
    assert unasked["required"] == ["door"] and list(unasked["properties"]) == ["door"]
    assert box.schema_for(tool, "") == box.live_schema(tool)
    assert tool.parameters["required"] == ["door"] and "way" in tool.parameters["properties"]


def test_a_cue_without_anything_that_was_heard_is_no_cue() -> None:
    tool = a_call(cues={"way": "how"}, heard={"way": lambda said: said.split("how ")[1:]})
    schema = Toolbox([tool]).schema_for(tool, "open it, how slowly")
    assert schema["properties"]["way"]["enum"] == ["slowly"] and "way" in schema["required"]
    schema = Toolbox([tool]).schema_for(tool, "open it somehow")
    assert "way" not in schema["properties"] and schema["required"] == ["door"]


def test_what_is_heard_is_all_that_can_be_said_and_nothing_heard_leaves_the_rest() -> None:
    tool = a_tool(live={"name": lambda: ["a", "b"]}, heard={"name": lambda said: said.split()[1:]})
    box = Toolbox([tool])
    assert box.schema_for(tool, "open b")["properties"]["name"]["enum"] == ["b"]
    assert box.schema_for(tool, "open")["properties"]["name"]["enum"] == ["a", "b"]
    assert box.schema_for(tool, "open \x1b \ud800")["properties"]["name"]["enum"] == ["a", "b"]


def test_a_model_is_offered_what_was_heard_and_a_call_by_hand_is_not_bound_to_it() -> None:
    tool = a_call(keywords=("door",), cues={"way": "slowly"})
    box = Toolbox([tool])
    assert list(box.offer("open the door")[0].schema["properties"]) == ["door"]
    assert "way" in box.live_schema(tool, '{"way": "fast"}')["properties"]


def test_what_was_said_is_read_once_however_many_values_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    words = relevance.words

    def watched(text: str) -> Any:
        read.append(text)
        return words(text)

    monkeypatch.setattr(relevance, "words", watched)
    said = "please open the garden gate"
    assert enum(lambda: [f"door {n}" for n in range(1_000)], said)
    assert read.count(said) == 1
    assert len(read) < 1_010  # each value once, and the tool's own words
