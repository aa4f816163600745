"""The clipboard: what was copied last, and something to paste."""

from __future__ import annotations

import os
import re
import threading
from typing import Annotated, NamedTuple

from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import trimmed
from mobilellm_mlx.tools.command import failure
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Tool

_SHOWN = 80
"""Characters of what was copied that are repeated."""
Text = Annotated[str, Limits(min_length=1, max_length=2_000)]


class Programs(NamedTuple):
    """How a desktop's clipboard is read and written."""

    paste: tuple[str, ...]
    copy: tuple[str, ...]


MAC = Programs(("pbpaste", "-Prefer", "txt"), ("pbcopy",))
WAYLAND = Programs(("wl-paste", "--no-newline", "--type", "text"), ("wl-copy",))
XCLIP = Programs(
    ("xclip", "-selection", "clipboard", "-out"), ("xclip", "-selection", "clipboard", "-in")
)
XSEL = Programs(("xsel", "--clipboard", "--output"), ("xsel", "--clipboard", "--input"))


def tools(around: Surroundings) -> list[Tool]:
    """``read_clipboard`` and ``copy_to_clipboard``."""
    programs = _programs(around)
    missing = "" if programs else _why_not(around)
    paste, copy = programs or MAC

    def read_clipboard(cancel: threading.Event) -> str:
        """Read the text that was copied last."""
        ran = around.runner.run(paste, timeout_s=5, cancel=cancel)
        # Those of Linux fail when there is no text; `pbpaste` then says nothing.
        if ran.code != 0 and not ran.is_cut and around.is_mac:
            raise failure("the clipboard", ran)
        return ran.out if ran.out.strip() else "The clipboard holds no text."

    def copy_to_clipboard(text: Text, cancel: threading.Event) -> str:
        """Copy a text to the clipboard, in place of what is there.

        Args:
            text: what to copy
        """
        # On Linux the program that copied owns the clipboard and must go on living.
        ran = around.runner.run(
            copy, stdin=text, timeout_s=5, cancel=cancel, may_stay=not around.is_mac
        )
        if ran.code != 0:
            raise failure("the clipboard", ran)
        line = " ".join(printable(text).split())
        if len(line) > _SHOWN:
            return f"Copied {len(text):,} characters to the clipboard."
        return f"Copied to the clipboard: {line}"

    return [
        tool_from(
            read_clipboard,
            # It changes nothing, but what somebody copied may be a password: they are asked.
            reads_only=False,
            examples=(
                Example("What is on my clipboard?", {}),
                Example("What did I just copy?", {}),
            ),
            keywords=("clipboard", "copied", "just copy", "i copied", "paste", "pasteboard"),
            describe=lambda _: "Read what was copied last",
            missing=missing,
        ),
        tool_from(
            copy_to_clipboard,
            answers=True,
            spoken={"text"},
            heard={"text": _texts},
            examples=(
                Example("Copy 221B Baker Street to the clipboard", {"text": "221B Baker Street"}),
                Example("Put hello@example.org on my clipboard", {"text": "hello@example.org"}),
            ),
            keywords=("clipboard", "copy", "pasteboard"),
            describe=lambda arguments: f"Copy {arguments['text']!r} to the clipboard",
            missing=missing,
        ),
    ]


_TO_COPY = (
    re.compile(r".*\bclipboard\b\s*:\s*(\S.*)", re.IGNORECASE),
    re.compile(
        r"\W*(?:please\s+)?(?:copy|put)\s+(\S.*?)\s+(?:to|on|onto|in|into)\s+(?:the\s+|my\s+)?"
        r"clipboard\W*(?:please\W*)?",
        re.IGNORECASE,
    ),
)


def _texts(said: str) -> list[str]:
    """What is to be copied, without the words that ask for it."""
    found = next(filter(None, (ways.fullmatch(said) for ways in _TO_COPY)), None)
    return [text] if found and (text := trimmed(found[1])) else []


def _programs(around: Surroundings) -> Programs | None:
    if around.is_mac:
        usable = [MAC]
    else:
        usable = [WAYLAND] if "WAYLAND_DISPLAY" in os.environ else []
        usable += [XCLIP, XSEL] if "DISPLAY" in os.environ else []
    there = around.runner.find
    return next((it for it in usable if there(it.paste[0]) and there(it.copy[0])), None)


def _why_not(around: Surroundings) -> str:
    if around.is_mac:
        return "the programs pbcopy and pbpaste are not on this Mac"
    if around.platform != "linux":
        return "the clipboard can be reached on macOS and Linux only"
    return "the clipboard needs a desktop, and wl-clipboard, xclip or xsel"
