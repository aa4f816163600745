"""One line of the settings screen, which turns into a field to write in."""

from __future__ import annotations

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from ...text import printable
from .lines import Line


class Row(Horizontal, can_focus=True):
    """A setting: its title, its value, and a field in place of either while it is edited."""

    class Activated(Message):
        """The value was clicked."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    class Typed(Message):
        """Something was written in the field; ``leaving``: because the person went elsewhere."""

        def __init__(self, row: Row, text: str, leaving: bool = False) -> None:
            super().__init__()
            self.row = row
            self.text = text
            self.leaving = leaving

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line
        self.names = False
        """Whether the field is for the title."""

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        yield Static(classes="value", markup=False)

    def on_mount(self) -> None:
        self.show(self.line)

    def show(self, line: Line) -> None:
        """Say what the setting is now."""
        self.line = line
        here = self.has_focus or self.is_edited
        mark = f"{'›' if here else ' '}{'•' if line.is_set else ' '} "
        self.query_one(".title", Static).update(Content(mark + printable(line.title)))
        value, aside = printable(line.shown), printable(line.aside)
        if line.choices and self.has_focus:
            value, aside = f"‹ {value or aside} ›", aside if value else ""
        self.query_one(".value", Static).update(
            Content.assemble(
                (value, "$foreground bold" if line.is_set else "$foreground"),
                "  " if value and aside else "",
                aside,
            )
        )

    def watch_has_focus(self, has_focus: bool) -> None:
        super().watch_has_focus(has_focus)
        if self.is_mounted:
            self.show(self.line)

    @property
    def is_edited(self) -> bool:
        """Whether there is a field."""
        return bool(self.query(Input))

    async def edit(self, text: str, *, names: bool = False) -> None:
        """Put a field in place of the value, or of the title."""
        self.names = names
        self.query_one(".title" if names else ".value").display = False
        field = Input(text, compact=True, select_on_focus=True)
        await self.mount(field, before=0 if names else None)
        field.focus()

    async def close(self) -> None:
        """Take the field away."""
        focus = bool(self.query("Input:focus"))
        with self.prevent(Input.Blurred):
            await self.query(Input).remove()
        for part in self.query(Static):
            part.display = True
        if focus:
            self.focus()

    @on(Input.Submitted)
    def pass_on(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Typed(self, event.value))

    @on(Input.Blurred)
    def leave(self, event: Input.Blurred) -> None:
        event.stop()
        if self.is_edited and self.app.app_focus:  # another window in front is not leaving
            self.post_message(self.Typed(self, event.value, leaving=True))

    def on_click(self, event: events.Click) -> None:
        if event.widget is not None and event.widget.has_class("value"):
            self.post_message(self.Activated(self))
