"""A conversation: what stays in it, and what leaves no trace."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tiny import write_model

from mobilellm_mlx.chat import Session
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import ContextOverflow, InvalidOption, MobileLLMError
from mobilellm_mlx.events import Event, GenerationSummary, ReasoningDelta, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ScriptedEngine


class ListeningEngine(ScriptedEngine):
    """Also notes the options of each turn."""

    def __init__(self, *answers: str | MobileLLMError) -> None:
        super().__init__(answers)
        self.options: list[GenerationOptions] = []

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
    ) -> Iterator[Event]:
        self.options.append(options)
        return super().chat(messages, options, cancel, begun)


def said(*contents: str) -> list[Message]:
    """A conversation in which user and assistant take turns."""
    roles = ("user", "assistant")
    return [Message(roles[i % 2], content) for i, content in enumerate(contents)]  # type: ignore[arg-type]


def send(session: Session, text: str) -> GenerationSummary:
    *_, summary = session.send(text)
    assert isinstance(summary, GenerationSummary)
    return summary


def test_question_and_answer_stay_in_the_conversation() -> None:
    session = Session(ScriptedEngine(["Hello!", "Fine."]))
    assert send(session, "Hi").text == "Hello!"
    send(session, "How are you?")
    assert session.messages == said("Hi", "Hello!", "How are you?", "Fine.")


def test_each_turn_is_asked_with_all_turns_before_it() -> None:
    engine = ScriptedEngine(["Hello!", "Fine."])
    session = Session(engine)
    send(session, "Hi")
    send(session, "How are you?")
    assert engine.conversations == [said("Hi"), said("Hi", "Hello!", "How are you?")]


def test_instructions_come_first_and_once_in_every_prompt() -> None:
    engine = ScriptedEngine(["Hello!"])
    session = Session(engine, instructions="Be brief.")
    for text in ("a", "b", "c"):
        send(session, text)
    for conversation in engine.conversations:
        assert conversation[0] == Message("system", "Be brief.")
        assert [message.role for message in conversation].count("system") == 1
    assert all(message.role != "system" for message in session.messages)


@pytest.mark.parametrize("instructions", [None, ""])
def test_without_instructions_there_is_no_system_message(instructions: str | None) -> None:
    engine = ScriptedEngine(["Hello!"])
    send(Session(engine, instructions=instructions), "Hi")
    assert engine.conversations == [said("Hi")]


def test_changed_instructions_count_from_the_next_turn_on() -> None:
    engine = ScriptedEngine(["Hello!"])
    session = Session(engine, instructions="Be brief.")
    send(session, "a")
    session.instructions = "Be long."
    send(session, "b")
    assert [conversation[0].content for conversation in engine.conversations] == [
        "Be brief.",
        "Be long.",
    ]


def test_the_events_are_those_of_the_engine() -> None:
    deltas = [
        e.text for e in Session(ScriptedEngine(["Hello!"])).send("Hi") if e.name == "text_delta"
    ]
    assert deltas == ["Hell", "o!"]


def test_the_conversation_is_complete_when_the_summary_is_seen() -> None:
    session = Session(ScriptedEngine(["Hello!"]))
    for event in session.send("Hi"):
        assert bool(session.messages) == isinstance(event, GenerationSummary)


def test_a_stopped_answer_stays_as_far_as_it_came() -> None:
    session, cancel = Session(ScriptedEngine(["Hello, world!"])), threading.Event()
    for event in session.send("Hi", cancel):
        if isinstance(event, TextDelta):
            cancel.set()
    assert session.messages == said("Hi", "Hell")


def test_a_turn_stopped_before_its_first_word_leaves_no_trace() -> None:
    session, cancel = Session(ScriptedEngine(["Hello!"])), threading.Event()
    cancel.set()
    *_, summary = session.send("Hi", cancel)
    assert isinstance(summary, GenerationSummary) and summary.status == "cancelled"
    assert session.messages == []


def test_a_failed_turn_leaves_no_trace() -> None:
    session = Session(ScriptedEngine(["Hello!", ContextOverflow(9, 8), "Fine."]))
    send(session, "Hi")
    with pytest.raises(ContextOverflow):
        send(session, "too long")
    assert session.messages == said("Hi", "Hello!")
    send(session, "shorter")
    assert session.messages == said("Hi", "Hello!", "shorter", "Fine.")


def test_an_answer_without_words_stays_as_one() -> None:
    """The model chose to say nothing; the next prompt must not have two user turns in a row."""
    session = Session(ScriptedEngine([""]))
    assert send(session, "Hi").status == "ok"
    assert session.messages == said("Hi", "")


def test_asking_without_reading_leaves_no_trace() -> None:
    engine = ScriptedEngine(["Hello!"])
    session = Session(engine)
    session.send("Hi")
    assert (session.messages, engine.conversations) == ([], [])


def test_reset_forgets_the_turns_and_keeps_the_instructions() -> None:
    engine = ListeningEngine("Hello!")
    session = Session(engine, instructions="Be brief.", overrides={"top_k": 3})
    send(session, "Hi")
    session.reset()
    assert session.messages == []
    send(session, "Hi again")
    assert engine.conversations[1] == [Message("system", "Be brief."), *said("Hi again")]
    assert engine.options[1].top_k == 3


def test_overrides_replace_what_the_makers_recommend() -> None:
    engine = ListeningEngine("Hello!")
    engine.defaults = GenerationOptions(temperature=0.2, top_p=0.9)
    send(Session(engine, overrides={"temperature": 0.0, "seed": 4}), "Hi")
    assert engine.options == [GenerationOptions(temperature=0.0, top_p=0.9, seed=4)]


def test_an_impossible_override_is_said_at_once() -> None:
    with pytest.raises(InvalidOption):
        Session(ScriptedEngine(), overrides={"top_p": 7})
    with pytest.raises(InvalidOption):
        Session(ScriptedEngine(), overrides={"unknown": 7})


def test_a_later_change_of_the_callers_overrides_does_not_count() -> None:
    engine, overrides = ListeningEngine("Hello!"), {"top_k": 3}
    session = Session(engine, overrides=overrides)
    overrides["top_k"] = 9
    send(session, "Hi")
    assert engine.options[0].top_k == 3


def test_a_first_turn_without_loading_uses_what_the_makers_recommend(tmp_path: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.25}
    with Engine(write_model(tmp_path / "model", generation=generation)) as engine:
        summary = send(Session(engine, overrides={"max_tokens": 2}), "Hi")
    assert summary.options["temperature"] == 0.25


def test_a_conversation_with_a_real_engine_reuses_its_turns(tiny_dir: Path) -> None:
    with Engine(tiny_dir) as engine:
        session = Session(engine, instructions="Be brief.", overrides={"max_tokens": 4})
        first, second = send(session, "Hi"), send(session, "And now?")
    assert first.cached_tokens == 0
    assert second.cached_tokens >= first.prompt_tokens
    assert [message.role for message in session.messages] == ["user", "assistant"] * 2


def test_reasoning_does_not_stay_in_the_conversation() -> None:
    engine = ScriptedEngine(["Hello!", "Fine."], reasoning="a greeting")
    session = Session(engine)
    assert send(session, "Hi").reasoning == "a greeting"
    send(session, "How are you?")
    assert session.messages == said("Hi", "Hello!", "How are you?", "Fine.")
    assert engine.conversations[1] == said("Hi", "Hello!", "How are you?")


@pytest.mark.parametrize("leave", [False, True])
def test_a_turn_stopped_in_its_reasoning_leaves_no_trace(leave: bool) -> None:
    session, cancel = Session(ScriptedEngine(["Hello!"], reasoning="a greeting")), threading.Event()
    events = session.send("Hi", cancel)
    for event in events:
        if isinstance(event, ReasoningDelta):
            if leave:
                events.close()  # type: ignore[attr-defined]
            cancel.set()
    assert session.messages == []
