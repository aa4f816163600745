"""The one way in which a tool starts a program: a list of arguments, never a shell.

A program is found in the system's own directories only, gets a small environment instead of ours,
runs in a process group of its own without a terminal, and is killed with everything it started when
its time is up, when it says too much, or when nobody waits any more.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable

PLACES = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
"""Where programs are looked for: directories that only an administrator writes to."""
KEPT = (
    *("HOME", "USER", "LOGNAME", "TMPDIR"),
    # What a Linux program needs to reach the desktop.
    *("DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XDG_CURRENT_DESKTOP"),
    "DBUS_SESSION_BUS_ADDRESS",
)
"""What a program learns of our environment; no keys or tokens of anybody else."""
TICK_S = 0.05
LAST_WORDS_S = 0.5
"""How long output may still come from what a program that ended has left behind."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a program.

    Attributes:
        code: its exit status; negative for the signal that killed it.
        out: what it wrote, decoded; bytes that are not UTF-8 are replaced.
        err: the same for its errors.
        is_cut: whether it said more than was wanted, and was killed for it.
    """

    code: int
    out: str = ""
    err: str = ""
    is_cut: bool = False


class Runner(Protocol):
    """Finds and runs programs; tests have one that only remembers what it was asked."""

    def find(self, program: str) -> str | None:
        """The absolute path of a program; None where it is not installed."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout_s: float = 10,
        max_bytes: int = 200_000,
        cancel: threading.Event | None = None,
        may_stay: bool = False,
    ) -> Ran:
        """Run a program to its end.

        Args:
            argv: the program's name, then its arguments.
            stdin: what it reads; without, it meets the end of its input at once.
            timeout_s: seconds after which it is killed.
            max_bytes: of output and of errors, each.
            cancel: kills it when set.
            may_stay: it starts something that is to outlive it, such as a browser or the owner of a
                clipboard: nothing that it writes is read, and when the time is up it is left alone.

        Raises:
            ToolError: when there is no such program, it cannot be started, it took too long or it
                was stopped.
        """


def operand(text: str, what: str) -> str:
    """``text`` as an argument that no program can take for one of its options.

    Raises:
        ToolError: when it begins with a hyphen or holds a NUL.
    """
    if text.startswith("-"):
        raise ToolError(f"{what} {text[:60]!r} begins with a hyphen, as an option would")
    if "\0" in text:
        raise ToolError(f"{what} {text[:60]!r} holds a NUL character")
    return text


def failure(what: str, ran: Ran) -> ToolError:
    """What a program that failed said about it, on one line."""
    said = (ran.err.strip() or ran.out.strip()).splitlines()
    reason = printable(said[0])[:200] if said else f"status {ran.code}"
    return ToolError(f"{what} failed: {reason}")


class SystemRunner:
    """Runs the programs of this machine."""

    def __init__(self, places: Sequence[str] = PLACES):
        self._places = tuple(places)

    def find(self, program: str) -> str | None:
        """The absolute path of a program in the places that are trusted."""
        if program.startswith("/"):
            return program if _is_program(program) else None
        if "/" in program or not program:
            return None
        paths = (f"{place}/{program}" for place in self._places)
        return next((path for path in paths if _is_program(path)), None)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout_s: float = 10,
        max_bytes: int = 200_000,
        cancel: threading.Event | None = None,
        may_stay: bool = False,
    ) -> Ran:
        """See ``Runner.run``."""
        path = self.find(argv[0]) if argv else None
        if path is None:
            raise ToolError(f"there is no program {argv[0] if argv else ''!r} on this machine")
        output = subprocess.DEVNULL if may_stay else subprocess.PIPE
        try:
            process = subprocess.Popen(
                [path, *argv[1:]],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd="/",
                start_new_session=True,  # a group to kill, and no terminal to ask on
            )
        except (OSError, ValueError) as error:  # too long, a NUL, no memory, not ours to run
            reason = getattr(error, "strerror", None) or error
            raise ToolError(f"{argv[0]} could not be started: {reason}") from error
        watch = _Watch(process, argv[0], max_bytes, time.monotonic() + timeout_s, cancel, may_stay)
        try:
            return watch.until_the_end(stdin.encode("utf-8", "replace"))
        except _Late:
            if may_stay:
                # Somebody has to take note of its end, or it would stay as a zombie.
                threading.Thread(target=process.wait, daemon=True).start()
                return Ran(0)
            raise ToolError(f"{argv[0]} did not end within {timeout_s:g} s") from None
        finally:
            watch.close()

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        # Without a locale the clipboard's programs on macOS would write Mac OS Roman.
        locale = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
        return {**kept, "PATH": ":".join(self._places), "LANG": locale, "LC_ALL": locale}


def _is_program(path: str) -> bool:
    try:
        return Path(path).is_file() and os.access(path, os.X_OK)
    except (OSError, ValueError):  # too long, a NUL
        return False


class _Late(Exception):
    """The time is up."""


@dataclass
class _Watch:
    """One running program: feeds it, hears it, and ends it."""

    process: subprocess.Popen[bytes]
    name: str
    max_bytes: int
    deadline: float
    cancel: threading.Event | None
    may_stay: bool
    said: dict[int, bytearray] = field(default_factory=dict)
    is_cut: bool = False
    ended_at: float = 0.0

    def until_the_end(self, stdin: bytes) -> Ran:
        process = self.process
        with selectors.DefaultSelector() as pipes:
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    self.said[pipe.fileno()] = bytearray()
                    pipes.register(pipe, selectors.EVENT_READ)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                pipes.register(process.stdin, selectors.EVENT_WRITE)
            while not (self.is_cut or self._is_over(bool(pipes.get_map()))):
                stdin = self._serve(pipes, stdin)
        if self.is_cut:
            self._kill()
        out, err = (
            self.said[pipe.fileno()].decode("utf-8", "replace") if pipe is not None else ""
            for pipe in (process.stdout, process.stderr)
        )
        return Ran(process.wait(), out, err, self.is_cut)

    def _is_over(self, is_open: bool) -> bool:
        """Whether it ended, and nothing more is to be heard of what it left behind."""
        if self.cancel is not None and self.cancel.is_set():
            raise ToolError(f"{self.name} was stopped")
        now = time.monotonic()
        if self.process.poll() is None:
            if now > self.deadline:
                raise _Late
            return False
        self.ended_at = self.ended_at or now
        return not is_open or now > self.ended_at + LAST_WORDS_S

    def _serve(self, pipes: selectors.BaseSelector, stdin: bytes) -> bytes:
        """Move what can be moved now; returns what is still to be written."""
        if not pipes.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(TICK_S)
            return stdin
        for key, _ in pipes.select(TICK_S):
            if key.fd in self.said:
                self._hear(pipes, key)
                continue
            try:
                stdin = stdin[os.write(key.fd, stdin[:65_536]) :]
            except BlockingIOError:
                continue
            except OSError:  # it does not want to read any more
                stdin = b""
            if not stdin and self.process.stdin is not None:
                pipes.unregister(key.fileobj)
                with contextlib.suppress(OSError):
                    self.process.stdin.close()
        return stdin

    def _hear(self, pipes: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        heard = self.said[key.fd]
        more = os.read(key.fd, 65_536)
        if not more:
            pipes.unregister(key.fileobj)
        heard += more
        if len(heard) > self.max_bytes:
            del heard[self.max_bytes :]
            self.is_cut = True

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)

    def close(self) -> None:
        """Leave nothing behind but what was meant to stay."""
        is_stopped = self.cancel is not None and self.cancel.is_set()
        if not self.may_stay or (is_stopped and self.process.poll() is None):
            self._kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
