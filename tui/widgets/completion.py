"""The list above the prompt of what can be completed there."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from ..completing import Choice

MOST_ROWS = 8
_FRAME = 2


class CompletionList(Widget):
    """At most eight rows above the prompt; the keys stay with the prompt."""

    ALLOW_SELECT = False

    class Chosen(Message):
        """A row was clicked."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

    class Scrolled(Message):
        """The wheel was turned."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def __init__(self) -> None:
        super().__init__()
        self.display = False
        self._choices: Sequence[Choice] = ()
        self._selected: int | None = None
        self._rows = 0
        self._top = 0

    def show(
        self, choices: Sequence[Choice], selected: int | None, space: int, hint: str = ""
    ) -> None:
        """Offer ``choices``; without any, nothing is shown.

        Args:
            choices: what is offered.
            selected: which of it is marked.
            space: how many rows there are, frame included.
            hint: the keys, for the frame.
        """
        if choices != self._choices:
            self._top = 0
        self._choices, self._selected = choices, selected
        self._rows = max(1, min(MOST_ROWS, len(choices), space - _FRAME))
        at = selected or 0
        self._top = max(min(self._top, at, len(choices) - self._rows), at - self._rows + 1, 0)
        self.display = bool(choices)
        # It belongs to the row of the prompt and is drawn above it.
        self.styles.height = self._rows + _FRAME
        self.styles.offset = (0, -(self._rows + _FRAME))
        count = f"{at + 1} of {len(choices)}" if len(choices) > self._rows else ""
        self.border_subtitle = Content(" · ".join(filter(None, (count, hint))))
        self.refresh(layout=True)

    def render(self) -> Content:
        width = self.content_size.width
        shown = list(self._choices[self._top : self._top + self._rows])
        labels = max((Content(choice.label).cell_length for choice in shown), default=0)
        labels = min(labels, max(1, width - 2))
        rows = []
        for index, choice in enumerate(shown, self._top):
            is_selected = index == self._selected
            mark = "▸ " if is_selected else "  "
            label = Content.styled(mark + choice.label, "bold" if is_selected else "")
            label = label.truncate(labels + 2, ellipsis=True, pad=True)
            detail = Content.styled(f"  {choice.detail}", "dim")
            row = (label + detail).truncate(width, ellipsis=True, pad=True)
            rows.append(row.stylize("on $panel") if is_selected else row)
        return Content("\n").join(rows)

    def on_click(self, event: events.Click) -> None:
        """Choose the row under the mouse."""
        event.stop()
        offset = event.get_content_offset(self)
        index = self._top + offset.y if offset is not None else -1
        if 0 <= index < len(self._choices):
            self.post_message(self.Chosen(self._choices[index]))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """One row on."""
        event.stop()
        self.post_message(self.Scrolled(1))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """One row back."""
        event.stop()
        self.post_message(self.Scrolled(-1))
