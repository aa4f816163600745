"""Texts of people and tools inside structures that a template is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mobilellm_mlx.tokenizer import Tokenizer

_FIXED = frozenset(
    (
        *("role", "content", "tool_calls", "tool_call_id", "type", "function", "id", "name"),
        *("arguments", "description", "parameters"),
    )
)
"""Keys that templates ask for. No special token is a part of one."""


class Guard:
    """``Tokenizer.guard`` for JSON values, and quick where there is nothing to guard."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        names = [name for name in tokenizer.special if len(name) > 1]
        self._begins = tuple({name[0] for name in names})
        self._tails = tuple({name[at:] for name in names for at in range(1, len(name))})

    def guard(self, value: Any) -> tuple[Any, str]:
        """The value with its texts guarded, and the marker; empty where none was needed."""
        texts: list[str] = []

        def note(text: str) -> str:
            texts.append(text)
            return text

        _walk(value, note)
        if not any(map(self._matters, texts)):
            return value, ""
        guarded, marker = self._tokenizer.guard(texts)
        rest = iter(guarded)
        return _walk(value, lambda _: next(rest)), marker

    def _matters(self, text: str) -> bool:
        """Whether a name could be in a text, begin at its end, or end at its beginning."""
        return any(char in text for char in self._begins) or text.startswith(self._tails)


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON value with every text changed, keys too, always in the same order."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_walk(part, change) for part in value]
    if isinstance(value, Mapping):
        return {
            key if key in _FIXED else change(key): part if key == "role" else _walk(part, change)
            for key, part in value.items()
        }
    return value
