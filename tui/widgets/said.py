"""What questions and answers have in common: their data, their keys and what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from mobilellm_mlx.chat.records import StoredMessage, ToolUse

from ..messages import Problem
from ..text import printable
from .word import name_key

Action = Literal["edit", "retry", "continue", "pin", "delete", "older", "newer"]
"""What only the chat can do to a message."""

ENDS = {"partial": "broken off", "stopped": "stopped", "failed": "broken off", "complete": ""}
"""How an answer ended, in words; a new answer says it more exactly."""


LONGEST_NAME = 64
"""Of an adapter: a chat that was brought in may say anything."""


def say_tokens(count: int) -> str:
    """So many tokens, in words."""
    return f"{count:,} token{'' if count == 1 else 's'}"


@dataclass(slots=True)
class Said:
    """A message of the transcript as data: it is complete without any widget.

    Attributes:
        role: ``user``, ``assistant``, or what is shown among them: ``problem`` for a failure,
            ``tool`` for a call that the person typed, ``remark`` for a change of who answers.
        text: exactly as it was written.
        note: how it ended, or what it waits for.
        can_continue: whether the answer stopped before its end.
        pinned: it stays in what the model sees.
        branch: which of how many versions this is.
        dropped: the model no longer sees it.
        uses: the calls that led to an answer.
        adapter: name of the one that an answer was made with.
    """

    role: Literal["user", "assistant", "problem", "tool", "remark"]
    text: str = ""
    message_id: str = ""
    note: str = ""
    reasoning: str = ""
    reasoning_tokens: int = 0
    can_continue: bool = False
    pinned: bool = False
    branch: tuple[int, int] | None = None
    dropped: bool = False
    problem: Problem | None = None
    classes: str = ""
    uses: list[ToolUse] = field(default_factory=list)
    adapter: str = ""

    @classmethod
    def of(
        cls, message: StoredMessage, branch: tuple[int, int] | None = None, dropped: bool = False
    ) -> Said:
        """A message out of the history."""
        is_answer = message.role == "assistant"
        made = message.made[-1] if message.made else None
        said = cls(
            "assistant" if is_answer else "user",
            message.content,
            message.id,
            reasoning=message.reasoning,
            reasoning_tokens=sum(one.reasoning_tokens for one in message.made),
            can_continue=is_answer and message.status != "complete",
            pinned=message.pinned,
            branch=branch,
            dropped=dropped,
            uses=list(message.uses),
            adapter=adapter_of(message),
        )
        if is_answer:
            tokens = sum(len(one.tokens) for one in message.made)
            rate = f"{made.decode_tok_per_s:,.0f} tok/s" if made and made.decode_tok_per_s else ""
            count = say_tokens(tokens) if tokens else ""
            said.note = " · ".join(part for part in (ENDS[message.status], count, rate) if part)
        return said

    @property
    def footer(self) -> str:
        """The line below it, but for what keys can do."""
        parts = [
            f"version {self.branch[0]} of {self.branch[1]}" if self.branch else "",
            "pinned" if self.pinned else "",
            self.note,
            f"with {self.adapter}" if self.adapter else "",
        ]
        return " · ".join(part for part in parts if part)


def adapter_of(message: StoredMessage) -> str:
    """Name of the adapter that the end of an answer was made with, fit to be shown; empty when
    there was none."""
    name: object = message.made[-1].adapter if message.made else None
    return " ".join(printable(name[:LONGEST_NAME]).split()) if isinstance(name, str) else ""


def results_of(said: Said) -> list[ToolUse]:
    """The calls behind a message that gave something to copy."""
    return [use for use in said.uses if use.status == "ok" and use.result]


class MessageAction(Message):
    """The person wants something done to a message."""

    def __init__(self, message_id: str, action: Action) -> None:
        super().__init__()
        self.message_id = message_id
        self.action = action


class CopyWanted(Message):
    """The person wants something of a message on the clipboard: its text, the next of its blocks
    of code, or the next of the results that led to it."""

    def __init__(self, said: Said, *, code: bool = False, result: bool = False) -> None:
        super().__init__()
        self.said = said
        self.code = code
        self.result = result


def _key(key: str, action: str, label: str, name: str, tooltip: str) -> Binding:
    return Binding(key, action, label, id=f"message.{name}", show=False, tooltip=tooltip)


MESSAGE_BINDINGS: list[BindingType] = [
    _key("up", "neighbour(-1)", "Earlier message", "up", "The message before"),
    _key("down", "neighbour(1)", "Later message", "down", "The message after"),
    _key("escape,tab", "leave", "Back to the prompt", "leave", "Back to the prompt"),
    _key("y", "copy", "Copy", "copy", "Copy this message"),
    _key("left", "ask('older')", "Other version", "older", "The version of it before this one"),
    _key("right", "ask('newer')", "Other version", "newer", "The version of it after this one"),
    _key("p", "ask('pin')", "Pin", "pin", "Keep it in what the model sees, or no longer"),
    _key("d", "ask('delete')", "Delete", "delete", "Delete this turn"),
    _key("o", "fold", "Fold", "fold", "Open or fold what is long, reasoning, tool calls"),
]
QUESTION_BINDINGS: list[BindingType] = [
    *MESSAGE_BINDINGS,
    _key("e", "ask('edit')", "Edit", "edit", "Edit it and ask again"),
]
ANSWER_BINDINGS: list[BindingType] = [
    *MESSAGE_BINDINGS,
    _key("k", "copy_code", "Copy code", "code", "Copy the next block of code"),
    _key("t", "copy_result", "Copy result", "result", "Copy the result of the next tool call"),
    _key("r", "ask('retry')", "Again", "retry", "Another answer to the same question"),
    _key("c", "ask('continue')", "Continue", "continue", "Go on where it stopped"),
]


def continue_key(app: App[Any]) -> str:
    """The key that continues an answer; the person may have chosen another one."""
    return name_key(app._keymap.get("message.continue", "c").split(",")[0].strip())


# Style sheets find a widget by its first base class, so what is shared must not be a widget.
if TYPE_CHECKING:
    _Widget = Widget
else:
    _Widget = object


class MessageBlock(_Widget):
    """A message that can be chosen by keyboard; a click leaves the prompt its focus."""

    said: Said

    def focus_on_click(self) -> bool:
        return False

    @property
    def text(self) -> str:
        """Exactly what was written."""
        return self.said.text

    @text.setter
    def text(self, text: str) -> None:
        self.said.text = text

    @property
    def message_id(self) -> str:
        """The record's; empty for what is not kept."""
        return self.said.message_id

    def redraw(self) -> None:
        """Show what has changed in ``said``."""
        raise NotImplementedError

    @property
    def footer(self) -> str:
        """The line below it."""
        footer = self.said.footer
        if self.said.can_continue and self.said.message_id:
            hint = f"{continue_key(self.app)} continues"
            return f"{footer} · {hint}" if footer else hint
        return footer

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key without an effect."""
        if action == "ask":
            return self.allows(str(parameters[0]))
        return action != "copy_result" or bool(results_of(self.said))

    def allows(self, action: str) -> bool:
        """Whether the chat can do this to it."""
        if not self.said.message_id:
            return False
        tests: dict[str, Callable[[], bool]] = {
            "older": lambda: self.said.branch is not None and self.said.branch[0] > 1,
            "newer": lambda: (
                self.said.branch is not None and self.said.branch[0] < self.said.branch[1]
            ),
            "continue": lambda: self.said.can_continue,
            "edit": lambda: self.said.role == "user",
            "retry": lambda: self.said.role == "assistant",
        }
        return tests.get(action, lambda: True)()

    def action_ask(self, action: Action) -> None:
        """Ask the chat to do something to this message."""
        self.post_message(MessageAction(self.said.message_id, action))

    def action_copy(self) -> None:
        """The text to the clipboard."""
        self.post_message(CopyWanted(self.said))

    def action_copy_code(self) -> None:
        """The next block of code to the clipboard."""
        self.post_message(CopyWanted(self.said, code=True))

    def action_copy_result(self) -> None:
        """The next result of a tool to the clipboard."""
        self.post_message(CopyWanted(self.said, result=True))

    def action_neighbour(self, step: int) -> None:
        """Choose the message before or after; below the last one is the prompt."""
        assert isinstance(self.parent, Widget)
        blocks = [b for b in self.parent.children if isinstance(b, MessageBlock)]
        at = blocks.index(self) + step
        if at >= len(blocks):
            self.action_leave()
        elif at >= 0:
            blocks[at].focus(scroll_visible=False)

    def action_leave(self) -> None:
        """Back to where one writes."""
        selector = self.screen.AUTO_FOCUS
        for widget in self.screen.query(selector) if selector else ():
            widget.focus()
            return
