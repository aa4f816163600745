"""What Textual does not know about terminals: a key that some send, and the session's clipboard."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TextIO

OPTION_ENTER = "\x1b\r"
PBCOPY_TIMEOUT_S = 2.0


def teach_option_enter() -> None:
    """Read Option+Enter of terminals without the extended key protocol as Ctrl+J.

    Terminal.app (with "Use Option as Meta key") and tmux send Escape and Enter for it, which
    Textual reads as a plain Enter: it would send a message where a new line was meant. The table
    is not part of Textual's public interface, so a Textual without it changes nothing else.
    """
    try:
        from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
        from textual.keys import Keys
    except ImportError:
        return
    if isinstance(ANSI_SEQUENCES_KEYS, dict):
        ANSI_SEQUENCES_KEYS.setdefault(OPTION_ENTER, (Keys.ControlJ,))


class _Lasting:
    """A stream to a terminal that may go: what is written then is lost, and nothing fails.

    Textual writes on a thread of its own. When that fails the thread ends, nobody empties its
    queue any more, and the interface waits for ever for room in it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_terminal(then: Callable[[], object]) -> None:
    """Stay able to end well when the terminal goes. Call it before Textual takes that.

    The terminal of a session says by SIGHUP that it goes. One of a container does not: reading
    from it just finds nothing, again and again, and Textual would go on with that for ever.

    Args:
        then: called on another thread when the terminal has gone.
    """
    if sys.__stdin__ is None or sys.__stderr__ is None:
        return
    sys.__stderr__ = _Lasting(sys.__stderr__)  # type: ignore[misc, assignment]
    place = sys.__stdin__.fileno()
    threading.Thread(
        target=_await_end, args=(place, then), name="mobilellm-hangup", daemon=True
    ).start()


def _await_end(place: int, then: Callable[[], object]) -> None:
    poll = select.poll()
    poll.register(place, 0)
    # Some systems cannot watch a terminal and say that at once (POLLNVAL); that is no end.
    if any(event & select.POLLHUP for _, event in poll.poll()):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for handle in (1, 2):
            os.dup2(nowhere, handle)  # they led there, or there would be no interface
        with contextlib.suppress(RuntimeError):  # the program has ended meanwhile
            then()


def clipboard_command(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The program that fills the clipboard of the session this runs in; None when there is none.

    Some terminals, Terminal.app among them, ignore the escape sequence that others understand.
    Over SSH the clipboard of this machine is not the person's.
    """
    if "SSH_CONNECTION" in environment:
        return None
    if sys.platform == "darwin":
        tools = [["pbcopy"]]
    elif environment.get("WAYLAND_DISPLAY"):
        tools = [["wl-copy"]]
    elif environment.get("DISPLAY"):
        tools = [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    else:
        return None
    for name, *arguments in tools:
        if path := shutil.which(name):
            return [path, *arguments]
    return None


def copy_to_system(text: str) -> None:
    """Put ``text`` on the clipboard of this session; a try that neither waits nor fails."""
    if command := clipboard_command():
        copy = threading.Thread(target=_copy, args=(command, text), name="mobilellm-pbcopy")
        copy.daemon = True
        copy.start()


def _copy(command: list[str], text: str) -> None:
    # pbcopy reads its input in the locale's encoding, and an LC_ALL would go before LC_CTYPE.
    env = {**os.environ}
    if sys.platform == "darwin":
        env |= {"LC_ALL": "", "LC_CTYPE": "UTF-8"}
    # xclip stays behind to serve the text; what it writes to must not be ours to wait for.
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            command,
            input=text.encode(),
            env=env,
            timeout=PBCOPY_TIMEOUT_S,
            check=False,
            stdout=quiet,
            stderr=quiet,
        )
