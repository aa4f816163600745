"""Two quiet themes, made for a window that stays open all day."""

from __future__ import annotations

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
    success="#37703c",
    foreground="#24292e",
    background="#faf9f6",
    surface="#f2f0eb",
    panel="#e8e5de",
    dark=False,
    variables={
        "border": "#a9adb1",
        "border-blurred": "#d2d0ca",
        "input-selection-background": "#33608c 25%",
        "scrollbar": "#dcd9d2",
        "scrollbar-hover": "#c6c3bb",
        "scrollbar-active": "#a9adb1",
        "scrollbar-background": "#faf9f6",
        "scrollbar-background-hover": "#faf9f6",
        "scrollbar-background-active": "#faf9f6",
        "scrollbar-corner-color": "#faf9f6",
    },
)
