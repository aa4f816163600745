"""Tools, and a session whose model calls them as a test has it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.events import Event, ToolAllowed, ToolCalled, ToolEnded, ToolsOffered
from mobilellm_mlx.tools.approval import Approvals, make_request
from mobilellm_mlx.tools.tool import Run, Tool
from mobilellm_mlx.tools.toolbox import Toolbox
from tui import app as app_module

TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1}},
    "required": ["text"],
    "additionalProperties": False,
}


def made(name: str, run: Run | None = None, **more: Any) -> Tool:
    """A tool of one argument, ``text``, which it gives back."""
    more.setdefault("parameters", TEXT)
    more.setdefault("description", f"Do what {name} does.")
    return Tool(name, run=run or (lambda arguments, _: f"{name}: {arguments.get('text')}"), **more)


def broken(*_: Any) -> str:
    """Runs like a tool that cannot do it."""
    raise ToolError("the disk is full")


class Held:
    """Runs until it may end, or is stopped."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.was_stopped = False

    def __call__(self, arguments: Any, cancel: threading.Event) -> str:
        while not self.may_end.wait(0.01):
            if cancel.is_set():
                self.was_stopped = True
                return "stopped"
        return "ended"


def make_kit(*tools: Tool, approvals: Approvals | None = None) -> ToolKit:
    """These tools, and no rules."""
    return ToolKit(Toolbox(tools), approvals or Approvals(None))


CALLED = ToolCalled(
    "1", "calculator", {"expression": "17*3"}, "Calculate 17*3", "builtin", True, "", 16, 12, 5, 0.4
)
OFFERED = ToolsOffered(["calculator", "add_note"])
ALLOWED = ToolAllowed("1", "reads only", {"expression": "17*3"})
ENDED = ToolEnded("1", "calculator", "ok", "17*3 = 51", 0.002)
SUM = (OFFERED, CALLED, ALLOWED, ENDED)
"""A sum, from the offer of tools to its result."""
USE = ToolUse(
    "1", "calculator", {"expression": "17*3"}, "Calculate 17*3", "builtin", "reads only", "ok",
    "17*3 = 51", False, 16, 12, 5, 0.4, 0.002,
)  # fmt: skip
"""What is kept of it."""


def asks(tool: Tool, call_id: str = "1", **arguments: Any) -> tuple[str, str, Tool, dict[str, Any]]:
    """A step of a script: a call that the person is asked about, and run if they allow it."""
    return "asks", call_id, tool, arguments


class ScriptedCalls(Session):
    """A session whose next answers are led to by what ``script`` holds: events, events to wait for,
    and calls that ask (see ``asks``)."""

    script: Iterable[Any] = ()
    answers: list[Any] = []  # noqa: RUF012

    def send(self, text: str, cancel: threading.Event | None = None) -> Iterator[Event]:
        cancel = cancel or threading.Event()
        for step in type(self).script:
            if isinstance(step, threading.Event):
                while not (step.wait(0.01) or cancel.is_set()):
                    pass
            elif isinstance(step, tuple):
                yield from self._ask_leave(*step[1:], cancel)
            elif isinstance(step, Exception):
                raise step
            elif not cancel.is_set():
                yield step
        kit, self.tools = self.tools, None  # the answer itself is the engine's
        try:
            yield from super().send(text, cancel)
        finally:
            self.tools = kit

    def _ask_leave(
        self, call_id: str, tool: Tool, arguments: dict[str, Any], cancel: threading.Event
    ) -> Iterator[Event]:
        assert self.tools is not None
        request = make_request(call_id, tool, arguments)
        yield replace(CALLED, id=call_id, tool=tool.name, arguments=arguments, words=request.words)
        answer = self.tools.approve(request, cancel)
        type(self).answers.append(answer)
        if answer.allowed:
            yield ToolAllowed(call_id, "you", answer.arguments or arguments)
            yield ToolEnded(call_id, tool.name, "ok", tool.run(arguments, cancel), 0.1)
        else:
            yield ToolEnded(call_id, tool.name, "denied", answer.reason)


@contextmanager
def scripted(monkeypatch: Any, *script: Any) -> Iterator[type[ScriptedCalls]]:
    """The app's session is one of these."""

    class Scripted(ScriptedCalls):
        pass

    Scripted.script, Scripted.answers = script, []
    monkeypatch.setattr(app_module, "Session", Scripted)
    yield Scripted
