"""What a person said, and what went wrong, as blocks of the transcript."""

from __future__ import annotations

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from ..messages import Problem
from ..text import printable


class UserMessage(Static):
    """A person's words, as plain text; ``note`` says when they are not (yet) answered."""

    note: reactive[str] = reactive("", layout=True)

    def __init__(self, text: str, *, note: str = "") -> None:
        super().__init__()
        self.text = text
        self.set_reactive(UserMessage.note, note)

    def on_mount(self) -> None:
        self.watch_note(self.note)

    def watch_note(self, note: str) -> None:
        """Draw the text; a note is a line of its own, so that it does not depend on colour."""
        self.set_class(bool(note), "-waiting")
        said = Content(printable(self.text))
        self.update(Content.assemble(said, "\n", (note, "italic")) if note else said)


class ProblemBlock(Static):
    """A failure, said calmly: what happened, and what to do."""

    def __init__(self, problem: Problem, *, classes: str | None = None) -> None:
        head = Content.assemble(("error: ", "bold $text-error"), printable(problem.text))
        if problem.internal:
            head = Content.assemble((printable(problem.text), "bold $text-error"))
        hint = Content.assemble("\n", ("hint: ", "bold"), printable(problem.hint or ""))
        super().__init__(head + hint if problem.hint else head, classes=classes)
