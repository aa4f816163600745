"""Whole chats as one JSON document: every branch, and how every answer was made.

::

    {"format": "mobilellm-chat", "version": 1, "chats": [
    {"id": ..., "created_at": ..., "title": ..., "leaf_id": ..., "messages": [
    {"id": ..., "parent_id": ..., "role": "user", "content": ..., "created_at": ...},
    {"id": ..., "parent_id": ..., "role": "assistant", ..., "made": [{"model": ..., ...}]}
    ]}
    ]}

The fields are those of ``records``; one that has its default is left out. There is a line for each
message, so that two versions of a file can be compared line by line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mobilellm_mlx.chat.exchange.codec import decode, encode
from mobilellm_mlx.chat.exchange.text import to_compact_json
from mobilellm_mlx.chat.records import MAX_USES, ChatRecord, StoredMessage, make_id
from mobilellm_mlx.errors import InvalidInput, format_bytes

FORMAT, VERSION = "mobilellm-chat", 1
LARGEST_BYTES = 200_000_000
"""Larger files are not read: no one has said so much, and it would take gigabytes of memory."""
_EXPORT_HINT = "`mobilellm history export --format json` writes what can be imported"


@dataclass(frozen=True, slots=True)
class WholeChat:
    """A chat with all of its messages, parents before what answers them."""

    chat: ChatRecord
    messages: Sequence[StoredMessage]


def to_json(chats: Iterable[WholeChat]) -> str:
    """A document that ``from_json`` reads back without loss."""
    parts = ",\n".join(_chat_text(whole) for whole in chats)
    body = f"\n{parts}\n" if parts else ""
    return f'{{"format": "{FORMAT}", "version": {VERSION}, "chats": [{body}]}}\n'


def _chat_text(whole: WholeChat) -> str:
    # How many messages there are can be counted; whose they are is told by where they stand.
    head = to_compact_json(encode(whole.chat, leave_out=("messages",)))
    lines = ",\n".join(to_compact_json(encode(m, leave_out=("chat_id",))) for m in whole.messages)
    body = f"\n{lines}\n" if lines else ""
    return f'{head[:-1]}, "messages": [{body}]}}'


def from_json(data: bytes) -> list[WholeChat]:
    """The chats of a document, checked.

    An id that is there twice is replaced where it comes the second time.

    Args:
        data: the file; it may come from anyone.

    Raises:
        InvalidInput: it is not such a document, of a later version, or something in it is wrong.
    """
    document = _parse(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput(f"the file is JSON, but not of the format `{FORMAT}`", _EXPORT_HINT)
    if (version := document.get("version")) != VERSION or type(version) is not int:
        said = version if type(version) is int and abs(version) < 10**9 else "an unknown one"
        raise InvalidInput(
            f"the file's version of `{FORMAT}` is {said}, this program reads {VERSION}",
            "update MobileLLM, or export the chat again from the program that wrote it",
        )
    chats = document.get("chats")
    if not isinstance(chats, list) or set(document) != {"format", "version", "chats"}:
        raise InvalidInput("the file must hold `format`, `version` and a list `chats` alone")
    return _make_unique(_read_chat(value, f"chats[{at}]") for at, value in enumerate(chats))


def renew(whole: WholeChat) -> WholeChat:
    """The same chat under new ids throughout, so that it cannot meet one that is there already.

    It is nobody's deleted chat, and where it does not say which branch is shown, the newest is.
    """
    chat_id = make_id()
    fresh = sorted(make_id() for _ in whole.messages)
    ids: dict[str, str] = {m.id: new for m, new in zip(whole.messages, fresh, strict=True)}
    messages = [
        replace(
            message,
            id=ids[message.id],
            chat_id=chat_id,
            parent_id=ids.get(message.parent_id or ""),
            made=tuple(
                replace(made, left_out=tuple(ids[i] for i in made.left_out if i in ids))
                for made in message.made
            ),
        )
        for message in whole.messages
    ]
    newest = [m.id for m in sorted(whole.messages, key=_said_at) if not m.deleted][-1:]
    leaf_id = ids.get(whole.chat.leaf_id or "".join(newest))
    chat = replace(whole.chat, id=chat_id, leaf_id=leaf_id, deleted_at=None)
    return WholeChat(chat, messages)


def _said_at(message: StoredMessage) -> datetime:
    return message.created_at


def _parse(data: bytes) -> Any:
    if len(data) > LARGEST_BYTES:
        raise InvalidInput(
            f"the file is {format_bytes(len(data))}, at most {format_bytes(LARGEST_BYTES)} are read"
        )
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidInput("the file is not UTF-8 text", _EXPORT_HINT) from None
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"the file is not JSON: {error.msg.lower()} in line {error.lineno}", _EXPORT_HINT
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, lists without end
        raise InvalidInput("the file holds a value that no chat has", _EXPORT_HINT) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _read_chat(value: Any, where: str) -> WholeChat:
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise InvalidInput(f"`{where}` is not a chat: it has no list `messages`")
    head = {name: item for name, item in value.items() if name != "messages"}
    chat = decode(ChatRecord, head, where, messages=0)
    messages: dict[str, StoredMessage] = {}
    for at, item in enumerate(value["messages"]):
        message = decode(StoredMessage, item, f"{where}.messages[{at}]", chat_id=chat.id)
        if len(message.uses) > MAX_USES:
            raise InvalidInput(
                f"`{where}.messages[{at}].uses` are {len(message.uses):,}, at most {MAX_USES} are "
                "taken"
            )
        if message.id in messages:  # nothing else in the file can mean this one
            message = replace(message, id=make_id())
        messages[message.id] = message
    ordered = _parents_first(messages, where)
    if chat.leaf_id is not None and chat.leaf_id not in messages:
        raise InvalidInput(f"`{where}.leaf_id` names a message that is not in the chat")
    count = sum(not message.deleted for message in ordered)
    return WholeChat(replace(chat, messages=count), ordered)


def _parents_first(messages: dict[str, StoredMessage], where: str) -> list[StoredMessage]:
    """The messages in their order, but none before the one that it answers."""
    answers: dict[str | None, list[StoredMessage]] = {}
    ordered: dict[str, StoredMessage] = {}
    for message in messages.values():
        if message.parent_id is not None and message.parent_id not in messages:
            raise InvalidInput(
                f"in `{where}` a message answers `{message.parent_id:.40}`, which is not there"
            )
        ready = [message] if message.parent_id is None or message.parent_id in ordered else []
        if not ready:
            answers.setdefault(message.parent_id, []).append(message)
        while ready:
            ordered[ready[0].id] = ready[0]
            ready[:1] = answers.pop(ready[0].id, [])
    if len(ordered) < len(messages):
        raise InvalidInput(f"in `{where}` messages answer each other in a circle")
    return list(ordered.values())


def _make_unique(chats: Iterable[WholeChat]) -> list[WholeChat]:
    """New ids for a chat that uses one of an earlier chat."""
    seen: set[str] = set()
    unique = []
    for whole in chats:
        ids = {whole.chat.id, *(message.id for message in whole.messages)}
        if ids & seen:
            whole = renew(whole)
        seen |= {whole.chat.id, *(message.id for message in whole.messages)}
        unique.append(whole)
    return unique
