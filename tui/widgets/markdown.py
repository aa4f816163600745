"""Markdown as models write it, shown without trusting it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from textual import events, on
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Label, Markdown
from textual.widgets._markdown import MarkdownBlock, MarkdownFence

from ..text import printable
from .pieces import make_parser
from .rows import BulletListBlock, OrderedListBlock, TableBlock

MARKED_S = 1.5
"""How long a block of code stays marked after it was copied."""

_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


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
        self.resting_height = 0
        self._kept = ""
        self._waking = asyncio.Lock()

    async def rest(self, height: int) -> None:
        """Give the blocks up; their place stays."""
        self._kept = self.source
        self.rests = True
        self.resting_height = height
        await self.remove_children()

    def sleep(self) -> None:
        """Rest from the beginning; the height is a guess until somebody comes near."""
        self._kept, self._initial_markdown = self._initial_markdown or "", ""
        self.rests = True
        self.resting_height = 1 + sum(1 + len(line) // 80 for line in self._kept.split("\n"))

    async def wake(self) -> None:
        """Draw the blocks again; once, also when two ask for it."""
        async with self._waking:
            if self.rests:
                await self.redraw(self._kept)
                self.rests = False
                self.refresh(layout=True)

    async def redraw(self, text: str | None = None) -> None:
        """Draw the whole text, or another one."""
        await self.update(self.source if text is None else text)
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
