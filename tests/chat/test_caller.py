"""An adapter that is on while calls are asked for, and off while the answer is made."""

from __future__ import annotations

from pathlib import Path

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.using import Caller, ToolKit
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.formats import find_format
from mobilellm_mlx.tools.styles.calls_only import CallsOnly
from mobilellm_mlx.tools.toolbox import Toolbox
from tests.chat.callers import Notes, Person, ask

PATH = Path("adapters/tools")


def session_with(engine: ScriptedEngine, notes: Notes, **more: object) -> Session:
    caller = Caller(PATH, CallsOnly(find_format("paper")))
    kit = ToolKit(
        Toolbox([notes.tool]), Approvals(None), Person(), caller=lambda model: caller, **more
    )  # type: ignore[arg-type]
    list(engine.load())
    return Session(engine, tools=kit)


def test_the_call_is_asked_for_with_the_adapter_and_the_answer_without() -> None:
    engine, notes = ScriptedEngine(['note(text = "buy milk")', "Done."]), Notes()
    session = session_with(engine, notes)
    ask(session)
    assert notes.ran == [{"text": "buy milk"}]
    assert engine.asides == [PATH]  # once: the second question is the conversation's
    assert "none()" in engine.conversations[0][0].content
    assert all("none()" not in message.content for message in engine.conversations[1])
    assert session.branch[-1].content == "Done."
    assert session.branch[-1].uses[0].format == "paper"


def test_ordinary_talk_never_meets_the_adapter() -> None:
    engine = ScriptedEngine(["Once upon a time."])
    ask(session_with(engine, Notes()), "Tell me a story about a dragon.")
    assert engine.asides == []


def test_where_no_call_is_wanted_the_answer_is_the_bare_models() -> None:
    engine, notes = ScriptedEngine(["none()", "A note is a short text."]), Notes()
    session = session_with(engine, notes)
    ask(session)
    assert notes.ran == []
    assert session.branch[-1].content == "A note is a short text."
    assert engine.asides == [PATH]


def test_another_manner_of_calling_leaves_it_off() -> None:
    engine, notes = ScriptedEngine(["note", '{"text":"buy milk"}', "Done."]), Notes()
    ask(session_with(engine, notes, style="two-step"))
    assert notes.ran == [{"text": "buy milk"}]
    assert engine.asides == []
