"""The lines of the form for a training, and the field for a path."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.suggester import Suggester
from textual.widgets import Input

from ...completing import on_thread
from ...text import printable
from ..settings.lines import Line
from ..settings.row import Row

MOST_ENTRIES = 1000
"""Of a folder that are looked at."""


class PathSuggester(Suggester):
    """Offers the rest of a path, dimmed behind the cursor.

    Args:
        root: where relative paths begin.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._root = root

    async def get_suggestion(self, value: str) -> str | None:
        """The whole path, or None."""
        return await asyncio.wrap_future(on_thread(lambda: self._find(value)))

    def _find(self, value: str) -> str | None:
        """List one folder; a slow disk may take its time."""
        head, slash, start = value.rpartition("/")
        folder = self._root / Path(os.path.expanduser(f"{head}{slash}"))  # noqa: PTH111
        try:
            with os.scandir(folder) as entries:
                fitting = sorted(
                    (not _is_data(entry), entry.name, entry.is_dir())
                    for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False)
                    if entry.name.startswith(start) and (start or not entry.name.startswith("."))
                    if printable(entry.name) == entry.name
                )
        except (OSError, ValueError):
            return None
        if not fitting or not value:
            return None
        _, name, is_folder = fitting[0]
        return f"{head}{slash}{name}{'/' if is_folder else ''}"


def _is_data(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".jsonl") or entry.is_dir()


class PathLine(Input):
    """Where the data are; Tab and Right take what is offered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "cursor_right", "Complete", id="path.complete", tooltip="Complete the path"),
    ]


class FormRow(Row):
    """A line of the form."""

    def __init__(self, line: Line, folder: Path) -> None:
        super().__init__(line)
        self._folder = folder

    async def edit(self, text: str, *, names: bool = False) -> None:
        """Put a field in place of the value; that of a path completes."""
        if self.line.key != "data":
            await super().edit(text)
            return
        self.query_one(".value").display = False
        field = PathLine(text, compact=True, suggester=PathSuggester(self._folder))
        await self.mount(field)
        field.focus()


class FormRows(VerticalScroll, inherit_bindings=False):
    """The lines; the arrow keys go through them instead of scrolling."""

    can_focus = False
