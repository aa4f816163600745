"""What is kept of a chat: plain values, free of SQLite and of any interface.

The messages of a chat form a tree: editing a message or asking again adds a sibling instead of
overwriting, and the branch that is shown is the way from the root to the chat's leaf.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mobilellm_mlx.messages import Role

AnswerStatus = Literal["complete", "partial", "stopped", "failed"]
"""How a message ended. ``partial``: nobody has said how it ended; it is being written, or its
program was killed. ``stopped``: the person or a limit ended it, so it can be continued."""


MAX_USES = 64
"""Calls that an answer can have; a turn makes far fewer, and each is drawn."""


def make_id() -> str:
    """A new identifier that sorts by the time of its making."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"


def now() -> datetime:
    """This moment in UTC, to the millisecond: what a record keeps."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class Generation:
    """How a stretch of an answer was made, complete enough to make it again.

    An answer has one; every time it is continued, it gets one more.
    """

    model: str
    model_path: str = ""
    fingerprint: str = ""
    """Of the model's files and the form they were computed in; see ``ModelLoaded``."""
    bits: int | None = None
    compute: str = ""
    dtype: str = ""
    backend: str = ""
    adapter: str | None = None
    instructions: str | None = None
    """The system prompt in force."""
    options: dict[str, Any] = field(default_factory=dict)
    """Sampling options in force, the seed included."""
    left_out: tuple[str, ...] = ()
    """Ids of earlier messages on the branch that the model was not shown."""
    begun_text: str | None = None
    """What it went on from, where that is not the tokens of the stretches before: its program had
    died before it could note them."""
    grammar: str = ""
    """What it was bound to: the kind of grammar, a colon, its source."""
    tokens: tuple[int, ...] = ()
    """Ids of the generated tokens; empty when the program died before it could note them."""
    stop_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    ttft_s: float = 0.0
    prefill_tok_per_s: float = 0.0
    decode_tok_per_s: float = 0.0
    context_used: int = 0
    context_limit: int = 0
    memory_bytes: int = 0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that was made on the way to an answer, and what came of it."""

    id: str
    tool: str
    arguments: dict[str, object] = field(default_factory=dict)
    """As it was run, or was to be."""
    words: str = ""
    source: str = ""
    allowed: str = ""
    """Who allowed it: ``you``, ``session``, ``always``, ``reads only``; empty when nobody did."""
    status: str = ""
    """See ``tools.Status``; empty when the program died before it knew."""
    result: str = ""
    is_shortened: bool = False
    tokens: int = 0
    forced_tokens: int = 0
    forward_passes: int = 0
    chosen_s: float = 0.0
    """Seconds that the model took to make the call."""
    elapsed_s: float = 0.0
    """Seconds that running it took."""
    format: str = ""
    """Name of the manner in which it was asked for and is told; see ``tools.styles``."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A node of a chat's tree."""

    id: str
    chat_id: str
    parent_id: str | None
    role: Role
    content: str
    created_at: datetime
    reasoning: str = ""
    status: AnswerStatus = "complete"
    pinned: bool = False
    """Stays in what the model sees when older turns are dropped."""
    deleted: bool = False
    """Taken out of the chat; its children remain."""
    made: tuple[Generation, ...] = ()
    """Of an answer: how it was made."""
    uses: tuple[ToolUse, ...] = ()
    """Of an answer: the tools that were used before its text, in order."""


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A chat without its messages."""

    id: str
    created_at: datetime
    updated_at: datetime
    """When something was last said in it."""
    title: str = ""
    named: bool = False
    """Whether a person chose the title; otherwise it may still be made anew."""
    pinned: bool = False
    deleted_at: datetime | None = None
    instructions: str | None = None
    leaf_id: str | None = None
    """The newest message of the branch that is shown."""
    model: str = ""
    """Who answered last."""
    messages: int = 0
    """How many there are, all branches, deleted ones not among them."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A message that holds what was looked for."""

    chat: ChatRecord
    message_id: str
    role: Role
    created_at: datetime
    excerpt: str
    """Some words around the find, on one line."""
    marks: tuple[tuple[int, int], ...] = ()
    """Start and end of every found word in ``excerpt``."""
