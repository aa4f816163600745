"""A server's process: what it is given, and how it ends with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import ServerConfig
from mobilellm_mlx.tools.mcp.wording import sentence

PLACES = (
    *("/opt/homebrew/bin", "/usr/local/bin"),
    *("/usr/bin", "/bin", "/usr/sbin", "/sbin"),
)
"""Where a server finds programs, beside the directory that its own lies in."""
GRACE_S = 1.0
"""How long a server may take to end after its input did, and again after it was told to."""
TICK_S = 0.02
MAX_LAST_WORDS = 4_000


class Guard:
    """Knows what runs, and outlives us: see ``guard.py``. Started when there is something to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def began(self, group: int, place: str) -> None:
        """A process group is there, and the directory that it may fill."""
        if self._process is None:
            script = Path(__file__).with_name("guard.py")
            with contextlib.suppress(OSError):  # without it a crash may leave servers behind
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is not for it
                )
        self._tell(f"+{group} {place}\n")

    def ended(self, group: int) -> None:
        """Nothing is left of it."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # ours may be closed already
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def close(self) -> None:
        """There is nothing to guard any more."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.communicate()
        self._process = None


class Child:
    """A server that was started: the first process of a group of its own.

    Attributes:
        fault: why it was killed, or is not to be spoken with, as the end of a sentence that begins
            with its name.
    """

    def __init__(self, config: ServerConfig, guard: Guard):
        """Start it.

        Raises:
            ToolError: when there is no such program or it cannot be started.
        """
        self.fault = ""
        self._guard = guard
        self._last_words = b""
        # Servers complain of keys by quoting them, and what they say last is shown and logged.
        self._secrets = sorted((v for v in config.env.values() if len(v) >= 6), key=len)[::-1]
        self._place = tempfile.mkdtemp(prefix="mobilellm-mcp-")
        try:
            self.process = self._start(config)
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise
        guard.began(self.process.pid, self._place)

    def _start(self, config: ServerConfig) -> subprocess.Popen[bytes]:
        path = config.env.get("PATH", os.environ.get("PATH", os.defpath))
        program = shutil.which(str(Path(config.command).expanduser()), path=path)
        if program is None:
            raise ToolError(
                f"the server `{config.name}` cannot be started: there is no program "
                f"`{config.command}`",
                f"install it, or write its whole path as `command` of `[mcp.{config.name}]`",
            )
        program = str(Path(program).absolute())  # it runs elsewhere
        try:
            return subprocess.Popen(
                [program, *config.args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(config, program, self._place),
                cwd=Path(config.cwd).expanduser() if config.cwd else self._place,
                start_new_session=True,  # a group to kill, and no terminal to write to
            )
        except (OSError, ValueError, RuntimeError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ToolError(
                f"the server `{config.name}` cannot be started: {reason}",
                f"look at `command`, `args` and `cwd` of `[mcp.{config.name}]`",
            ) from error

    def remember(self, words: bytes) -> None:
        """Keep the end of what it wrote to its errors."""
        self._last_words = (self._last_words + words)[-MAX_LAST_WORDS:]

    @property
    def last_words(self) -> str:
        """The last line of its errors; empty when there is none."""
        text = self._last_words.decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "…")
        lines = text.splitlines()
        return next((said for line in reversed(lines) if (said := sentence(line, 200))), "")

    def kill(self, fault: str) -> None:
        """End it now, for a reason."""
        self.fault = self.fault or fault
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """End it and all it started, gently at first, and leave nothing of it."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        if not await self._is_over(0 if self.fault else GRACE_S):
            self._signal(signal.SIGTERM)
            await self._is_over(0 if self.fault else GRACE_S)
        self._signal(signal.SIGKILL)  # its children may go on without it
        await self._is_over(GRACE_S)
        self._guard.ended(self.process.pid)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._place, ignore_errors=True)

    async def _is_over(self, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while self.process.poll() is None:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(TICK_S)
        return True

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def environment(config: ServerConfig, program: str, place: str) -> dict[str, str]:
    """All the variables that a server gets; nobody's keys and tokens are among them.

    Args:
        config: what it is to be given beside.
        program: where it lies; what it is made of, such as ``node``, mostly lies beside it.
        place: an empty directory of its own.
    """
    places = dict.fromkeys((str(Path(program).parent), *PLACES))
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return {"LANG": "C.UTF-8", **kept, "PATH": ":".join(places), "TMPDIR": place, **config.env}
