"""What a model is shown of a long chat: all of it, or all but its oldest turns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from mobilellm_mlx.chat.records import StoredMessage, ToolUse
from mobilellm_mlx.errors import ContextOverflow, InvalidOption, ToolError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.tool import Call

WhenFull = Literal["drop", "stop"]

_AFTER_DROPPING = 0.625
"""Share of the threshold that is filled after turns were dropped. Dropping moves everything behind
it, so all is read anew; doing that for every turn would cost more than the turns are worth."""

Count = Callable[[Sequence[Message]], int]


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """What happens when a chat fills its context.

    Attributes:
        when_full: ``drop`` leaves the oldest turns out of what the model is shown, ``stop`` asks
            the person what to do.
        threshold: share of the context from which on that happens; the rest is for the answer.
    """

    when_full: WhenFull = "drop"
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if self.when_full not in ("drop", "stop"):
            raise InvalidOption(
                f"the context policy is {self.when_full!r}, expected `drop` or `stop`"
            )
        if not 0.1 <= self.threshold <= 1:
            raise InvalidOption(
                f"the context threshold is {self.threshold}, expected a share from 0.1 to 1"
            )


class ContextFull(ContextOverflow):
    """A chat has reached the threshold at which its person wants to be asked."""

    def __init__(self, tokens: int, limit: int, threshold: float):
        super().__init__(
            tokens,
            limit,
            "start a new chat, delete turns, or let the oldest go with `/context drop`",
        )
        self.message = (
            f"the chat and your message are {tokens:,} tokens, more than {threshold:.0%} of the "
            f"{limit:,} that the context holds"
        )
        self.args = (self.message,)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model is asked with."""

    messages: list[Message]
    left_out: tuple[str, ...]
    """Ids of the messages that are not among them because there is no room."""


def choose(
    branch: Sequence[StoredMessage],
    instructions: str | None,
    *,
    count: Count,
    limit: int,
    policy: ContextPolicy,
    before: Collection[str] = (),
    using: Sequence[ToolUse] = (),
) -> Shown:
    """What to show of a branch whose newest turn must be in it.

    Args:
        branch: from the first message to the one to be answered (or the answer to be continued).
        instructions: the system prompt; always shown.
        count: tokens of a conversation.
        limit: tokens that the context holds.
        policy: what to do when there is no room.
        before: ids left out the last time; they stay out as long as not everything fits.
        using: tools that were used for the newest turn.

    Raises:
        ContextFull: when there is no room and the policy is to stop.
    """
    turns = _turns(branch)
    old = turns[:-1]
    room = int(policy.threshold * limit)

    def shown(out: Collection[str]) -> list[Message]:
        shown = (m for turn in turns for m in turn if m.id not in out)
        return conversation(shown, instructions, using)

    whole = shown(())
    tokens = count(whole)
    if tokens <= room or not old:
        return Shown(whole, ())
    if policy.when_full == "stop":
        raise ContextFull(tokens, limit, policy.threshold)
    droppable = [turn for turn in old if not any(message.pinned for message in turn)]
    kept_out = {m.id for turn in droppable for m in turn if m.id in before}
    if kept_out and count(shown(kept_out)) <= room:
        return Shown(shown(kept_out), _in_order(branch, kept_out))
    goal = int(room * _AFTER_DROPPING)
    if count(shown(_ids(droppable))) > goal:  # what stays is more than that: drop what must go
        goal = room
    few, many = 1, len(droppable)  # the smallest number of turns whose absence is enough
    while few < many:
        middle = (few + many) // 2
        if count(shown(_ids(droppable[:middle]))) <= goal:
            many = middle
        else:
            few = middle + 1
    out = _ids(droppable[:few])
    return Shown(shown(out), _in_order(branch, out))


def conversation(
    messages: Iterable[StoredMessage],
    instructions: str | None,
    using: Sequence[ToolUse] = (),
) -> list[Message]:
    """Messages as a model is asked with them, the instructions first.

    Args:
        messages: of a branch, in order.
        instructions: the system prompt.
        using: tools that were used for the last one, when that is a question; those of earlier
            questions are noted in their answers.
    """
    said = [Message("system", instructions)] if instructions else []
    held = list(messages)
    for message, following in zip_longest(held, held[1:]):
        asked = Message(message.role, message.content)
        uses = using if following is None else following.uses
        made = [use for use in uses if use.tool]  # one that was cut never became a call
        if message.role == "user" and made:
            said += _told(asked, made)
        else:
            said.append(asked)
    return said


def _told(question: Message, uses: Sequence[ToolUse]) -> list[Message]:
    """A question with the tools that were used for it, as the model was told then."""
    from mobilellm_mlx.tools.asking import Used
    from mobilellm_mlx.tools.styles import find_style

    try:
        style = find_style(uses[0].format)
    except ToolError:  # from a file, or from a later version
        style = find_style("two-step")
    used = [Used(Call(use.tool, use.arguments), use.result, use.status) for use in uses]
    return style.tell(question, used)


def whole_turns(branch: Sequence[StoredMessage]) -> list[StoredMessage]:
    """What of a branch a model can be shown; see ``_turns``."""
    return [message for turn in _turns(branch) for message in turn]


def _turns(branch: Sequence[StoredMessage]) -> list[list[StoredMessage]]:
    """A branch in turns: what a person said and all that came of it.

    A question that was never answered, because its program died, is not a turn: two questions in a
    row are nothing that a chat template knows. The newest one is.
    """
    turns: list[list[StoredMessage]] = []
    for message in branch:
        if message.role not in ("user", "assistant"):
            continue  # from a file: nobody sees it, so the model does not either
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    newest = turns[-1:]
    return [turn for turn in turns[:-1] if _is_whole(turn)] + newest


def _is_whole(turn: Sequence[StoredMessage]) -> bool:
    last = turn[-1]
    meant_empty = last.status == "complete" and not last.reasoning
    # What tools did was done, also where the words about it are missing.
    return last.role != "user" and (bool(last.content or last.uses) or meant_empty)


def _ids(turns: Sequence[Sequence[StoredMessage]]) -> set[str]:
    return {message.id for turn in turns for message in turn}


def _in_order(branch: Sequence[StoredMessage], ids: Collection[str]) -> tuple[str, ...]:
    return tuple(message.id for message in branch if message.id in ids)
