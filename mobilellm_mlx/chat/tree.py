"""The tree of a chat's messages: which branch is shown, and where else one could go.

Messages come in the order of their creation. Where a damaged file lacks a parent or has a circle of
parents, a walk ends: it neither fails nor hangs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobilellm_mlx.chat.records import StoredMessage


def branch(messages: Sequence[StoredMessage], leaf_id: str | None) -> list[StoredMessage]:
    """What is shown of a chat: the way from its root to a leaf, without what was deleted.

    Args:
        messages: the whole tree.
        leaf_id: where the branch ends; None, or one that is not there, shows nothing.
    """
    by_id = {message.id: message for message in messages}
    way = [message for message in _upwards(by_id, leaf_id) if not message.deleted]
    return way[::-1]


def siblings(messages: Sequence[StoredMessage], message_id: str) -> list[StoredMessage]:
    """The versions of a message, itself among them, the oldest first.

    They answer the same message, or begin the chat; deleted ones do not count.
    """
    found = next((message for message in messages if message.id == message_id), None)
    if found is None:
        return []
    key = (found.parent_id, found.role)
    return [
        message
        for message in messages
        if (message.parent_id, message.role) == key
        and (not message.deleted or message.id == message_id)
    ]


def newest_leaf(messages: Sequence[StoredMessage], under_id: str) -> str:
    """The end of the branch through a message on which something was said last.

    Deleted messages end no branch; a message with nothing else below it is its own end.
    """
    below: dict[str | None, list[str]] = {}
    for message in messages:
        below.setdefault(message.parent_id, []).append(message.id)
    under, waiting = {under_id}, [under_id]
    while waiting:
        fresh = [child for child in below.get(waiting.pop(), ()) if child not in under]
        under.update(fresh)
        waiting.extend(fresh)
    # What was said last has nothing below it that is shown.
    shown = (m.id for m in reversed(messages) if m.id in under and not m.deleted)
    return next(shown, under_id)


def has_gaps(messages: Sequence[StoredMessage], leaf_id: str | None) -> bool:
    """Whether something on the way to a message was deleted."""
    by_id = {message.id: message for message in messages}
    return any(message.deleted for message in _upwards(by_id, leaf_id))


def _upwards(by_id: dict[str, StoredMessage], leaf_id: str | None) -> Iterator[StoredMessage]:
    """A message, what it answers, what that answers, up to the root."""
    seen: set[str] = set()
    at = leaf_id
    while at is not None and at in by_id and at not in seen:
        seen.add(at)
        message = by_id[at]
        yield message
        at = message.parent_id
