"""One answer: reasoning, the tools used, streamed Markdown, a quiet line about how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import NULL_OFFSET, NULL_SPACING, Region, Size
from textual.layout import ArrangeResult, DockArrangeResult, Layout, WidgetPlacement
from textual.layouts.vertical import VerticalLayout
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.events import GenerationSummary

from ..messages import ToolEvent
from ..text import printable
from .code import Code, find_code
from .markdown import AnswerMarkdown, CodeBlock
from .pieces import Cut, Cutter, split
from .reasoning import ReasoningBlock
from .said import ANSWER_BINDINGS, MessageBlock, Said, say_tokens
from .toolcard import ToolCards


def describe_end(summary: GenerationSummary, *, kept: bool) -> str:
    """The line under an answer: why it ended unless that is natural, and how fast it came."""
    nothing = "no answer came of it" if summary.reasoning else "the model said nothing"
    reasons = {
        "stop": "" if summary.text else nothing,
        "length": f"cut at {say_tokens(summary.generated_tokens)}",
        "context": "cut: the context is full (Ctrl+N starts a new chat)",
        "cancelled": "stopped" if kept else "stopped before the first word; not remembered",
    }
    parts = [reasons[summary.stop_reason]]
    if summary.generated_tokens and summary.decode_tok_per_s:
        if summary.stop_reason != "length":  # which names the count already
            parts.append(say_tokens(summary.generated_tokens))
        parts.append(f"{summary.decode_tok_per_s:,.0f} tok/s")
    return " · ".join(part for part in parts if part)


class Stack(Layout):
    """Widgets below each other, where one that rests costs nothing: a long answer has hundreds."""

    name = "stack"

    def __init__(self) -> None:
        self._vertical = VerticalLayout()

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> ArrangeResult:
        placements: list[WidgetPlacement] = []
        y = 0
        for rests, group in groupby(children, lambda child: getattr(child, "rests", False)):
            if rests:
                for child in group:
                    height = child.resting_height(size.width)  # type: ignore[attr-defined]
                    region = Region(0, y, size.width, height)
                    placements.append(WidgetPlacement(region, NULL_OFFSET, NULL_SPACING, child))
                    y = region.bottom
                continue
            below = self._vertical.arrange(parent, list(group), size, greedy)
            placements += [p._replace(region=p.region.translate((0, y))) for p in below]
            y = max((p.region.bottom + p.margin.bottom for p in below), default=0) + y
        return placements


class Response(MessageBlock, Vertical):
    """An answer while it comes and after.

    It is drawn as a row of documents of which only the last one grows (see ``pieces``). When the
    answer is complete, that one is set once more, because a code fence that was only appended to
    can go blank; the others were final when they were sealed.

    Args:
        said: one that is there; None: it is about to come.
        uses: the calls behind the part of a coming answer that is there.
        asleep: its text is drawn when it comes near.
    """

    can_focus = True
    BINDINGS: ClassVar[list[BindingType]] = ANSWER_BINDINGS

    def __init__(
        self,
        said: Said | None = None,
        *,
        uses: Sequence[ToolUse] = (),
        asleep: bool = False,
    ) -> None:
        super().__init__()
        self._stack = Stack()
        self.said = said or Said("assistant", uses=list(uses))
        self._reasoning = ReasoningBlock()
        self._reasoning.display = False
        self.cards = ToolCards(self.said.uses, is_live=said is None)
        """The calls that led to it; not displayed when there were none."""
        self._footer = Static("…", classes="footer", markup=False)
        self.documents: list[AnswerMarkdown] = []
        """What the answer is drawn with, in order; the last one may grow."""
        self.parts: dict[Widget, Region] = {}
        """Where in this widget each document stands; of those that have been arranged."""
        self._cutter = Cutter()
        self._coming = ""
        self._has_more = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.is_coming = said is None
        """Whether more may be appended."""
        if said is not None:
            self._load(said, asleep)
        else:
            self.documents.append(AnswerMarkdown())

    def _load(self, said: Said, asleep: bool) -> None:
        text = printable(said.text)
        self.documents = _documents(text, split(text))
        for document in self.documents:
            document.display = bool(text)
            if asleep:
                document.sleep()
        if said.reasoning:
            self._reasoning.append(said.reasoning, 0)
            self._reasoning.finish(said.reasoning_tokens)
        self.display = bool(text or said.footer or said.reasoning or said.can_continue or said.uses)

    def on_mount(self) -> None:
        if not self.is_coming:
            self._show_footer()

    def compose(self) -> ComposeResult:
        yield self._reasoning
        yield self.cards
        yield from self.documents
        yield self._footer

    def render_lines(self, crop: Region) -> list[Strip]:
        """Nothing of its own, which is cheap to draw; but with the focus an edge."""
        if self.has_focus:
            return super().render_lines(crop)
        return [Strip.blank(crop.width, self.visual_style.rich_style)] * crop.height

    @property
    def layout(self) -> Layout:
        return self._stack

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Take note of where the documents stand."""
        result = super().arrange(size, optimal)
        self.parts = {
            place.widget: place.region
            for place in result.placements
            if isinstance(place.widget, AnswerMarkdown)
        }
        return result

    # ---------------------------------------------------------------- while it comes

    def think(self, text: str, tokens: int) -> None:
        """Take in more of the reasoning."""
        self.said.reasoning += text
        self.said.reasoning_tokens += tokens
        self._reasoning.append(text, tokens)
        self._footer.display = False

    async def use_tool(self, event: ToolEvent) -> None:
        """Show that a call has come one step further."""
        self._reasoning.finish()
        await self.cards.take(event)
        self._footer.display = not (self.text or self.cards.is_busy)

    async def append(self, text: str) -> None:
        """Show more of the answer, as soon as what came before it is drawn."""
        self.cards.end_choosing()
        if self._writer is None:
            self._footer.display = False
            self._reasoning.finish()
            self._writer = asyncio.create_task(self._write())
        self.text += text
        self._coming += printable(text)
        self._has_more.set()
        await asyncio.sleep(0)  # lets the writer begin

    async def _write(self) -> None:
        """Draw what has come, all of it at once: a slow terminal gets fewer, larger steps."""
        while await self._has_more.wait():
            self._has_more.clear()
            text, self._coming = self._coming, ""
            # Not to be broken off in the middle: at the end `_settle` wants a whole document.
            await asyncio.shield(self._grow(text))

    async def _grow(self, text: str) -> None:
        document = self.documents[-1]
        shown = document.source
        cut = self._cutter.look(shown + text)
        if cut is None:
            await document.grow(text)
            return
        with self.app.batch_update():
            document.goes_on = cut.joined
            if cut.sealed.startswith(shown):
                await document.grow(cut.sealed[len(shown) :])
                document.close_gap()
            else:  # cut in what is drawn already
                await document.redraw(cut.sealed)
            following = _following(document.start, cut)
            self.documents.append(following)
            self._cutter = Cutter()
            await self.mount(following, after=document)

    async def finish(self, summary: GenerationSummary) -> None:
        """Show the complete answer and how it ended."""
        said = self.said
        shown = said.text
        # A summary is of the last stretch; what is said between calls stands before it.
        said.text = shown if said.uses and shown else summary.text or shown
        said.reasoning_tokens = summary.reasoning_tokens
        # An answer without a word is kept for what was done on the way to it.
        kept = bool(said.text or (said.uses and said.message_id))
        said.note = describe_end(summary, kept=kept)
        self._reasoning.finish(summary.reasoning_tokens)
        await self._settle(shown == said.text)

    async def break_off(self, note: str = "broken off") -> None:
        """The answer failed; what came of it stays readable."""
        self.said.note = note if self.text else ""
        self._reasoning.finish()
        await self._settle(True)

    async def _settle(self, is_drawn: bool) -> None:
        """Draw the end of what came, or everything when it was not what it should be."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            self._writer = None
        if not is_drawn:
            text = printable(self.text)
            await self.remove_children(self.documents)
            self.documents = _documents(text, split(text))
            await self.mount_all(self.documents, before=self._footer)
        else:
            if self._coming:
                await self._grow(self._coming)
            await self.documents[-1].redraw()
        self._coming = ""
        self.is_coming = False
        self.cards.settle()
        for document in self.documents:
            document.display = bool(self.text)
        self._show_footer()

    def _show_footer(self) -> None:
        self._footer.update(Content(footer := self.footer))
        self._footer.display = bool(footer)
        self.display = bool(self.text or footer or self.said.reasoning or self.said.uses)

    def redraw(self) -> None:
        """Show the line below again: something about the message has changed."""
        self._show_footer()

    async def on_unmount(self) -> None:
        """Leave no task behind when the screen goes away in mid-answer."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    # ---------------------------------------------------------------- reading and copying

    @property
    def reasoning(self) -> ReasoningBlock:
        """What was thought before it; not displayed when there was nothing."""
        return self._reasoning

    def action_fold(self) -> None:
        """Open or fold the reasoning and the calls."""
        if self.cards.cards:
            self.cards.toggle()
            self._reasoning.is_open = self.cards.cards[0].is_open
        else:
            self._reasoning.toggle()

    @property
    def code(self) -> Sequence[Code]:
        """Its blocks of code, as the model wrote them."""
        return find_code(self.text)

    def code_blocks(self) -> dict[int, CodeBlock]:
        """What is drawn of ``code``: its places in there, and the widgets. A block that was broken
        is found by its last part."""
        found: dict[int, CodeBlock] = {}
        codes = self.code
        for document in self.documents:
            first = sum(code.start < document.start for code in codes) - document.in_code
            for n, block in enumerate(document.query(CodeBlock), start=first):
                found[n] = block
        return found

    def code_index(self, block: CodeBlock) -> int | None:
        """Which of ``code`` is drawn as ``block``; None when that has changed meanwhile."""
        codes = self.code
        for document in self.documents:
            blocks = list(document.query(CodeBlock))
            if block in blocks:
                before = sum(code.start < document.start for code in codes) - document.in_code
                index = before + blocks.index(block)
                return index if 0 <= index < len(codes) else None
        return None

    async def mark_code(self, index: int) -> None:
        """Show for a moment which block was copied, and bring it into view."""
        document = self.document_at(self.code[index].start)
        if document.rests:
            await document.wake()
        if (block := self.code_blocks().get(index)) is not None:
            block.mark()
            block.scroll_visible(animate=False)

    async def draw_place(self, offset: int) -> tuple[Widget, str]:
        """The widget that draws a place in the answer, and what that draws before it."""
        document = self.document_at(offset)
        if document.rests:
            await document.wake()
        return document.place_of(offset - document.start) or (document, "")

    def document_at(self, offset: int) -> AnswerMarkdown:
        """The document that draws a place in the answer."""
        fitting = [d for d in self.documents if d.start <= offset]
        return fitting[-1] if fitting else self.documents[0]


def _following(start: int, cut: Cut) -> AnswerMarkdown:
    """The document behind a cut in one that begins at ``start``."""
    return AnswerMarkdown(cut.rest, start=start + cut.at - len(cut.again), in_code=cut.is_code)


def _documents(text: str, cuts: Sequence[Cut]) -> list[AnswerMarkdown]:
    """The documents of a complete text."""
    if not cuts:
        return [AnswerMarkdown(text)]
    made = [AnswerMarkdown(cuts[0].sealed)]
    for cut, following in zip(cuts, [*cuts[1:], None], strict=True):
        made[-1].goes_on = cut.joined
        document = _following(made[-1].start, cut)
        if following is not None:
            document = _following(made[-1].start, replace(cut, rest=following.sealed))
        made.append(document)
    return made
