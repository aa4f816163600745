"""Records to rows and back.

Reading never fails: a value that makes no sense, which only a damaged file holds, becomes the
plainest one that does, because one bad byte must not hide a chat.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, TypeVar, cast, get_args

from mobilellm_mlx.chat.records import (
    MAX_USES,
    AnswerStatus,
    ChatRecord,
    Generation,
    StoredMessage,
    ToolUse,
)
from mobilellm_mlx.messages import Role

_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
_GENERATION_FIELDS = {field.name for field in fields(Generation)}
_USE_FIELDS = {field.name for field in fields(ToolUse)}
_PLAIN_USE = asdict(ToolUse("", ""))

SELECT_CHATS = """
    SELECT chats.*, (
        SELECT count(*) FROM messages
        WHERE messages.chat_id = chats.id AND messages.deleted_at IS NULL
    ) AS messages
    FROM chats
"""

Record = TypeVar("Record")


def clean(text: str) -> str:
    """``text`` with lone surrogates, which no file can hold, as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clean_or_none(text: str | None) -> str | None:
    """The same for a text that may be missing."""
    return None if text is None else clean(text)


def time_text(when: datetime | None) -> str | None:
    """UTC in one width, so that texts sort as times do."""
    return None if when is None else when.astimezone(UTC).isoformat(timespec="milliseconds")


def fetch(cursor: sqlite3.Cursor) -> Iterable[dict[str, Any]]:
    """Rows as mappings from the columns' names."""
    columns = [description[0] for description in cursor.description]
    return (dict(zip(columns, row, strict=True)) for row in cursor)


def chat_row(chat: ChatRecord) -> dict[str, Any]:
    """The columns of ``chats``, without the number."""
    return {
        "id": chat.id,
        "created_at": time_text(chat.created_at),
        "updated_at": time_text(chat.updated_at),
        "title": clean(chat.title),
        "named": chat.named,
        "pinned": chat.pinned,
        "deleted_at": time_text(chat.deleted_at),
        "instructions": clean_or_none(chat.instructions),
        "leaf_id": chat.leaf_id,
        "model": clean(chat.model),
    }


def chat_from(row: Mapping[str, Any]) -> ChatRecord:
    """A row of ``SELECT_CHATS``."""
    return ChatRecord(
        id=str(row["id"]),
        created_at=_time(row["created_at"]) or _UNKNOWN_TIME,
        updated_at=_time(row["updated_at"]) or _UNKNOWN_TIME,
        title=str(row["title"]),
        named=bool(row["named"]),
        pinned=bool(row["pinned"]),
        deleted_at=_time(row["deleted_at"]),
        instructions=_text_or_none(row["instructions"]),
        leaf_id=_text_or_none(row["leaf_id"]),
        model=str(row["model"]),
        messages=int(row.get("messages", 0)),
    )


def message_row(message: StoredMessage, now: datetime) -> dict[str, Any]:
    """The columns of ``messages``, without the number."""
    return {
        "id": message.id,
        "chat_id": message.chat_id,
        "parent_id": message.parent_id,
        "role": message.role,
        "content": clean(message.content),
        "reasoning": clean(message.reasoning),
        "status": message.status,
        "pinned": message.pinned,
        "created_at": time_text(message.created_at),
        "deleted_at": time_text(now) if message.deleted else None,
        "uses": _compact([asdict(use) for use in message.uses]),
    }


def message_from(row: Mapping[str, Any], made: Iterable[Generation] = ()) -> StoredMessage:
    """A row of ``messages`` and how it was made."""
    role, status = row["role"], row["status"]
    return StoredMessage(
        id=str(row["id"]),
        chat_id=str(row["chat_id"]),
        parent_id=_text_or_none(row["parent_id"]),
        role=cast(Role, role) if role in get_args(Role) else "assistant",
        content=str(row["content"]),
        created_at=_time(row["created_at"]) or _UNKNOWN_TIME,
        reasoning=str(row["reasoning"]),
        status=cast(AnswerStatus, status) if status in get_args(AnswerStatus) else "partial",
        pinned=bool(row["pinned"]),
        deleted=row["deleted_at"] is not None,
        made=tuple(made),
        uses=tuple(_uses_from(row.get("uses"))),
    )


def _uses_from(text: Any) -> Iterator[ToolUse]:
    """The column ``uses``; a use that makes no sense is left out."""
    try:
        uses = json.loads(text) if text else []
    except (ValueError, TypeError, RecursionError):
        return
    for use in uses[:MAX_USES] if isinstance(uses, list) else ():
        with suppress(TypeError, AttributeError):
            known = {name: value for name, value in use.items() if name in _USE_FIELDS}
            if all(type(value) is type(_PLAIN_USE[name]) for name, value in known.items()):
                yield ToolUse(**known)


def generation_row(message_id: str, position: int, made: Generation) -> dict[str, Any]:
    """The columns of ``generations``."""
    details = asdict(made)
    del details["model"]
    return {
        "message_id": message_id,
        "position": position,
        "model": clean(made.model),
        "details": _compact(details),
    }


def generation_from(row: Mapping[str, Any]) -> Generation:
    """A row of ``generations``; fields that this program does not know are left out."""
    try:
        details = json.loads(row["details"])
        known = {name: value for name, value in details.items() if name in _GENERATION_FIELDS}
        for name in ("left_out", "tokens"):
            known[name] = tuple(known.get(name, ()))
        return Generation(**{**known, "model": str(row["model"])})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Generation(model=str(row["model"]))


def _compact(value: Any) -> str:
    return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
