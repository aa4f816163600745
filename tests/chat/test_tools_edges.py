"""Tools on the way to an answer, where it matters: costs, limits, and what is never done."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.context import conversation
from mobilellm_mlx.chat.records import StoredMessage, ToolUse
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.events import Event, GenerationSummary, ToolAllowed, ToolCalled, ToolEnded
from mobilellm_mlx.messages import Message
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.tool import Answer, Request
from mobilellm_mlx.tools.toolbox import Toolbox
from tests.chat.callers import CALL, NOTE, Eager, Notes, Person, ask, make_session, only, prompt

HERMES = '<tool_call>\n{"name":"note","arguments":{"text":"buy milk"}}\n</tool_call>'
QUESTION = StoredMessage("q", "c", None, "user", NOTE, datetime(2026, 1, 1, tzinfo=UTC))


class Costly(ScriptedEngine):
    """Says what its answers cost, and with which options they were asked for."""

    ends: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self.options: list[Any] = []

    def chat(self, messages: Any, options: Any, *args: Any, **more: Any) -> Iterator[Event]:
        self.options.append(options)
        for event in super().chat(messages, options, *args, **more):
            if isinstance(event, GenerationSummary):
                event = replace(event, forward_passes=3, forced_tokens=2)
                if len(self.conversations) == 2:
                    event = replace(event, **self.ends)
            yield event


def test_the_cost_of_a_call_is_that_of_all_its_questions() -> None:
    session = make_session(engine=Costly(["note", CALL, "Done."]))
    called = only(ask(session), ToolCalled)
    assert (called.forward_passes, called.forced_tokens) == (6, 4)
    (use,) = session.branch[-1].uses
    assert (use.forward_passes, use.forced_tokens) == (6, 4)


def test_the_cost_of_several_calls_at_once_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ToolKit, "style_for", lambda *_: Eager(["1", "2"], rounds=1))
    session = make_session(engine=Costly(["x", "Done."]))
    ask(session)
    assert [use.forward_passes for use in session.branch[-1].uses] == [3, 0]


def test_a_call_at_the_token_limit_is_never_run_even_where_it_could_end_there() -> None:
    class Long(Costly):
        ends = {"stop_reason": "length", "is_whole": True}  # noqa: RUF012

    notes = Notes()
    events = ask(make_session(engine=Long(["note", CALL, "No."]), notes=notes))
    assert only(events, ToolEnded).status == "cut" and not notes.ran


def test_stop_strings_of_the_person_do_not_end_a_call() -> None:
    engine = Costly([HERMES, "Done."])
    kit = make_session(style="hermes").tools
    session = Session(engine, overrides={"stop": ("milk",)}, tools=kit)
    ask(session)
    assert engine.options[0].stop == ()


def test_leave_that_comes_after_the_turn_was_stopped_is_none() -> None:
    cancel, approvals = threading.Event(), Approvals()

    def late(_: Request) -> Answer:
        cancel.set()
        return Answer(True, "session")

    session = make_session("note", CALL, "Done.", person=Person(late), approvals=approvals)
    events = list(session.send(NOTE, cancel))
    assert not any(isinstance(event, ToolAllowed) for event in events)
    assert not approvals.rules


def test_leave_for_all_that_only_reads_is_asked_for_once() -> None:
    person = Person(Answer(True, "reading"))
    answers = ["note", CALL, "Done.", "note", '{"text":"more"}', "Done."]
    session = make_session(*answers, notes=Notes(reads_only=True), person=person)
    ask(session)
    ask(session, "note: more")
    assert len(person.asked) == 1


def test_a_model_cannot_name_what_does_not_exist() -> None:
    notes = Notes()
    session = make_session("note", CALL, "No.", notes=notes)
    assert session.tools is not None
    live = replace(notes.tool, live={"text": lambda: ["sell milk"]})
    session.tools.toolbox = Toolbox([live])
    assert only(ask(session), ToolEnded).status == "invalid" and not notes.ran


def test_a_call_that_was_cut_is_not_told_as_one_that_was_made() -> None:
    cut = ToolUse("u", "", status="cut", result="too long", format="hermes")
    assert conversation([QUESTION], None, [cut]) == [Message("user", NOTE)]


def test_a_use_of_a_later_version_is_told_all_the_same() -> None:
    use = ToolUse("u", "note", {"text": "x"}, status="ok", result="number 7", format="later")
    assert "number 7" in conversation([QUESTION], None, [use])[0].content


def test_results_count_when_the_context_fills() -> None:
    class Characters(ScriptedEngine):
        def count_tokens(self, messages: Sequence[Message]) -> int:
            return sum(len(message.content) for message in messages)

    engine = Characters(
        ["note", CALL, "Done.", "Hi."], info=replace(SCRIPTED_MODEL, context_limit=2_000)
    )
    session = make_session(engine=engine, notes=Notes(result="x" * 1_400))
    ask(session)
    ask(session, "Tell me a story about a dragon. " * 10)
    assert session.left_out and "xxx" not in prompt(session)


def test_an_answer_of_speech_alone_notes_what_it_was_made_without() -> None:
    engine = ScriptedEngine(
        ["w " * 150, "Nothing to note."], info=replace(SCRIPTED_MODEL, context_limit=260)
    )
    session = make_session(engine=engine, style="hermes")
    ask(session, "Tell me a story about a dragon.")
    first = [message.id for message in session.branch]
    ask(session)
    assert session.branch[-1].content == "Nothing to note."
    assert list(session.branch[-1].made[0].left_out) == first


def test_a_text_that_has_to_be_long_may_be() -> None:
    assert bounded({"type": "string", "minLength": 600})["maxLength"] >= 600
