"""Adapters in the chat: which one is on top of the model, and when that changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from textual.widget import Widget

from mobilellm_mlx.adapters import AdapterInfo, Registry, model_sha256
from mobilellm_mlx.chat.records import Generation
from mobilellm_mlx.errors import InvalidInput, MobileLLMError, ModelNotFound
from mobilellm_mlx.events import ModelLoaded

from ..completing import on_thread
from ..shelf import ModelRow
from ..widgets.adapters import AdapterRow
from ..widgets.calls import brief
from .adapters import AdaptersScreen, Chosen
from .compare import CompareScreen, Side

if TYPE_CHECKING:
    from .chat import ChatScreen

SETTING = "model.adapter"
NONE = ("none", "off")
"""What takes an adapter off, where its name is typed."""


class AdapterRoom:
    """Adapters for a chat screen.

    A chat that is opened goes on with what its last answer was made with, as it goes on with its
    own system prompt; a new chat begins with what the person chose last.

    Args:
        screen: shows the chat.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._known: list[AdapterInfo] = []
        """The adapters that are here, as far as is known."""
        self._chosen: AdapterInfo | None = None
        """What new chats begin with."""
        self._coming: tuple[AdapterInfo | None, bool] = (None, False)
        """What is being put on, and whether the person chose it."""
        self._forced: Path | None = None
        """One that is used whatever it was made for."""

    @property
    def _registry(self) -> Registry:
        """Where they are.

        Raises:
            InvalidInput: nowhere.
        """
        if (registry := self._screen.house.adapters) is None:
            raise InvalidInput("there are no adapters here")
        return registry

    def begin(self) -> None:
        """Put on what was asked for at the start, as soon as there is a model."""
        house = self._screen.house
        if house.adapters is None:
            return
        self.learn_names()
        if wanted := house.adapter or house.settings.get(SETTING):
            self._screen.do_before_turn(lambda: self._begin_with(wanted))

    def _begin_with(self, name: str) -> None:
        house = self._screen.house
        with self._screen.desk.explained():
            adapter = self._registry.find(name)
            if house.force_adapter:
                self._forced = adapter.path
            if house.adapter or house.resume is None:
                self._wear(adapter, is_choice=True)
            else:  # the chat that is gone on with has its own
                self._chosen = adapter

    # ---------------------------------------------------------------- choosing

    async def command(self, argument: str) -> None:
        """``/adapter``, with what stood behind it.

        Raises:
            AdapterError: there is none of that name.
        """
        if not argument:
            self.open_adapters()
        elif argument.lower() in NONE:
            await self._choose(None)
        else:
            await self._choose(self._registry.find(argument))

    def open_adapters(self) -> None:
        """Show the adapters."""
        self._screen.app.push_screen(AdaptersScreen(self, self.try_it), self._take)

    async def _take(self, chosen: Chosen | None) -> None:
        self.learn_names()
        if chosen is not None:
            await self._choose(chosen.adapter)

    async def _choose(self, adapter: AdapterInfo | None) -> None:
        """Change the adapter, as models are changed: an answer that is coming is stopped."""
        screen = self._screen
        if screen.info is None:
            screen.desk.say("The adapter changes as soon as the model is loaded")
        elif screen.info.adapter == _name(adapter):
            screen.desk.say(f"{brief(adapter.name)} is on" if adapter else "No adapter is on")
            return

        async def change() -> None:
            screen.do_before_turn(lambda: self._wear(adapter, is_choice=True))

        await screen.when_free(change)

    def try_it(self, adapter: AdapterInfo) -> None:
        """Ask with and without it, beside the chat."""
        screen = self._screen
        if screen.may_act() and (info := screen.info) is not None:
            sides = [Side(info.model), Side(f"with {adapter.name}", adapter.path)]
            screen.app.push_screen(
                CompareScreen(screen.bridge.engine, sides, instructions=screen.session.instructions)
            )

    def _wear(self, adapter: AdapterInfo | None, *, is_choice: bool = False) -> None:
        """Put it on, unless it is; for a chore."""
        info = self._screen.info
        if info is None or info.adapter == _name(adapter):
            return
        self._coming = (adapter, is_choice)
        path = adapter.path if adapter is not None else None
        self._screen.change_adapter(path, force=path is not None and path == self._forced)

    # ---------------------------------------------------------------- what follows

    def start_over(self) -> None:
        """A new chat begins."""
        if self._screen.house.adapters is not None:
            self._screen.do_before_turn(lambda: self._wear(self._chosen))

    def follow(self) -> None:
        """A chat was opened: go on with what its last answer was made with."""
        house, session = self._screen.house, self._screen.session
        if house.adapters is None:
            return
        if house.adapter and session.chat.id == house.resume:
            house.resume = None  # this once, what was asked for at the start counts
            return
        made = next((g for m in reversed(session.branch) for g in reversed(m.made)), None)
        if made is not None and isinstance(made.adapter, str | None):  # a file may say anything
            self._screen.do_before_turn(lambda: self._go_on_with(made))

    def _go_on_with(self, made: Generation) -> None:
        """Put on what an answer was made with, or say why that is not possible."""
        if (info := self._screen.info) is None or made.adapter == info.adapter:
            return
        name = brief(made.adapter or "")
        if made.model_path != info.path:
            if name:
                self._remark(f"This chat was held with {name}, which is for {brief(made.model)}.")
            return
        found = self._registry.kept(made.adapter) if made.adapter else None
        if made.adapter and found is None:
            self._remark(f"This chat was held with {name}, which is not here any more.")
        self._wear(found)

    def _remark(self, text: str) -> None:
        self._screen.call_later(self._screen.transcript.remark, text)

    async def model_changed(self, before: ModelLoaded | None, waiting: Widget | None) -> None:
        """Say what is on from now on, where that is news.

        Args:
            before: what answered before.
            waiting: the first question that waits for an answer.
        """
        screen = self._screen
        assert screen.info is not None
        info, was = screen.info, before.adapter if before else None
        adapter, is_choice = self._coming
        is_other = before is not None and before.path != info.path
        if is_other:
            self._chosen = None
        elif is_choice and _name(adapter) == info.adapter:
            self._chosen = adapter
        if info.adapter == was:
            return
        if info.adapter:
            said = f"{info.model} answers with {brief(info.adapter)} from here on."
        elif is_other and before is not None:
            said = f"{brief(was or '')} is off: it is for {before.model}."
        else:
            said = f"{info.model} answers without {brief(was or '')} from here on."
        if screen.transcript.said:
            await screen.transcript.remark(said, waiting)
        else:
            screen.desk.say(said)

    # ---------------------------------------------------------------- what there is

    @property
    def names(self) -> list[str]:
        """Of the adapters that are here."""
        return [adapter.name for adapter in self._known]

    def names_for(self, model: ModelRow) -> list[str]:
        """Of those that say they were made for a model."""
        called = (model.name, model.title)
        return [adapter.name for adapter in self._known if adapter.base_name in called]

    def learn_names(self) -> None:
        """Look which adapters are here, without holding anything up."""
        self._screen.run_worker(self._learn())

    async def _learn(self) -> None:
        if (registry := self._screen.house.adapters) is not None:
            with suppress(MobileLLMError, OSError):
                self._known = await asyncio.wrap_future(on_thread(registry.list))

    def rows(self) -> list[AdapterRow]:
        """All adapters, as they stand to the model in memory; from any thread."""
        info, registry = self._screen.info, self._registry
        digest = None
        if info is not None:
            with suppress(ModelNotFound):
                digest = model_sha256(Path(info.path))
        rows = []
        for adapter in registry.list():
            known = digest is not None and adapter.base_sha256 is not None
            fits = adapter.base_sha256 == digest if known else None
            is_on = info is not None and info.adapter == adapter.name
            rows.append(AdapterRow(adapter, info.model if info else "", fits, is_on))
        damaged = registry.damaged().items()
        return rows + [AdapterRow(AdapterInfo(name), damage=e.message) for name, e in damaged]

    def rename(self, name: str, new: str) -> None:
        """Call one something else; a setting that names it goes with it.

        Raises:
            MobileLLMError: that is not possible.
        """
        self._registry.rename(name, new)
        self._change_setting(name, new)

    def remove(self, name: str) -> None:
        """Take one away; no setting names it any more.

        Raises:
            MobileLLMError: that is not possible.
        """
        self._registry.remove(name)
        self._change_setting(name, None)

    def _change_setting(self, name: str, new: str | None) -> None:
        house = self._screen.house
        if self._chosen is not None and self._chosen.name == name:
            self._chosen = None
        if house.settings.get(SETTING) == name:
            house.change(SETTING, new)


def _name(adapter: AdapterInfo | None) -> str | None:
    return adapter.name if adapter is not None else None
