"""Records to put into a store, and reading the file behind its back."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage
from mobilellm_mlx.chat.store import Store

START = datetime(2025, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)

MADE = Generation(
    model="tiny",
    fingerprint="f00d",
    bits=4,
    adapter=None,
    options={"temperature": 0.7, "seed": 3, "stop": ["\n"]},
    left_out=("m1", "m2"),
    tokens=(1, 2, 3),
    stop_reason="eos",
    ttft_s=0.25,
)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def chat(chat_id: str = "c", minutes: float = 0, **changes: Any) -> ChatRecord:
    return replace(ChatRecord(chat_id, at(minutes), at(minutes)), **changes)


def message(
    message_id: str,
    content: str = "",
    *,
    chat_id: str = "c",
    parent_id: str | None = None,
    minutes: float = 0,
    **changes: Any,
) -> StoredMessage:
    plain = StoredMessage(message_id, chat_id, parent_id, "user", content, at(minutes))
    return replace(plain, **changes)


def fill(store: Store, chats: int = 4, turns: int = 10) -> list[StoredMessage]:
    """Chats of questions and answers with some text in each; gives all messages."""
    everything = []
    for number in range(chats):
        name = f"chat{number}"
        store.add_chat(chat(name, number, title=f"Talk {number}"))
        parent, kept = None, []
        for turn in range(2 * turns):
            asked = turn % 2 == 0
            kept.append(
                message(
                    f"{name}-{turn:03}",
                    f"{name} turn {turn} " + "lorem ipsum dolor sit amet " * 20,
                    chat_id=name,
                    parent_id=parent,
                    minutes=turn,
                    role="user" if asked else "assistant",
                    made=() if asked else (MADE,),
                )
            )
            parent = kept[-1].id
        store.save(*kept)
        store.set_leaf(name, parent)
        everything += kept
    return everything


def everything_in(store: Store) -> list[StoredMessage]:
    return [message for chat in store.chats() for message in store.messages(chat.id)]


def query(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What SQLite itself says about a file."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(sql, values).fetchall()
        connection.commit()
        return rows
