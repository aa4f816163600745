"""Chats as JSON lines, the form that ``mlx_lm.lora`` and other trainers read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobilellm_mlx.chat.context import conversation
from mobilellm_mlx.chat.exchange.text import to_compact_json
from mobilellm_mlx.chat.records import ChatRecord, StoredMessage


def to_jsonl(chat: ChatRecord, branch: Sequence[StoredMessage]) -> str:
    """One line ``{"messages": [{"role": ..., "content": ...}, ...]}``, or nothing.

    Only complete turns are in it: a question that went unanswered, or whose answer was stopped,
    would teach to stop. The system prompt that was in force comes first; reasoning is not in it.
    Tools stand where they stood for the model.

    Args:
        chat: whose instructions count where an answer does not say its own.
        branch: the messages that are shown, the first one first.
    """
    said = [message for turn in _turns(branch) if _is_complete(turn) for message in turn]
    if not said:
        return ""
    made = said[-1].made
    instructions = made[-1].instructions if made else chat.instructions
    system = [{"role": "system", "content": instructions}] if instructions else []
    words = [message.to_dict() for message in conversation(said, None)]
    return to_compact_json({"messages": system + words}) + "\n"


def _turns(branch: Sequence[StoredMessage]) -> Iterator[list[StoredMessage]]:
    """Each question with everything up to the next one."""
    turn: list[StoredMessage] = []
    for message in branch:
        if message.role == "user":
            yield turn
            turn = []
        if message.role != "system" and not message.deleted:
            turn.append(message)
    yield turn


def _is_complete(turn: Sequence[StoredMessage]) -> bool:
    return (
        len(turn) > 1
        and turn[0].role == "user"
        and turn[-1].role == "assistant"
        and all(message.status == "complete" and message.content.strip() for message in turn)
    )
