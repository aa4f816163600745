"""The part of a long chat that is drawn, and what keeps it in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual import events, on
from textual.containers import VerticalScroll
from textual.geometry import Region, Size
from textual.layout import DockArrangeResult
from textual.widget import Widget
from textual.widgets import Static

from .actions import Actions
from .markdown import AnswerMarkdown, count_rows
from .messages import ProblemBlock, RemarkBlock, UserMessage
from .response import Response
from .said import Said
from .toolnote import ToolNote

SCREENS_KEPT = 2
"""How far from the window, in heights of it, blocks are given up."""
SCREENS_AHEAD = 1
"""How far from the window blocks are drawn before anyone sees them."""
STEP = 2
"""Messages that are mounted or given up at a time: a turn, so that no step is felt."""

TIDY_EVERY_S = 0.3
"""How often something is given up while an answer comes: never twice within one update."""
NEXT_STEP_S = 0.03
"""Between two steps that nobody sees: a key that is pressed meanwhile is answered first."""

Block = UserMessage | Response | ProblemBlock | ToolNote | RemarkBlock


class Edge(Static):
    """Says how many messages are not drawn where it stands; a click fetches some."""

    SIGN = ""
    WORD = ""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show_count(self, count: int) -> None:
        """Say it."""
        self.update(f"{self.SIGN} {count:,} {self.WORD} message{'' if count == 1 else 's'}")


class Earlier(Edge):
    """What is above."""

    SIGN, WORD = "▴", "earlier"


class Gap(Edge):
    """What is left out before the end."""

    SIGN, WORD = "▾", "more"


class Divider(Static):
    """Where the part that the model still sees begins."""

    def __init__(self) -> None:
        super().__init__("above: no longer seen by the model", markup=False)


def make_block(said: Said, *, asleep: bool = False) -> Block:
    """The widget that shows a message."""
    if said.problem is not None:
        return ProblemBlock(said.problem, classes=said.classes or None)
    if said.role == "remark":
        return RemarkBlock(said.text)
    if said.role == "user":
        return UserMessage(said=said)
    if said.role == "tool":
        return ToolNote(said)
    return Response(said, asleep=asleep)


def is_settled(block: Block) -> bool:
    """Whether the chat will do nothing more to this widget by itself."""
    if isinstance(block, Response | ToolNote):
        return not block.is_coming
    return not (isinstance(block, UserMessage) and block.note)


class Window(VerticalScroll, can_focus=False):
    """Messages of which those around the window are widgets, and the others data.

    From its beginning a chat is: messages above (data), messages that are widgets, a gap (data),
    and the end (widgets): what is said there is said to widgets, wherever the person reads. There
    is a gap only while one reads far above the end. The parts of a long answer rest by themselves
    (see ``AnswerMarkdown``). So a chat costs what can be seen of it.

    What can be seen keeps its place when something above it grows, shrinks, comes or goes.
    """

    BLANK = True  # nothing of its own to draw, and a cheap way to draw that

    def __init__(self, *children: Widget, id: str | None = None) -> None:
        super().__init__(*children, id=id)
        self._earlier: list[Said] = []
        self._left_out: list[Said] = []
        self._regions: dict[Widget, Region] = {}
        self._arranged: DockArrangeResult | None = None
        self._held: tuple[Widget, Widget | None, int] | None = None
        self._aim: tuple[Widget, Widget | None] | None = None
        """What is held as long as it can be seen: the person was brought to it."""
        self._is_tidying = False
        self._is_leaping = False
        """On the way to a place: what is near now is not what will be."""

    def on_mount(self) -> None:
        self.anchor()

    # ---------------------------------------------------------------- what there is

    @property
    def blocks(self) -> list[Block]:
        """The messages that are widgets now, in order."""
        return [child for child in self.children if isinstance(child, Block)]

    @property
    def said(self) -> list[Said]:
        """All messages, in order, each once.

        While widgets come and go a message may stand both among them and among the data.
        """
        above, end = self._sides()
        everything = (
            *self._earlier,
            *(block.said for block in above),
            *self._left_out,
            *(block.said for block in end),
        )
        return list({id(said): said for said in everything}.values())

    def _sides(self) -> tuple[list[Block], list[Block]]:
        """The blocks above the gap, none when there is no gap, and those of the end."""
        sides: tuple[list[Block], list[Block]] = ([], [])
        behind = not self._left_out
        for child in self.children:
            behind = behind or isinstance(child, Gap)
            if isinstance(child, Block):
                sides[behind].append(child)
        return sides

    def _end_begins(self, end: Sequence[Block]) -> int:
        """The first block of the end that must stay: something may still be said to it."""
        busy = next((n for n, block in enumerate(end) if not is_settled(block)), len(end))
        return max(0, min(busy, len(end) - STEP))

    # ---------------------------------------------------------------- keeping the place

    @property
    def follows_end(self) -> bool:
        """Whether new text is scrolled to."""
        return self._anchored and not self._anchor_released

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Take note of where everything is, and keep in its place what can be seen.

        It must happen here: the new positions are known and nothing is drawn yet. Textual moves to
        the end of what is anchored in the same place and in the same way.
        """
        result = super().arrange(size, optimal)
        if not optimal and result is not self._arranged:
            self._arranged = result
            self._regions = {place.widget: place.region for place in result.placements}
            self._keep_place()
            self._tidy_soon()
        return result

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: Any) -> None:
        """Scroll at once. Textual waits for the next drawing, and messages that are fetched until
        then have moved everything: the place that was meant would be another one."""
        super().scroll_to(x, y, **{**options, "immediate": True})

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._hold()
        self._tidy_soon()

    def _keep_place(self) -> None:
        if self._held is not None and not self.follows_end:
            block, part, before = self._held
            moved = self._y_of(block, part)
            if moved is not None and moved != before:
                y = max(0, self.scroll_y + moved - before)
                self.set_reactive(Widget.scroll_y, y)
                self.set_reactive(Widget.scroll_target_y, y)
                self.vertical_scrollbar.position = y
        self._hold()

    def _y_of(self, block: Widget, part: Widget | None) -> int | None:
        if (region := self._regions.get(block)) is None:
            return None
        if part is None:
            return region.y
        inside = block.parts.get(part) if isinstance(block, Response) else None
        return None if inside is None else region.y + inside.y

    def _hold(self) -> None:
        """Note what stands in the window, and where: what was aimed at, or what is uppermost.

        What rests is no hold: its height is a guess until it is drawn.
        """
        self._held = None
        top, bottom = self.scroll_y, self.scroll_y + self.size.height
        for block, part, y, end in self._places():
            if end <= top or y >= bottom:
                continue
            if self._aim == (block, part):
                self._held = (block, part, y)
                return
            rests = isinstance(part, AnswerMarkdown) and part.rests
            if self._held is None and not rests:
                self._held = (block, part, y)
                if self._aim is None:
                    return

    def _places(self) -> list[tuple[Widget, Widget | None, int, int]]:
        """Every block, or part of one that has parts, with its first row and the one after it."""
        places: list[tuple[Widget, Widget | None, int, int]] = []
        for block, region in self._regions.items():
            if not isinstance(block, Block) or not block.is_attached:
                continue
            parts = block.parts if isinstance(block, Response) else {}
            for part, inside in parts.items():
                places.append((block, part, region.y + inside.y, region.y + inside.bottom))
            if not parts:
                places.append((block, None, region.y, region.bottom))
        return places

    # ---------------------------------------------------------------- coming and going

    def _tidy_soon(self, after_s: float = 0.0) -> None:
        if not self._is_tidying and self.is_mounted:
            self._is_tidying = True
            # What is scrolled to must be drawn at once; at the end there is time between updates.
            if after_s or self.follows_end:
                self.set_timer(after_s or TIDY_EVERY_S, self._tidy)
            else:
                self.call_later(self._tidy)

    async def _tidy(self) -> None:
        """One small step towards drawing what is near the window and nothing else."""
        self._is_tidying = False
        if (height := self.size.height) == 0 or self._is_leaping:
            return
        top, bottom = self.scroll_y, self.scroll_y + height
        near = (top - SCREENS_AHEAD * height, bottom + SCREENS_AHEAD * height)
        far = (top - SCREENS_KEPT * height, bottom + SCREENS_KEPT * height)
        if await self._wake_one((top, bottom)):
            self._tidy_soon(NEXT_STEP_S)
        elif await self._fetch_near(near):
            await self._give_up_far(far)  # who scrolls fast must not leave everything behind
            self._tidy_soon(NEXT_STEP_S)
        elif await self._wake_one(near):
            self._tidy_soon(NEXT_STEP_S)
        elif await self._give_up_far(far) or await self._rest_one(far):
            self._tidy_soon(TIDY_EVERY_S if self.follows_end else NEXT_STEP_S)

    async def _wake_one(self, rows: tuple[float, float]) -> bool:
        """Draw a part that rests between these rows; says whether there was one."""
        for block, part, y, end in self._places():
            if isinstance(part, AnswerMarkdown) and part.rests and end > rows[0] and y < rows[1]:
                # What begins above the window grows upwards.
                self._held = self._held or (block, part, y)
                await part.wake()
                return True
        return False

    async def _rest_one(self, rows: tuple[float, float]) -> bool:
        """Lay a part to rest that is outside these rows."""
        for block, part, y, end in self._places():
            if not isinstance(part, AnswerMarkdown) or part.rests:
                continue
            assert isinstance(block, Response)
            is_growing = block.is_coming and part is block.documents[-1]
            if (end < rows[0] or y > rows[1]) and not is_growing:
                await part.rest(end - y)
                return True
        return False

    async def _fetch_near(self, rows: tuple[float, float]) -> bool:
        """Make widgets of messages whose place comes near."""
        gap = next((self._regions[w] for w in self._regions if isinstance(w, Gap)), None)
        if self._left_out and gap is not None:
            is_below = gap.y > (rows[0] + rows[1]) / 2
            # Beyond where blocks are given up: then all above the gap is, and the gap is closed.
            beyond = (SCREENS_KEPT - SCREENS_AHEAD + 1) * self.size.height
            if gap.y < rows[1] if is_below else gap.y > rows[0] - beyond:
                await self._fetch_left_out(STEP, from_above=is_below)
                return True
        if self._earlier and rows[0] < 0 and not self.follows_end:
            await self._fetch(STEP)
            return True
        return False

    async def _give_up_far(self, rows: tuple[float, float]) -> bool:
        """Keep messages outside these rows as data only."""
        above, end = self._sides()
        if not above:
            begin = self._end_begins(end)
            above, end = end[:begin], end[begin:]
        inside = [n for n, block in enumerate(above) if not self._is_outside(block, rows)]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(above), len(above))
        if first >= STEP:
            gone = above[: 2 * STEP][:first] if inside else above
            self._earlier += [block.said for block in gone]
            if not inside:  # nothing is left above the gap
                self._earlier += self._left_out
                self._left_out = []
        elif len(above) - last >= STEP and not self.follows_end:
            gone = above[max(last, len(above) - 2 * STEP) :]
            self._left_out = [block.said for block in gone] + self._left_out
        else:
            return False
        await self._replace(gone, [], end)
        return True

    def _is_outside(self, block: Block, rows: tuple[float, float]) -> bool:
        region = self._regions.get(block)
        if region is None or block.has_focus:
            return False
        return region.bottom < rows[0] or region.y > rows[1]

    async def _replace(
        self, gone: Sequence[Block], fetched: Sequence[Block], end: Sequence[Block]
    ) -> None:
        """Take widgets away, and put others where the gap is or will be: before the end.

        All of it is done before anything is awaited: the messages are always in their order.
        """
        rows = [row for row in self.query(Actions) if row.block in gone]
        with self.app.batch_update():
            removed = self.remove_children([*gone, *rows])
            gaps: list[Widget] = list(self.query(Gap))
            mounted = self.mount_all(fetched, before=(gaps or list(end))[0]) if fetched else None
            self._draw_edges(end)
            await removed
            if mounted is not None:
                await mounted

    async def _fetch(self, count: int) -> None:
        """Make widgets of the last of the earlier messages."""
        fetched = [make_block(said) for said in self._earlier[-count:]]
        del self._earlier[-count:]
        blocks = self.blocks
        with self.app.batch_update():
            mounted = self.mount_all(fetched, before=blocks[0] if blocks else None)
            self._draw_edges()
            await mounted

    async def _fetch_left_out(self, count: int, *, from_above: bool) -> None:
        """Make widgets of messages in the gap, from the side the person reads on."""
        gap, behind = self.query_one(Gap), max(0, len(self._left_out) - count)
        if from_above:
            taken, self._left_out = self._left_out[:count], self._left_out[count:]
        else:
            taken, self._left_out = (
                self._left_out[max(0, behind) :],
                self._left_out[: max(0, behind)],
            )
        fetched = [make_block(said) for said in taken]
        with self.app.batch_update():
            mounted = (
                self.mount_all(fetched, before=gap)
                if from_above
                else self.mount_all(fetched, after=gap)
            )
            self._draw_edges()
            await mounted

    async def _bring(self, said: Said) -> Block | None:
        """The widget of a message; when it has none, the window is put around it."""
        if (block := self._block_of(said)) is not None:
            return block
        every = self.said
        at = next((n for n, one in enumerate(every) if one is said), None)
        if at is None:
            return None
        above, end = self._sides()
        if not above:
            begin = self._end_begins(end)
            above, end = end[:begin], end[begin:]
        behind = len(every) - len(end)
        first, last = max(0, at - STEP), min(behind, at + STEP + 1)
        self._earlier, self._left_out = every[:first], every[last:behind]
        fetched = [make_block(one, asleep=True) for one in every[first:last]]
        await self._replace(above, fetched, end)
        return self._block_of(said)

    def _block_of(self, said: Said) -> Block | None:
        return next((block for block in self.blocks if block.said is said), None)

    def _draw_edges(self, end: Sequence[Block] = ()) -> None:
        """The lines about what is above and left out, and about what the model does not see."""
        blocks = self.blocks
        self._draw_edge(Earlier, self._earlier, blocks)
        self._draw_edge(Gap, self._left_out, end)
        before = self._earlier[-1].dropped if self._earlier else False
        divided = None
        for block in blocks:
            if before and not block.said.dropped:
                divided = block
                break
            before = block.said.dropped
        for divider in self.query(Divider):
            at = self.children.index(divider) + 1
            if divided is not None and self.children[at : at + 1] == [divided]:
                return
            divider.remove()
        if divided is not None:
            self.mount(Divider(), before=divided)

    def _draw_edge(self, kind: type[Edge], hidden: Sequence[Said], behind: Sequence[Block]) -> None:
        lines = list(self.query(kind))
        if not hidden and lines:
            lines[0].remove()
        elif hidden and (lines or behind):
            line = lines[0] if lines else kind()
            line.show_count(len(hidden))
            if not lines:
                self.mount(line, before=behind[0])

    def _rows_of(self, said: Said) -> int:
        return 2 + len(said.uses) + count_rows(said.text, max(20, min(100, self.size.width)))

    @on(events.Click, "Earlier")
    async def fetch_earlier(self) -> None:
        """More of what is above, also when all of it fits into the window."""
        self.release_anchor()
        await self._fetch(4 * STEP)

    @on(events.Click, "Gap")
    async def fetch_left_out(self) -> None:
        """More of what is left out."""
        await self._fetch_left_out(4 * STEP, from_above=True)
