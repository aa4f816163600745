"""Tools on the way to an answer: chosen, allowed or not, run, noted, told; within limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.using import MAX_ROUNDS, ToolKit
from mobilellm_mlx.errors import ContextOverflow, InvalidGrammar, ToolError
from mobilellm_mlx.events import (
    Event,
    GenerationSummary,
    Notice,
    TextDelta,
    ToolAllowed,
    ToolCalled,
    ToolEnded,
    ToolsOffered,
)
from mobilellm_mlx.messages import Message
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.tool import Answer, Request
from mobilellm_mlx.tools.toolbox import Toolbox
from tests.chat.callers import (
    CALL,
    NO,
    NOTE,
    YES,
    Eager,
    Notes,
    Person,
    ask,
    engine_of,
    make_session,
    only,
    prompt,
)

# ---------------------------------------------------------------- a call


def test_a_call_is_made_allowed_run_and_told() -> None:
    notes = Notes(result="It is noted as number 7.")
    session = make_session("note", CALL, "Done.", notes=notes)
    events = ask(session)
    kinds = [type(event) for event in events if type(event).__name__.startswith("Tool")]
    assert kinds == [ToolsOffered, ToolCalled, ToolAllowed, ToolEnded]
    assert notes.ran == [{"text": "buy milk"}]
    assert only(events, ToolCalled).words == "Make a note: buy milk"
    assert only(events, ToolAllowed).by == "you"
    assert only(events, ToolEnded).text == "It is noted as number 7."
    assert "number 7" in prompt(session) and NOTE in prompt(session)
    assert isinstance(events[-1], GenerationSummary) and events[-1].text == "Done."
    assert session.branch[-1].content == "Done."


def test_the_use_stays_beside_the_answer() -> None:
    session = make_session("note", CALL, "Done.")
    ask(session)
    (use,) = session.branch[-1].uses
    assert (use.tool, use.arguments, use.status) == ("note", {"text": "buy milk"}, "ok")
    assert (use.allowed, use.result, use.format) == ("you", "noted", "two-step")
    assert use.tokens and use.forward_passes + use.forced_tokens <= use.tokens


def test_later_turns_know_what_was_done() -> None:
    session = make_session("note", CALL, "Done.", "Gladly.")
    ask(session)
    ask(session, "Thanks!")
    assert "noted" in prompt(session) and "Done." in prompt(session)


def test_without_a_tool_that_fits_the_model_is_asked_once() -> None:
    session = make_session("Once upon a time.")
    events = ask(session, "Tell me a story about a dragon.")
    assert not any(isinstance(event, ToolsOffered) for event in events)
    assert len(engine_of(session).conversations) == 1


def test_a_model_that_wants_no_tool_just_answers() -> None:
    session = make_session("none", "Notes are short texts.")
    events = ask(session, "Any note?")
    assert only(events, ToolsOffered).tools == ["note"]
    assert not any(isinstance(event, ToolCalled) for event in events)
    assert session.branch[-1].content == "Notes are short texts." and not session.branch[-1].uses


def test_the_answer_is_made_beside_the_questions_about_tools() -> None:
    """What the engine has read of the chat must still be there for the answer."""

    class Noting(ScriptedEngine):
        aside: list[bool] = []  # noqa: RUF012

        def chat(self, *args: Any, aside: bool = False, **more: Any) -> Iterator[Event]:
            self.aside.append(aside)
            return super().chat(*args, aside=aside, **more)

    engine = Noting(["note", CALL, "Done."])
    session = make_session(engine=engine)
    ask(session)
    assert engine.aside == [True, True, False]
    assert [bool(grammar) for grammar in engine.grammars] == [True, True, False]


# ---------------------------------------------------------------- leave


def test_what_is_not_allowed_is_not_run() -> None:
    notes, person = Notes(), Person(NO)
    session = make_session("note", CALL, "I did it!", notes=notes, person=person)
    events = ask(session)
    assert not notes.ran and len(person.asked) == 1
    ended = only(events, ToolEnded)
    assert (ended.status, ended.text) == ("denied", "you did not allow it")
    assert session.branch[-1].content == "Nothing was done: you did not allow it."
    assert len(engine_of(session).conversations) == 2  # a small model would claim to have done it


def test_where_nobody_can_be_asked_nothing_is_allowed() -> None:
    notes = Notes()
    kit = ToolKit(Toolbox([notes.tool]), Approvals(), style="two-step")
    session = Session(ScriptedEngine(["note", CALL, "Sorry."]), tools=kit)
    assert only(ask(session), ToolEnded).status == "denied" and not notes.ran


def test_a_tool_that_only_reads_needs_no_leave_unless_the_person_wants_that() -> None:
    for freely in (True, False):
        notes, person = Notes(reads_only=True), Person()
        session = make_session(
            "note", CALL, "Done.", notes=notes, person=person, reads_freely=freely
        )
        events = ask(session)
        assert len(notes.ran) == 1 and len(person.asked) == (0 if freely else 1)
        assert only(events, ToolAllowed).by == ("reads only" if freely else "you")


def test_leave_for_the_session_is_asked_for_once() -> None:
    notes, person = Notes(), Person(Answer(True, "session"))
    session = make_session(
        "note", CALL, "Done.", "note", '{"text":"more"}', "Done.", notes=notes, person=person
    )
    ask(session)
    events = ask(session, "note: more")
    assert len(person.asked) == 1 and len(notes.ran) == 2
    assert only(events, ToolAllowed).by == "session"


def test_leave_for_always_outlives_the_session(tmp_path: Path) -> None:
    path = tmp_path / "approvals.json"
    first = make_session(
        "note", CALL, "Done.", person=Person(Answer(True, "always")), approvals=Approvals(path)
    )
    ask(first)
    person = Person(NO)
    again = make_session("note", CALL, "Done.", person=person, approvals=Approvals(path))
    assert only(ask(again), ToolAllowed).by == "always" and not person.asked


def test_a_tool_that_says_other_things_of_itself_is_asked_for_again(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approvals.json")
    ask(make_session("note", CALL, "", person=Person(Answer(True, "always")), approvals=approvals))
    person = Person(NO)
    session = make_session("note", CALL, "No.", person=person, approvals=approvals)
    assert session.tools is not None
    changed = replace(Notes().tool, description="Make a note and send it to everybody.")
    session.tools.toolbox = Toolbox([changed])
    ask(session)
    assert len(person.asked) == 1


def test_the_person_can_change_the_arguments() -> None:
    notes = Notes()
    person = Person(Answer(True, arguments={"text": "buy oat milk"}))
    session = make_session("note", CALL, "Done.", notes=notes, person=person)
    events = ask(session)
    assert notes.ran == [{"text": "buy oat milk"}]
    assert only(events, ToolAllowed).arguments == {"text": "buy oat milk"}
    (use,) = session.branch[-1].uses
    assert (use.arguments, use.words) == ({"text": "buy oat milk"}, "Make a note: buy oat milk")


def test_changed_arguments_are_checked_like_any_others() -> None:
    notes = Notes()
    person = Person(Answer(True, arguments={"text": 7, "more": "x"}))
    session = make_session("note", CALL, "Hm.", notes=notes, person=person)
    assert only(ask(session), ToolEnded).status == "invalid" and not notes.ran


# ---------------------------------------------------------------- limits


class Cutting(ScriptedEngine):
    """Is cut in every answer that a grammar binds."""

    def chat(self, *args: Any, **more: Any) -> Iterator[Event]:
        for event in super().chat(*args, **more):
            cut = isinstance(event, GenerationSummary) and len(self.conversations) == 2
            yield replace(event, stop_reason="length", is_whole=False) if cut else event  # type: ignore[type-var]


def test_a_call_that_was_cut_is_said_and_never_run() -> None:
    notes, person = Notes(), Person()
    engine = Cutting(["note", CALL, "I could not."])
    session = make_session(engine=engine, notes=notes, person=person)
    events = ask(session)
    assert only(events, ToolEnded).status == "cut"
    assert not notes.ran and not person.asked
    (use,) = session.branch[-1].uses
    assert use.status == "cut" and "longer than it may be" in use.result
    assert session.branch[-1].content.startswith("Nothing was done: the call was longer")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(*calls: str) -> None:
        monkeypatch.setattr(ToolKit, "style_for", lambda *_: Eager(calls))

    return use


def test_a_call_that_is_repeated_ends_the_turn(eager: Callable[..., None]) -> None:
    eager("the same")
    notes = Notes()
    session = make_session("x", notes=notes)
    events = [event for event in ask(session) if isinstance(event, ToolEnded)]
    assert [event.status for event in events] == ["ok", "repeated"]
    assert len(notes.ran) == 1


def test_a_call_that_no_tool_takes_is_repeated_in_vain_as_well(eager: Callable[..., None]) -> None:
    eager("x" * 101)
    events = [event for event in ask(make_session("x")) if isinstance(event, ToolEnded)]
    assert [event.status for event in events] == ["invalid", "repeated"]


def test_there_are_at_most_five_rounds_in_a_turn(eager: Callable[..., None]) -> None:
    eager("{}")
    notes = Notes()
    session = make_session(*(f"round {n}" for n in range(20)), notes=notes)
    ask(session)
    assert len(notes.ran) == MAX_ROUNDS == 5


def test_several_calls_at_once_are_run_in_order_up_to_a_limit(eager: Callable[..., None]) -> None:
    eager(*(f"{n} {{}}" for n in range(30)))
    notes = Notes()
    session = make_session("a", "b", notes=notes)
    ask(session)
    assert [one["text"] for one in notes.ran] == [f"{n} a" for n in range(10)]


def test_who_denies_one_of_several_calls_is_not_asked_for_the_next(
    eager: Callable[..., None],
) -> None:
    eager("1", "2", "3")
    person = Person(NO)
    session = make_session("a", "b", person=person)
    ask(session)
    assert len(person.asked) == 1


# ---------------------------------------------------------------- what goes wrong


def raising(error: Exception) -> Callable[[Mapping[str, Any]], object]:
    def fail(_: Mapping[str, Any]) -> object:
        raise error

    return fail


@pytest.mark.parametrize(
    ("notes", "status", "said"),
    [
        (Notes(does=raising(ToolError("the disk is full"))), "failed", "the disk is full"),
        (Notes(does=raising(ZeroDivisionError("x"))), "failed", "note"),
        (Notes(does=lambda _: time.sleep(2)), "timeout", "0.5"),
        (Notes(result="x" * 50_000), "ok", "xxx"),
        (Notes(result="\x1b]0;owned\x07 red \x1b[31m"), "ok", "red"),
    ],
)
def test_the_chat_goes_on_whatever_a_tool_does(notes: Notes, status: str, said: str) -> None:
    session = make_session("note", CALL, "Well.", notes=notes)
    events = ask(session)
    ended = only(events, ToolEnded)
    assert ended.status == status and said in ended.text
    assert "\x1b" not in ended.text and len(ended.text) < 5000
    said = "Well." if status == "ok" else f"That did not work: {ended.text.rstrip('.')}."
    assert session.branch[-1].content == said


def test_an_answer_that_a_tool_gives_in_words_is_not_repeated_by_a_small_model() -> None:
    notes = Notes(result="It is noted as number 7.", answers=True)
    session = make_session("note", CALL, "It is noted as number 9!", notes=notes)
    events = ask(session)
    assert isinstance(events[-1], GenerationSummary)
    assert events[-1].text == session.branch[-1].content == "It is noted as number 7."
    said = [event.text for event in events if isinstance(event, TextDelta)]
    assert said == ["It is noted as number 7."]
    answer = session.branch[-1]
    assert (answer.status, answer.made) == ("complete", ())
    assert events[-1].context_used > 0


def test_a_model_that_was_trained_on_tools_speaks_for_them() -> None:
    call = '<tool_call>\n{"name":"note","arguments":{"text":"buy milk"}}\n</tool_call>'
    session = make_session(call, "Gladly done.", style="hermes", notes=Notes(answers=True))
    ask(session)
    assert session.branch[-1].content == "Gladly done."


@pytest.mark.parametrize("error", [InvalidGrammar("no"), ContextOverflow(9, 8), ToolError("no")])
def test_when_the_model_cannot_be_asked_for_a_call_it_answers(error: Any) -> None:
    session = make_session(error, "Anyway.")
    events = ask(session)
    assert "no tool was used" in only(events, Notice).text
    assert session.branch[-1].content == "Anyway."


def test_when_there_is_no_room_for_the_tools_the_answer_is_made_without_them() -> None:
    class Small(ScriptedEngine):
        def chat(self, messages: Sequence[Message], *args: Any, **more: Any) -> Iterator[Event]:
            if messages[0].role == "system":
                raise ContextOverflow(900, 800)
            return super().chat(messages, *args, **more)

    session = make_session(engine=Small(["Fine."]), style="hermes")
    assert "no tool was used" in only(ask(session), Notice).text
    assert session.branch[-1].content == "Fine."
    assert session.branch[-1].made[0].instructions is None


def test_stopping_while_leave_is_asked_for_runs_nothing() -> None:
    cancel, notes = threading.Event(), Notes()

    def stop(_: Request) -> Answer:
        cancel.set()
        return YES

    session = make_session("note", CALL, "Done.", notes=notes, person=Person(stop))
    events = list(session.send(NOTE, cancel))
    assert only(events, ToolEnded).status == "cancelled" and not notes.ran
    assert isinstance(events[-1], GenerationSummary) and events[-1].status == "cancelled"


def test_stopping_while_a_tool_runs_does_not_wait_for_it() -> None:
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    session = make_session("note", CALL, "Done.", notes=Notes(does=lambda _: time.sleep(3)))
    started = time.monotonic()
    events = list(session.send(NOTE, cancel))
    assert time.monotonic() - started < 0.45
    assert only(events, ToolEnded).status == "cancelled"
