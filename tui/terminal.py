"""What Textual does not know about terminals: a key that some send, and the Mac's clipboard."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading

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


def copy_on_mac(text: str) -> None:
    """Put ``text`` on a Mac's clipboard; a try that neither waits nor fails.

    Terminal.app ignores the escape sequence that other terminals understand. Over SSH the
    clipboard of this machine is not the person's.
    """
    if sys.platform == "darwin" and "SSH_CONNECTION" not in os.environ:
        if tool := shutil.which("pbcopy"):
            copy = threading.Thread(target=_pbcopy, args=(tool, text), name="mobilellm-pbcopy")
            copy.daemon = True
            copy.start()


def _pbcopy(tool: str, text: str) -> None:
    # pbcopy reads its input in the locale's encoding, and an LC_ALL would go before LC_CTYPE.
    env = {**os.environ, "LC_ALL": "", "LC_CTYPE": "UTF-8"}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([tool], input=text.encode(), env=env, timeout=PBCOPY_TIMEOUT_S, check=False)
