"""A word to click, for what also has a key."""

from __future__ import annotations

from textual import events, keys
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from ..text import format_key


def name_key(key: str) -> str:
    """A key in as few cells as it can be named: ``/`` for ``slash``, letters as they are typed."""
    short = keys.format_key(key)
    return short if len(short) == 1 else format_key(key)


class Word(Static):
    """Does something when it is clicked, and never takes the focus.

    The key for the same is written in front of it for as long as that key works.

    Args:
        text: what it does, in a word.
        id: names it among its neighbours.
        binding: id of the binding that does the same.
    """

    class Clicked(Message):
        """The person clicked ``word``."""

        def __init__(self, word: Word) -> None:
            super().__init__()
            self.word = word

        @property
        def control(self) -> Word:
            """For ``@on`` with a selector."""
            return self.word

    def __init__(self, text: str, *, id: str, binding: str) -> None:
        super().__init__(id=id)
        self._text = text
        self._binding = binding
        self._is_short = False

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._draw())
        self._draw()

    def say(self, text: str) -> None:
        """Change the word."""
        if text != self._text:
            self._text = text
            self._draw()

    def shorten(self, is_short: bool) -> None:
        """Leave the word away while its key can stand for it."""
        if is_short != self._is_short:
            self._is_short = is_short
            self._draw()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self))

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        key = self._working_key()
        text = "" if key and self._is_short else self._text
        gap = " " if key and text else ""
        self.update(Content.assemble((name_key(key), "bold"), gap, text))

    def _working_key(self) -> str:
        """The first key of the binding that works now; empty when none does."""
        for key, active in self.screen.active_bindings.items():
            if active.binding.id == self._binding and not self._is_typed(key):
                return key
        return ""

    def _is_typed(self, key: str) -> bool:
        """Whether the focused widget takes the key as text."""
        focused, typed = self.screen.focused, keys.format_key(key)
        return (
            focused is not None
            and len(typed) == 1
            and typed.isascii()
            and focused.check_consume_key(key, typed)
        )
