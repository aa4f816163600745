"""The chat: the conversation, the other chats beside it, and what can be done with a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widget import Widget

from mobilellm_mlx.chat.records import SearchHit, StoredMessage
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.events import ModelLoaded

from ..bridge import Bridge
from ..house import House
from ..leave import ReadingAllowed
from ..pulls import PullBoard
from ..training import TrainingBoard
from ..widgets.find import FindBar
from ..widgets.finding import Found
from ..widgets.prompt import Prompt
from ..widgets.said import MessageAction, MessageBlock
from ..widgets.sidebar import Sidebar
from ..widgets.toolnote import ToolNote
from .adapterroom import AdapterRoom
from .desk import ERASE_EVERY_S, Desk, last_summary
from .dispatch import Dispatch
from .rooms import Rooms
from .toolroom import ToolRoom
from .trainroom import TrainRoom
from .turns import TurnScreen

SIDEBAR_ALONE = 60
"""Columns below which the list of chats takes all of them."""
SIDEBAR_FROM = 104
"""Columns from which on the list of chats is shown by itself."""
BUSY = "Wait for the answer, or stop it with Esc"


def _key(keys: str, action: str, title: str, tooltip: str, name: str = "") -> Binding:
    """A key of the screen that goes before those of the prompt, which has uses for many."""
    name = name or action.partition("(")[0]
    return Binding(
        keys, action, title, id=f"chat.{name}", priority=True, show=False, tooltip=tooltip
    )


class ChatScreen(TurnScreen):
    """One conversation, and the way to the others.

    Args:
        bridge: the way to the engine.
        house: what there is besides.
        title: what to call the model until it is loaded.
        board: the pulls that run; None where no other models are offered.
        trainings: that run; None where nothing is trained.
        overrides: sampling that was asked for when the program was started.
        instructions: the same for the system prompt.
    """

    CSS_PATH: ClassVar[list[str]] = [  # type: ignore[assignment]
        "chat.tcss",
        "../transcript.tcss",
        "../toolcard.tcss",
        "../prompt.tcss",
        "../chats.tcss",
    ]
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
            "shift+tab",
            "to_messages",
            "Messages",
            id="chat.messages",
            show=False,
            tooltip="To the messages: copy, edit, ask again, continue ...",
        ),
        _key("ctrl+r", "search", "Resume", "Resume or search chats", "resume"),
        _key("ctrl+b", "sidebar", "Chats", "Go to the list of chats, or hide it"),
        _key("ctrl+f", "find", "Find", "Find in this chat"),
        _key("ctrl+l", "models", "Models", "Choose, fetch or remove models"),
        _key("ctrl+o", "settings", "Settings", "Change settings"),
        _key("ctrl+y", "copy_answer", "Copy answer", "Copy the last answer", "copy"),
        _key("ctrl+g", "copy_code", "Copy code", "Copy a code block; again: the next"),
        _key("ctrl+t", "toggle_reasoning", "Reasoning", "Open or fold the last reasoning"),
        _key("pageup,shift+pageup,alt+up", "scroll_transcript(-1)", "Up", "Scroll up", "up"),
        _key("pagedown,shift+pagedown,alt+down", "scroll_transcript(1)", "Down", "Scroll down"),
    ]

    def __init__(
        self,
        bridge: Bridge,
        house: House,
        title: str,
        *,
        board: PullBoard | None = None,
        trainings: TrainingBoard | None = None,
        overrides: dict[str, Any] | None = None,
        instructions: str | None = None,
    ) -> None:
        super().__init__(bridge, house, title)
        self.board = board
        self.trainings = trainings
        self.desk = Desk(self)
        self.rooms = Rooms(self, overrides or {}, instructions)
        self.tools = ToolRoom(self)
        self.adapters = AdapterRoom(self)
        self.trains = TrainRoom(self)
        self.dispatch = Dispatch(self)
        self.commands = self.dispatch.commands
        self._sent: set[str] = set()
        """What was sent since the start, as the model read it; the prompt has it as typed."""
        self._editing: str | None = None
        """The question that is being asked in other words."""
        self._draft = ""
        """What stood in the prompt when that began."""
        self._finds: list[Found] = []
        self._find_at = 0

    async def begin_showing(self) -> None:
        self.rooms.apply()
        self.rooms.learn_names()
        self.adapters.begin()
        self.desk.erase_deleted()
        self.set_interval(ERASE_EVERY_S, self.desk.erase_deleted)
        self.status.change(unsaved=self.house.store is None or self.house.store.path is None)
        self.desk.refresh()
        self.load_history()
        if (chat_id := self.house.resume) is not None:
            # Not before it is known how much fits on the screen.
            self.call_after_refresh(self.desk.open, chat_id)
        for notice in self.house.notices:
            self.notify(notice, severity="warning", markup=False, timeout=12)

    # ---------------------------------------------------------------- the prompt

    @on(Prompt.Submitted)
    async def take_message(self, event: Prompt.Submitted) -> None:
        """Queue what was said, or ask an earlier question in these words."""
        self._sent.add(event.text)
        if (question := self._editing) is None:
            await self.ask(event.text)
        elif self.may_act():
            self._end_editing()
            session, text = self.session, event.text
            await self._draw(session.above(question))
            said = await self.transcript.add_question(text)
            await self.begin(lambda cancel: session.edit(question, text, cancel), said, anew=True)
        else:
            self.prompt.put_back(event.text)

    @on(Prompt.CommandGiven)
    async def obey(self, event: Prompt.CommandGiven) -> None:
        await self.dispatch.run(event.name, event.argument)

    @on(Prompt.Refused)
    def explain_refusal(self, event: Prompt.Refused) -> None:
        self.notify(event.sentence, severity="warning", markup=False, timeout=6)

    def load_history(self) -> None:
        """Tell the prompt what was said before, in this chat and in all."""
        if store := self.house.store:
            with self.desk.explained():
                chat = self.session.chat.id
                earlier, here = (
                    [text for text in texts if text not in self._sent]
                    for texts in (store.prompts(), store.prompts(chat_id=chat))
                )
                self.prompt.load_history(earlier, here)

    def _end_editing(self) -> None:
        """Give the draft back that was there before."""
        self._editing = None
        self.prompt.border_title = ""
        if self._draft:
            self.prompt.put_back(self._draft)
            self._draft = ""

    # ---------------------------------------------------------------- chats

    async def action_stop(self) -> None:
        """Leave editing, or stop the answer; the keys belong to the prompt again."""
        if self._editing is not None:
            self.prompt.load_text("")
            self._end_editing()
        else:
            self.tools.stop()
            await self.stop()
        self.prompt.focus()

    async def action_new_chat(self) -> None:
        """Begin a chat, as soon as a running answer has let go of this one."""
        await self.when_free(self.desk.new)
        self.prompt.focus()

    def action_to_messages(self) -> None:
        """To the newest message; what can be done with it is shown below it."""
        blocks = [block for block in self.transcript.blocks if isinstance(block, MessageBlock)]
        if blocks:
            blocks[-1].focus(scroll_visible=False)

    def action_search(self) -> None:
        """Resume a chat, or search them all."""
        self.desk.search()

    def action_sidebar(self) -> None:
        """To the list of chats; from there, hide it."""
        sidebar = self.query_one(Sidebar)
        if sidebar.display and sidebar.has_focus_within:
            sidebar.display = False
            self.prompt.focus()
        else:
            sidebar.display = True
            self.desk.refresh()
            sidebar.take_focus()

    @on(Sidebar.Chosen)
    async def open_chosen(self, event: Sidebar.Chosen) -> None:
        await self.when_free(lambda: self.desk.open(event.chat_id))
        self.prompt.focus()

    @on(Sidebar.NewAsked)
    async def begin_asked(self) -> None:
        await self.action_new_chat()

    @on(Sidebar.RenameAsked)
    def rename_asked(self, event: Sidebar.RenameAsked) -> None:
        self.desk.ask_title(event.chat_id)

    @on(Sidebar.PinAsked)
    def pin_asked(self, event: Sidebar.PinAsked) -> None:
        self.desk.pin(event.chat_id)

    @on(Sidebar.DeleteAsked)
    async def delete_asked(self, event: Sidebar.DeleteAsked) -> None:
        await self.desk.delete(event.chat_id)

    @on(Sidebar.Left)
    def leave_sidebar(self) -> None:
        self.prompt.focus()
        self.place_sidebar(left=True)

    def on_resize(self, event: Resize) -> None:
        self.place_sidebar()

    def place_sidebar(self, *, left: bool = False) -> None:
        """Show the list of chats where the settings and the width say so.

        Args:
            left: nobody is in it any more.
        """
        wanted = self.house.settings.get("interface.sidebar")
        wide = self.app.size.width >= SIDEBAR_FROM
        sidebar = self.query_one(Sidebar)
        sidebar.set_class(self.app.size.width < SIDEBAR_ALONE, "-alone")
        if left or not sidebar.has_focus_within:
            keeps = self.house.store is not None  # else there is nothing to list
            sidebar.display = wanted == "shown" or (wanted == "auto" and wide and keeps)

    # ---------------------------------------------------------------- drawing

    async def draw_chat(self) -> None:
        """Show the session's branch."""
        branch = self.session.branch
        self.status.change(summary=last_summary(branch), read=(0, 0), tokens=0)
        self.rooms.show_manner()
        await self._draw(branch)
        self.load_history()

    async def _draw(self, messages: Sequence[StoredMessage]) -> None:
        session = self.session
        self._finds = []
        if self._editing is not None and self._editing not in {m.id for m in session.branch}:
            self._end_editing()  # it is of another chat now, or on another branch
        if self.focused is not None and self.transcript in self.focused.ancestors:
            self.prompt.focus()  # what had the focus is about to go
        await self.transcript.show(messages, session.versions(), session.left_out)
        await self.requeue()

    async def reveal(self, hit: SearchHit) -> None:
        """Show what a search found."""
        words = [hit.excerpt[start:end] for start, end in hit.marks] or [""]
        for word in words:
            for found in self.transcript.find(word):
                if found.said.message_id == hit.message_id:
                    await self.transcript.reveal(found)
                    return

    def before_turn(self) -> None:
        self.tools.apply()

    async def model_changed(self, before: ModelLoaded | None, waiting: Widget | None) -> None:
        await self.adapters.model_changed(before, waiting)

    async def answer_ended(self) -> None:
        versions = self.session.versions()
        for message in self.session.branch[-2:]:
            self.transcript.change(message.id, branch=versions.get(message.id))
        await self.transcript.mark_dropped(self.session.left_out)
        self.desk.refresh()
        self.load_history()

    async def show_branch(self, message_id: str) -> None:
        """Show another version of a message."""
        if self.may_act():
            self.session.show(message_id)
            await self.draw_chat()
            if (block := self.transcript.block_of(message_id)) is not None:
                block.focus(scroll_visible=False)  # the next version is one more press away
            self.desk.refresh()

    # ---------------------------------------------------------------- messages

    @on(MessageAction)
    async def act_on_message(self, event: MessageAction) -> None:
        with self.desk.explained():
            await self.act_on(event.message_id, event.action)

    async def act_on(self, message_id: str, action: str) -> None:
        """Do something with a message of this chat.

        Args:
            message_id: of the message.
            action: see ``MessageAction``.
        """
        if not message_id or not self.may_act():
            return
        session = self.session
        message = session.find(message_id)
        match action:
            case "edit":
                self._edit(message_id, message.content)
            case "retry":
                answer = next((m for m in session.branch if m.parent_id == message_id), message)
                await self._draw(session.above(answer.id))
                await self.begin(lambda cancel: session.retry(message_id, cancel), anew=True)
            case "continue":
                if session.branch[-1].id != message_id:
                    raise InvalidInput(
                        "only the last answer of a chat can be continued",
                        "ask for another version of it with `r`",
                    )
                await self._draw(session.above(message_id))
                await self.begin(
                    lambda cancel: session.proceed(message_id, cancel),
                    begun=message.content,
                    uses=message.uses,
                    anew=True,
                )
            case "pin":
                session.pin(message_id, not message.pinned)
                await self.draw_chat()
            case "delete":
                await self._delete_turn(message_id)
            case "older" | "newer":
                versions = session.siblings(message_id)
                at = versions.index(message_id) + (1 if action == "newer" else -1)
                if 0 <= at < len(versions):
                    await self.show_branch(versions[at])

    def _edit(self, message_id: str, text: str) -> None:
        if self._editing is None:
            self._draft = self.prompt.text
        self._editing = message_id
        self.prompt.border_title = "Editing an earlier message · Esc leaves it as it is"
        self.prompt.load_text("")
        self.prompt.put_back(text)
        self.prompt.focus()

    async def _delete_turn(self, message_id: str) -> None:
        session = self.session
        chat_id, gone = session.chat.id, session.delete_turn(message_id)

        async def bring_back() -> None:
            if session.chat.id != chat_id:
                await self.desk.open(chat_id)
            session.restore(gone)
            await self.draw_chat()

        self.desk.can_undo("Deleted a question and its answer", bring_back)
        await self.draw_chat()
        self.desk.refresh()

    def may_act(self) -> bool:
        """Whether the session can be changed now; if not, that is said."""
        if not self.is_free:
            self.notify(BUSY if self.is_answering else "Wait until the model is loaded", timeout=3)
        return self.is_free

    @on(ReadingAllowed)
    def read_freely(self) -> None:
        with self.desk.explained():
            self.rooms.change("tools.free_reading", True)

    @on(ToolNote.Wanted)
    def take_result(self, event: ToolNote.Wanted) -> None:
        """What a tool gave, into the prompt: what is sent then is what stands there."""
        self.prompt.put_back(event.text)
        self.prompt.focus()

    # ---------------------------------------------------------------- finding and copying

    def action_find(self) -> None:
        """Find words in this chat."""
        self.find()

    def find(self, words: str = "") -> None:
        """Open the bar that finds, with some words to begin with."""
        self.query_one(FindBar).open(words)

    @on(FindBar.Wanted)
    async def find_words(self, event: FindBar.Wanted) -> None:
        """Go to the last find: that is where one is reading."""
        self._finds = self.transcript.find(event.query)
        self._find_at = len(self._finds) - 1
        await self._show_find()

    @on(FindBar.Step)
    async def step_find(self, event: FindBar.Step) -> None:
        if self._finds:
            self._find_at = (self._find_at + event.direction) % len(self._finds)
        await self._show_find()

    async def _show_find(self) -> None:
        if self._finds:
            await self.transcript.reveal(self._finds[self._find_at])
        self.query_one(FindBar).show_count(self._find_at + 1, len(self._finds))

    @on(FindBar.Closed)
    def end_finding(self) -> None:
        self._finds = []
        self.clear_selection()
        self.prompt.focus()

    def action_copy_answer(self) -> None:
        """Put the last answer on the clipboard, as the model wrote it."""
        if answer := self.transcript.last_answer:
            self.app.copy_to_clipboard(answer)
            self.desk.say("Copied the last answer")
        else:
            self.desk.say("There is no answer to copy yet")

    async def action_copy_code(self) -> None:
        """Put a block of code on the clipboard."""
        await self.transcript.copy_code()

    def action_models(self) -> None:
        """Choose, fetch or remove models."""
        self.rooms.open_models()

    def action_settings(self) -> None:
        """Change settings."""
        self.rooms.open_settings()

    def action_toggle_reasoning(self) -> None:
        """Open or fold what the model thought before its last answer."""
        if reasoning := self.transcript.last_reasoning:
            reasoning.toggle()
        else:
            self.desk.say("There is no reasoning to show")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The list of chats has pages of its own."""
        if action == "scroll_transcript":
            return not self.query_one(Sidebar).has_focus_within
        return super().check_action(action, parameters)

    def action_scroll_transcript(self, pages: int) -> None:
        """Leave the end of the transcript, or come back to it."""
        if pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)
