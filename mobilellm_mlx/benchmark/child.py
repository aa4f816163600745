"""A program that is timed from outside, and that can fail, hang or be left."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

from mobilellm_mlx.errors import EngineError


@contextmanager
def run_child(
    command: Sequence[str], what: str, limit_s: float, env: Mapping[str, str] | None = None
) -> Iterator[IO[bytes]]:
    """Start a program and give its stdout, to be read to its end; leaving earlier ends it.

    Args:
        command: the program and its arguments.
        what: its name in errors.
        limit_s: after this long it is killed.
        env: its environment; None is ours.

    Raises:
        EngineError: when it leaves with an error or takes too long.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, env=env) as child,
    ):
        assert child.stdout is not None
        clock = threading.Timer(limit_s, end)
        clock.start()
        try:
            yield child.stdout
            child.wait()
        finally:
            clock.cancel()
            child.kill()  # one that has ended does not mind
            if late.is_set():  # whatever was made of its half-finished last line
                raise EngineError(
                    f"{what} took more than {limit_s:,.0f} s",
                    "take less of everything, or a smaller model",
                )
        if child.returncode:
            complaints.seek(0)
            lines = [line for line in complaints if line.strip() and not line.startswith("hint:")]
            said = lines[-1].strip() if lines else f"exit code {child.returncode}"
            raise EngineError(f"{what} failed: {said}")
