"""What terminals send that Textual does not know."""

from __future__ import annotations

OPTION_ENTER = "\x1b\r"


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
