"""What a person had a tool do by typing its name, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.events import ToolCalled, ToolEnded
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.tool import Answer, Request, Tool

from ..byhand import call_tool
from ..completing import on_thread
from ..leave import Leave
from ..messages import ApprovalWanted, ToolNews
from .calls import advance, say_arguments, shown_result
from .said import MESSAGE_BINDINGS, MessageBlock, Said
from .toolcard import ToolCard

Job = Callable[["ToolNote"], None]

NOT_SENT = "the model does not see this"


class ToolNote(MessageBlock, Vertical):
    """A call among the messages, with its result; no model had a part in it.

    Args:
        said: the call.
        job: makes it, on a thread of its own; None: it has been made.
    """

    class Wanted(Message):
        """The person wants the result in the prompt, to say something about it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    can_focus = True
    BINDINGS: ClassVar[list[BindingType]] = [
        *MESSAGE_BINDINGS,
        Binding(
            "i",
            "insert",
            "Into the prompt",
            id="message.insert",
            show=False,
            tooltip="Put the result into the prompt",
        ),
    ]

    def __init__(self, said: Said, job: Job | None = None) -> None:
        super().__init__()
        self.said = said
        self._job = job
        self._cancel = threading.Event()
        self._leave: Leave | None = None
        self.card = ToolCard(said.uses[0], is_live=job is not None, aside=NOT_SENT)
        self._result = Static("", classes="result", markup=False)

    @classmethod
    def of(
        cls,
        tool: Tool,
        arguments: dict[str, Any],
        approvals: Approvals,
        *,
        asks: bool,
        reads_freely: bool = False,
    ) -> ToolNote:
        """A call that is made as soon as it is shown.

        Args:
            tool: that is called.
            arguments: as they were typed.
            approvals: knows what is allowed.
            asks: whether leave is asked for.
            reads_freely: but not for tools that only read.
        """

        def job(note: ToolNote) -> None:
            approve = note.ask if asks else None
            events = call_tool(
                tool, arguments, approvals, approve, note._cancel, reads_freely=reads_freely
            )
            for event in events:
                note.post_message(ToolNews(event))

        use = ToolUse("", tool.name, arguments, source=tool.source)
        note = cls(Said("tool", uses=[use]), job)
        note._leave = Leave(note, approvals)
        return note

    @property
    def is_coming(self) -> bool:
        """Whether the call is on its way."""
        return self.card.is_live

    def compose(self) -> ComposeResult:
        yield self.card
        yield self._result

    def on_mount(self) -> None:
        self.redraw()
        if (job := self._job) is not None:
            self._job = None
            on_thread(lambda: job(self))

    def on_unmount(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody waits for it any more."""
        self._cancel.set()
        if self._leave is not None:
            self._leave.withdraw()

    def ask(self, request: Request, cancel: threading.Event) -> Answer:
        """Ask for leave, on the thread that makes the call, and wait for the answer."""
        wanted = ApprovalWanted(request)
        self.post_message(wanted)
        return wanted.wait(cancel)

    @on(ApprovalWanted)
    def put_question(self, event: ApprovalWanted) -> None:
        event.stop()
        if self._leave is not None:
            self.card.is_waiting = True
            self.card.redraw()
            self._leave.ask(event)

    @on(ToolNews)
    def take(self, event: ToolNews) -> None:
        """The call has come one step further."""
        event.stop()
        uses = self.said.uses
        if isinstance(event.event, ToolCalled):
            uses.clear()
        advance(uses, event.event)
        self.card.use = uses[0]
        self.card.is_waiting = False
        if isinstance(event.event, ToolEnded):
            self.card.is_live = False
            self.said.text = uses[0].result
        self.card.redraw()
        self.redraw()

    def redraw(self) -> None:
        """Show the result, or why there is none."""
        text, more = shown_result(self.said.text, whole=False)
        rest = f"\n… {more:,} more lines" if more else ""
        self._result.display = self.card.state in ("done", "failed") and bool(text)
        self._result.update(Content(text) + Content.styled(rest, "dim"))

    def action_fold(self) -> None:
        """Open or fold what is known of the call."""
        self.card.toggle()

    def action_insert(self) -> None:
        """The call and its result, as words to go on from."""
        use = self.said.uses[0]
        self.post_message(self.Wanted(f"{use.tool} {say_arguments(use.arguments)}: {use.result}"))
