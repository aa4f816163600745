"""What the settings screen asks for on a page of its own: a long text, and a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from mobilellm_mlx.errors import InvalidOption

from ...text import printable


class TextScreen(ModalScreen[str | None]):
    """A text of several lines. Gives the text, or None when nothing was changed.

    Args:
        title: whose text it is.
        text: as it is now.
        check: raises ``InvalidOption`` for a text that cannot be kept.
    """

    CSS_PATH = "settings.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+s",
            "keep",
            "Keep",
            id="text.keep",
            priority=True,
            tooltip="Keep the text and close",
        ),
        Binding(
            "escape",
            "discard",
            "Discard",
            id="text.discard",
            priority=True,  # the text area has a use of its own for Escape
            tooltip="Leave it as it was; asks for a second press when something was written",
        ),
    ]

    def __init__(self, title: str, text: str, check: Callable[[str], object]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._check = check
        self._is_warned = False

    def compose(self) -> ComposeResult:
        with Vertical(id="text") as box:
            box.border_title = Content(printable(self._title))
            box.border_subtitle = "Ctrl+S keeps · Esc leaves it as it was"
            yield TextArea(self._text, soft_wrap=True, compact=True, tab_behavior="focus")
            yield Static(id="why", markup=False)

    def action_keep(self) -> None:
        """Close, unless the text cannot be kept."""
        text = self._written
        try:
            self._check(text)
        except InvalidOption as error:
            self.query_one("#why", Static).update(printable(error.message))
            return
        self.dismiss(text if text != self._text.strip() else None)

    def action_discard(self) -> None:
        """Close without a change; what was written is not thrown away by one key."""
        if self._written != self._text.strip() and not self._is_warned:
            self._is_warned = True
            self.query_one("#why", Static).update("Ctrl+S keeps this; Esc once more drops it")
        else:
            self.dismiss(None)

    @property
    def _written(self) -> str:
        return printable(self.query_one(TextArea).text).strip()

    @on(TextArea.Changed)
    def go_on(self) -> None:
        """Whoever goes on writing is asked again."""
        self._is_warned = False


class KeyScreen(ModalScreen[str | None]):
    """Waits for a key. Gives it, or None for Escape.

    Args:
        what: the key will do.
        object_to: gives the reason why a key cannot do that.
    """

    CSS_PATH = "settings.tcss"

    def __init__(self, what: str, object_to: Callable[[str], str | None]) -> None:
        super().__init__()
        self._what = what
        self._object_to = object_to

    def compose(self) -> ComposeResult:
        with Vertical(id="key"):
            yield Static(f"Press a key for: {printable(self._what)}", markup=False)
            yield Static("Esc leaves it as it is", id="why", markup=False)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
        elif why := self._object_to(event.key):
            self.query_one("#why", Static).update(f"{printable(why)}. Another, or Esc.")
        else:
            self.dismiss(event.key)
