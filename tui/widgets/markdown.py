"""Markdown as models write it, shown without trusting it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from markdown_it.token import Token
from textual import events, on
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.widget import Widget, _RenderCache
from textual.widgets import Label, Markdown
from textual.widgets._markdown import MarkdownBlock, MarkdownFence

from ..text import printable
from .pieces import make_parser
from .rows import BulletListBlock, OrderedListBlock, TableBlock, take_apart

MARKED_S = 1.5
"""How long a block of code stays marked after it was copied."""


def count_rows(text: str, width: int) -> int:
    """How many rows a text takes, about."""
    return sum(1 + len(line) // width for line in text.split("\n"))


_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def forget_drawn(widget: Widget) -> None:
    """Drop what a widget has kept of how it was laid out and drawn."""
    widget._styles_cache.clear()
    widget._layout_cache.clear()
    widget._box_model_cache.clear()
    widget._clear_arrangement_cache()
    widget._render_cache = _RenderCache(Size(0, 0), [])


class CodeBlock(MarkdownFence):
    """Code that can be clicked to be copied."""

    class Clicked(Message):
        """The person wants this block's code."""

        def __init__(self, block: CodeBlock) -> None:
            super().__init__()
            self.block = block

    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        """Colours by the language that is named; guessing one would load every lexer there is."""
        return super().highlight(code, language.strip() or "text", ansi, dark)

    def compose(self) -> ComposeResult:
        # What came between making and mounting this widget is in here, too.
        yield Label(self._highlighted_code, id="code-content", expand=True, markup=False)

    def on_click(self, event: events.Click) -> None:
        """A click copies, unless it ended a selection."""
        event.stop()
        if not self.screen.selections:
            self.post_message(self.Clicked(self))

    def mark(self) -> None:
        """Show for a moment that this was copied; in words, too, whoever copies says it."""
        self.add_class("-copied")
        self.set_timer(MARKED_S, lambda: self.remove_class("-copied"))


class AnswerMarkdown(Markdown):
    """A Markdown document that opens web addresses only, and only when clicked.

    One of those that an answer consists of. Far from the window it rests: it keeps its text and
    its height, and none of its blocks.

    Attributes:
        start: where in the answer its text begins.
        in_code: whether it begins inside a block of code.
        goes_on: whether its last block goes on in the next document.
    """

    BLANK = True  # nothing of its own to draw, and a cheap way to draw that
    BLOCKS = Markdown.BLOCKS | {
        "bullet_list_open": BulletListBlock,
        "ordered_list_open": OrderedListBlock,
        "table_open": TableBlock,
        "fence": CodeBlock,
        "code_block": CodeBlock,
    }

    def __init__(
        self, text: str = "", *, start: int = 0, in_code: bool = False, **options: Any
    ) -> None:
        super().__init__(text, parser_factory=make_parser, open_links=False, **options)
        self.start = start
        self.in_code = in_code
        self.goes_on = False
        self.rests = False
        self._kept = ""
        self._parsed: list[MarkdownBlock] = []
        self._heights: dict[int, int] = {}
        """By width: the height it had when it was drawn, and guesses from that."""
        self._waking = asyncio.Lock()

    async def rest(self, height: int) -> None:
        """Give the blocks up; their place stays."""
        self._kept = self.source
        self._heights = {self.size.width: height}
        self.rests = True
        # Everything drawn is kept in several places, and in circles: without this it would stay
        # in memory, and be looked through, until the next full garbage collection.
        for widget in self.walk_children(Widget):
            forget_drawn(widget)
        self._table_of_contents = None
        await self.remove_children()
        forget_drawn(self)
        assert not self._nodes.displayed  # asking for them forgets those that there were

    def sleep(self) -> None:
        """Rest from the beginning; the height is a guess until somebody comes near."""
        self._kept, self._initial_markdown = self._initial_markdown or "", ""
        self.rests = True

    def resting_height(self, width: int) -> int:
        """The rows it takes while it rests; in another width than it was drawn in, a guess."""
        if (height := self._heights.get(width)) is None:
            rows = count_rows(self._kept, max(1, width))
            if self._heights:
                known, height = next(iter(self._heights.items()))
                rows = rows * height // count_rows(self._kept, max(1, known))
            height = self._heights[width] = max(1, rows)
        return height

    async def wake(self) -> None:
        """Draw the blocks again; once, also when two ask for it."""
        async with self._waking:
            if self.rests and self.is_attached:
                await self.redraw(self._kept)
                self.rests = False
                self.refresh(layout=True)

    async def grow(self, text: str) -> None:
        """Draw more text at the end."""
        self._parsed.clear()
        await self.append(text)
        for block in self._parsed:
            if block.parent is None:
                take_apart(block)
        self._parsed.clear()

    def _parse_markdown(self, tokens: Iterable[Token]) -> Iterable[MarkdownBlock]:
        for block in super()._parse_markdown(tokens):
            self._parsed.append(block)
            yield block

    async def redraw(self, text: str | None = None) -> None:
        """Draw the whole text, or another one."""
        await self.update(self.source if text is None else text)
        self._parsed.clear()
        self.close_gap()

    def on_mount(self) -> None:
        self.close_gap()

    def close_gap(self) -> None:
        """Nothing separates a block from its continuation in the next document."""
        if self.goes_on:
            for block in list(self.children)[-1:]:
                block.styles.margin = (0, 0, 0, 0)

    def place_of(self, offset: int) -> tuple[Widget, str] | None:
        """The innermost block that draws a place in this text, and its text before the place."""
        lines = self.source.splitlines(keepends=True)
        line = self.source.count("\n", 0, offset)
        blocks = [b for b in self.children if isinstance(b, MarkdownBlock)]
        fitting = [b for b in blocks if b.source_range[0] <= line]
        if not fitting:
            return None
        block = fitting[-1]
        begin = sum(map(len, lines[: block.source_range[0]]))
        label = next(iter(block.query(Label)), None)
        return label or block, self.source[begin:offset]

    @on(Markdown.LinkClicked)
    def follow_link(self, event: Markdown.LinkClicked) -> None:
        """Other schemes could start programs, and a model's word is no reason to."""
        event.stop()
        if _WEB_ADDRESS.match(event.href):
            self.app.open_url(event.href)
        else:
            self.notify(f"Not a web address, left alone: {printable(event.href)}", markup=False)
