"""Finding words in the chat that is open: one row under the transcript."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static

from .line import Line
from .word import Word

NARROW = 60
"""Columns below which the keys stand without their words."""


class FindBar(Horizontal):
    """Asks for words and for the next find; where those are is the transcript's business."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "up,shift+enter", "step(-1)", "Find before", id="find.before", tooltip="The find before"
        ),
        Binding("down", "step(1)", "Next find", id="find.next", tooltip="The next find"),
        Binding("escape", "close", "Close", id="find.close", tooltip="Close the find bar"),
    ]

    class Wanted(Message):
        """The person looks for ``query``; empty when nothing is looked for."""

        def __init__(self, query: str) -> None:
            super().__init__()
            self.query = query

    class Step(Message):
        """Go to the next find (``direction`` 1) or the one before (-1)."""

        def __init__(self, direction: int) -> None:
            super().__init__()
            self.direction = direction

    class Closed(Message):
        """The bar is gone: marks can go, and the keys belong to the prompt again."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._input = Line(placeholder="words in this chat")
        self._count = Static(markup=False, classes="count")

    def compose(self) -> ComposeResult:
        yield Static("Find", classes="name")
        yield self._input
        yield self._count
        yield Word("before", id="find-before", binding="find.before")
        yield Word("next", id="find-next", binding="find.next")
        yield Word("close", id="find-close", binding="find.close")

    @property
    def is_open(self) -> bool:
        """Whether it can be seen."""
        return self.has_class("-open")

    def open(self, words: str = "") -> None:
        """Show the bar and give it the keys; what was looked for last can be typed over.

        Args:
            words: to look for at once, instead of those of the last time.
        """
        self.add_class("-open")
        if words:
            with self.prevent(Input.Changed):
                self._input.value = words
        self._input.focus(scroll_visible=False)
        self._input.select_all()
        if self._input.value:
            self.post_message(self.Wanted(self._input.value))

    def show_count(self, at: int, total: int) -> None:
        """Say which find is shown.

        Args:
            at: counted from 1.
            total: 0 when there is none.
        """
        if not self._input.value.strip():
            self._count.update("")
        else:
            self._count.update(f"{at:,} of {total:,}" if total else "no find")

    def on_mount(self) -> None:
        # Not `on_resize`: what takes the focus as it is shown may never hear of its size.
        self.screen.screen_layout_refresh_signal.subscribe(self, lambda _: self._fit())

    def _fit(self) -> None:
        if self.size:
            for word in self.query(Word):
                word.shorten(self.size.width < NARROW)

    @on(Input.Changed)
    def want(self, event: Input.Changed) -> None:
        event.stop()
        if self.is_open:
            if not event.value.strip():
                self.show_count(0, 0)
            self.post_message(self.Wanted(event.value))

    @on(Input.Submitted)
    def want_next(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_step(1)

    @on(Word.Clicked)
    def obey(self, event: Word.Clicked) -> None:
        event.stop()
        match event.word.id:
            case "find-before":
                self.action_step(-1)
            case "find-next":
                self.action_step(1)
            case _:
                self.action_close()

    def action_step(self, direction: int) -> None:
        """Ask for another find, once there is something to find."""
        if self._input.value.strip():
            self.post_message(self.Step(direction))

    def action_close(self) -> None:
        """Hide the bar; what was looked for stays for the next time."""
        self.remove_class("-open")
        self.post_message(self.Closed())
