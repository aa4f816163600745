"""A chat as a Markdown file, with what it was made with in front."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from mobilellm_mlx.chat.exchange.text import printable
from mobilellm_mlx.chat.records import ChatRecord, StoredMessage
from mobilellm_mlx.options import GenerationOptions

_ENDINGS = {
    "partial": "broken off",
    "stopped": "stopped",
    "failed": "failed",
}
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_PLAIN_KEYS = {field.name for field in fields(GenerationOptions)}


def to_markdown(
    chat: ChatRecord, branch: Sequence[StoredMessage], *, reasoning: bool = False
) -> str:
    """The shown branch of a chat for people, with YAML front matter for programs.

    What could steer a terminal is left out, and a code block that an answer leaves open is closed.

    Args:
        chat: named in the front matter.
        branch: the messages that are shown, the first one first.
        reasoning: quote before each answer what the model thought.
    """
    head = "".join(f"{line}\n" for line in _front_matter(chat, branch))
    parts = [_part(message, reasoning) for message in branch]
    return printable("\n".join([f"---\n{head}---\n", *parts]))


def _front_matter(chat: ChatRecord, branch: Sequence[StoredMessage]) -> Iterator[str]:
    made = next((message.made[-1] for message in reversed(branch) if message.made), None)
    values: dict[str, Any] = {
        "title": chat.title,
        "created": chat.created_at,
        "updated": chat.updated_at,
        "model": made.model if made else chat.model,
    }
    if made:
        values |= {"bits": made.bits, "adapter": made.adapter, "backend": made.backend}
    values["instructions"] = made.instructions if made else chat.instructions
    for name, value in values.items():
        if value not in (None, ""):
            yield f"{name}: {_yaml(value)}"
    if made and made.options:
        yield "sampling:"
        for name, value in made.options.items():
            yield f"  {name if name in _PLAIN_KEYS else _yaml(name)}: {_yaml(value)}"


def _part(message: StoredMessage, reasoning: bool) -> str:
    who = {"user": "You", "system": "Instructions", "tool": "Tool"}.get(message.role, "Assistant")
    if message.made and message.made[-1].model:
        who = " ".join(message.made[-1].model.split())
    lines = [f"## {who}", ""]
    if reasoning and message.reasoning:
        lines += [*(f"> {line}".rstrip() for line in message.reasoning.splitlines()), ""]
    for use in message.uses:
        result = " ".join(use.result.split())
        lines += [f"> {' '.join(use.words.split()) or use.tool}: {result or use.status}", ""]
    lines += [_closed(message.content.strip("\n")), ""]
    if message.status in _ENDINGS:
        lines += [f"*({_ENDINGS[message.status]})*", ""]
    return "\n".join(lines)


def _closed(text: str) -> str:
    """``text`` with the fence that it leaves open closed, so that it ends where it ends."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~"):
            fence = ""
    return f"{text}\n{fence}" if fence else text


def _yaml(value: Any) -> str:
    """A value that YAML 1.1 and 1.2 both read as what it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _yaml_float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_yaml(str(k))}: {_yaml(v)}' for k, v in value.items())}}}"
    return f'"{"".join(_escape(char) for char in str(value))}"'


def _yaml_float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)  # 1e-05, which older YAML takes for a word without the point
    return text if "." in text else text.replace("e", ".0e")


def _escape(char: str) -> str:
    """Always between double quotes, where words mean themselves: no `yes`, no `#`, no `: `."""
    if char in '"\\':
        return f"\\{char}"
    if char == "\n":
        return "\\n"
    if char.isprintable():
        return char
    if "\ud800" <= char <= "\udfff":
        return "\ufffd"
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
