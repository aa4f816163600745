"""What every slash command does. The palette and the keys use the same methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import InvalidInput, MobileLLMError
from mobilellm_mlx.settings import SCHEMA, THEMES, find

from ..commands import COMMANDS, Choices, Command, with_choices
from .adapterroom import NONE
from .toolroom import SHORT

if TYPE_CHECKING:
    from .chat import ChatScreen

Run = Callable[[str], Awaitable[object] | None]


class Dispatch:
    """Runs commands on a chat screen by their names.

    Args:
        screen: does the work.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        desk = screen.desk
        self._runs: Mapping[str, Run] = {
            "new": lambda _: screen.action_new_chat(),
            "clear": lambda _: screen.action_new_chat(),
            "resume": lambda _: desk.resume_last(),
            "search": lambda words: desk.search(words),
            "find": screen.find,
            "model": self._choose_model,
            "system": self._instruct,
            "preset": self._take_preset,
            "set": self._set,
            "theme": self._change_theme,
            "export": lambda path: desk.export(path),
            "import": lambda path: desk.bring_in(path),
            "rename": self._rename,
            "pin": lambda _: desk.pin(screen.session.chat.id),
            "delete": lambda _: desk.delete(screen.session.chat.id),
            "undo": lambda _: desk.undo(),
            **self._tool_runs(),
            **self._adapter_runs(),
            **self._train_runs(),
            "retry": partial(self._act, "retry"),
            "edit": partial(self._act, "edit"),
            "continue": partial(self._act, "continue"),
            "branch": partial(self._act, "newer"),
            "copy": lambda _: screen.action_copy_answer(),
            "code": lambda _: screen.action_copy_code(),
            "settings": lambda _: screen.rooms.open_settings(),
            "keys": lambda _: screen.rooms.open_settings("keys"),
            "context": self._context,
            "help": lambda _: screen.app.run_action("show_keys"),
            "quit": lambda _: screen.app.run_action("quit"),
        }
        self.commands: Sequence[Command] = with_choices(
            [command for command in COMMANDS if command.name in self._runs],
            self._choices(),
        )

    def _tool_runs(self) -> Mapping[str, Run]:
        """What there is to do with tools: nothing where there are none."""
        house, room = self._screen.house, self._screen.tools
        runs: dict[str, Run] = {}
        if house.tools is not None:
            runs |= {name: partial(room.call_short, name) for name in SHORT if room.has_short(name)}
            runs |= {"tool": room.call_named, "tools": room.command}
        if house.demo is not None:
            runs["demo"] = lambda _: room.open_demo()
        return runs

    def _adapter_runs(self) -> Mapping[str, Run]:
        """The adapters, where there can be any."""
        return {"adapter": self._screen.adapters.command} if self._screen.house.adapters else {}

    def _train_runs(self) -> Mapping[str, Run]:
        """Fine-tuning, where something does it."""
        return {"train": lambda _: self._screen.trains.open()} if self._screen.trainings else {}

    def _choices(self) -> Mapping[str, Choices]:
        screen = self._screen
        choices: dict[str, Choices] = {
            "model": lambda: screen.rooms.names,
            "adapter": lambda: [NONE[0], *screen.adapters.names],
            "preset": lambda: ["none", *screen.house.settings.presets],
            "set": lambda: [setting.key for setting in SCHEMA],
            "theme": lambda: [theme.removeprefix("mobilellm-") for theme in THEMES],
            "context": lambda: ["drop", "stop"],
            "tool": lambda: screen.tools.names,
            "tools": lambda: ["on", "off", "list", "rules"],
        }
        return {name: found for name, found in choices.items() if name in self._runs}

    async def run(self, name: str, argument: str = "") -> None:
        """Do what a command says; what goes wrong is said on the screen.

        Args:
            name: without the slash.
            argument: what stood behind it.
        """
        try:
            done = self._runs[name](argument)
            if done is not None:
                await done
        except MobileLLMError as error:
            self._screen.desk.say_problem(error)

    # ---------------------------------------------------------------- one method a command

    async def _act(self, action: str, _: str) -> None:
        branch = self._screen.session.branch
        if not branch:
            raise InvalidInput("nothing has been said yet", "ask something first")
        question = branch[-2] if len(branch) > 1 else branch[-1]
        message = question if action == "edit" else branch[-1]
        if action == "newer":
            await self._next_version(message.id, question.id)
        else:
            await self._screen.act_on(message.id, action)

    async def _next_version(self, answer_id: str, question_id: str) -> None:
        """Around in the versions of the last answer, or where it has but one, of its question."""
        session = self._screen.session
        for message_id in (answer_id, question_id):
            versions = session.siblings(message_id)
            if len(versions) > 1:
                at = versions.index(message_id)
                await self._screen.show_branch(versions[(at + 1) % len(versions)])
                return
        self._screen.desk.say("The last turn has one version; /retry and /edit make others")

    def _choose_model(self, name: str) -> None:
        if name:
            self._screen.rooms.use_named(name)
        else:
            self._screen.rooms.open_models()

    def _instruct(self, text: str) -> None:
        screen = self._screen
        if not text:
            now = screen.session.instructions
            screen.desk.say(f"System prompt: {now}" if now else "There is no system prompt")
            return
        self._set_instructions(None if text == "none" else text)

    def _set_instructions(self, text: str | None) -> None:
        screen = self._screen
        if screen.may_act():
            screen.session.instruct(text)
            screen.rooms.show_manner()
            screen.desk.say("The system prompt counts from the next answer on")

    def _take_preset(self, name: str) -> None:
        presets = self._screen.house.settings.presets
        if name == "none":
            self._set_instructions(None)
        elif name in presets:
            self._set_instructions(presets[name])
        else:
            known = ", ".join(presets) or "none yet; the settings have a place for them"
            if name:
                raise InvalidInput(f"there is no preset called `{name}`", f"known: {known}")
            self._screen.desk.say(f"Presets: {known}")

    def _set(self, argument: str) -> None:
        key, _, text = argument.partition(" ")
        if not key:
            self._screen.rooms.open_settings()
            return
        setting = find(key)
        if setting.kind == "server":  # its environment may hold secrets
            self._screen.desk.say("Servers of tools are set up in the settings file")
            return
        if not text.strip():
            value = self._screen.house.settings.get(key)
            shown = value
            if value is None:
                defaults = self._screen.bridge.engine.defaults
                usual = getattr(defaults, setting.name, None)
                known = setting.group == "sampling" and usual is not None
                shown = f"not set; the model recommends {usual}" if known else "not set"
            self._screen.desk.say(f"{setting.title}: {shown}")
            return
        value = None if text.strip() in ("none", "unset") else setting.parse(text)
        self._screen.rooms.change(key, value)

    def _change_theme(self, name: str) -> None:
        if not name:
            self._screen.rooms.open_settings("Interface")
            return
        full = f"mobilellm-{name.removeprefix('mobilellm-')}"
        if full not in THEMES:
            known = ", ".join(theme.removeprefix("mobilellm-") for theme in THEMES)
            raise InvalidInput(f"there is no theme called `{name}`", f"known: {known}")
        self._screen.rooms.change("interface.theme", full)

    def _rename(self, title: str) -> None:
        desk, chat = self._screen.desk, self._screen.session.chat
        if title:
            desk.rename(chat.id, title)
        else:
            desk.ask_title(chat.id)

    def _context(self, policy: str) -> None:
        if policy:
            setting = find("chat.context_policy")
            self._screen.rooms.change("chat.context_policy", setting.check(policy))
        self._screen.rooms.explain_context()
