"""The first line of the screens of the training."""

from __future__ import annotations

from textual.message import Message
from textual.widgets import Static


class Headline(Static):
    """What a screen is about; it says when there is another width to fill.

    A screen hears of its own new size before its padding, which depends on that, has changed.
    """

    class Resized(Message):
        """The line is longer or shorter than it was."""

    def __init__(self) -> None:
        super().__init__("", id="head", markup=False)

    def on_resize(self) -> None:
        self.post_message(self.Resized())
