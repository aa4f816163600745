"""Small questions on top of a screen: for a line of text, and for a yes."""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from ..text import printable
from ..widgets.line import Line
from ..widgets.sidebar import LOW, one_line

LONGEST_LINE = 1000


class AskLine(ModalScreen[str | None]):
    """Asks for one line; gives it without blanks around it, or None. A blank line is no answer.

    Args:
        title: what is asked for.
        value: to begin with; selected, so that typing replaces it.
        yes: what the answer does, in a word.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="dialog.cancel", tooltip="Cancel"),
    ]

    def __init__(self, title: str, value: str = "", *, yes: str = "OK") -> None:
        super().__init__()
        self._title = title
        self._yes = yes
        value = printable(value).replace("\n", " ")
        self._input = Line(value, max_length=LONGEST_LINE)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(one_line(self._title))
            yield self._input
            with Horizontal(classes="answers"):
                yield Button(Content(self._yes), id="yes", compact=True)
                yield Button("Cancel", id="no", compact=True)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < LOW, "-low")

    @on(Input.Submitted)
    @on(Button.Pressed, "#yes")
    def answer(self) -> None:
        """Give the line, if there is anything on it."""
        if line := printable(self._input.value).strip():
            self.dismiss(line)

    @on(Button.Pressed, "#no")
    def action_cancel(self) -> None:
        """Leave things as they are."""
        self.dismiss(None)


class Confirm(ModalScreen[bool]):
    """Asks before something is done; Enter alone does nothing.

    Args:
        question: in a sentence.
        detail: what follows from a yes.
        yes: what is done, in a word.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="dialog.yes", tooltip="Yes"),
        Binding("n,escape", "answer(False)", "No", id="dialog.no", tooltip="No"),
        Binding("left,up", "app.focus_previous", "Left", id="dialog.left", show=False),
        Binding("right,down", "app.focus_next", "Right", id="dialog.right", show=False),
    ]

    def __init__(self, question: str, detail: str = "", yes: str = "Delete") -> None:
        super().__init__()
        self._question = question
        self._detail = detail
        self._yes = yes

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_subtitle = "y yes · n no"
            with VerticalScroll(can_focus=False):
                yield Static(printable(self._question), markup=False, classes="question")
                if self._detail:
                    yield Static(printable(self._detail), markup=False, classes="detail")
            with Horizontal(classes="answers"):
                yield Button(Content(self._yes), id="yes", compact=True)
                yield Button("Cancel", id="no", compact=True)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < LOW, "-low")

    @on(Button.Pressed)
    def press(self, event: Button.Pressed) -> None:
        self.action_answer(event.button.id == "yes")

    def action_answer(self, agreed: bool) -> None:
        """Close with an answer."""
        self.dismiss(agreed)
