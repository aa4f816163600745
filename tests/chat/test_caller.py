"""An adapter that is on while calls are asked for, and off while the answer is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.adapters.record import AdapterInfo
from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.using import Caller, ToolKit
from mobilellm_mlx.cli.toolbox import _find_caller
from mobilellm_mlx.errors import AdapterError
from mobilellm_mlx.events import Notice
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


def test_an_adapter_that_cannot_be_put_on_costs_the_call_and_not_the_answer() -> None:
    class Damaged(ScriptedEngine):
        def chat(self, *given: Any, adapter: Any = "same", **more: Any) -> Any:
            if adapter != "same":
                raise AdapterError("the adapter is damaged")
            return super().chat(*given, adapter=adapter, **more)

    notes = Notes()
    session = session_with(Damaged(["I cannot."]), notes)
    events = ask(session)
    assert [e.text for e in events if isinstance(e, Notice)] == [
        "no tool was used: the adapter is damaged"
    ]
    assert notes.ran == [] and session.branch[-1].content == "I cannot."


def test_another_manner_of_calling_leaves_it_off() -> None:
    engine, notes = ScriptedEngine(["note", '{"text":"buy milk"}', "Done."]), Notes()
    ask(session_with(engine, notes, style="two-step"))
    assert notes.ran == [{"text": "buy milk"}]
    assert engine.asides == []


def test_an_adapter_of_a_format_that_cannot_decline_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, created: str, **tools: object) -> AdapterInfo:
        told = {"created": created, "base_sha256": "this", "tools": tools or None}
        return AdapterInfo(name=name, path=tmp_path / name, **told)  # type: ignore[arg-type]

    known = [
        made("chat", "2026-09"),
        made("speaks", "2026-08", style="hermes", only_calls=True),
        made("strange", "2026-07", style="nonsense", only_calls=True),
        made("talks too", "2026-06", style="paper", only_calls=False),
        replace(made("other", "2026-05", style="paper", only_calls=True), base_sha256="that"),
        made("newer", "2026-04", style="paper", only_calls=True),
        made("older", "2026-03", style="paper", only_calls=True),
    ]
    monkeypatch.setattr(Registry, "list", lambda self: known[::-1])
    monkeypatch.setattr("mobilellm_mlx.adapters.identity.model_sha256", lambda path: "this")

    def found(wanted: str) -> str | None:
        caller = _find_caller(tmp_path, wanted)
        return caller.adapter.name if caller else None

    assert found("auto") == "newer"
    assert found("older") == "older"
    assert [found(name) for name in ("none", "speaks", "other", "gone")] == [None] * 4
