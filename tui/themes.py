"""The themes: two quiet ones for a window that stays open all day, and two for harder conditions.

Every colour of text here is measured against every surface it stands on; see the tests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from textual.theme import Theme

DARK = Theme(
    name="mobilellm-dark",
    primary="#8fb0d0",
    secondary="#7d93a8",
    accent="#8fb0d0",
    warning="#d8b26a",
    error="#d88a82",
    success="#94b894",
    foreground="#d3d7dc",
    background="#15181c",
    surface="#1b1f24",
    panel="#22272d",
    dark=True,
    variables={
        "border": "#4b5865",
        "border-blurred": "#333b44",
        "block-cursor-foreground": "#15181c",
        "input-selection-background": "#8fb0d0 35%",
        "scrollbar": "#2b3138",
        "scrollbar-hover": "#3a424b",
        "scrollbar-active": "#4b5865",
        "scrollbar-background": "#15181c",
        "scrollbar-background-hover": "#15181c",
        "scrollbar-background-active": "#15181c",
        "scrollbar-corner-color": "#15181c",
    },
)

LIGHT = Theme(
    name="mobilellm-light",
    primary="#33608c",
    secondary="#5b6b7a",
    accent="#33608c",
    warning="#8a5a00",
    error="#a3362c",
    success="#1a6b27",
    foreground="#24292e",
    background="#fafafa",
    surface="#f1f1f1",
    panel="#e6e6e6",
    dark=False,
    variables={
        "border": "#a9adb1",
        "border-blurred": "#d0d0d0",
        "block-cursor-foreground": "#fafafa",
        "input-selection-background": "#33608c 25%",
        "scrollbar": "#dadada",
        "scrollbar-hover": "#c4c4c4",
        "scrollbar-active": "#a9adb1",
        "scrollbar-background": "#fafafa",
        "scrollbar-background-hover": "#fafafa",
        "scrollbar-background-active": "#fafafa",
        "scrollbar-corner-color": "#fafafa",
    },
)

CONTRAST = Theme(
    name="mobilellm-contrast",
    primary="#8ecbff",
    secondary="#d0d0d0",
    accent="#8ecbff",
    warning="#ffd54d",
    error="#ffaaa2",
    success="#8df09a",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    variables={
        "text": "#ffffff",
        "text-muted": "#d8d8d8",
        "text-disabled": "#b8b8b8",
        "foreground-muted": "#d8d8d8",
        "foreground-disabled": "#b8b8b8",
        "border": "#ffffff",
        "border-blurred": "#9a9a9a",
        "block-cursor-foreground": "#000000",
        "block-cursor-background": "#ffffff",
        "block-cursor-blurred-foreground": "#ffffff",
        "block-cursor-blurred-background": "#3a3a3a",
        "input-selection-background": "#ffffff",
        "input-selection-foreground": "#000000",
        "screen-selection-background": "#ffffff",
        "screen-selection-foreground": "#000000",
        "scrollbar": "#9a9a9a",
        "scrollbar-hover": "#d0d0d0",
        "scrollbar-active": "#ffffff",
        "scrollbar-background": "#1c1c1c",
        "scrollbar-background-hover": "#1c1c1c",
        "scrollbar-background-active": "#1c1c1c",
        "scrollbar-corner-color": "#1c1c1c",
    },
)

# Readable on black and on white: what must be read has the terminal's own colour of text. Yellow
# and white vanish on one of the two, bright black does on some; where it marks an edge it may.
ANSI = Theme(
    name="mobilellm-ansi",
    ansi=True,
    primary="ansi_magenta",
    secondary="ansi_default",
    accent="ansi_magenta",
    warning="ansi_magenta",
    error="ansi_red",
    success="ansi_green",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        "ansi-background": "ansi_default",
        "ansi-foreground": "ansi_default",
        "surface-active": "ansi_default",
        "text-muted": "ansi_default",
        "text-disabled": "ansi_default",
        "foreground-muted": "ansi_default",
        "foreground-disabled": "ansi_default",
        "border": "ansi_default",
        "border-blurred": "ansi_bright_black",
        # By turning round instead of by colour: it is seen with NO_COLOR, too.
        "block-cursor-foreground": "ansi_default",
        "block-cursor-background": "ansi_default",
        "block-cursor-text-style": "reverse",
        "block-cursor-blurred-text-style": "bold",
        "input-cursor-text-style": "reverse",
        "input-selection-background": "ansi_cyan",
        "input-selection-foreground": "ansi_black",
        "screen-selection-background": "ansi_cyan",
        "screen-selection-foreground": "ansi_black",
        "markdown-h1-color": "ansi_magenta",
        "markdown-h2-color": "ansi_magenta",
        "link-color": "ansi_default",
        "scrollbar": "ansi_bright_black",
        "scrollbar-hover": "ansi_default",
        "scrollbar-active": "ansi_default",
        "scrollbar-background": "ansi_default",
        "scrollbar-background-hover": "ansi_default",
        "scrollbar-background-active": "ansi_default",
    },
)

THEMES = (DARK, LIGHT, CONTRAST, ANSI)


def wants_no_color(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the person asked every program for no colours: https://no-color.org."""
    return bool(environment.get("NO_COLOR"))
