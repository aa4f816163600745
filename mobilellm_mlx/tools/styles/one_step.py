"""One step: a model that was trained on tools speaks or calls, in the format it knows."""

from __future__ import annotations

from collections.abc import Sequence

from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Ask, Asks, Offered, Used
from mobilellm_mlx.tools.formats import Format
from mobilellm_mlx.tools.styles.words import grounded, instructed, last_said

MAX_TOKENS = 512
"""Of an answer that is calls and nothing else; also of speech in front of a call."""


class OneStep:
    """Tools in the system prompt, calls in the answer.

    Args:
        format: how calls are written.
        bound: whether a call, once begun, can only be one of the tools on offer. Without it a model
            writes what it likes, and what cannot be read is an error.
    """

    rounds = 5
    plain_answers = False

    def __init__(self, format: Format, *, bound: bool = True):
        self._format = format
        self._bound = bound
        self.name = format.name

    def asks(self, conversation: Sequence[Message], offered: Sequence[Offered]) -> Asks:
        messages = instructed(conversation, self.instructions(offered))
        speaks = self._format.opening is not None and not (self._bound and self._format.declines)
        grammar = None
        if self._bound:
            # After a first round the last message is its results, the one before it the question.
            tools = grounded(offered, last_said(conversation, 2))
            grammar = self._format.grammar(tools, free_text=speaks)
        opening = self._format.opening if speaks else None
        answer = yield Ask(messages, grammar, MAX_TOKENS, opening=opening)
        _, calls = self._format.parse(answer)
        return calls

    def instructions(self, offered: Sequence[Offered]) -> str:
        return self._format.render_tools(offered)

    def tell(self, question: Message, used: Sequence[Used]) -> list[Message]:
        calls = self._format.render_calls([one.call for one in used])
        results = "\n".join(map(self._format.render_result, used))
        return [question, Message("assistant", calls), Message("user", results)]
