"""The conversation as it scrolls by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from textual import events, on
from textual.widget import Widget

from mobilellm_mlx.chat.records import StoredMessage

from ..messages import Problem
from ..text import printable
from .actions import Actions
from .code import Code
from .copying import CodeCycle, say_copied
from .finding import Found, find_text, select_words
from .markdown import CodeBlock
from .messages import ProblemBlock, RemarkBlock, UserMessage
from .reasoning import ReasoningBlock
from .response import Response
from .said import CopyWanted, MessageBlock, Said, continue_key, results_of
from .toolnote import ToolNote
from .welcome import Welcome
from .window import SCREENS_AHEAD, STEP, Window

LOOKS = 20
"""How often it is tried to go to what has not been laid out yet."""


class Transcript(Window):
    """Messages in the order they belong; follows its end unless the person scrolled up.

    What is drawn of them, and where, is the window's business.
    """

    def __init__(self, *children: Widget, id: str | None = None) -> None:
        super().__init__(*children, id=id)
        self._cycle = CodeCycle()
        self._copied_result: tuple[Said | None, int] = (None, 0)
        self._continue_key = ""

    def on_mount(self) -> None:
        super().on_mount()
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._name_keys())

    def _name_keys(self) -> None:
        """The lines below the answers name a key, and the person may have changed it."""
        if (key := continue_key(self.app)) != self._continue_key:
            self._continue_key = key
            for block in self.blocks:
                if block.said.can_continue and isinstance(block, MessageBlock):
                    block.redraw()

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
        if isinstance(block, UserMessage | ProblemBlock | ToolNote | RemarkBlock):
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

    async def remark(self, text: str, before: Widget | None = None) -> None:
        """Say that from here on something else answers; an empty chat needs no such line.

        Args:
            text: says it.
            before: the first question that it will answer, if one waits.
        """
        blocks = self.blocks
        if not blocks or before is blocks[0]:
            return
        at = blocks.index(before) if before in blocks else len(blocks)
        await self.add(RemarkBlock(text), after=blocks[at - 1])

    async def clear(self, keep: Collection[Widget] = ()) -> None:
        """Back to the empty state, or to the blocks in ``keep``."""
        self._earlier, self._left_out = [], []
        self._held = self._aim = None
        self._is_leaping = False
        for welcome in self.query(Welcome):
            welcome.display = not keep
        old = [c for c in self.children if not isinstance(c, Welcome) and c not in keep]
        await self.remove_children(old)
        self.scroll_end(animate=False)

    async def mark_dropped(self, ids: Collection[str]) -> None:
        """Say which messages the model is no longer shown."""
        for said in self.said:
            said.dropped = said.message_id in ids
        self._draw_edges()

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

    def block_of(self, message_id: str) -> MessageBlock | None:
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

    # ---------------------------------------------------------------- copying

    async def copy_code(self) -> None:
        """Copy a block of code of the newest answer that has any; again: the next one."""
        await self._copy_next(said for said in reversed(self.said) if said.role == "assistant")

    @on(CopyWanted)
    async def copy_message(self, event: CopyWanted) -> None:
        event.stop()
        if event.code:
            await self._copy_next([event.said])
        elif event.result:
            self._copy_result(event.said)
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

    def _copy_result(self, said: Said) -> None:
        """What the next of the tools behind a message gave."""
        if not (results := results_of(said)):
            return
        last, at = self._copied_result
        at = (at + 1) % len(results) if last is said else 0
        self._copied_result = said, at
        self.app.copy_to_clipboard(results[at].result)
        which = f" {at + 1} of {len(results)}" if len(results) > 1 else ""
        words = f"Copied result{which}: {printable(results[at].tool)}"
        self.notify(words, timeout=2, markup=False)

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
        self._is_leaping = True
        self.anchor(False)  # not to be drawn to the end while everything is being rearranged
        block = await self._bring(found.said)
        if block is None:
            self._land()
            return
        target: Widget = block
        part, nth = None, 0
        if isinstance(block, Response):
            target, text = await block.draw_place(found.start)
            part = block.document_at(found.start)
            nth = text.lower().count(found.query.lower())
        elif isinstance(block, UserMessage):
            block.is_open = True
            nth = printable(block.text)[: found.start].lower().count(found.query.lower())
        self._aim = (block, part)
        self.call_after_refresh(self._go_to, target, found.query, nth, LOOKS)

    def _go_to(self, target: Widget, words: str, nth: int, looks: int) -> None:
        """Bring the words into view, as soon as what draws them has its place."""
        if not target.is_attached:
            self._land()
            return
        if looks and not target.size:
            self.call_after_refresh(self._go_to, target, words, nth, looks - 1)
            return
        y = select_words(target, words, nth) + target.gutter.top
        for widget in target.ancestors_with_self:
            if widget is self or not isinstance(widget, Widget):
                break
            y += widget.virtual_region.y
        self.scroll_to(y=max(0, y - self.size.height // 3), animate=False, immediate=True)
        self._land()

    def _land(self) -> None:
        """From here on the end is followed only if this is the end."""
        self._is_leaping = False
        self._anchored = True
        self._anchor_released = self.scroll_y < self.max_scroll_y
        self._tidy_soon()

    # ---------------------------------------------------------------- the row of actions

    @on(events.Enter)
    async def follow_mouse(self, event: events.Enter) -> None:
        """The message under the mouse shows what can be done to it."""
        node = event.node
        for block in self.blocks:
            if isinstance(block, MessageBlock) and (node is block or block in node.ancestors):
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
            for row in self.query(Actions):  # its end: that is where the row is, once it is drawn
                self.call_after_refresh(self.scroll_to_widget, row, animate=False)

    @on(events.DescendantBlur)
    async def let_focus_go(self) -> None:
        # The message that has the focus now was told first, and shows its row already.
        if not isinstance(self.screen.focused, MessageBlock):
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
