"""Python's garbage collector, told to keep out of the way of an interface."""

from __future__ import annotations

import gc

THRESHOLDS = (4_000, 5, 4)
"""For the three generations. What is made for one frame, about 2,000 objects in circles, should be
found in the first; what a full collection costs is mostly the garbage that came so far."""


def avoid_pauses() -> None:
    """Spread out full collections, and leave what is in memory now out of them.

    For a running program only: what is frozen here is collected by ``use_pause`` alone.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def avoids_pauses() -> bool:
    """Whether that was asked for."""
    return gc.get_threshold() == THRESHOLDS


def use_pause() -> None:
    """Collect everything now, because nobody waits for anything; what is left stays out of it."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
