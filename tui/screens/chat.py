"""The chat: a transcript, a prompt, a status line, and the order in which turns happen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Static

from mobilellm_mlx.events import ModelLoaded

from .. import messages as heard
from ..bridge import Bridge
from ..widgets.messages import ProblemBlock, UserMessage
from ..widgets.prompt import Prompt
from ..widgets.response import Response
from ..widgets.status import StatusLine
from ..widgets.transcript import Transcript
from ..widgets.welcome import Welcome

WAITS_FOR_MODEL = "queued until the model is loaded"
WAITS_FOR_ANSWER = "queued until this answer is done"


@dataclass(slots=True)
class Turn:
    """What is being answered."""

    said: UserMessage
    response: Response


class ChatScreen(Screen[None]):
    """One conversation.

    Messages sent while the model loads or answers wait in a queue, shown dimmed, and go out one by
    one. Esc means "enough": the answer stops and what waits comes back into the prompt, so nothing
    is lost and nothing is sent behind the person's back. A failure brings it back, too.
    """

    CSS_PATH = "chat.tcss"
    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape",
            "stop",
            "Stop",
            id="chat.stop",
            tooltip="Stop the answer, take the queue back",
        ),
        Binding("ctrl+n", "new_chat", "New chat", id="chat.new", tooltip="Start a new chat"),
        Binding(
            "ctrl+y",
            "copy_answer",
            "Copy answer",
            id="chat.copy",
            priority=True,  # the prompt would take it for `redo`
            tooltip="Copy the last answer",
        ),
        Binding(
            "ctrl+t",
            "toggle_reasoning",
            "Reasoning",
            id="chat.reasoning",
            show=False,
            tooltip="Open or fold the last reasoning",
        ),
        Binding(
            "pageup,shift+pageup,alt+up",
            "scroll_transcript(-1)",
            "Scroll up",
            id="chat.up",
            priority=True,
            show=False,
            tooltip="Scroll up",
        ),
        Binding(
            "pagedown,shift+pagedown,alt+down",
            "scroll_transcript(1)",
            "Scroll down",
            id="chat.down",
            priority=True,
            show=False,
            tooltip="Scroll down",
        ),
    ]

    def __init__(self, bridge: Bridge, title: str) -> None:
        super().__init__()
        self._bridge = bridge
        self._title = title
        self._info: ModelLoaded | None = None
        self._queue: deque[UserMessage] = deque()
        self._turn: Turn | None = None
        self._wants_new_chat = False

    def compose(self) -> ComposeResult:
        yield Static("This window is too small for a chat; 40 x 10 is enough.", id="too-small")
        with Vertical(id="chat"):
            with Transcript():
                yield Welcome(self._title)
            with Vertical(id="prompt-box"):
                yield Prompt()
            yield StatusLine()

    def on_mount(self) -> None:
        self._status = self.query_one(StatusLine)
        self._prompt = self.query_one(Prompt)
        self._transcript = self.query_one(Transcript)
        self._status.change(name=self._title)
        self._bridge.attach(self)
        # Not before the first frame: what is slow to load must not keep the interface away.
        self.call_after_refresh(self._load)

    def on_unmount(self) -> None:
        self._bridge.close()

    @property
    def is_answering(self) -> bool:
        """Whether an answer is coming."""
        return self._turn is not None

    @property
    def _is_free(self) -> bool:
        """Whether a message can go out now.

        The bridge is idle as soon as it has posted how a job ended. The screen hears of it behind
        what is in its own queue, so a turn is open until that is handled.
        """
        return self._info is not None and self._turn is None and not self._bridge.is_busy

    # ---------------------------------------------------------------- what the person does

    @on(Prompt.Submitted)
    async def take_message(self, event: Prompt.Submitted) -> None:
        """Queue what was said; it goes out at once when nothing is in its way."""
        if self._status.state.phase == "failed":
            self._load()
        waits_for = WAITS_FOR_MODEL if self._info is None else WAITS_FOR_ANSWER
        message = UserMessage(event.text, note="" if self._is_free else waits_for)
        self._queue.append(message)
        await self._transcript.add(message)
        await self._advance()

    async def action_stop(self) -> None:
        """Stop the answer, and take back what waits."""
        if self._turn is not None:
            self._bridge.stop()
            self._status.change(phase="stopping")
        await self._take_back()

    async def action_new_chat(self) -> None:
        """Forget the conversation, as soon as a running answer has let go of it."""
        await self.action_stop()
        if self._turn is not None:
            self._wants_new_chat = True
        else:
            await self._start_over()

    def action_copy_answer(self) -> None:
        """Put the last answer on the clipboard, as the model wrote it."""
        if answer := self._transcript.last_answer:
            self.app.copy_to_clipboard(answer)
            self.notify("Copied the last answer", timeout=2)
        else:
            self.notify("There is no answer to copy yet", timeout=2)

    def action_toggle_reasoning(self) -> None:
        """Open or fold what the model thought before its last answer."""
        if reasoning := self._transcript.last_reasoning:
            reasoning.toggle()
        else:
            self.notify("There is no reasoning to show", timeout=2)

    def action_scroll_transcript(self, pages: int) -> None:
        """Leave the end of the transcript, or come back to it."""
        if pages < 0:
            self._transcript.scroll_page_up(animate=False)
        else:
            self._transcript.scroll_page_down(animate=False)

    # ---------------------------------------------------------------- what the engine says

    @on(heard.ModelReady)
    async def welcome_model(self, event: heard.ModelReady) -> None:
        self._info = event.info
        self.query_one(Welcome).show_model(event.info)
        self._status.change(info=event.info, phase="idle", note="")
        await self._advance()

    @on(heard.LoadingFailed)
    async def explain_loading(self, event: heard.LoadingFailed) -> None:
        self._status.change(phase="failed", note="")
        await self._transcript.add(ProblemBlock(event.problem, classes="loading"))
        await self._take_back()

    @on(heard.Noted)
    def pass_on(self, event: heard.Noted) -> None:
        self._status.change(note=event.text)

    @on(heard.Pace)
    def keep_pace(self, event: heard.Pace) -> None:
        self._status.change(
            elapsed_s=event.elapsed_s, tokens=event.tokens, tok_per_s=event.tok_per_s
        )

    @on(heard.PromptRead)
    def show_reading(self, event: heard.PromptRead) -> None:
        self._status.change(read=(event.done, event.total))

    @on(heard.ReasoningText)
    def show_reasoning(self, event: heard.ReasoningText) -> None:
        if self._turn is None:
            return
        self._end_reading()
        self._turn.response.think(event.text, event.pieces)

    @on(heard.AnswerText)
    async def show_text(self, event: heard.AnswerText) -> None:
        if self._turn is None:
            return
        self._end_reading()
        await self._turn.response.append(event.text)

    @on(heard.AnswerEnded)
    async def end_answer(self, event: heard.AnswerEnded) -> None:
        if (turn := self._turn) is None:
            return
        summary = event.summary
        await turn.response.finish(summary)
        self._turn = None  # not before: Ctrl+N must not clear what is still being drawn
        self._status.change(phase="idle", summary=summary)
        if self._wants_new_chat:
            await self._start_over()
        elif summary.stop_reason == "cancelled" and not summary.text:
            self._give_back_if_empty(turn.said)
        await self._advance()

    @on(heard.AnswerFailed)
    async def explain_answer(self, event: heard.AnswerFailed) -> None:
        if (turn := self._turn) is None:
            return
        await turn.response.break_off()
        self._turn = None
        self._status.change(phase="idle")
        if self._wants_new_chat:
            await self._start_over()
            await self._advance()
            return
        await self._transcript.add(ProblemBlock(event.problem), after=turn.response)
        self._give_back_if_empty(turn.said)
        await self._take_back()

    def _end_reading(self) -> None:
        if self._status.state.phase == "reading":
            self._status.change(phase="answering")

    # ---------------------------------------------------------------- turns

    def _load(self) -> None:
        self._transcript.query(".loading").remove()  # said about the attempt before this one
        self._status.change(phase="loading", elapsed_s=0.0, note="")
        self._bridge.load()

    async def _advance(self) -> None:
        """Send the next message in the queue if nothing is in its way."""
        if self._is_free and self._queue:
            said = self._queue.popleft()
            said.note = ""
            response = Response()
            self._turn = Turn(said, response)
            self._status.change(phase="reading", read=(0, 0), tokens=0, tok_per_s=None)
            self._bridge.send(said.text)
            await self._transcript.add(response, after=said)
        self._status.change(queued=len(self._queue))

    async def _start_over(self) -> None:
        """Forget what was said; what waits was said after that and opens the new chat."""
        self._wants_new_chat = False
        self._status.change(summary=None, read=(0, 0), tokens=0)
        if self._is_free:  # without a model there is nothing to forget yet
            self._bridge.reset()
        await self._transcript.clear(keep=self._queue)

    async def _take_back(self) -> None:
        """Unsent messages into the prompt, in front of any draft; nothing typed is lost."""
        waiting = list(self._queue)
        self._queue.clear()
        self._status.change(queued=0)
        if waiting:
            self._prompt.put_back("\n\n".join(message.text for message in waiting))
            await self._transcript.remove_children(waiting)

    def _give_back_if_empty(self, said: UserMessage) -> None:
        """A message without an answer is offered again, unless another is being written."""
        if not self._prompt.text.strip():
            self._prompt.put_back(said.text)
