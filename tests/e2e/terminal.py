"""A terminal for tests: the command on a real pty, its output drawn on a screen by ``pyte``.

Nothing runs beside the test: what the program writes is read while the test waits for something.
Where nobody waits the program's writes stand still, as on a slow terminal.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import psutil
import pyte

COMMAND = (sys.executable, "-m", "mobilellm_mlx")
PATIENCE_S = 30.0
LOOK_EVERY_S = 0.05
PASTE = (b"\x1b[200~", b"\x1b[201~")
KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "shift+tab": "\x1b[Z",
    "backspace": "\x7f",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "f1": "\x1bOP",
}
# The pty becomes the controlling terminal, so that Ctrl+C and hanging up reach the program.
_BEGIN = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# pyte takes these for text: the extended key protocol is switched on and off by them.
_UNKNOWN = re.compile(rb"\x1b\[[<=>][0-9;]*u")
_UNFINISHED = re.compile(rb"\x1b(\[[<=>]?[0-9;]*)?\Z")


class Terminal:
    """``python -m mobilellm_mlx ARGS`` on a terminal of its own.

    Args:
        args: of the command.
        env: its environment.
        size: columns and rows.
        command: started in place of the command, with ``args``.
        controls: whether the program is told by signals what happens to the terminal.

    Attributes:
        process: the command; its output is read by ``until``, ``watch`` and ``wait``.
        screen: what the terminal shows.
        raw: everything that was written to it, but for what ``pyte`` would take for text.
    """

    def __init__(
        self,
        *args: str,
        env: Mapping[str, str],
        size: tuple[int, int] = (100, 30),
        command: Sequence[str] = COMMAND,
        controls: bool = True,
    ) -> None:
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._set_size(*size)
        self._fresh = (set(self.screen.mode), termios.tcgetattr(slave)[:6])
        self._kept = os.dup(slave)
        """Keeps the terminal there when the program has ended."""
        self._unread = b""
        self.raw = b""
        self.process = subprocess.Popen(
            [*((sys.executable, "-S", "-c", _BEGIN) if controls else ()), *command, *args],
            stdin=slave, stdout=slave, stderr=slave, env=dict(env), start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.hang_up()

    # ---------------------------------------------------------------- reading

    @property
    def text(self) -> str:
        """What the screen shows, without the space at the ends of its rows."""
        return "\n".join(row.rstrip() for row in self.screen.display)

    def read(self, wait_s: float = 0.0) -> bool:
        """Draw what the program has written.

        Args:
            wait_s: for how long to wait for something.

        Returns:
            Whether there was anything.
        """
        if self._master < 0:
            time.sleep(wait_s)
            return False
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            data = self._unread + os.read(self._master, 65536)
        except OSError:
            return False
        cut = _UNFINISHED.search(data)  # the rest of a sequence may come later
        whole = data[: cut.start()] if cut else data
        self._unread = data[len(whole) :]
        whole = _UNKNOWN.sub(b"", whole)
        self.raw += whole
        self._stream.feed(whole)
        return True

    def until(self, seen: Callable[[str], object] | str, patience_s: float = PATIENCE_S) -> str:
        """Wait until the screen shows something.

        Args:
            seen: says whether a screen's text does, or what to look for in it.
            patience_s: for how long to wait.

        Returns:
            The text of the screen.

        Raises:
            AssertionError: with the screen, when it does not come or the program has ended.
        """
        shows = (lambda text: seen in text) if isinstance(seen, str) else seen
        end = time.monotonic() + patience_s
        while True:
            ended = self.process.poll() is not None
            self.watch(0.0 if ended else LOOK_EVERY_S)
            while ended and self.read():
                pass
            if shows(self.text):
                return self.text
            if ended or time.monotonic() > end:
                how = f"it left with {self.process.returncode}" if ended else "time is up"
                wanted = f"{seen!r} was not shown" if isinstance(seen, str) else "not shown"
                raise AssertionError(f"{wanted}: {how}. The screen:\n{self.text}")

    def watch(self, seconds: float) -> str:
        """Look at the screen for a while, whatever it shows; gives what it shows then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)
        return self.text

    # ---------------------------------------------------------------- writing

    def write(self, data: bytes) -> None:
        """Send bytes as a keyboard would, and read meanwhile what comes back."""
        end = time.monotonic() + PATIENCE_S
        while data:
            assert time.monotonic() < end, f"nobody reads what is typed:\n{self.text}"
            _, free, _ = select.select([self._master], [self._master], [], 1.0)
            if free:
                data = data[os.write(self._master, data[:4096]) :]
            self.read()

    def type(self, text: str) -> None:
        """Type some text."""
        self.write(text.encode())

    def press(self, *keys: str) -> None:
        """Press keys, one after another: `enter`, `ctrl+q`, `c`."""
        for key in keys:
            letter = key.removeprefix("ctrl+")
            self.type(chr(ord(letter) & 31) if letter != key else KEYS.get(key, key))

    def paste(self, text: str) -> None:
        """Paste some text, as terminals do that mark where a paste begins and ends."""
        begin, end = PASTE
        self.write(begin + text.encode() + end)

    def resize(self, columns: int, rows: int) -> None:
        """Another size for the window."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)  # the system sends SIGWINCH

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    # ---------------------------------------------------------------- the end

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self.process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """The exit code of the program, as soon as it has ended and all its children with it."""
        end = time.monotonic() + patience_s
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end. The screen:\n{self.text}"
            self.read(0.05)
        while self.read():
            pass
        assert self.left_behind() == [], "it left processes behind"
        return self.process.returncode

    def left_behind(self) -> list[str]:
        """The programs that still run in the session of one that has ended."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            try:
                ours = os.getsid(process.pid) == self.process.pid
            except OSError:  # it has ended meanwhile
                continue
            if ours and process.pid != self.process.pid:
                found.append(" ".join(process.info["cmdline"] or ()))
        return found

    @property
    def is_restored(self) -> bool:
        """Whether the terminal is as it was: its modes, its cursor, how it takes keys."""
        modes, attributes = self._fresh
        same = set(self.screen.mode) == modes and not self.screen.cursor.hidden
        return same and termios.tcgetattr(self._kept)[:6] == attributes

    def hang_up(self) -> None:
        """Close the window."""
        for handle in (self._kept, self._master):
            if handle >= 0:
                os.close(handle)
        self._kept = self._master = -1

    def kill(self) -> None:
        """End the program and what it has started at once, if they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
