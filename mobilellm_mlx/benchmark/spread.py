"""Several measurements of one thing: a median, and how far they spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

Spread = dict[str, Any]
"""``median``, ``min``, ``max`` and ``repeats``, which is how many there were."""


def spread(values: Sequence[float]) -> Spread:
    """Of one value of each repeat, at least one."""
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }
