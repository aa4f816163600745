"""Rouge-1 and Rouge-L of Lin (2004): how much two texts share, in words and in order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Letters and digits in lower case; everything else parts words. Nothing is stemmed."""
    return _WORD.findall(text.lower())


def rouge_1(said: str, reference: str) -> float:
    """F1 of the words that both have, each counted as often as both have it."""
    one, other = words(said), words(reference)
    return _f1(sum((Counter(one) & Counter(other)).values()), one, other)


def rouge_l(said: str, reference: str) -> float:
    """F1 of the longest sequence of words that both have in this order, gaps allowed."""
    one, other = words(said), words(reference)
    return _f1(longest_common(one, other), one, other)


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = row
        row = [0]
        for at, against in enumerate(other):
            row.append(above[at] + 1 if word == against else max(row[at], above[at + 1]))
    return row[-1]


def _f1(shared: int, one: Sequence[str], other: Sequence[str]) -> float:
    if not shared:
        return 0.0
    return 2 * shared / (len(one) + len(other))
