"""What a model thinks before it answers: one quiet line that opens."""

from __future__ import annotations

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from ..text import printable
from .said import say_tokens


class ReasoningBlock(Static):
    """Reasoning while it comes and after, folded until someone wants to read it.

    Like everything in the transcript it takes no focus: a click opens it, or a key of the screen.
    """

    is_open: reactive[bool] = reactive(False, layout=True)

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.text = ""
        """The reasoning so far, exactly as the model wrote it."""
        self._tokens = 0
        self._is_done = False

    def append(self, text: str, tokens: int) -> None:
        """More of it; ``tokens`` is how many more, about."""
        self.text += text
        self._tokens += tokens
        self._draw()

    def finish(self, tokens: int | None = None) -> None:
        """No more comes; ``tokens`` is how many it was, where that is known."""
        self._tokens = self._tokens if tokens is None else tokens
        self._is_done = True
        self._draw()

    def toggle(self) -> None:
        """Open or fold."""
        self.is_open = not self.is_open

    def on_click(self) -> None:
        self.toggle()

    def watch_is_open(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self.display = bool(self.text.strip())
        words = "thought for" if self._is_done else "thinking…"
        head = f"{'▾' if self.is_open else '▸'} {words} {say_tokens(self._tokens)}"
        body = f"\n{printable(self.text).strip()}" if self.is_open else ""
        self.update(Content.styled(head + body, "dim"))
