"""The application: themes, keys that work everywhere, jobs beside the chat, and the way out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.engine import ChatEngine

from . import messages as heard
from .alarms import Alarms
from .attention import Attention
from .bridge import Bridge, Clock
from .house import House
from .pauses import avoid_pauses
from .pulls import PullBoard
from .screens.chat import ChatScreen
from .screens.help import HelpScreen
from .screens.training.leaving import Leaving, LeavingScreen
from .terminal import copy_to_system, outlive_terminal, teach_option_enter
from .themes import ANSI, THEMES, wants_no_color
from .training import TrainingBoard

QUIT_WITHIN_S = 3.0
"""Between two presses of Ctrl+C that mean to leave."""


class MobileLLMApp(App[None]):
    """Chat with a model on this machine.

    Args:
        engine: answers; loaded in the background, closed by the caller.
        house: where chats and settings are kept; None forgets everything at the end.
        instructions: the system prompt; None leaves it to the settings.
        overrides: fields of ``GenerationOptions`` that replace the recommended ones.
        title: what to call the model until it is loaded.
        clock: seconds from any start; a test passes its own.
        is_demo: show what tools can do as soon as the model is loaded, and end with that.

    Attributes:
        bridge: the way to the engine.
        board: the pulls that run; None where no other models are offered.
        trainings: that run; None where nothing is trained.
        failure: what to raise after leaving: the reason why there is no model, or the last
            unexpected failure.
    """

    TITLE = "MobileLLM for MLX"
    DEFAULT_MODE = "chat"
    CSS_PATH = "app.tcss"
    # Below 40 x 10 a screen shows one sentence instead of a broken layout; see `chat.tcss`.
    HORIZONTAL_BREAKPOINTS = [(0, "-thin"), (40, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (10, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "f1",
            "show_keys",
            "Keys",
            id="app.keys",
            priority=True,
            tooltip="Show all keys and commands",
        ),
        Binding(
            "ctrl+p",
            "command_palette",
            "Commands",
            id="app.palette",
            priority=True,
            show=False,
            tooltip="Find a command by its name",
        ),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True, show=False, tooltip="Quit"),
    ]

    def __init__(
        self,
        engine: ChatEngine,
        *,
        house: House | None = None,
        instructions: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        title: str = "",
        clock: Clock = time.monotonic,
        is_demo: bool = False,
    ) -> None:
        super().__init__(ansi_color=True if wants_no_color() else None)
        teach_option_enter()
        house = house or House()
        session = Session(
            engine,
            instructions=instructions or house.settings.instructions,
            overrides=overrides,
            store=house.store,
            snapshots=house.snapshots,
            tools=house.tools,
        )
        self.house = house
        self._is_demo = is_demo
        self._is_ready = False
        self._ending: int | None = None
        """The signal that asked the program to end."""
        self.bridge = Bridge(engine, session, clock)
        self.board = PullBoard(house.shelf, clock) if house.shelf else None
        self.trainings = TrainingBoard(house.workshop, clock) if house.workshop else None
        self.failure: Exception | None = None
        self._asked_to_quit = -QUIT_WITHIN_S
        self.attention = Attention(
            self, is_wanted=lambda: bool(house.settings.get("interface.notify"))
        )
        self._chat = ChatScreen(
            self.bridge,
            house,
            title,
            board=self.board,
            trainings=self.trainings,
            overrides=dict(overrides or {}),
            instructions=instructions,
        )
        self.add_mode("chat", lambda: self._chat)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = ANSI.name if wants_no_color() else house.settings.get("interface.theme")

    def on_load(self) -> None:
        """A request to end leaves the terminal as it was found, from its first change on."""
        if "headless" in self.features:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._terminate, number)
        outlive_terminal(lambda: loop.call_soon_threadsafe(self._terminate, signal.SIGHUP))

    def on_mount(self) -> None:
        """Begin what goes on beside the chat."""
        self.attention.attach()
        if self.board is not None:
            self.board.attach(self)
        if self.trainings is not None:
            self.trainings.attach(self)
        if self.house.timers is not None:
            self.alarms = Alarms(self, self.house.timers, self.attention, self.house.now)
            self.alarms.attach()

    def on_ready(self) -> None:
        """What is in memory now stays; looking through it again and again would make pauses."""
        if not self.is_headless:
            avoid_pauses()
        self._is_ready = True
        if self._ending is not None:
            self._terminate(self._ending)

    def _terminate(self, number: int) -> None:
        self._ending = number
        self.bridge.stop()
        if self._is_ready:  # Textual fails when it is left while it mounts its first screen
            self.exit(return_code=128 + number)

    def on_unmount(self) -> None:
        self.attention.close()

    @property
    def chat(self) -> ChatScreen:
        """The conversation, which lies under every other screen."""
        return self._chat

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The command palette: everything that a slash does, and what has a key only."""
        chat = self.chat
        if chat.is_answering:
            yield SystemCommand("Stop", "Stop the answer", chat.action_stop)
        for command in chat.dispatch.commands:

            def run(name: str = command.name) -> None:
                chat.call_later(chat.dispatch.run, name)  # in its turn: one thing at a time

            yield SystemCommand(f"{command.summary} (/{command.name})", "", run)
        yield SystemCommand("Show or hide the list of chats", "", chat.action_sidebar)

    def action_toggle_theme(self) -> None:
        """Dark to light, and back."""
        with self.chat.desk.explained():
            self.chat.rooms.toggle_theme()

    def action_show_keys(self) -> None:
        """The keys of the screen below, as a page on top of it."""
        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss()
        else:
            more = self.chat.rooms.help_sections() if self.screen is self.chat else ()
            self.push_screen(HelpScreen(self.screen, more))

    async def action_help_quit(self) -> None:  # type: ignore[override]
        """Ctrl+C when nothing is selected: stop the answer, empty the prompt, or twice, leave."""
        prompt = self.chat.prompt
        if self.chat.is_answering:
            await self.chat.action_stop()
        elif self.screen is self.chat and prompt.text.strip():
            prompt.put_away()
            self.notify("Up brings it back", timeout=2)
        else:
            now = time.monotonic()
            if now - self._asked_to_quit < QUIT_WITHIN_S:
                await self.action_quit()
                return
            self._asked_to_quit = now
            self.notify("Ctrl+C once more quits", timeout=QUIT_WITHIN_S)

    async def action_quit(self) -> None:
        """Leave, unless something is trained: what becomes of that is asked first."""
        active = self.trainings.active if self.trainings is not None else []
        if active and not isinstance(self.screen, LeavingScreen):
            self.push_screen(LeavingScreen(active), self._leave)
        else:
            self._leave("go on")

    def _leave(self, trainings: Leaving | None) -> None:
        """Leave; without a model, that was a failure."""
        if trainings is None:
            return
        if trainings == "stop" and self.trainings is not None:
            for row in self.trainings.active:
                with self.chat.desk.explained():
                    self.trainings.workshop.ask(row.name, "stop")
        self.bridge.stop()
        self.exit(return_code=1 if self.failure is not None else 0)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy through the terminal and through the system's own clipboard."""
        super().copy_to_clipboard(text)
        copy_to_system(text)

    @on(PullBoard.Changed)
    def show_pull(self) -> None:
        self.chat.rooms.show_pull()

    @on(PullBoard.Ended)
    def report_pull(self, event: PullBoard.Ended) -> None:
        self.chat.rooms.report_pull(event.pull)
        came = "is here" if event.pull.problem is None else "could not be fetched"
        self.attention.job_ended(f"{event.pull.row.name} {came}", event.pull.elapsed_s)

    @on(TrainingBoard.Changed)
    def show_training(self) -> None:
        self.chat.rooms.show_pull()

    @on(TrainingBoard.Ended)
    def report_training(self, event: TrainingBoard.Ended) -> None:
        self.chat.trains.report(event.row)
        self.attention.call(f"The training {event.row.name} is {event.row.state}")

    @on(heard.ModelReady)
    def forget_failure(self) -> None:
        self.failure = None
        if self._is_demo:
            self._is_demo = False
            self.chat.tools.open_demo(then=self.exit)

    @on(heard.LoadingFailed)
    def note_failure(self, event: heard.LoadingFailed) -> None:
        if self.chat.info is None:  # else there is still the one from before
            self.failure = event.problem.error

    @on(heard.AnswerEnded)
    def call_for_attention(self, event: heard.AnswerEnded) -> None:
        # Not what it says: desktops keep notifications, and show them on a locked screen.
        if event.summary.status == "ok":
            self.attention.job_ended("The answer is there", event.summary.elapsed_s)

    @on(heard.ApprovalWanted)
    def call_for_leave(self) -> None:
        self.attention.call("A tool asks for leave")

    @on(heard.AnswerFailed)
    def note_internal_failure(self, event: heard.AnswerFailed) -> None:
        if event.problem.internal:
            self.failure = event.problem.error
