"""One step for a model that has an adapter for calls, and speaks without it.

The adapter was trained on single requests, so a request is all that it is shown: the tools on offer
and what the person said, whatever the rest of the conversation. The answer itself is the bare
model's, as if there were no adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Ask, Asks, Offered, Used
from mobilellm_mlx.tools.formats import Format
from mobilellm_mlx.tools.styles.evidence import with_evidence
from mobilellm_mlx.tools.styles.two_step import TwoStep, copying
from mobilellm_mlx.tools.styles.words import grounded, instructed, last_said, mentioned

MAX_TOKENS = 192
"""Of a call; those that were trained on have a quarter of it at most."""


class CallsOnly:
    """Calls or "no call", bound by a grammar.

    Args:
        format: how calls are written; it has to be able to say that none is wanted.
    """

    rounds = 1
    plain_answers = True

    def __init__(self, format: Format):
        if not format.declines or format.opening is not None:
            raise ValueError(f"{format.name} answers with speech where no call is wanted")
        self._format = format
        self.name = format.name

    def asks(self, conversation: Sequence[Message], offered: Sequence[Offered]) -> Asks:
        said = last_said(conversation)
        messages = instructed([Message("user", said)], self._format.render_tools(offered))
        grammar = self._format.grammar([_bound(one, said) for one in offered], free_text=False)
        answer = yield Ask(messages, grammar, MAX_TOKENS)
        _, calls = self._format.parse(answer)
        return calls

    def instructions(self, offered: Sequence[Offered]) -> str:
        return ""

    def tell(self, question: Message, used: Sequence[Used]) -> list[Message]:
        return TwoStep().tell(question, used)


def _bound(offered: Offered, said: str) -> Offered:
    """A tool whose arguments are what was said, or what was meant by it."""
    (heard,) = grounded([copying(offered)], said)
    return with_evidence(mentioned(heard, said), said, knows_kinds=True)
