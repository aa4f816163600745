"""One line to type in."""

from __future__ import annotations

from textual.widgets import Input

_UNUSED = {"scroll_up", "scroll_down", "page_up", "page_down"}


class Line(Input):
    """An input without a frame that leaves the keys for moving up and down to what is around it."""

    def __init__(self, value: str = "", *, placeholder: str = "", max_length: int = 200) -> None:
        super().__init__(value, placeholder=placeholder, max_length=max_length, compact=True)
        self.cursor_blink = False

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What cannot be scrolled has no use for these keys, and help must not name them."""
        return False if action in _UNUSED else super().check_action(action, parameters)
