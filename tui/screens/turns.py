"""Turns: what is asked, in which order, and what becomes of it. The half of the chat that waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.events import Event, ModelLoaded, ToolAllowed, ToolEnded, ToolsOffered

from .. import messages as heard
from ..bridge import Bridge, OpenJob
from ..commands import Command
from ..house import House
from ..leave import Leave
from ..widgets.calls import brief
from ..widgets.find import FindBar
from ..widgets.messages import UserMessage
from ..widgets.prompt import Prompt, PromptBox
from ..widgets.response import Response
from ..widgets.said import adapter_of
from ..widgets.sidebar import Sidebar
from ..widgets.status import StatusLine
from ..widgets.transcript import Transcript
from ..widgets.welcome import Welcome

WAITS_FOR_MODEL = "queued until the model is loaded"
WAITS_FOR_ANSWER = "queued until this answer is done"

Then = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Turn:
    """What is being answered.

    Attributes:
        said: the question, when it is new and comes back to the prompt if nothing becomes of it.
        response: where the answer is shown.
        begun: the answer so far, when it is continued.
        anew: whether it takes the place of something that is shown again if nothing becomes of it.
    """

    said: UserMessage | None
    response: Response
    begun: str = ""
    anew: bool = False


class TurnScreen(Screen[None]):
    """Asks one thing after another.

    Messages sent while the model loads or answers wait in a queue, shown dimmed, and go out one by
    one. Esc means "enough": the answer stops and what waits comes back into the prompt, so nothing
    is lost and nothing is sent behind the person's back. A failure brings it back, too.

    Args:
        bridge: the way to the engine.
        house: what there is besides.
        title: what to call the model until it is loaded.
    """

    def __init__(self, bridge: Bridge, house: House, title: str) -> None:
        super().__init__()
        self.bridge = bridge
        self.house = house
        self._title = title
        self.commands: Sequence[Command] = ()
        """What may be typed behind a slash."""
        self.info: ModelLoaded | None = None
        self._loading: Path | None = None
        """The model that is being loaded in place of the one that is there."""
        self._wanted_model: Path | None = None
        self._queue: deque[UserMessage] = deque()
        self._chores: deque[Callable[[], None]] = deque()
        """What is to be done before the next turn: caches to write or read, an adapter to change.
        Each begins a job or does nothing."""
        self._turn: Turn | None = None
        self._then: Then | None = None
        """What to do when the running answer has let go of the session."""
        self.leave = Leave(self, house.tools.approvals if house.tools else None)

    def compose(self) -> ComposeResult:
        yield Static("This window is too small for a chat; 40 x 10 is enough.", id="too-small")
        with Horizontal(id="house"):
            yield Sidebar()
            with Vertical(id="chat"):
                with Transcript():
                    uses_tools = self.house.tools is not None and self.house.tools.is_on
                    yield Welcome(self._title, tools=uses_tools)
                yield FindBar()
                yield PromptBox(self.commands, root=self.house.folder)
        yield StatusLine()

    async def on_mount(self) -> None:
        self.status = self.query_one(StatusLine)
        self.prompt = self.query_one(Prompt)
        self.transcript = self.query_one(Transcript)
        self.status.change(name=self._title)
        self.bridge.attach(self)
        await self.begin_showing()
        # Not before the first frame: what is slow to load must not keep the interface away.
        self.call_after_refresh(self._load)

    async def begin_showing(self) -> None:
        """Everything is mounted. For the screen that knows what to show."""

    def on_unmount(self) -> None:
        self.bridge.close()

    @property
    def session(self) -> Session:
        """The conversation; it changes only while nothing is being answered."""
        return self.bridge.session

    @property
    def is_answering(self) -> bool:
        """Whether an answer is coming."""
        return self._turn is not None

    @property
    def is_free(self) -> bool:
        """Whether a message can go out now.

        The bridge is idle as soon as it has posted how a job ended. The screen hears of it behind
        what is in its own queue, so a turn is open until that is handled.
        """
        return self.info is not None and self._turn is None and not self.bridge.is_busy

    # ---------------------------------------------------------------- asking

    async def ask(self, text: str) -> None:
        """Queue a message; it goes out at once when nothing is in its way."""
        if self.status.state.phase == "failed":
            self._load()
        waits_for = WAITS_FOR_MODEL if self.info is None else WAITS_FOR_ANSWER
        note = "" if self.is_free and not self._chores else waits_for
        message = await self.transcript.add_question(text, note=note)
        self._queue.append(message)
        await self._advance()

    async def begin(
        self,
        job: OpenJob,
        said: UserMessage | None = None,
        *,
        begun: str = "",
        uses: Sequence[ToolUse] = (),
        anew: bool = False,
    ) -> None:
        """Start an answer at the end of the transcript; nothing may be in its way.

        Args:
            job: answers.
            said: the question, if it is new.
            begun: the answer so far, when it is continued.
            uses: the calls that led to that.
            anew: it takes the place of something.
        """
        response = Response(uses=uses)
        self._turn = Turn(said, response, begun, anew)  # before anything is awaited: one at a time
        self.before_turn()
        self.status.change(phase="reading", read=(0, 0), tokens=0, tok_per_s=None)
        self.bridge.ask(job)
        await self.transcript.add(response, after=said)
        if begun:
            await response.append(begun)

    async def stop(self) -> None:
        """Stop the answer, and take back what waits."""
        if self._turn is not None:
            self.bridge.stop()
            self.leave.withdraw()
            self.status.change(phase="stopping")
        await self._take_back()

    async def when_free(self, then: Then) -> None:
        """Do something with the session: now, or after stopping the answer that is coming."""
        await self.stop()
        if self._turn is not None:
            self._then = then
        else:
            await then()

    def do_chore(self, job: Iterator[Event] | None) -> None:
        """Have a job about caches done before the next turn, if there is one to do."""
        if job is not None:
            self.do_before_turn(lambda: self._recall(job))

    def do_before_turn(self, chore: Callable[[], None]) -> None:
        """Have something done before the next turn, when a model is there and nothing runs.

        Args:
            chore: may begin one job.
        """
        self._chores.append(chore)
        self.call_later(self._advance)

    def change_adapter(self, adapter: Path | None, *, force: bool = False) -> None:
        """Put an adapter on the model, or none; for a chore."""
        self.status.change(phase="adapting", elapsed_s=0.0)
        self.bridge.adapt(adapter, force=force)

    def _recall(self, job: Iterator[Event]) -> None:
        self.status.change(phase="recalling")
        self.bridge.tidy(job)

    async def load_model(self, directory: Path) -> None:
        """Bring another model into memory, as soon as nothing is in its way."""
        self._wanted_model = directory
        await self._advance()

    def before_turn(self) -> None:
        """Something is about to be answered. For the screen that knows what the session needs."""

    async def answer_ended(self) -> None:
        """An answer has been settled in the session. For the screen that knows what follows."""

    async def model_changed(self, before: ModelLoaded | None, waiting: Widget | None) -> None:
        """Something else answers from now on. For the screen that knows what to say about it.

        Args:
            before: what answered before.
            waiting: the first question that it will answer, if one waits.
        """

    async def draw_chat(self) -> None:
        """Draw the session's branch. For the screen that knows how."""

    async def requeue(self) -> None:
        """Show what waits again, after the transcript was drawn anew."""
        waiting, self._queue = self._queue, deque()
        for message in waiting:
            said = await self.transcript.add_question(message.text, note=message.note)
            self._queue.append(said)

    # ---------------------------------------------------------------- what the engine says

    @on(heard.ModelReady)
    async def welcome_model(self, event: heard.ModelReady) -> None:
        self._loading = None
        before, self.info = self.info, event.info
        self.query_one(Welcome).show_model(event.info)
        self.status.change(info=event.info, phase="idle", note="")
        await self.model_changed(before, self._queue[0] if self._queue else None)
        await self._advance()

    @on(heard.LoadingFailed)
    async def explain_loading(self, event: heard.LoadingFailed) -> None:
        kept = self.info is not None and self._loading is not None
        self._loading = None
        self.status.change(phase="idle" if kept else "failed", note="")
        await self.transcript.add_problem(event.problem, classes="loading")
        if kept:
            await self._advance()
        else:
            await self._take_back()

    @on(heard.AdaptingFailed)
    async def explain_adapting(self, event: heard.AdaptingFailed) -> None:
        self.status.change(phase="idle", note="")
        await self.transcript.add_problem(event.problem)
        await self._advance()

    @on(heard.Noted)
    def pass_on(self, event: heard.Noted) -> None:
        if self._turn is not None:
            self.notify(event.text, markup=False)
        else:
            self.status.change(note=event.text)

    @on(heard.Pace)
    def keep_pace(self, event: heard.Pace) -> None:
        self.status.change(
            elapsed_s=event.elapsed_s, tokens=event.tokens, tok_per_s=event.tok_per_s
        )

    @on(heard.PromptRead)
    def show_reading(self, event: heard.PromptRead) -> None:
        self.status.change(read=(event.done, event.total))

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
        whole = replace(summary, text=turn.begun + summary.text)
        await self._settle(turn, lambda: turn.response.finish(whole))
        self.status.change(phase="idle", summary=summary)
        if not await self._do_then() and summary.stop_reason == "cancelled" and not summary.text:
            if turn.anew:
                await self.draw_chat()
            self._give_back_if_empty(turn.said)
        await self._advance()

    @on(heard.AnswerFailed)
    async def explain_answer(self, event: heard.AnswerFailed) -> None:
        if (turn := self._turn) is None:
            return
        await self._settle(turn, turn.response.break_off)
        self.status.change(phase="idle")
        if await self._do_then():
            await self._advance()
            return
        if turn.anew:
            await self.draw_chat()
        await self.transcript.add_problem(event.problem, after=turn.response)
        self._give_back_if_empty(turn.said)
        await self._take_back()

    @on(heard.CacheMoved)
    async def go_on(self, event: heard.CacheMoved) -> None:
        if self.status.state.phase == "recalling":
            self.status.change(phase="idle")
        await self._advance()

    @on(heard.ToolNews)
    async def show_tools(self, event: heard.ToolNews) -> None:
        if (turn := self._turn) is None:
            return
        await turn.response.use_tool(event.event)
        if self.status.state.phase == "stopping":
            return
        match event.event:
            case ToolsOffered():
                self.status.change(phase="choosing", read=(0, 0))
            case ToolAllowed(id=call_id):
                names = [use.tool for use in turn.response.said.uses if use.id == call_id]
                since = self.status.state.elapsed_s
                tool = brief(names[0] if names else "a tool", 24)
                self.status.change(phase="running", tool=tool, since_s=since)
            case ToolEnded():
                self.status.change(phase="reading", read=(0, 0))

    @on(heard.ApprovalWanted)
    def ask_leave(self, event: heard.ApprovalWanted) -> None:
        """A call waits for the person, whatever is on the screen."""
        if self._turn is None or self.status.state.phase == "stopping":
            event.answer(heard.STOPPED)
            return
        self._turn.response.cards.wait_for(event.request.id)
        self.status.change(phase="waiting")
        self.leave.ask(event)

    def _end_reading(self) -> None:
        if self.status.state.phase in ("reading", "choosing", "running"):
            self.status.change(phase="answering")

    # ---------------------------------------------------------------- turns

    def _load(self, directory: Path | None = None) -> None:
        self.transcript.query(".loading").remove()  # said about the attempt before this one
        name = self._title if directory is None else directory.name
        self.status.change(phase="loading", name=name, elapsed_s=0.0, note="")
        self._loading = directory
        self.bridge.load(directory)

    async def _settle(self, turn: Turn, finish: Callable[[], Awaitable[None]]) -> None:
        """Draw the end of an answer, and say which messages of the session it belongs to."""
        self.leave.withdraw()
        branch = self.session.branch[-2:]
        known = {said.message_id for said in self.transcript.said}
        if len(branch) == 2 and (
            turn.said is None or (branch[0].content == turn.said.text and branch[0].id not in known)
        ):
            question, answer = branch
            if turn.said is not None:
                turn.said.said.message_id = question.id
            turn.response.said.message_id = answer.id
            turn.response.said.can_continue = answer.status != "complete"
            turn.response.said.adapter = adapter_of(answer)
        await finish()
        self._turn = None  # not before: nothing may clear what is still being drawn
        await self.answer_ended()

    async def _do_then(self) -> bool:
        """Do what waited for the end of the answer, if anything did."""
        then, self._then = self._then, None
        if then is None:
            return False
        await then()
        return True

    async def _advance(self) -> None:
        """Do the next thing that waits, if nothing is in its way."""
        if self.is_free and self._wanted_model is not None:
            directory, self._wanted_model = self._wanted_model, None
            self._load(directory)
        while self.is_free and self._chores:
            self._chores.popleft()()
        if self.is_free and self._queue:
            said = self._queue.popleft()
            said.note = ""
            session, text = self.session, said.text
            await self.begin(lambda cancel: session.send(text, cancel), said)
        self.status.change(queued=len(self._queue))

    async def _take_back(self) -> None:
        """Unsent messages into the prompt, in front of any draft; nothing typed is lost."""
        waiting = list(self._queue)
        self._queue.clear()
        self.status.change(queued=0)
        if waiting:
            self.prompt.put_back("\n\n".join(message.text for message in waiting))
            await self.transcript.remove_children(waiting)

    def _give_back_if_empty(self, said: UserMessage | None) -> None:
        """A message without an answer is offered again, unless another is being written."""
        if said is not None and not said.said.message_id and not self.prompt.text.strip():
            self.prompt.put_back(said.text)
