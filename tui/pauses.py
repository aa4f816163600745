"""Python's garbage collector, told to keep out of the way of an interface."""

from __future__ import annotations

import gc

FULL_EVERY = 60
"""Young collections between two full ones: seconds apart while an answer comes."""


def avoid_pauses() -> None:
    """Spread out full collections, and leave what is in memory now out of them for good.

    By default one comes about every tenth update while a fast model speaks, and takes longer than
    three updates may. For a running program only: what is frozen here is never collected.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_EVERY)
