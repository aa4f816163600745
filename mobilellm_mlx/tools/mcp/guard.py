"""Ends what a program that crashed has left running. A process of its own, run as a script.

It is told ``+PID DIRECTORY`` of every process group that begins and ``-PID`` of every one that has
ended. When whoever tells it is gone, however that came about, what is left is killed and removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

GRACE_S = 1.0
"""A server that reads the end of its input may end by itself first."""


def main() -> None:
    """Listen until nobody is there any more."""
    places: dict[int, str] = {}
    for line in sys.stdin:
        group, _, place = line[1:].rstrip("\n").partition(" ")
        if line[0] == "+":
            places[int(group)] = place
        else:
            places.pop(int(group), None)
    if places:
        time.sleep(GRACE_S)
    for pid, place in places.items():
        with contextlib.suppress(OSError):  # gone already
            os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
