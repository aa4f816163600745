"""The application: themes, keys that work everywhere, and the way out."""

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
from .bridge import Bridge, Clock
from .screens.chat import ChatScreen
from .screens.help import HelpScreen
from .terminal import copy_on_mac, teach_option_enter
from .themes import DARK, LIGHT


class MobileLLMApp(App[None]):
    """Chat with a model on this machine.

    Args:
        engine: answers; loaded in the background, closed by the caller.
        instructions: the system prompt; None leaves the model's own default.
        overrides: fields of ``GenerationOptions`` that replace the recommended ones.
        title: what to call the model until it is loaded.
        clock: seconds from any start; a test passes its own.

    Attributes:
        bridge: the way to the engine.
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
        Binding("f1", "show_keys", "Keys", id="app.keys", tooltip="Show this page"),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True, show=False, tooltip="Quit"),
    ]

    def __init__(
        self,
        engine: ChatEngine,
        *,
        instructions: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        title: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__()
        teach_option_enter()
        session = Session(engine, instructions=instructions, overrides=overrides)
        self.bridge = Bridge(engine, session, clock)
        self.failure: Exception | None = None
        self._chat = ChatScreen(self.bridge, title)
        self.add_mode("chat", lambda: self._chat)
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name

    def on_mount(self) -> None:
        """A request to end leaves the terminal as it was found."""
        if not self.is_headless:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)

    def _terminate(self) -> None:
        self.bridge.stop()
        self.exit(return_code=128 + signal.SIGTERM)

    @property
    def chat(self) -> ChatScreen:
        """The conversation, which lies under every other screen."""
        return self._chat

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The command palette: what has a key, and nothing that has no use here."""
        chat = self.chat
        yield SystemCommand("New chat", "Forget this conversation", chat.action_new_chat)
        if chat.is_answering:
            yield SystemCommand("Stop", "Stop the answer", chat.action_stop)
        yield SystemCommand("Copy last answer", "To the clipboard", chat.action_copy_answer)
        yield SystemCommand("Toggle theme", "Light or dark", self.action_toggle_theme)
        yield SystemCommand("Keys", "Show all keys", self.action_show_keys)
        yield SystemCommand("Quit", "Leave; a running answer is stopped", self.action_quit)

    def action_toggle_theme(self) -> None:
        """Dark to light, and back."""
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def action_show_keys(self) -> None:
        """The keys of the screen below, as a page on top of it."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.chat))

    async def action_help_quit(self) -> None:  # type: ignore[override]
        """Ctrl+C when nothing is selected: stop the answer, or say how to leave."""
        if self.chat.is_answering:
            await self.chat.action_stop()
        else:
            self.notify("Ctrl+Q quits", timeout=3)

    async def action_quit(self) -> None:
        """Leave; without a model, that was a failure."""
        self.bridge.stop()
        self.exit(return_code=1 if self.failure is not None else 0)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy through the terminal and, on a Mac, through the system as well."""
        super().copy_to_clipboard(text)
        copy_on_mac(text)

    @on(heard.ModelReady)
    def forget_failure(self) -> None:
        self.failure = None

    @on(heard.LoadingFailed)
    def note_failure(self, event: heard.LoadingFailed) -> None:
        self.failure = event.problem.error

    @on(heard.AnswerFailed)
    def note_internal_failure(self, event: heard.AnswerFailed) -> None:
        if event.problem.internal:
            self.failure = event.problem.error
