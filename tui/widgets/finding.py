"""Finding words in the chat that is shown, whether or not a widget shows them now."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from textual.content import Content
from textual.geometry import Offset
from textual.selection import Selection
from textual.widget import Widget

from ..text import printable
from .rows import RowsBlock
from .said import Said


@dataclass(frozen=True, slots=True)
class Found:
    """A place where the query stands.

    Attributes:
        said: the message.
        start: where in its printable text.
        query: the words as they stand there.
    """

    said: Said
    start: int
    query: str


def find_text(messages: Iterable[Said], query: str) -> list[Found]:
    """Every place, in order; upper and lower case are the same."""
    if not query.strip():
        return []
    pattern = re.compile(re.escape(query.strip()), re.IGNORECASE)
    return [
        Found(said, found.start(), found.group())
        for said in messages
        if said.role not in ("problem", "remark")
        for found in pattern.finditer(printable(said.text))
    ]


def select_words(widget: Widget, words: str, nth: int = 0) -> int:
    """Select the nth place of ``words`` in what a widget draws, so that it is seen.

    Returns:
        In which of the widget's rows that is, about. Nothing is selected when the words are not
        there as such: Markdown may have taken signs out of their middle.
    """
    drawn = widget.rows if isinstance(widget, RowsBlock) else widget.render()
    text = drawn.plain if isinstance(drawn, Content) else getattr(drawn, "text", "")
    places = [m.start() for m in re.finditer(re.escape(words), text, re.IGNORECASE)]
    if not places:
        return 0
    at = places[min(nth, len(places) - 1)]
    y = text.count("\n", 0, at)
    x = at - (text.rfind("\n", 0, at) + 1)
    selection = Selection(Offset(x, y), Offset(x + len(words), y))
    widget.screen.selections = {widget: selection}
    height = widget.content_size.height
    return y if height == text.count("\n") + 1 else height * at // len(text)
