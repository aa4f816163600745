"""A call on its way to an answer: one line that says how far it is, and opens."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.selection import Selection
from textual.widget import Widget
from textual.widgets import Static

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.events import ToolsOffered

from ..messages import ToolEvent
from .calls import State, advance, brief, describe, head_line, state_of
from .rows import Row, Rows

LABEL = 9
"""Cells of what stands in front of the facts of an open card."""


class CardHead(Widget):
    """The line itself; a click opens the card."""

    def render(self) -> Content:
        card = self.parent
        assert isinstance(card, ToolCard)
        return card.line(self.content_size.width)

    def on_click(self, event: events.Click) -> None:
        if not self.screen.selections:
            event.stop()
            assert isinstance(self.parent, ToolCard)
            self.parent.toggle()


class CardBody(Static):
    """What an open card says; can be selected and copied like any text."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._rows = Rows((), _columns)

    def show(self, facts: Sequence[tuple[str, Content]]) -> None:
        """Say this and nothing else."""
        rows = [Row((Content.styled(label, "dim"), text), "\t") for label, text in facts]
        self._rows = Rows(rows, _columns)
        self.update(self._rows)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract(self._rows.text), "\n"

    def action_show_all(self) -> None:
        """All of a long result."""
        assert isinstance(self.parent, ToolCard)
        self.parent.is_whole = True


def _columns(_: Row, width: int) -> Sequence[int]:
    return LABEL, max(1, width - LABEL - 2)


class ToolCard(Vertical):
    """One call while it is made and after, folded until someone wants to know more.

    Args:
        use: the call, as far as it is known.
        is_live: whether more will be known of it.
        aside: what the line says instead of the result, which stands below it then.
    """

    is_open: reactive[bool] = reactive(False)
    is_whole: reactive[bool] = reactive(False)
    """Whether all of a long result is shown."""

    def __init__(self, use: ToolUse, *, is_live: bool = False, aside: str | None = None) -> None:
        super().__init__()
        self.use = use
        self._aside = aside
        self.is_live = is_live
        self.is_waiting = False
        """Whether the person has been asked."""
        self._head = CardHead()
        self._body = CardBody()
        self._body.display = False

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._body

    @property
    def state(self) -> State:
        """How far the call is."""
        return state_of(self.use, is_live=self.is_live, is_waiting=self.is_waiting)

    def line(self, width: int) -> Content:
        """What is said while it is folded."""
        return head_line(self.use, self.state, self.is_open, width, aside=self._aside)

    def toggle(self) -> None:
        """Open or fold."""
        self.is_open = not self.is_open

    def redraw(self) -> None:
        """Show what has become of the call."""
        self._head.refresh()
        self._body.display = self.is_open
        if self.is_open:
            self._body.show(describe(self.use, self.state, whole=self.is_whole))

    def watch_is_open(self) -> None:
        self.redraw()

    def watch_is_whole(self) -> None:
        self.redraw()


class ToolCards(Vertical):
    """The calls that led to an answer, in order.

    Args:
        uses: the calls so far; kept up to date, for a widget may go and its data stay.
        is_live: whether more may come.
    """

    def __init__(self, uses: list[ToolUse], *, is_live: bool = False) -> None:
        super().__init__()
        self._uses = uses
        self._is_live = is_live
        self._choosing = Static("", classes="choosing", markup=False)
        self._choosing.display = False
        self.cards = [ToolCard(use) for use in uses]
        self._show()

    def compose(self) -> ComposeResult:
        yield from self.cards

    @property
    def is_busy(self) -> bool:
        """Whether a tool is being chosen, or a call is on its way."""
        return self._choosing.display or any(
            card.state in ("called", "waiting", "running") for card in self.cards
        )

    async def take(self, event: ToolEvent) -> None:
        """Show that a call has come one step further."""
        self._choosing.display = isinstance(event, ToolsOffered)
        if isinstance(event, ToolsOffered):
            names = brief(", ".join(event.tools))
            self._choosing.update(Content.styled(f"▸ choosing… {names}, or none", "dim"))
            if not self._choosing.is_attached:  # most answers never need it
                await self.mount(self._choosing)
        elif (at := advance(self._uses, event)) is not None:
            if at == len(self.cards):
                self.cards.append(ToolCard(self._uses[at], is_live=self._is_live))
                after = self._choosing if self._choosing.is_attached else None
                await self.mount(self.cards[at], before=after)
            card = self.cards[at]
            card.use = self._uses[at]
            card.is_waiting = False
            card.redraw()
        self._show()

    def wait_for(self, call_id: str) -> None:
        """Say that the person has been asked about a call."""
        if (card := self._find(call_id)) is not None:
            card.is_waiting = True
            card.redraw()

    def end_choosing(self) -> None:
        """Words come: no tool was wanted, or no further one."""
        if self._choosing.display:
            self._choosing.display = False
            self._show()

    def settle(self) -> None:
        """Nothing more comes; a call whose end was not told was broken off."""
        self._choosing.display = False
        self._is_live = False
        for card in self.cards:
            card.is_live = False
            card.redraw()
        self._show()

    def toggle(self) -> None:
        """Open all, or fold them when they are."""
        is_open = not all(card.is_open for card in self.cards)
        for card in self.cards:
            card.is_open = is_open

    def _show(self) -> None:
        self.display = bool(self.cards) or self._choosing.display

    def _find(self, call_id: str) -> ToolCard | None:
        return next((card for card in self.cards if card.use.id == call_id), None)
