"""A program in a process of its own that is asked in lines of JSON and answers in lines of JSON.

Everything that is measured runs in one: ours and its peers get the same treatment, what they load
is not in the timings, and one that crashes or hangs takes nothing with it. What comes back is
checked as if a stranger had sent it.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import Any

from mobilellm_mlx.errors import EngineError

_LONGEST = 16 << 20
"""Characters of a line."""
THREAD_VARIABLES = (
    "MOBILELLM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)


class Child:
    """A process that answers.

    Args:
        name: of what it runs, for sentences.
        command: starts it.
        threads: that it may use, on as many cores; None leaves it to itself.
        limit_s: an answer that takes longer is not waited for.

    Attributes:
        greeting: what it said when it was ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        threads: int | None = None,
        limit_s: float = 600.0,
    ):
        self.name, self.limit_s = name, limit_s
        self._complaints = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            with pinned(threads):  # what is started here inherits it
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._complaints,
                    encoding="utf-8",
                    errors="replace",
                    env=environment(threads),
                )
        except OSError as error:
            self._complaints.close()
            raise EngineError(
                f"{name} cannot be started: `{command[0]}`: {error.strerror or error}"
            ) from error
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"bench-{name}", daemon=True)
        self._reader.start()
        try:
            self.greeting = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            EngineError: when it says that it cannot, answers nonsense, dies or takes too long.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # gone; what it said last is in its complaints
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.kill()  # one that has ended does not mind
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(OSError, ValueError):
            while line := self._process.stdout.readline(_LONGEST):
                self._lines.put(line)
        self._lines.put("")

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self.limit_s)
        except queue.Empty:
            raise EngineError(
                f"{self.name} gave no answer within {self.limit_s:,.0f} s",
                "take one thread (`--threads 1`), a smaller model, a shorter prompt, fewer tokens",
            ) from None
        if not line:
            self._lines.put(line)  # for whoever asks again
            raise EngineError(f"{self.name} ended: {self._last_words()}")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise EngineError(f"{self.name} said what is no answer: {line.strip()[:80]!r}")
        if (error := value.get("error")) is not None:
            raise EngineError(f"{self.name}: {str(error)[:400]}")
        return value

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._complaints.seek(0)
        said = [line for line in self._complaints.read()[-4000:].splitlines() if line.strip()]
        return said[-1].strip()[:400] if said else f"exit {self._process.returncode}"


def environment(threads: int | None) -> dict[str, str]:
    """Of a child that may use so many threads."""
    said = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **said}


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """Let this thread, and what it starts, run on so many cores alone, where the system can.

    They are the last ones: the first take most of the interrupts.
    """
    if threads is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def number(answer: Mapping[str, Any], key: str, name: str, *, least: float = 0.0) -> float:
    """A number of an answer.

    Raises:
        EngineError: when it has none there, or one that cannot be.
    """
    value = answer.get(key)
    if type(value) not in (int, float) or not least <= value < math.inf:  # type: ignore[operator]
        raise EngineError(f"{name} said {value!r:.40} for `{key}`, which is no measurement")
    return float(value)  # type: ignore[arg-type]


def numbers(answer: Mapping[str, Any], key: str, name: str, count: int | None) -> list[float]:
    """A list of numbers of an answer, as many as ``count``; None is any, but one at least.

    Raises:
        EngineError: when it is something else.
    """
    values = answer.get(key)
    if not isinstance(values, list) or not values or (count and len(values) != count):
        held = len(values) if isinstance(values, list) else 0
        raise EngineError(f"{name} gave {held} numbers for `{key}`, expected {count or 'some'}")
    return [number({key: value}, key, name) for value in values]
