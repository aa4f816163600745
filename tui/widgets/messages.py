"""What a person said, and what went wrong, as blocks of the transcript."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from ..messages import Problem
from ..text import printable
from .said import QUESTION_BINDINGS, MessageBlock, Said

FOLD_ABOVE = 30
"""Lines that a message may have before it is folded."""
FOLDED_LINES = 12
FOLDED_CHARACTERS = 4_000
"""Shown of a folded message; a megabyte in one line must not be drawn either."""


class UserMessage(MessageBlock, Static):
    """A person's words, as plain text; ``note`` says when they are not (yet) answered."""

    can_focus = True
    BINDINGS: ClassVar[list[BindingType]] = QUESTION_BINDINGS

    note: reactive[str] = reactive("", layout=True)
    is_open: reactive[bool] = reactive(False, layout=True)
    """Whether a long message is shown as a whole."""

    def __init__(
        self, text: str = "", *, note: str = "", message_id: str = "", said: Said | None = None
    ) -> None:
        super().__init__()
        self.said = said or Said("user", text, message_id, note)
        self.set_reactive(UserMessage.note, self.said.note)

    def on_mount(self) -> None:
        self.watch_note(self.note)

    def watch_note(self, note: str) -> None:
        """Draw the text; a note is a line of its own, so that it does not depend on colour."""
        self.said.note = note
        self.set_class(bool(note), "-waiting")
        self.redraw()

    def watch_is_open(self) -> None:
        self.redraw()

    @property
    def is_long(self) -> bool:
        """Whether it is folded until somebody wants to read it."""
        return self.text.count("\n") >= FOLD_ABOVE or len(self.text) > 2 * FOLDED_CHARACTERS

    def redraw(self) -> None:
        lines = [Content(self._shown())]
        if self.is_long:
            count = self.text.count("\n") + 1
            words = f"▾ all {count:,} lines" if self.is_open else f"▸ {count:,} lines in all"
            lines.append(Content.styled(words, "dim"))
        if footer := self.footer:
            lines.append(Content.styled(footer, "italic"))
        self.update(Content("\n").join(lines))

    def _shown(self) -> str:
        if not self.is_long or self.is_open:
            return printable(self.text)
        head = "\n".join(self.text[:FOLDED_CHARACTERS].split("\n")[:FOLDED_LINES])
        return printable(head)

    def action_fold(self) -> None:
        """Show all of a long message, or only its beginning."""
        if self.is_long:
            self.is_open = not self.is_open

    def on_click(self, event: events.Click) -> None:
        """A click on the last line opens a long message; one that ends a selection does not."""
        at_end = event.y >= self.size.height - 1 - bool(self.footer)
        if self.is_long and at_end and not self.screen.selections:
            self.action_fold()


class RemarkBlock(Static):
    """A line among the messages: from here on something else answers."""

    def __init__(self, text: str) -> None:
        self.said = Said("remark", text)
        super().__init__(Content(printable(text)))


class ProblemBlock(Static):
    """A failure, said calmly: what happened, and what to do."""

    def __init__(self, problem: Problem, *, classes: str | None = None) -> None:
        self.said = Said("problem", problem.text, problem=problem, classes=classes or "")
        head = Content.assemble(("error: ", "bold $text-error"), printable(problem.text))
        if problem.internal:
            head = Content.assemble((printable(problem.text), "bold $text-error"))
        hint = Content.assemble("\n", ("hint: ", "bold"), printable(problem.hint or ""))
        super().__init__(head + hint if problem.hint else head, classes=classes)
