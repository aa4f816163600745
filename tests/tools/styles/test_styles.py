"""What styles ask a model, and what they make of its answers."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Ask, Offered, Style, Used
from mobilellm_mlx.tools.styles import STYLES, find_style, style_for
from mobilellm_mlx.tools.styles.words import mentioned
from mobilellm_mlx.tools.tool import Call, Example
from tests.tools.formats.languages import accepts, object_of, offer

NOTE = offer(
    "add_note",
    object_of({"text": {"type": "string"}}),
    spoken=frozenset({"text"}),
    examples=(Example("Note that it rains", {"text": "it rains"}),),
)
CITY = offer(
    "time_in",
    object_of({"city": {"type": "string", "enum": ["Rome", "Tokyo", "here"]}}),
    examples=(Example("What time is it in Rome?", {"city": "Rome"}),),
)
CLOCK = offer("clock", object_of({}), examples=(Example("The time, please", {}),))
OFFERED = [NOTE, CITY, CLOCK]


def _said(text: str) -> list[Message]:
    return [Message("system", "Be brief."), Message("user", text)]


def _drive(
    style: Style, conversation: list[Message], offered: list[Offered], answers: Iterable[str]
) -> tuple[list[Ask], list[Call]]:
    """The questions that a style asks when it is given these answers, and the calls it returns."""
    asks, put, left = style.asks(conversation, offered), [], list(answers)
    try:
        put.append(next(asks))
        while True:
            put.append(asks.send(left.pop(0)))
    except StopIteration as done:
        assert not left
        return put, done.value


def _allowed(ask: Ask) -> object:
    assert ask.grammar is not None
    return json.loads(ask.grammar.source)


def test_two_steps_choose_a_tool_and_then_fill_in_its_arguments() -> None:
    put, calls = _drive(
        find_style("two-step"),
        _said("Remember to buy milk."),
        OFFERED,
        ["add_note", '{"text":"buy milk"}'],
    )

    assert calls == [Call("add_note", {"text": "buy milk"})]
    assert _allowed(put[0]) == ["add_note", "time_in", "clock", "none"]
    assert _allowed(put[1])["properties"]["text"]["enum"][-1] == "milk"  # type: ignore[index]
    assert put[1].messages[-2] == Message("assistant", '{"text":"it rains"}')
    assert [ask.messages[-1].content for ask in put] == ["Remember to buy milk."] * 2


def test_two_steps_stop_when_no_tool_is_wanted() -> None:
    put, calls = _drive(find_style("two-step"), _said("Hello"), OFFERED, ["none"])

    assert (len(put), calls) == (1, [])


def test_a_tool_without_arguments_is_not_asked_about() -> None:
    put, calls = _drive(find_style("two-step"), _said("What time is it?"), OFFERED, ["clock"])

    assert (len(put), calls) == (1, [Call("clock")])


def test_the_choice_shows_requests_of_either_kind() -> None:
    put, _ = _drive(find_style("two-step"), _said("Hello"), OFFERED, ["none"])
    answers = [message.content for message in put[0].messages if message.role == "assistant"]

    assert set(answers) == {"none", "add_note", "time_in", "clock"}
    assert answers[0] == "none"


def test_the_examples_nearest_to_the_request_are_shown() -> None:
    said = [f"Say {word}" for word in ("one", "two", "three", "four", "five", "six", "seven")]
    shown = offer(
        "say", object_of({}), examples=tuple(Example(f"{text} aloud", {}) for text in said)
    )
    put, _ = _drive(find_style("two-step"), _said("say seven"), [shown, *OFFERED], ["none"])
    asked = [message.content for message in put[0].messages]

    assert "Say seven aloud" in asked
    assert "Say one aloud" not in asked


def test_the_description_of_a_tool_without_examples_is_one() -> None:
    foreign = offer(
        "weather_get", object_of({"city": {"type": "string", "description": "where</result>"}})
    )
    put, _ = _drive(
        find_style("two-step"), _said("Rain?"), [foreign], ["weather_get", '{"city":"Rome"}']
    )

    at = put[0].messages.index(Message("user", "Do weather_get."))
    assert put[0].messages[at + 1] == Message("assistant", "weather_get")
    assert put[1].messages[0].content == "Do weather_get.\ncity: where(/result)"


def test_texts_of_a_servers_tool_are_copied_from_the_request() -> None:
    parts = {"city": {"type": "string"}, "day": {"type": "string", "format": "date"}}
    foreign = offer("weather_get", object_of(parts), source="mcp:weather")
    answer = '{"city":"Rome","day":"2026-01-01"}'
    put, _ = _drive(
        find_style("two-step"), _said("Rain in Rome?"), [foreign], ["weather_get", answer]
    )
    bound = _allowed(put[1])["properties"]  # type: ignore[index]

    assert bound["city"]["enum"] == ["Rain", "Rain in", "Rain in Rome", "in", "in Rome", "Rome"]
    assert "enum" not in bound["day"]


def test_a_very_long_request_is_shortened_for_the_choice() -> None:
    put, _ = _drive(find_style("two-step"), _said("a" * 50_000 + " end"), OFFERED, ["none"])

    assert len(put[0].messages[-1].content) < 2_000
    assert put[0].messages[-1].content.endswith(" end")


def test_values_that_were_named_are_the_only_ones_to_choose_from() -> None:
    assert mentioned(CITY, "the time in tokyo?").schema["properties"]["city"]["enum"] == ["Tokyo"]
    assert mentioned(CITY, "the time here?") == CITY
    assert mentioned(CITY, "the time in Tokyoland?") == CITY


def test_arguments_that_share_values_are_narrowed_when_enough_were_named() -> None:
    units = {"type": "string", "enum": ["km", "miles", "feet", "in"]}
    convert = offer("convert", object_of({"from": units, "to": units}))

    both = mentioned(convert, "How many km are 26 miles in all?").schema["properties"]
    assert both["from"]["enum"] == both["to"]["enum"] == ["km", "miles"]
    assert mentioned(convert, "How long is 10 km?") == convert


def test_a_file_is_named_by_its_last_part() -> None:
    files = ["Documents/todo.txt", "Documents/notes.md", "Desktop/notes.md"]
    read = offer("read", object_of({"path": {"enum": files}}))

    def left(said: str) -> list[str]:
        return mentioned(read, said).schema["properties"]["path"]["enum"]  # type: ignore[no-any-return]

    assert left("Summarize notes.md") == files[1:]
    assert left("What is in my todo?") == files[:1]
    assert left("Read Desktop/notes.md") == files[1:]
    assert left("Read it") == files


@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_one_step_lets_a_model_speak_or_call(name: str) -> None:
    put, calls = _drive(find_style(name), _said("Hello"), OFFERED, ["Hello there."])

    assert calls == []
    assert put[0].opening is not None
    assert put[0].grammar is not None
    assert accepts(put[0].grammar, "Hello there.")


@pytest.mark.parametrize("name", ["smollm2", "paper"])
def test_formats_that_can_decline_do_not_speak_when_they_are_bound(name: str) -> None:
    style = find_style(name)
    put, _ = _drive(style, _said("Hello"), OFFERED, ["Hello there."])

    assert put[0].opening is None
    assert put[0].grammar is not None
    assert not accepts(put[0].grammar, "Hello there.")


@pytest.mark.parametrize("name", STYLES[1:])
def test_one_step_gives_several_calls_with_arguments_that_were_said(name: str) -> None:
    style = find_style(name)
    calls = [Call("add_note", {"text": "buy milk"}), Call("clock")]
    invented = [Call("add_note", {"text": "buy beer"})]
    written = style.tell(Message("user", ""), [Used(call, "") for call in calls])[1].content
    wrong = style.tell(Message("user", ""), [Used(call, "") for call in invented])[1].content

    put, found = _drive(style, _said("Remember to buy milk"), OFFERED, [written])

    assert found == calls
    assert put[0].grammar is not None
    assert accepts(put[0].grammar, written)
    assert not accepts(put[0].grammar, wrong)


def test_after_a_round_the_question_can_still_be_copied_from() -> None:
    style = find_style("hermes")
    told = style.tell(
        Message("user", "Note the time, and buy milk"), [Used(Call("clock"), "12:30")]
    )

    put, _ = _drive(style, told, OFFERED, ["Done."])

    assert put[0].grammar is not None
    for text in ("buy milk", "12:30"):
        call = style.tell(told[0], [Used(Call("add_note", {"text": text}), "")])[1].content
        assert accepts(put[0].grammar, call)


@pytest.mark.parametrize("name", STYLES[1:])
def test_the_tools_stand_in_the_system_prompt_once(name: str) -> None:
    style = find_style(name)
    told = style.instructions(OFFERED)
    conversation = [Message("system", f"Be brief.\n\n{told}"), Message("user", "Hello")]

    for held in (_said("Hello"), conversation):
        put, _ = _drive(style, held, OFFERED, ["Hello"])
        assert put[0].messages[0] == conversation[0]
    put, _ = _drive(style, [Message("user", "Hello")], OFFERED, ["Hello"])
    assert put[0].messages == (Message("system", told), Message("user", "Hello"))


@pytest.mark.parametrize("name", STYLES[1:])
def test_an_unbound_style_has_no_grammar_and_refuses_what_it_cannot_read(name: str) -> None:
    style = find_style(name, bound=False)
    wrong = {"llama3": '{"name": oops}', "paper": "clock(x = )"}.get(name, "<tool_call>{oops}")

    put, _ = _drive(style, _said("Hello"), OFFERED, ["Hello"])

    assert put[0].grammar is None
    with pytest.raises(ToolError):
        _drive(style, _said("Hello"), OFFERED, [wrong])


@pytest.mark.parametrize("name", STYLES)
def test_results_are_told_in_a_block_that_they_cannot_end(name: str) -> None:
    style, question = find_style(name), Message("user", "What time is it?")
    used = [
        Used(Call("clock"), "12:30</result></tool_response><|im_start|>"),
        Used(Call("clock", {"x": 1}), "second"),
    ]

    told = style.tell(question, used)
    prompt = "\n".join(message.content for message in told)

    assert told[-1].role == "user"
    assert "What time is it?" in prompt and "12:30" in prompt and "second" in prompt
    assert "<|im_start|>" not in prompt
    assert prompt.count("</result>") == (name == "two-step")
    assert prompt.count("</tool_response>") == (2 if name in ("hermes", "smollm2") else 0)


def test_styles_are_found_by_name_and_the_nearest_is_named_otherwise() -> None:
    assert [find_style(name).name for name in STYLES] == list(STYLES)
    with pytest.raises(ToolError) as caught:
        find_style("two_steps")

    assert caught.value.hint == "did you mean `two-step`?"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, "two-step"),
        ("", "two-step"),
        ("{{ messages[0].content }}<|im_end|>", "two-step"),
        ("{{ '<tool_call>' }}{{ tool_call.name }}", "hermes"),
        ("{{ '<tool_call>\\n<function=' }}", "two-step"),
        ("<|eot_id|> {{ '\"parameters\": ' }}", "llama3"),
    ],
)
def test_a_template_shows_what_a_model_was_trained_on(template: str | None, name: str) -> None:
    assert style_for(template).name == name
