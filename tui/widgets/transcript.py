"""The conversation as it scrolls by."""

from __future__ import annotations

from collections.abc import Collection

from textual.containers import VerticalScroll
from textual.widget import Widget

from .messages import ProblemBlock, UserMessage
from .reasoning import ReasoningBlock
from .response import Response
from .welcome import Welcome


class Transcript(VerticalScroll, can_focus=False):
    """Blocks in the order they belong; follows its end unless the person scrolled up.

    It takes no focus: typing always goes to the prompt.
    """

    def on_mount(self) -> None:
        self.anchor()

    async def add(self, block: Widget, *, after: Widget | None = None) -> None:
        """Put ``block`` below ``after``, or at the end, and go there when it is the person's."""
        for welcome in self.query(Welcome):
            welcome.display = False
        await self.mount(block, after=after)
        if isinstance(block, UserMessage | ProblemBlock):
            self.scroll_end(animate=False)

    async def clear(self, keep: Collection[Widget] = ()) -> None:
        """Back to the empty state, or to the blocks in ``keep``."""
        for welcome in self.query(Welcome):
            welcome.display = not keep
        old = [c for c in self.children if not isinstance(c, Welcome) and c not in keep]
        await self.remove_children(old)
        self.scroll_end(animate=False)

    @property
    def last_answer(self) -> str:
        """The text of the newest answer that has any; empty when there is none."""
        for response in reversed(self.query(Response)):
            if response.text:
                return response.text
        return ""

    @property
    def last_reasoning(self) -> ReasoningBlock | None:
        """The newest reasoning that can be seen; None when there is none."""
        return next(
            (block for block in reversed(self.query(ReasoningBlock)) if block.display), None
        )
