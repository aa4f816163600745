"""Long work that reports by a callback, as an iterator of events."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from mobilellm_mlx.backend import mx
from mobilellm_mlx.events import Progress

T = TypeVar("T")
Report = Callable[[str, int, int], None]
"""Stage, steps done, steps in all."""


class _Stopped(BaseException):
    """Nobody waits for the result any more."""


def iter_progress(work: Callable[[Report], T]) -> Iterator[Progress | T]:
    """Run ``work`` on a thread of its own; what it reports, and at the end what it gives back.

    Leaving the iterator early stops the work at its next report.

    Args:
        work: takes a ``Report``. Arrays that it gives back must be evaluated: MLX cannot evaluate
            in one thread what was begun in another.

    Raises:
        Exception: whatever ``work`` raised.
    """
    said: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    result: list[T] = []
    failure: list[BaseException] = []
    stop = threading.Event()

    def report(stage: str, done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped
        said.put(Progress(stage, done, total, "steps"))

    def run() -> None:
        try:
            result.append(work(report))
        except BaseException as error:
            failure.append(error)
        finally:
            mx.clear_streams()
            said.put(None)

    thread = threading.Thread(target=run, name="learn")
    thread.start()
    try:
        while (event := said.get()) is not None:
            yield event
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
    yield result[0]
