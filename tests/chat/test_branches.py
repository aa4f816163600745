"""Asking again, editing, going on, deleting: the tree of a conversation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.context import ContextFull, ContextPolicy
from mobilellm_mlx.chat.records import StoredMessage, now
from mobilellm_mlx.errors import ContextOverflow, EngineError, InvalidInput
from mobilellm_mlx.events import Event, GenerationSummary, Notice, TextDelta
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine


def run(events: object) -> GenerationSummary:
    *_, summary = events  # type: ignore[misc]
    assert isinstance(summary, GenerationSummary)
    return summary


def stop_after(session: Session, text: str, pieces: int) -> None:
    """Ask, and stop after so many pieces of the answer."""
    cancel, seen = threading.Event(), 0
    for event in session.send(text, cancel):
        seen += isinstance(event, TextDelta)
        if seen == pieces:
            cancel.set()


def contents(session: Session) -> list[str]:
    return [message.content for message in session.branch]


@pytest.fixture
def talked() -> Session:
    """Two turns: one, ONE, two, TWO; further answers are THREE and FOUR."""
    session = Session(ScriptedEngine(["ONE", "TWO", "THREE", "FOUR"]))
    run(session.send("one"))
    run(session.send("two"))
    return session


def test_a_retry_gives_another_answer_and_keeps_the_old_one(talked: Session) -> None:
    old = talked.branch[-1].id
    assert run(talked.retry()).text == "THREE"
    assert contents(talked) == ["one", "ONE", "two", "THREE"]
    assert talked.siblings(old) == [old, talked.branch[-1].id]


def test_a_retry_asks_with_what_came_before_the_question_only(talked: Session) -> None:
    run(talked.retry(talked.branch[1].id))
    assert [m.content for m in talked._engine.conversations[-1]] == ["one"]  # type: ignore[attr-defined]
    assert contents(talked) == ["one", "THREE"]


def test_a_retry_draws_another_seed() -> None:
    seeds: list[int | None] = []

    class Listening(ScriptedEngine):
        def chat(self, messages, options, cancel=None, begun=()):  # type: ignore[no-untyped-def]
            seeds.append(options.seed)
            return super().chat(messages, options, cancel, begun)

    session = Session(Listening(), overrides={"seed": 7})
    run(session.send("one"))
    run(session.retry())
    assert seeds[0] == 7 and seeds[1] != 7


def test_an_edited_question_opens_a_branch_of_its_own(talked: Session) -> None:
    question = talked.branch[2].id
    run(talked.edit(question, "two, please"))
    assert contents(talked) == ["one", "ONE", "two, please", "THREE"]
    assert len(talked.siblings(question)) == 2


def test_the_first_question_can_be_edited(talked: Session) -> None:
    run(talked.edit(talked.branch[0].id, "uno"))
    assert contents(talked) == ["uno", "THREE"]


def test_one_can_go_back_to_another_branch_and_finds_it_whole(talked: Session) -> None:
    old = talked.branch[0].id
    run(talked.edit(old, "uno"))
    talked.show(old)
    assert contents(talked) == ["one", "ONE", "two", "TWO"]


def test_a_stopped_answer_goes_on_from_its_own_tokens() -> None:
    engine = ScriptedEngine(["A long answer", " and its end."])
    session = Session(engine)
    stop_after(session, "go", 2)
    assert session.branch[-1].status == "stopped"
    assert session.branch[-1].content == "A long a"
    run(session.proceed())
    assert engine.begun[-1] == [0, 1]
    answer = session.branch[-1]
    assert answer.content == "A long a and its end."
    assert answer.status == "complete"
    assert len(answer.made) == 2
    assert [m.content for m in engine.conversations[-1]] == ["go"]


def test_an_answer_that_broke_off_goes_on_from_its_text() -> None:
    class Breaking(ScriptedEngine):
        broken = True

        def chat(self, messages, options, cancel=None, begun=()):  # type: ignore[no-untyped-def]
            for event in super().chat(messages, options, cancel, begun):
                yield event
                if isinstance(event, TextDelta) and self.broken:
                    raise EngineError("the engine broke")

    engine = Breaking(["Half of it"])
    session = Session(engine)
    with pytest.raises(EngineError):
        run(session.send("go"))
    assert contents(session) == ["go", "Half"]
    assert session.branch[-1].status == "failed"
    engine.broken = False
    run(session.proceed())
    assert engine.begun[-1] == "Half"
    assert session.branch[-1].made[-1].begun_text == "Half"


def test_going_on_that_fails_keeps_what_there_was() -> None:
    session = Session(ScriptedEngine(["A long answer", ContextOverflow(9, 8)]))
    stop_after(session, "go", 2)
    with pytest.raises(ContextOverflow):
        run(session.proceed())
    assert contents(session) == ["go", "A long a"]
    assert session.branch[-1].status == "failed"


def test_leaving_in_mid_answer_keeps_it_as_far_as_it_came() -> None:
    session = Session(ScriptedEngine(["A long answer"]))
    events = session.send("go")
    while not isinstance(next(events), TextDelta):
        pass
    events.close()  # type: ignore[attr-defined]
    assert contents(session) == ["go", "A lo"]
    assert session.branch[-1].status == "partial"


def test_a_question_cannot_be_continued(talked: Session) -> None:
    with pytest.raises(InvalidInput, match="only an answer"):
        run(talked.proceed(talked.branch[0].id))


def test_nothing_can_be_retried_before_something_was_said() -> None:
    with pytest.raises(InvalidInput, match="nothing has been said"):
        run(Session(ScriptedEngine()).retry())


def test_a_failed_retry_brings_the_old_answer_back() -> None:
    session = Session(ScriptedEngine(["ONE", ContextOverflow(9, 8)]))
    run(session.send("one"))
    with pytest.raises(ContextOverflow):
        run(session.retry())
    assert contents(session) == ["one", "ONE"]
    assert len(session.siblings(session.branch[-1].id)) == 1


def test_a_deleted_turn_is_gone_with_its_answer_and_comes_back(talked: Session) -> None:
    gone = talked.delete_turn(talked.branch[1].id)
    assert contents(talked) == ["two", "TWO"]
    run(talked.send("three"))
    assert [m.content for m in talked._engine.conversations[-1]] == ["two", "TWO", "three"]  # type: ignore[attr-defined]
    talked.restore(gone)
    assert contents(talked)[:4] == ["one", "ONE", "two", "TWO"]


def test_the_newest_turn_can_be_deleted_and_the_chat_goes_on(talked: Session) -> None:
    talked.delete_turn(talked.branch[-1].id)
    run(talked.send("three"))
    assert contents(talked) == ["one", "ONE", "three", "THREE"]


def test_it_is_noted_how_an_answer_was_made() -> None:
    session = Session(ScriptedEngine(), instructions="Be brief.", overrides={"temperature": 0.5})
    run(session.send("one"))
    made = session.branch[-1].made[0]
    assert made.model == "scripted"
    assert made.bits == 4
    assert made.instructions == "Be brief."
    assert made.tokens == (0, 1)
    assert made.stop_reason == "stop"


def test_the_chat_is_named_by_its_first_exchange_only(talked: Session) -> None:
    assert talked.chat.title
    named = talked.chat.title
    run(talked.send("Something else altogether"))
    assert talked.chat.title == named


def test_a_title_of_ones_own_stays() -> None:
    session = Session(ScriptedEngine())
    session.rename("Mine")
    run(session.send("one"))
    assert session.chat.title == "Mine" and session.chat.named


@pytest.fixture
def narrow() -> ScriptedEngine:
    """Answers of twenty words in a context of a hundred."""
    return ScriptedEngine(["word " * 20], info=replace(SCRIPTED_MODEL, context_limit=100))


def fill(session: Session, turns: int) -> list[Event]:
    return [event for n in range(turns) for event in session.send(f"question {n}")]


def test_a_long_chat_leaves_its_oldest_turns_out_and_says_so_once(narrow: ScriptedEngine) -> None:
    session = Session(narrow)
    notices = [e.text for e in fill(session, 5) if isinstance(e, Notice)]
    assert len(notices) == 1 and "no longer shown" in notices[0]
    assert session.left_out == tuple(m.id for m in session.branch[: len(session.left_out)])
    assert narrow.conversations[-1][0].content != "question 0"
    assert len(session.branch) == 10


def test_a_chat_may_ask_to_be_stopped_instead(narrow: ScriptedEngine) -> None:
    session = Session(narrow, policy=ContextPolicy("stop"))
    with pytest.raises(ContextFull):
        fill(session, 5)
    asked = len(narrow.conversations)
    assert len(session.branch) == 2 * asked, "the turn that was not asked leaves no trace"


def test_a_pinned_turn_stays_in_sight(narrow: ScriptedEngine) -> None:
    session = Session(narrow)
    run(session.send("remember me"))
    session.pin(session.branch[0].id, True)
    fill(session, 5)
    assert session.left_out
    assert narrow.conversations[-1][0].content == "remember me"


def test_a_message_that_is_gone_is_named_as_such(talked: Session) -> None:
    with pytest.raises(InvalidInput, match="not in the chat any more"):
        talked.find("nonesuch")


def test_a_circle_of_messages_is_not_walked_for_ever(talked: Session) -> None:
    """A damaged file may say anything."""
    ring = [StoredMessage(a, "c", b, "assistant", "x", now()) for a, b in ("ab", "bc", "cb")]
    talked._nodes.update({message.id: message for message in ring})
    with pytest.raises(InvalidInput, match="another branch"):
        talked.delete_turn("a")


class Pondering(ScriptedEngine):
    """Thinks until its tokens are spent."""

    def chat(self, *args: Any) -> Iterator[Event]:
        for event in super().chat(*args):
            is_last = isinstance(event, GenerationSummary)
            yield replace(event, stop_reason="length") if is_last and not event.text else event


def test_an_answer_that_was_cut_while_the_model_thought_can_go_on() -> None:
    engine = Pondering(["", "At last."], reasoning="Let me think.")
    session = Session(engine)
    run(session.send("why?"))
    assert [(m.content, m.status) for m in session.branch] == [
        ("why?", "complete"),
        ("", "stopped"),
    ]
    assert session.branch[-1].reasoning == "Let me think."
    run(session.proceed())
    assert engine.begun[-1] == list(range(4))
    assert contents(session) == ["why?", "At last."]


def test_what_was_only_thought_is_not_asked_again() -> None:
    engine = Pondering(["", "Two."], reasoning="Let me think.")
    session = Session(engine)
    run(session.send("why?"))
    run(session.send("how?"))
    assert [m.content for m in engine.conversations[-1]] == ["how?"]
