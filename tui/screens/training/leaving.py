"""The question before the interface is left while something is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from mobilellm_mlx.training.status import RunStatus

from ...text import printable
from ...widgets.sidebar import LOW
from .words import duration

Leaving = Literal["go on", "stop"]


class LeavingScreen(ModalScreen[Leaving | None]):
    """Asks what becomes of the trainings; None stays.

    Args:
        rows: that go on.
        left_s: until the first of them ends, where that is known.
    """

    CSS_PATH = "../dialogs.tcss"
    CSS = """
    LeavingScreen { align: center middle; background: $background 60%; }
    LeavingScreen.-low .dialog { padding: 0 1; }
    LeavingScreen.-low .answers { margin: 0; }
    LeavingScreen.-low .dialog Button { margin-left: 1; padding: 0 1; }
    """
    AUTO_FOCUS = "#go-on"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "answer('go on')", "Go on", id="leaving.on", tooltip="It goes on without me"),
        Binding("s", "answer('stop')", "Stop", id="leaving.stop", tooltip="Stop it, saved"),
        Binding("escape,n", "answer('')", "Stay", id="leaving.stay", tooltip="Stay here"),
        Binding("left,up", "app.focus_previous", "Left", id="leaving.left", show=False),
        Binding("right,down", "app.focus_next", "Right", id="leaving.right", show=False),
    ]

    def __init__(self, rows: Sequence[RunStatus], left_s: float | None = None) -> None:
        super().__init__()
        self._rows = rows
        self._left_s = left_s

    def compose(self) -> ComposeResult:
        several = len(self._rows) > 1
        names = ", ".join(row.name for row in self._rows)
        left = f" About {duration(self._left_s)} are left." if self._left_s else ""
        it, goes = ("They", "go") if several else ("It", "goes")
        with Vertical(classes="dialog") as box:
            box.border_subtitle = "Esc stays"
            with VerticalScroll(can_focus=False):
                is_ = "are" if several else "is"
                question = printable(f"{names} {is_} being trained.")
                yield Static(question, markup=False, classes="question")
                yield Static(
                    f"{it} {goes} on without you and can be watched again the next time; or "
                    f"{it.lower()} {'stop' if several else 'stops'} after this step, saved.{left}",
                    markup=False,
                    classes="detail",
                )
            with Horizontal(classes="answers"):
                yield Button(Content("Go on"), id="go-on", compact=True)
                yield Button(Content("Stop"), id="stop", compact=True)
                yield Button(Content("Stay"), id="stay", compact=True)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < LOW, "-low")

    @on(Button.Pressed)
    def press(self, event: Button.Pressed) -> None:
        self.action_answer({"go-on": "go on", "stop": "stop"}.get(event.button.id or "", ""))

    def action_answer(self, answer: str) -> None:
        """Close with an answer."""
        self.dismiss("go on" if answer == "go on" else "stop" if answer == "stop" else None)
