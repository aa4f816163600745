"""The conversation as it scrolls by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from textual import events, on
from textual.containers import VerticalScroll
from textual.geometry import Region, Size
from textual.layout import DockArrangeResult
from textual.widget import Widget
from textual.widgets import Static

from mobilellm_mlx.chat.records import StoredMessage

from ..messages import Problem
from ..text import printable
from .actions import Actions
from .code import Code
from .copying import CodeCycle, say_copied
from .finding import Found, find_text, select_words
from .markdown import CodeBlock
from .messages import ProblemBlock, UserMessage
from .reasoning import ReasoningBlock
from .response import Response
from .said import CopyWanted, MessageBlock, Said
from .welcome import Welcome

SCREENS_KEPT = 2
"""How far from the window, in heights of it, blocks are given up."""
SCREENS_AHEAD = 1
"""How far from the window blocks are drawn before anyone sees them."""
STEP = 2
"""Messages that are mounted or given up at a time: a turn, so that no step is felt."""

TIDY_EVERY_S = 0.3
"""How often something is given up while an answer comes: never twice within one update."""

Block = UserMessage | Response | ProblemBlock


class Earlier(Static):
    """Says how many messages are above; a click fetches some."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show_count(self, count: int) -> None:
        """Say it."""
        self.update(f"▴ {count:,} earlier message{'' if count == 1 else 's'}")


class Divider(Static):
    """Where the part that the model still sees begins."""

    def __init__(self) -> None:
        super().__init__("above: no longer seen by the model", markup=False)


def make_block(said: Said, *, asleep: bool = False) -> Block:
    """The widget that shows a message."""
    if said.problem is not None:
        return ProblemBlock(said.problem, classes=said.classes or None)
    if said.role == "user":
        return UserMessage(said=said)
    return Response(said, asleep=asleep)


class Transcript(VerticalScroll, can_focus=False):
    """Messages in the order they belong; follows its end unless the person scrolled up.

    All messages are here as data. Those around the window are widgets: what scrolls out of it far
    enough is given up at the beginning and fetched again when it is wanted, and the parts of a
    long answer rest (see ``AnswerMarkdown``). So a chat costs what can be seen of it.

    What can be seen keeps its place when something above it grows, shrinks, comes or goes.
    """

    def __init__(self, *children: Widget, id: str | None = None) -> None:
        super().__init__(*children, id=id)
        self._earlier: list[Said] = []
        self._regions: dict[Widget, Region] = {}
        self._arranged: DockArrangeResult | None = None
        self._held: tuple[Widget, Widget | None, int] | None = None
        self._is_tidying = False
        self._cycle = CodeCycle()

    def on_mount(self) -> None:
        self.anchor()

    # ---------------------------------------------------------------- what is shown

    async def show(
        self,
        messages: Sequence[StoredMessage],
        branches: Mapping[str, tuple[int, int]] | None = None,
        dropped: Collection[str] = (),
    ) -> None:
        """Show these messages and nothing else, from their end.

        Args:
            messages: a branch of a chat, in order.
            branches: of messages that have siblings, which one it is, of how many.
            dropped: ids of messages that the model is no longer shown.
        """
        branches = branches or {}
        with self.app.batch_update():
            await self.clear()
            self._earlier = [
                Said.of(message, branches.get(message.id), message.id in dropped)
                for message in messages
                if message.role in ("user", "assistant")
            ]
            for welcome in self.query(Welcome):
                welcome.display = not self._earlier
            rows = 0
            while self._earlier and rows < (1 + SCREENS_AHEAD) * self.size.height:
                rows += sum([self._rows_of(said) for said in self._earlier[-STEP:]])
                await self._fetch(STEP)
        self.anchor()

    async def add(self, block: Widget, *, after: Widget | None = None) -> None:
        """Put ``block`` below ``after``, or at the end, and go there when it is the person's."""
        for welcome in self.query(Welcome):
            welcome.display = False
        await self.hide_actions()
        await self.mount(block, after=after if after in self.children else None)
        if isinstance(block, UserMessage | ProblemBlock):
            self.scroll_end(animate=False)

    async def add_question(self, text: str, *, message_id: str = "", note: str = "") -> UserMessage:
        """What the person says, at the end."""
        block = UserMessage(text, note=note, message_id=message_id)
        await self.add(block)
        return block

    async def add_answer(self, after: Widget | None = None, *, message_id: str = "") -> Response:
        """An answer that is about to come."""
        block = Response()
        block.said.message_id = message_id
        await self.add(block, after=after)
        return block

    async def add_problem(
        self, problem: Problem, *, after: Widget | None = None, classes: str | None = None
    ) -> ProblemBlock:
        """A failure, below what failed."""
        block = ProblemBlock(problem, classes=classes)
        await self.add(block, after=after)
        return block

    async def clear(self, keep: Collection[Widget] = ()) -> None:
        """Back to the empty state, or to the blocks in ``keep``."""
        self._earlier = []
        self._held = None
        for welcome in self.query(Welcome):
            welcome.display = not keep
        old = [c for c in self.children if not isinstance(c, Welcome) and c not in keep]
        await self.remove_children(old)
        self.scroll_end(animate=False)

    async def mark_dropped(self, ids: Collection[str]) -> None:
        """Say which messages the model is no longer shown."""
        for said in self.said:
            said.dropped = said.message_id in ids
        await self._draw_edges()

    def change(
        self,
        message_id: str,
        *,
        pinned: bool | None = None,
        branch: tuple[int, int] | None = None,
        can_continue: bool | None = None,
    ) -> None:
        """Show that something about a message has changed; None leaves it as it is."""
        for said in self.said:
            if said.message_id == message_id:
                said.pinned = said.pinned if pinned is None else pinned
                said.branch = branch or said.branch
                said.can_continue = said.can_continue if can_continue is None else can_continue
        if (block := self.block_of(message_id)) is not None:
            block.redraw()

    @property
    def blocks(self) -> list[Block]:
        """The messages that are widgets now, in order."""
        return [child for child in self.children if isinstance(child, Block)]

    @property
    def said(self) -> list[Said]:
        """All messages, in order."""
        return [*self._earlier, *(block.said for block in self.blocks)]

    def block_of(self, message_id: str) -> UserMessage | Response | None:
        """The widget of a message, when it has one now."""
        for block in self.blocks:
            if isinstance(block, MessageBlock) and block.said.message_id == message_id:
                return block
        return None

    @property
    def last_answer(self) -> str:
        """The text of the newest answer that has any; empty when there is none."""
        return next((s.text for s in reversed(self.said) if s.role == "assistant" and s.text), "")

    @property
    def last_reasoning(self) -> ReasoningBlock | None:
        """The newest reasoning that can be seen; None when there is none."""
        return next(
            (block for block in reversed(self.query(ReasoningBlock)) if block.display), None
        )

    # ---------------------------------------------------------------- the window

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
        self._hold()

    def _y_of(self, block: Widget, part: Widget | None) -> int | None:
        if (region := self._regions.get(block)) is None:
            return None
        if part is None:
            return region.y
        inside = block.parts.get(part) if isinstance(block, Response) else None
        return None if inside is None else region.y + inside.y

    def _hold(self) -> None:
        """Note what stands at the upper edge of the window, and where."""
        self._held = None
        top = self.scroll_y
        for block, region in self._regions.items():
            if region.bottom <= top or not isinstance(block, Block) or not block.is_attached:
                continue
            parts = block.parts if isinstance(block, Response) else {}
            for part, inside in parts.items():
                if region.y + inside.bottom > top:
                    self._held = (block, part, region.y + inside.y)
                    return
            self._held = (block, None, region.y)
            return

    def _tidy_soon(self) -> None:
        if not self._is_tidying and self.is_mounted:
            self._is_tidying = True
            # What is scrolled to must be drawn at once; at the end there is time between updates.
            if self.follows_end:
                self.set_timer(TIDY_EVERY_S, self._tidy)
            else:
                self.call_later(self._tidy)

    async def _tidy(self) -> None:
        """One small step towards drawing what is near the window and nothing else."""
        self._is_tidying = False
        if (height := self.size.height) == 0:
            return
        top, bottom = self.scroll_y, self.scroll_y + height
        near = (top - SCREENS_AHEAD * height, bottom + SCREENS_AHEAD * height)
        far = (top - SCREENS_KEPT * height, bottom + SCREENS_KEPT * height)
        if self.follows_end:
            gone = [b for b in self.blocks[:-STEP] if self._is_above(b, far[0])][:STEP]
            if len(gone) == STEP:
                await self._give_up(gone)
                self._tidy_soon()
                return
        if await self._tidy_parts(near, far):
            self._tidy_soon()
        elif self._earlier and top < SCREENS_AHEAD * height and not self.follows_end:
            await self._fetch(STEP)

    async def _tidy_parts(self, near: tuple[float, float], far: tuple[float, float]) -> bool:
        """Wake a part that comes near, or lay to rest one that is far; says whether it did."""
        for block, region in list(self._regions.items()):
            if not isinstance(block, Response) or not block.is_attached:
                continue
            for part in block.documents:
                if (inside := block.parts.get(part)) is None:
                    continue
                y, bottom = region.y + inside.y, region.y + inside.bottom
                if part.rests and bottom > near[0] and y < near[1]:
                    await part.wake()
                    return True
                is_far = bottom < far[0] or y > far[1]
                is_growing = block.is_coming and part is block.documents[-1]
                if is_far and not part.rests and not is_growing:
                    await part.rest(inside.height)
                    return True
        return False

    def _is_above(self, block: Block, edge: float) -> bool:
        region = self._regions.get(block)
        return region is not None and region.bottom < edge and not block.has_focus

    async def _give_up(self, blocks: Sequence[Block]) -> None:
        """Keep messages at the beginning as data only."""
        self._earlier += [block.said for block in blocks]
        with self.app.batch_update():
            await self.remove_children(blocks)
            await self._draw_edges()

    async def _fetch(self, count: int, *, asleep: bool = False) -> None:
        """Make widgets of the last of the earlier messages."""
        first = max(0, len(self._earlier) - count)
        fetched = [make_block(said, asleep=asleep) for said in self._earlier[first:]]
        del self._earlier[first:]
        blocks = self.blocks
        with self.app.batch_update():
            await self.mount_all(fetched, before=blocks[0] if blocks else None)
            await self._draw_edges()

    async def _draw_edges(self) -> None:
        """The line about what is above, and the one below what the model does not see."""
        blocks = self.blocks
        earlier, divider = self.query(Earlier), self.query(Divider)
        if not self._earlier or not blocks:
            await earlier.remove()
        else:
            if not earlier:
                await self.mount(Earlier(), before=blocks[0])
            self.query_one(Earlier).show_count(len(self._earlier))
        before = self._earlier[-1].dropped if self._earlier else False
        await divider.remove()
        for block in blocks:
            if before and not block.said.dropped:
                await self.mount(Divider(), before=block)
                return
            before = block.said.dropped

    def _rows_of(self, said: Said) -> int:
        width = max(20, min(100, self.size.width))
        return 2 + sum(1 + len(line) // width for line in said.text.split("\n"))

    @on(events.Click, "Earlier")
    async def fetch_earlier(self) -> None:
        """More of what is above, also when all of it fits into the window."""
        self.release_anchor()
        await self._fetch(4 * STEP)

    # ---------------------------------------------------------------- copying

    async def copy_code(self) -> None:
        """Copy a block of code of the newest answer that has any; again: the next one."""
        await self._copy_next(said for said in reversed(self.said) if said.role == "assistant")

    @on(CopyWanted)
    async def copy_message(self, event: CopyWanted) -> None:
        event.stop()
        if event.code:
            await self._copy_next([event.said])
        else:
            self.app.copy_to_clipboard(event.said.text)
            self.notify("Copied the message", timeout=2)

    @on(CodeBlock.Clicked)
    async def copy_clicked(self, event: CodeBlock.Clicked) -> None:
        event.stop()
        for block in self.blocks:
            if isinstance(block, Response) and block in event.block.ancestors:
                index = block.code_index(event.block)
                if index is not None:
                    self._cycle.chose(block.said, index)
                    await self._copy(block.said, block.code, index)

    async def _copy_next(self, answers: Iterable[Said]) -> None:
        if (found := self._cycle.next(answers)) is None:
            self.notify("There is no code to copy", timeout=2)
        else:
            await self._copy(*found)

    async def _copy(self, said: Said, codes: Sequence[Code], index: int) -> None:
        self.app.copy_to_clipboard(codes[index].text)
        self.notify(say_copied(codes, index), timeout=2, markup=False)
        for block in self.blocks:
            if isinstance(block, Response) and block.said is said:
                await block.mark_code(index)

    # ---------------------------------------------------------------- finding

    def find(self, query: str) -> list[Found]:
        """Every place in this chat where the query stands, in order."""
        return find_text(self.said, query)

    async def reveal(self, found: Found) -> None:
        """Bring a place into view and select the words there."""
        if found.said in self._earlier:
            self.release_anchor()
            at = next(n for n, said in enumerate(self._earlier) if said is found.said)
            await self._fetch(len(self._earlier) - at, asleep=True)
        block = next((b for b in self.blocks if b.said is found.said), None)
        if block is None:
            return
        target: Widget = block
        nth = 0
        if isinstance(block, Response):
            target, text = await block.draw_place(found.start)
            nth = text.lower().count(found.query.lower())
        elif isinstance(block, UserMessage):
            block.is_open = True
            nth = printable(block.text)[: found.start].lower().count(found.query.lower())
        self.call_after_refresh(self._go_to, block, target, found.query, nth)

    def _go_to(self, block: Widget, target: Widget, words: str, nth: int) -> None:
        """Bring a widget into view that has just been laid out, by way of its message."""
        if not target.is_attached:
            return
        if (y := self._y_of(block, None)) is not None:
            self.scroll_to(y=y, animate=False)
        select_words(target, words, nth)
        self.call_after_refresh(self.scroll_to_widget, target, animate=False, center=True)

    # ---------------------------------------------------------------- the row of actions

    @on(events.Enter)
    async def follow_mouse(self, event: events.Enter) -> None:
        """The message under the mouse shows what can be done to it."""
        node = event.node
        for block in self.blocks:
            if not isinstance(block, ProblemBlock) and (node is block or block in node.ancestors):
                await self.show_actions(block)
                return

    @on(events.Leave)
    async def let_mouse_go(self, event: events.Leave) -> None:
        if event.node is self and not self.is_mouse_over:
            await self.hide_actions()

    @on(events.DescendantFocus)
    async def follow_focus(self, event: events.DescendantFocus) -> None:
        if isinstance(event.widget, MessageBlock):
            await self.show_actions(event.widget)
            self.scroll_to_widget(event.widget, animate=False)

    @on(events.DescendantBlur)
    async def let_focus_go(self) -> None:
        await self.hide_actions()

    async def show_actions(self, block: MessageBlock) -> None:
        """Put the row below a message, where an empty line was."""
        rows = list(self.query(Actions))
        if rows and rows[0].block is block:
            return
        with self.app.batch_update():
            await self.hide_actions()
            if block.is_attached and not (isinstance(block, Response) and block.is_coming):
                block.add_class("-active")
                await self.mount(Actions(block), after=block)

    async def hide_actions(self) -> None:
        """Nothing is chosen any more."""
        for row in self.query(Actions):
            row.block.remove_class("-active")
            await row.remove()
