"""Asking a model that has an adapter for calls and speaks without it."""

from __future__ import annotations

import pytest

from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Used
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.styles.calls_only import CallsOnly
from mobilellm_mlx.tools.styles.one_step import OneStep
from mobilellm_mlx.tools.tool import Call
from tests.tools.formats.languages import accepts, object_of, offer

NOTE = offer("add_note", object_of({"text": {"type": "string"}}), spoken=frozenset({"text"}))
CITY = offer("time_in", object_of({"city": {"type": "string", "enum": ["Rome", "Tokyo"]}}))
TALK = [
    Message("system", "Be brief."),
    Message("user", "Hello!"),
    Message("assistant", "Hello."),
    Message("user", "Note that it rains in Rome"),
]


def _ask(answer: str) -> tuple[object, list[Call]]:
    asks = CallsOnly(find_format("paper")).asks(TALK, [NOTE, CITY])
    ask = next(asks)
    with pytest.raises(StopIteration) as done:
        asks.send(answer)
    return ask, done.value.value


def test_the_prompt_is_the_one_that_was_trained_on_whatever_was_said_before() -> None:
    ask, calls = _ask('add_note(text = "it rains")')
    alone = next(OneStep(find_format("paper")).asks([TALK[-1]], [NOTE, CITY]))
    assert ask.messages == alone.messages
    assert ask.opening is None  # so it is asked aside, and the conversation is not forgotten
    assert calls == [Call("add_note", {"text": "it rains"})]


def test_no_call_is_an_answer() -> None:
    assert _ask("none()")[1] == []


def test_only_what_was_said_and_what_there_is_can_be_written() -> None:
    ask, _ = _ask("none()")
    assert accepts(ask.grammar, 'add_note(text = "it rains")')
    assert accepts(ask.grammar, "none()")
    assert accepts(ask.grammar, 'time_in(city = "Rome")')
    assert not accepts(ask.grammar, 'time_in(city = "Tokyo")')  # nobody named it
    assert not accepts(ask.grammar, 'add_note(text = "it snows")')
    assert not accepts(ask.grammar, "Gladly.")


def test_the_answer_itself_knows_nothing_of_the_format() -> None:
    style = CallsOnly(find_format("paper"))
    assert style.instructions([NOTE]) == ""
    told = style.tell(TALK[-1], [Used(Call("add_note", {"text": "it rains"}), "noted")])
    assert all("add_note(" not in message.content for message in told)


@pytest.mark.parametrize("name", ["hermes", "llama3", "smollm2"])
def test_a_format_that_speaks_where_no_call_is_wanted_cannot_be_used(name: str) -> None:
    with pytest.raises(ValueError, match="answers with speech"):
        CallsOnly(find_format(name))
