"""Where the person writes: several lines, history, Enter to send."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from ..text import printable

MODIFIED_ENTER = "shift+\r"
"""Shift+Enter from terminals with modifyOtherKeys, as Textual names it."""
PLACEHOLDER = "Ask a short question, or paste a text to rewrite"


class History:
    """What was sent before, and the draft that waits at its end."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._at = 0
        self._draft = ""

    def add(self, text: str) -> None:
        """Remember ``text`` as the newest; sending the same again adds nothing."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self._at = len(self._sent)
        self._draft = ""

    def older(self, current: str) -> str | None:
        """The text before; None at the oldest. ``current`` is kept when it is the draft."""
        if self._at == 0:
            return None
        if self._at == len(self._sent):
            self._draft = current
        self._at -= 1
        return self._sent[self._at]

    def newer(self) -> str | None:
        """The text after, in the end the draft; None when that is already shown."""
        if self._at >= len(self._sent):
            return None
        self._at += 1
        return self._draft if self._at == len(self._sent) else self._sent[self._at]


class Prompt(TextArea):
    """A text area that grows with its text and sends it with Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send", id="prompt.send", tooltip="Send"),
        Binding(
            "ctrl+j,shift+enter,alt+enter",
            "newline",
            "New line",
            id="prompt.newline",
            tooltip="New line (Ctrl+J in every terminal)",
        ),
        Binding(
            "up",
            "cursor_up",
            "Earlier prompt",
            id="prompt.older",
            show=False,
            tooltip="In the first line: the prompt before",
        ),
        Binding(
            "down",
            "cursor_down",
            "Later prompt",
            id="prompt.newer",
            show=False,
            tooltip="In the last line: the prompt after",
        ),
    ]

    class Submitted(Message):
        """The person sent ``text``, which is not blank."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            tab_behavior="focus",
            compact=True,
            highlight_cursor_line=False,
            placeholder=PLACEHOLDER,
        )
        self.cursor_blink = False
        self._history = History()

    def action_submit(self) -> None:
        """Send what is written, unless that is nothing."""
        text = self.text.strip("\n")
        if not text.strip():
            return
        self._history.add(text)
        self.load_text("")
        self.post_message(self.Submitted(text))

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self._replace_via_keyboard("\n", *self.selection)

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up; from the first line of the screen on, back through what was sent."""
        if not select and self.cursor_at_first_line and self.wrapped_cursor_row == 0:
            if (text := self._history.older(self.text)) is not None:
                self._show(text)
            return
        super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down; from the last line of the screen on, forward to the draft."""
        last = self.wrapped_document.height - 1
        if not select and self.wrapped_cursor_row >= last:
            if (text := self._history.newer()) is not None:
                self._show(text)
            return
        super().action_cursor_down(select)

    @property
    def wrapped_cursor_row(self) -> int:
        """The cursor's row as drawn, soft wraps counted."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def put_back(self, text: str) -> None:
        """Give a text back that was not sent, in front of what has been written since."""
        draft = self.text
        self._show(f"{text}\n\n{draft}" if draft.strip() else text)

    # Textual calls these two and then, unless told otherwise, the text area's own handlers.

    def _on_key(self, event: events.Key) -> None:  # type: ignore[override]
        """Send and break lines in the order of typing.

        The text area would insert Enter itself, and a binding with priority would overtake the
        characters that still wait to be inserted: a fast Enter would send half a message.
        """
        key = "shift+enter" if event.key == MODIFIED_ENTER else event.key
        if event.is_printable or (active := self.screen.active_bindings.get(key)) is None:
            return
        actions = {"submit": self.action_submit, "newline": self.action_newline}
        if active.node is self and (run := actions.get(active.binding.action)):
            event.stop()
            event.prevent_default()
            run()

    def _on_paste(self, event: events.Paste) -> None:  # type: ignore[override]
        event.text = printable(event.text)

    def _show(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)
