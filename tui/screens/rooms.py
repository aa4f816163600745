"""The settings and the models: their screens, and what follows from what is chosen there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.dom import DOMNode

from mobilellm_mlx.chat.context import ContextPolicy
from mobilellm_mlx.errors import InvalidInput, ModelNotFound
from mobilellm_mlx.settings import Settings, find

from ..keymap import Action, keys_of, list_actions, usable
from ..pulls import Pull, PullBoard
from ..shelf import ModelChoice, ModelRow
from ..text import format_key, printable
from ..themes import ANSI, DARK, LIGHT, wants_no_color
from ..widgets.adapters import AdapterList
from ..widgets.find import FindBar
from ..widgets.messages import UserMessage
from ..widgets.models import pull_status
from ..widgets.prompt import Prompt
from ..widgets.response import Response
from ..widgets.sidebar import ChatList, Sidebar
from ..widgets.toolnote import ToolNote
from .adapters import AdaptersScreen
from .approval import ApprovalScreen, ApprovalsScreen
from .compare import CompareScreen
from .demo import DemoScreen
from .dialogs import AskLine, Confirm
from .help import HelpScreen
from .models import ModelsScreen
from .search import SearchScreen
from .settings import SettingsScreen
from .tools import ToolList, ToolsScreen
from .training import FormScreen, LeavingScreen, PathLine, RunList, RunScreen, RunsScreen

if TYPE_CHECKING:
    from .chat import ChatScreen


class Rooms:
    """Settings and models for a chat screen.

    Args:
        screen: shows the chat.
        overrides: sampling that was asked for when the program was started; goes before settings.
        instructions: the same for the system prompt.
    """

    def __init__(
        self, screen: ChatScreen, overrides: dict[str, Any], instructions: str | None
    ) -> None:
        self._screen = screen
        self._overrides = overrides
        self._instructions = instructions
        self.names: list[str] = []
        """Models that are here, by name."""

    # ---------------------------------------------------------------- settings

    @property
    def _settings(self) -> Settings:
        return self._screen.house.settings

    def actions(self) -> list[Action]:
        """Everything that can be given other keys."""
        owners: Iterable[type[DOMNode]] = (
            type(self._screen.app),
            type(self._screen),
            Prompt,
            UserMessage,
            Response,
            Sidebar,
            ChatList,
            FindBar,
            SearchScreen,
            ModelsScreen,
            SettingsScreen,
            HelpScreen,
            AskLine,
            Confirm,
            ToolNote,
            ApprovalScreen,
            ApprovalsScreen,
            ToolsScreen,
            ToolList,
            DemoScreen,
            AdaptersScreen,
            AdapterList,
            RunsScreen,
            RunList,
            RunScreen,
            FormScreen,
            PathLine,
            LeavingScreen,
            CompareScreen,
        )
        return list_actions(owners)

    def help_sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """What the page of keys says beside the keys that work where one is."""
        keymap = self._settings.keymap
        messages: dict[str, str] = {}
        for action in list_actions([UserMessage, Response]):
            keys = " ".join(format_key(key) for key in keys_of(action, keymap))
            messages.setdefault(keys, action.what)
        chosen = [key for action in self.actions() if action.id == "chat.messages"
                  for key in keys_of(action, keymap)]  # fmt: skip
        way = " or ".join(format_key(key) for key in chosen)
        commands = [(command.usage, command.summary) for command in self._screen.commands]
        files = [("@name", "Insert a file"), ("//", "Send a slash")]
        return [
            (f"On a message ({way})", list(messages.items())),
            ("Commands", [*commands, *files]),
        ]

    def open_settings(self, page: str = "") -> None:
        """Show the settings.

        Args:
            page: its title; empty is the first.
        """
        engine = self._screen.bridge.engine
        recommended = asdict(engine.defaults) if engine.info else {}
        options: dict[str, Any] = {"page": page} if page else {}
        screen = SettingsScreen(
            self._settings,
            recommended=recommended,
            actions=self.actions(),
            save=self._save,
            **options,
        )
        self._screen.app.push_screen(screen)

    def _save(self, key: str, value: Any) -> Settings:
        self._screen.house.change(key, value)
        self.apply(key)
        return self._settings

    def change(self, key: str, value: Any) -> None:
        """Change one setting, and let it count at once.

        Raises:
            InvalidOption: when it cannot have this value.
            StorageError: when it could not be kept; it counts until the program ends.
        """
        try:
            self._screen.house.change(key, value)
        finally:
            self.apply(key)
        shown = "back to its default" if value is None else str(value).removeprefix("mobilellm-")
        self._screen.desk.say(f"{find(key).title}: {shown}")

    def apply(self, key: str = "") -> None:
        """Let a setting count; without a key, all of them."""
        screen, settings = self._screen, self._settings
        session = screen.session
        group = key.partition(".")[0]
        if group in ("", "sampling"):
            session.overrides = {**settings.sampling, **self._overrides}
        if group in ("", "chat", "presets"):
            session.policy = ContextPolicy(
                settings.get("chat.context_policy"), settings.get("chat.context_threshold")
            )
            says = {"drop": "oldest go", "stop": "stops"}[session.policy.when_full]
            screen.status.change(when_full=says)
            session.standing_instructions = self._instructions or settings.instructions
            if not session.branch:
                session.instructions = session.standing_instructions
            self.show_manner()
        if key in ("", "interface.theme"):
            screen.app.theme = ANSI.name if wants_no_color() else settings.get("interface.theme")
        if key in ("", "interface.sidebar"):
            screen.place_sidebar()
        if key in ("", "interface.wrap_code"):
            screen.set_class(settings.get("interface.wrap_code"), "-wrap-code")
        if key in ("cache.limit_gb",) and screen.house.snapshots:
            screen.house.snapshots.limit_bytes = int(settings.get("cache.limit_gb") * 1e9)
        if group in ("", "keys"):
            keymap, problems = usable(settings.keymap, self.actions())
            screen.app.set_keymap(keymap)
            for problem in problems if not key else ():
                screen.notify(problem, severity="warning", markup=False, timeout=8)

    def show_manner(self) -> None:
        """Name the system prompt of this chat in the status line."""
        text = self._screen.session.instructions
        presets = self._settings.presets.items()
        name = next((name for name, known in presets if known == text), "told how" if text else "")
        self._screen.status.change(manner=printable(name))

    def toggle_theme(self) -> None:
        """Dark to light, and back."""
        is_light = self._settings.get("interface.theme") == LIGHT.name
        self.change("interface.theme", DARK.name if is_light else LIGHT.name)

    # ---------------------------------------------------------------- models

    @property
    def _board(self) -> PullBoard | None:
        return self._screen.board

    def learn_names(self) -> None:
        """Look which models are here, without holding anything up."""
        if self._board is not None:
            self._board.later(self._board.shelf.rows, self._take_names)

    def _take_names(self, rows: list[ModelRow] | Exception) -> None:
        if not isinstance(rows, Exception):
            self.names = [row.name for row in rows if row.installed and row.chats is not False]

    def open_models(self) -> None:
        """Show the models."""
        if self._board is None:
            self._screen.desk.say("Another model is chosen with `mobilellm chat NAME`")
            return
        info = self._screen.info
        current = Path(info.path) if info else None
        held = info.weight_bytes if info else 0
        screen = ModelsScreen(self._board, current, held, self._screen.adapters.names_for)
        self._screen.app.push_screen(screen, self._use)

    def use_named(self, name: str) -> None:
        """Change to the model called so, if it is here."""
        if (board := self._board) is None:
            raise InvalidInput("there are no other models here")

        def found(row: ModelRow | Exception) -> None:
            if isinstance(row, Exception):
                self._screen.desk.say_problem(row)
            elif not row.installed:
                hint = "fetch it there: Ctrl+L shows what is fetched, and under which terms"
                self._screen.desk.say_problem(ModelNotFound(f"{row.name} is not here yet", hint))
            else:
                self._use(ModelChoice(row.name, row.path))

        board.later(lambda: board.shelf.find(name), found)

    def _use(self, choice: ModelChoice | None) -> None:
        self.learn_names()
        screen = self._screen
        if choice is not None and screen.info and choice.directory == Path(screen.info.path):
            screen.desk.say(f"{choice.name} answers already")
        elif choice is not None:
            screen.run_worker(screen.when_free(lambda: screen.load_model(choice.directory)))

    def show_pull(self) -> None:
        """Say in the status line how far a pull is, or else a training."""
        pulls = pull_status(self._board.pulls) if self._board else ""
        self._screen.status.change(beside=pulls or self._screen.trains.status())

    def report_pull(self, pull: Pull) -> None:
        """Say how a pull ended."""
        self.show_pull()
        self.learn_names()
        if pull.problem is not None:
            self._screen.desk.say_problem(pull.problem.error)
        else:
            self._screen.notify(f"{pull.row.name} is here", markup=False, timeout=8)

    def explain_context(self) -> None:
        """Say what the model sees of this chat, and what happens when there is no more room."""
        screen = self._screen
        session = screen.session
        if (info := screen.info) is None:
            screen.desk.say("No model is loaded yet")
            return
        used = screen.status.state.context_used
        out, policy = len(session.left_out), session.policy
        then = {
            "drop": "the oldest messages go, pinned ones stay",
            "stop": "you are asked what to do",
        }[policy.when_full]
        seen = f"{out} older messages are left out" if out else "all messages are in it"
        screen.notify(
            f"{used:,} of {info.context_limit:,} tokens; {seen}.\n"
            f"At {policy.threshold:.0%}, {then} (/context drop or stop).",
            title="What the model sees",
            markup=False,
            timeout=10,
        )
