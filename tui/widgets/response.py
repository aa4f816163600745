"""One answer: reasoning, streamed Markdown and a quiet line about how it ended."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from mobilellm_mlx.events import GenerationSummary

from ..text import printable
from .markdown import AnswerMarkdown
from .reasoning import ReasoningBlock


def describe_end(summary: GenerationSummary, *, kept: bool) -> str:
    """The line under an answer: why it ended unless that is natural, and how fast it came."""
    nothing = "no answer came of it" if summary.reasoning else "the model said nothing"
    reasons = {
        "stop": "" if summary.text else nothing,
        "length": f"cut at {summary.generated_tokens:,} tokens",
        "context": "cut: the context is full (Ctrl+N starts a new chat)",
        "cancelled": "stopped" if kept else "stopped before the first word; not remembered",
    }
    parts = [reasons[summary.stop_reason]]
    if summary.generated_tokens and summary.decode_tok_per_s:
        if summary.stop_reason != "length":  # which names the count already
            parts.append(f"{summary.generated_tokens:,} tokens")
        parts.append(f"{summary.decode_tok_per_s:,.0f} tok/s")
    return " · ".join(part for part in parts if part)


class Response(Vertical):
    """An answer while it comes and after.

    Text is appended through a ``MarkdownStream``; at the end the whole document is set once more,
    because a code fence that was only appended to can go blank.
    """

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        """The answer so far, exactly as the model wrote it."""
        self._reasoning = ReasoningBlock()
        self._reasoning.display = False
        self._markdown = AnswerMarkdown()
        self._footer = Static("…", classes="footer", markup=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._reasoning
        yield self._markdown
        yield self._footer

    def think(self, text: str, tokens: int) -> None:
        """Take in more of the reasoning."""
        self._reasoning.append(text, tokens)
        self._footer.display = False

    async def append(self, text: str) -> None:
        """Show more of the answer."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
            self._footer.display = False
            self._reasoning.finish()
        self.text += text
        await self._stream.write(printable(text))

    async def finish(self, summary: GenerationSummary) -> None:
        """Show the complete answer and how it ended."""
        self.text = summary.text or self.text
        self._reasoning.finish(summary.reasoning_tokens)
        await self._settle(describe_end(summary, kept=bool(self.text)))

    async def break_off(self) -> None:
        """The answer failed; what came of it stays readable."""
        self._reasoning.finish()
        await self._settle("broken off; not remembered" if self.text else "")

    async def _settle(self, footer: str) -> None:
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        await self._markdown.update(printable(self.text))
        self._markdown.display = bool(self.text)
        self._footer.update(Content(footer))
        self._footer.display = bool(footer)
        self.display = bool(self.text or footer or self._reasoning.text)

    async def on_unmount(self) -> None:
        """Leave no task behind when the screen goes away in mid-answer."""
        if self._stream is not None:
            await self._stream.stop()
