"""Several measurements of one thing as one row: a median, and how far they spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def make_row(values: Sequence[float], **labels: Any) -> dict[str, Any]:
    """A row of a result.

    Args:
        values: one of each repeat, at least one.
        **labels: what was measured; they come first in the row.
    """
    return {
        **labels,
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }
