"""Chats as files: Markdown to read, JSON to keep and bring back, JSON lines to train on."""

from mobilellm_mlx.chat.exchange.document import (
    LARGEST_BYTES,
    WholeChat,
    from_json,
    renew,
    to_json,
)
from mobilellm_mlx.chat.exchange.files import format_of
from mobilellm_mlx.chat.exchange.markdown import to_markdown
from mobilellm_mlx.chat.exchange.training import to_jsonl

__all__ = [
    "LARGEST_BYTES",
    "WholeChat",
    "format_of",
    "from_json",
    "renew",
    "to_json",
    "to_jsonl",
    "to_markdown",
]
