"""Markdown as models write it, shown without trusting it."""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from textual import events, on
from textual.widget import Widget
from textual.widgets import Markdown

from ..text import printable

_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def make_parser() -> MarkdownIt:
    """GitHub's dialect; HTML stays visible text, and an image is shown as a link to it."""
    return MarkdownIt("gfm-like", {"html": False}).disable("image")


class AnswerMarkdown(Markdown):
    """A Markdown document that opens web addresses only, and only when clicked."""

    def __init__(self, **options: Any) -> None:
        super().__init__("", parser_factory=make_parser, open_links=False, **options)

    def on_enter(self, event: events.Enter) -> None:
        """Take the tooltips off table cells: they would read a model's brackets as markup."""
        if isinstance(event.node, Widget):
            event.node.tooltip = None

    @on(Markdown.LinkClicked)
    def follow_link(self, event: Markdown.LinkClicked) -> None:
        """Other schemes could start programs, and a model's word is no reason to."""
        event.stop()
        if _WEB_ADDRESS.match(event.href):
            self.app.open_url(event.href)
        else:
            self.notify(f"Not a web address, left alone: {printable(event.href)}", markup=False)
