"""What a model is asked so that it makes a call; ``chat.calling`` puts it to an engine."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.tool import Call, Tool


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool that a model may choose now.

    Attributes:
        tool: the tool.
        schema: its parameters, in which arguments that name real things are enums of what exists.
    """

    tool: Tool
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the model.

    Attributes:
        messages: the prompt.
        grammar: what the answer is bound to; None lets the model write what it likes.
        max_tokens: of the answer; one that needs more is cut, and a cut call is never run.
        begun: what the answer begins with, put in the model's mouth; the grammar begins behind it.
        opening: where the answer may be speech or a call: what a call begins with. Text before it
            is speech, shown as it comes. None where everything belongs to the call.
    """

    messages: tuple[Message, ...]
    grammar: Grammar | None
    max_tokens: int = 256
    begun: str = ""
    opening: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """A call that was made, and what a model is told about it."""

    call: Call
    result: str
    status: str = "ok"
    """See ``Status``."""


Asks = Generator[Ask, str, list[Call]]
"""Gives one question after the other, is sent each answer (``begun`` and what was generated), and
returns the calls; none means that no tool is wanted."""


class Style(Protocol):
    """A manner of asking for calls.

    Attributes:
        name: what it is called in settings and records.
        rounds: how often a turn may ask, results of earlier calls in sight; at most five.
        plain_answers: whether what a tool answered is given to the person as it is, because such
            a model would spoil it.
    """

    name: str
    rounds: int
    plain_answers: bool

    def asks(self, conversation: Sequence[Message], offered: Sequence[Offered]) -> Asks:
        """Ask for the calls that the end of a conversation wants.

        Raises:
            ToolError: when an answer cannot be read; bound answers that are whole always can.
        """

    def instructions(self, offered: Sequence[Offered]) -> str:
        """What the system prompt of the answer itself gains; empty for nothing."""

    def tell(self, question: Message, used: Sequence[Used]) -> list[Message]:
        """A question, the calls it led to and their results, as they stand before the answer."""
