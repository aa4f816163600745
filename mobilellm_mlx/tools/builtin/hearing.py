"""What an argument could be, read out of what the person said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mobilellm_mlx.errors import ToolError

MAX_WORDS = 100
"""Words of a message that are looked at; a request stands at its beginning."""
_LONGEST = 9
"""Words of one reading."""
_WORD = re.compile(r"\S+")
_EDGE = ".,;:!?…\"'“”‘’()"
_BETWEEN = frozenset(
    (
        *("a", "about", "and", "at", "by", "days", "day", "for", "from", "how", "in", "is", "it"),
        *("many", "much", "of", "on", "since", "the", "this", "till", "to", "until", "what"),
    )
)
"""Words that lead to a value and do not belong to it, though a parser may put up with them."""


def readings(
    said: str, parse: Callable[[str], object], *, belong: frozenset[str] = frozenset()
) -> list[str]:
    """The longest runs of words that mean something to a parser, in the order they stand in.

    Args:
        said: by the person.
        parse: raises ``ToolError`` where a text means nothing to it.
        belong: words that usually only lead to a value, and are part of one here.
    """
    between = _BETWEEN - belong
    words = [found.span() for found in _WORD.finditer(said)][:MAX_WORDS]
    taken: list[tuple[int, int, str]] = []
    for size in range(min(_LONGEST, len(words)), 0, -1):
        for first in range(len(words) - size + 1):
            last = first + size - 1
            if any(begin <= last and first <= end for begin, end, _ in taken):
                continue
            text = trimmed(said[words[first][0] : words[last][1]])
            inner = text.casefold().split()
            if not inner or inner[0] in between or inner[-1] in between:
                continue
            try:
                parse(text)
            except ToolError:
                continue
            taken.append((first, last, text))
    return [text for _, _, text in sorted(taken)]


def named(values: Iterable[str], said: str) -> list[str]:
    """The values that stand in what was said, the longest where one is a part of another.

    Args:
        values: such as names of places; of a path its last part will do.
        said: by the person.
    """
    low = said.casefold()
    found: list[tuple[int, int, str]] = []
    for value in sorted(values, key=len, reverse=True):
        for name in dict.fromkeys((value, value.rstrip("/").rpartition("/")[2])):
            at = _found(name.casefold(), low)
            if at >= 0 and not any(start <= at < end for start, end, _ in found):
                found.append((at, at + len(name), value))
                break
    return [value for _, _, value in sorted(found)]


def _found(name: str, low: str) -> int:
    """Where a name stands in a text as words of its own; -1 where it does not."""
    at = low.find(name) if name else -1
    while at >= 0:
        end = at + len(name)
        if not low[at - 1 : at].isalnum() and not low[end : end + 1].isalnum():
            return at
        at = low.find(name, at + 1)
    return -1


_TOPIC = re.compile(
    r".*\b(?:about|for|regarding|concerning|discussed|mention(?:s|ed|ing)?|contain(?:s|ing)?)\s+"
    r"(?:(?:the|my|our|an?)\s+)?(?:(?:words?|phrase|term)\s+)?(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_BEHIND_TOPIC = re.compile(
    r"\s+(?:in|among|from)\s+(?:the|my|our|all)\b.*|\s+in\s+\S+$|"
    r"\s+(?:last|this|yesterday|today|before|earlier|again|please)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_MAX_TOPIC = 100


def topics(said: str) -> list[str]:
    """What somebody wants to find something about; nothing where it cannot be told."""
    found = _TOPIC.match(said)
    topic = _BEHIND_TOPIC.sub("", found[1]) if found else ""
    topic = trimmed(" ".join(topic.split()))
    return [topic] if 0 < len(topic) <= _MAX_TOPIC and topic in said else []


def trimmed(text: str) -> str:
    """A text without the punctuation around it; marks of feet and inches stay."""
    text = text.strip().lstrip(_EDGE.replace(".", ""))
    while text and text[-1] in _EDGE and not (text[-1] in "\"'”’" and text[-2:-1].isdigit()):
        text = text[:-1].rstrip()
    return text
