"""A tool that notes what it is run with, people who allow or deny, and sessions with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.events import (
    Event,
)
from mobilellm_mlx.messages import Message
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.tool import Answer, Request, Tool
from mobilellm_mlx.tools.toolbox import Toolbox

TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 100}},
    "required": ["text"],
    "additionalProperties": False,
}
CALL = '{"text":"buy milk"}'
NOTE = "note: buy milk"
"""What a person says to have a note made."""


@dataclass
class Notes:
    """A tool that notes what it is run with."""

    reads_only: bool = False
    answers: bool = False
    result: str = "noted"
    does: Callable[[Mapping[str, Any]], object] = lambda _: None
    ran: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tool(self) -> Tool:
        def run(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
            self.ran.append(dict(arguments))
            self.does(arguments)
            return self.result

        return Tool(
            "note",
            "Make a note.",
            TEXT,
            run,
            reads_only=self.reads_only,
            answers=self.answers,
            keywords=("note", "note buy milk", "note more"),
            describe=lambda arguments: f"Make a note: {arguments['text']}",
            timeout_s=0.5,
        )


class Person:
    """Says the same to every request."""

    def __init__(self, answer: Answer | Callable[[Request], Answer] = Answer(True)):  # noqa: B008
        self._answer = answer
        self.asked: list[Request] = []

    def __call__(self, request: Request, cancel: threading.Event) -> Answer:
        self.asked.append(request)
        return self._answer(request) if callable(self._answer) else self._answer


YES, NO = Answer(True), Answer(False)


def make_session(
    *answers: Any,
    notes: Notes | None = None,
    person: Person | None = None,
    engine: ScriptedEngine | None = None,
    style: str = "two-step",
    approvals: Approvals | None = None,
    store: Store | None = None,
    **more: Any,
) -> Session:
    notes = notes or Notes()
    kit = ToolKit(
        Toolbox([notes.tool]),
        approvals or Approvals(),
        person or Person(),
        style=style,
        **more,
    )
    return Session(engine or ScriptedEngine(answers), tools=kit, store=store)


def ask(session: Session, text: str = NOTE) -> list[Event]:
    return list(session.send(text))


def only(events: Sequence[Event], kind: type[Any]) -> Any:
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def engine_of(session: Session) -> ScriptedEngine:
    engine = session._engine
    assert isinstance(engine, ScriptedEngine)
    return engine


def prompt(session: Session, turn: int = -1) -> str:
    """All that a model was shown in one of its turns."""
    return "\n".join(message.content for message in engine_of(session).conversations[turn])


@dataclass
class Eager:
    """A style that makes the same calls in every round."""

    calls: Sequence[str]
    name: str = "two-step"
    rounds: int = 99
    plain_answers: bool = False

    def asks(self, conversation: Any, offered: Any) -> Any:
        from mobilellm_mlx.tools.asking import Ask
        from mobilellm_mlx.tools.tool import Call

        answer = yield Ask(tuple(conversation), None)
        return [Call("note", {"text": text.format(answer)}) for text in self.calls]

    def instructions(self, offered: Any) -> str:
        return "Use tools."

    def tell(self, question: Message, used: Any) -> list[Message]:
        return [question, *(Message("tool", use.result) for use in used)]
