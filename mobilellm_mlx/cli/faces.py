"""The only place that names the faces ``tui`` and ``convert``.

They are reached by name and late: the command line starts fast, and a later rename for packaging is
a change of two lines.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

TUI = "tui"
CONVERT = "convert"


def tui() -> Any:
    """The terminal interface; see ``tui/__init__.py`` for what it exports."""
    return import_module(TUI)


def convert(module: str) -> Any:
    """A module of the converter, such as ``pull``."""
    return import_module(f"{CONVERT}.{module}")
