"""Home Assistant's sentences: drawn by us, labelled by the templates, checked by hassil."""

import random
import sys
from typing import Any

import pytest

from mobilellm_mlx.errors import InvalidInput, InvalidOption, ToolError
from mobilellm_mlx.evals.calls import rooms
from mobilellm_mlx.evals.calls.home import Home, HomeTask, Utterance, split, talk_of, tool_name
from mobilellm_mlx.evals.calls.normal import normalised
from mobilellm_mlx.evals.calls.replies import render_reply
from mobilellm_mlx.evals.calls.walker import Walker
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.toolbox import Toolbox

SAMPLED = 60


def utterances(sentences: Home, count: int) -> list[Utterance]:
    """Sentences of templates from everywhere in the data."""
    calls = [one for one in sentences.templates if one.intent not in rooms.NOT_TOOLS]
    chosen = random.Random(7).sample(calls, count)
    return [sentences.say(one, random.Random(one.text)) for one in chosen]


def test_a_walk_takes_one_way_through_a_template() -> None:
    filled: list[tuple[str, str]] = []

    def fill(name: str, slot: str, draw: random.Random) -> str:
        filled.append((name, slot))
        return "7"

    walker = Walker({"turn": "(turn|switch)"})
    said = {
        walker.walk("<turn> (on;[now]) [the] lamp[s] to {level:brightness}", random.Random(n), fill)
        for n in range(200)
    }
    assert "turn on now the lamps to 7" in said
    assert "switch now on lamp to 7" in said
    assert len(said) == 2 * 3 * 2 * 2
    assert set(filled) == {("level", "brightness")}


@pytest.mark.parametrize("rules", [{"a": "<a>"}, {}])
def test_rules_that_lead_nowhere_are_refused(rules: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="rule"):
        Walker(rules).walk("<a>", random.Random(0), lambda *_: "")


def test_all_of_the_data_is_used(sentences: Home) -> None:
    assert len(sentences.templates) > 800
    assert {tool.name for tool in sentences.tools.values()} >= {
        "turn_on",
        "light_set",
        "start_timer",
    }
    assert tool_name("HassClimateGetTemperature") == "climate_get_temperature"


def test_every_sentence_fits_the_tool_it_is_the_label_of(sentences: Home) -> None:
    toolbox = Toolbox(sentences.tools.values())
    schemas = {tool.name: toolbox.live_schema(tool) for tool in toolbox.tools}
    for template in sentences.templates[::3]:
        one = sentences.say(template, random.Random(template.text))
        assert one.said
        if tool := sentences.tools.get(template.intent):
            assert check_arguments(tool, one.slots, schemas[tool.name]) == one.slots


def test_hassil_hears_the_same_in_the_sentences(sentences: Home) -> None:
    from hassil.intents import Intents, TextSlotList
    from hassil.recognize import recognize_all

    def listed(values: Any) -> TextSlotList:
        return TextSlotList.from_tuples(values)

    names = [
        (name, name, {"domain": domain}) for domain, some in rooms.NAMES.items() for name in some
    ]
    lists = {
        "name": listed(names),
        "area": listed((one, one) for one in rooms.AREAS),
        "floor": listed((one, one) for one in rooms.FLOORS),
        "zone": listed((one, one) for one in rooms.WORDS["zone"]),
    }
    intents = Intents.from_dict(sentences.data)
    same_intent = same_slots = 0
    for one in utterances(sentences, SAMPLED):
        # Who speaks stands somewhere; that room is no slot of ours, for nobody says it.
        heard = list(
            recognize_all(one.said, intents, slot_lists=lists, intent_context={"area": "attic"})
        )
        labels = [
            {
                name: entity.value
                for name, entity in each.entities.items()
                if entity.value != "attic"
            }
            for each in heard
            if each.intent.name == one.template.intent
        ]
        same_intent += bool(labels)
        same_slots += any(normalised(label) == normalised(one.slots) for label in labels)
    assert same_intent >= 0.97 * SAMPLED
    assert same_slots >= 0.95 * SAMPLED


def test_no_template_stands_on_two_sides(sentences: Home) -> None:
    texts = {
        side: {one.text for some in sentences.of_side(side).values() for one in some}
        for side in ("train", "dev", "test")
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    assert sum(map(len, texts.values())) == len({one.text for one in sentences.templates})
    assert 0.6 < len(texts["train"]) / sum(map(len, texts.values())) < 0.75


def test_every_tool_is_tested(sentences: Home) -> None:
    assert set(sentences.tools) <= set(sentences.of_side("test"))


def test_a_template_of_two_intents_is_on_one_side() -> None:
    sides = split({"A": [f"a{n}" for n in range(9)] + ["both"], "B": ["both", "b"]})
    assert set(sides) == {*(f"a{n}" for n in range(9)), "both", "b"}
    assert sides == split({"B": ["b", "both"], "A": ["both", *(f"a{n}" for n in range(9))]})


def test_talk_is_on_one_side_too() -> None:
    sides = [set(talk_of(side)) for side in ("train", "dev", "test")]
    assert set.union(*sides) == set(rooms.SMALL_TALK)
    assert sum(map(len, sides)) == len(rooms.SMALL_TALK) == len(set(rooms.SMALL_TALK))


def test_examples_of_a_tool_are_of_the_training_side(sentences: Home) -> None:
    train = {
        sentences.say(one, random.Random(f"example {one.intent} {one.text}")).said
        for some in sentences.of_side("train").values()
        for one in some
    }
    said = [each.said for tool in sentences.tools.values() for each in tool.examples]
    assert said and set(said) <= train


def test_requests_are_the_same_every_time_and_a_limit_is_a_beginning(sentences: Home) -> None:
    task = HomeTask(sentences)
    some = task.requests(30, 4)
    assert [(r.payload.said, r.gold) for r in some] == [
        (r.payload.said, r.gold) for r in HomeTask(Home()).requests(60, 4)[:30]
    ]
    assert [r.payload.said for r in some] != [r.payload.said for r in task.requests(30, 5)]


def test_the_right_tool_is_on_offer_among_others(sentences: Home) -> None:
    requests = HomeTask(sentences, offer=4).requests(60, 0)
    for request in requests:
        names = [one.tool.name for one in request.payload.offered]
        assert len(set(names)) == 4
        assert {call.name for call in request.gold.calls} <= set(names)
    assert {request.category for request in requests} >= {"none", "turn_on"}
    assert sum(not request.gold.calls for request in requests) == 10
    assert len({request.payload.said for request in requests}) == 60


def test_tools_can_be_those_that_the_filter_finds(sentences: Home) -> None:
    task = HomeTask(sentences, choice="filter")
    requests = task.requests(60, 0)
    sizes = {len(request.payload.offered) for request in requests}
    assert max(sizes) <= 5 < len(sentences.tools)
    assert min(len(r.payload.offered) for r in requests if not r.gold.calls) == 0


def test_values_of_the_house_are_live(sentences: Home) -> None:
    request = HomeTask(sentences).requests(1, 0)[0]
    for one in request.payload.offered:
        for name in set(one.tool.live) & {"area"}:
            assert one.schema["properties"][name]["enum"] == list(rooms.AREAS)


def test_tools_of_data_are_never_run(sentences: Home) -> None:
    import threading

    with pytest.raises(ToolError, match="never run"):
        sentences.tools["HassTurnOn"].run({}, threading.Event())


def test_offering_nothing_is_refused(sentences: Home) -> None:
    with pytest.raises(InvalidOption, match="offer"):
        HomeTask(sentences, offer=0)


def test_missing_packages_are_said_with_the_way_to_get_them(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "home_assistant_intents", None)
    with pytest.raises(InvalidInput) as caught:
        Home()
    assert "hassil==" in str(caught.value.hint)


def test_a_reply_is_made_of_slots_alone() -> None:
    assert render_reply("Added  {{ slots.item }}\n", {"item": "milk"}) == "Added milk"
    assert render_reply("{{ state.state_with_unit }}", {}) == ""
    assert render_reply("{{ slots.name }}", {}) == ""
    assert render_reply("{% broken", {}) == ""
    assert render_reply("{{ ''.__class__.__mro__ }}", {}) == ""
    assert render_reply("{{ 'x' * 9999 }}", {}) == ""
