"""Putting a call that waits for leave before the person, whatever is on the screen."""

from __future__ import annotations

from typing import Any

from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Answer, Request

from .messages import LOOK_EVERY_S, STOPPED, ApprovalWanted
from .screens.approval import ApprovalScreen

CHANGED = "What this tool says of itself has changed since you allowed it."


def make_question(request: Request, approvals: Approvals | None = None) -> ApprovalScreen:
    """The screen that asks for leave.

    Args:
        request: the call.
        approvals: knows what was allowed before.
    """
    changed = approvals is not None and approvals.has_changed(request)
    return ApprovalScreen(
        request,
        lambda arguments: check_arguments(request.tool, arguments),
        note=CHANGED if changed else "",
    )


class ReadingAllowed(Message):
    """The person no longer wants to be asked about tools that only read."""


class Leave:
    """Asks one question at a time and takes it back when nobody waits for the answer.

    Args:
        host: whose calls they are.
        approvals: knows what was allowed before.
    """

    def __init__(self, host: Widget, approvals: Approvals | None = None) -> None:
        self._host = host
        self._approvals = approvals
        self._asked: tuple[ApprovalWanted, Screen[Any]] | None = None

    def ask(self, wanted: ApprovalWanted) -> None:
        """Ask; closing the question without an answer is a no."""
        self.withdraw()
        if not wanted.is_open:
            return
        question = make_question(wanted.request, self._approvals)
        self._asked = wanted, question

        def take(answer: Answer | None) -> None:
            if answer is not None and answer.allowed and answer.duration == "reading":
                self._host.post_message(ReadingAllowed())
            wanted.answer(answer or Answer(False, reason="you"))
            if self._asked is not None and self._asked[0] is wanted:
                self._asked = None

        self._host.app.push_screen(question, take)

    def withdraw(self) -> None:
        """Nobody waits any more: the question goes."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        wanted, question = asked
        wanted.answer(STOPPED)
        _close(question)


def _close(question: Screen[Any]) -> None:
    """Take a question away, as soon as nothing lies on top of it."""
    if question.app.screen is question:
        question.app.pop_screen()
    elif question in question.app.screen_stack:
        question.set_timer(LOOK_EVERY_S, lambda: _close(question))
