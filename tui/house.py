"""What the interface is handed besides an engine; whoever starts it decides what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.chat.snapshots import Snapshots
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.settings import Settings
from mobilellm_mlx.tools.builtin.timers import Timers
from mobilellm_mlx.tools.toolbox import Toolbox

from .shelf import ModelShelf
from .workshop import Workshop

Save = Callable[[str, Any], Settings]


def _local_now() -> datetime:
    return datetime.now().astimezone()


def _in_memory(settings: Settings) -> Save:
    """Keeps changes until the program ends."""
    held = settings

    def save(key: str, value: Any) -> Settings:
        nonlocal held
        held = held.replaced(key, value)
        return held

    return save


class DemoRun(Protocol):
    """What the demo of the tools happens in: nothing of the person's is in reach."""

    @property
    def session(self) -> Session:
        """A conversation that is not kept, with tools whose data are in a folder of its own."""

    def close(self) -> None:
        """Leave nothing behind."""


@dataclass(slots=True)
class House:
    """Where things are kept and how they are got.

    Attributes:
        store: of the chats; None forgets them when the program ends.
        settings: as they are now.
        save_setting: changes one and gives all; None changes them in memory only.
        shelf: knows the models; None offers no others.
        snapshots: of what the model has read; None keeps none.
        notices: to say when the interface is up, such as a history that had to be repaired.
        resume: id of the chat to begin with.
        tools: what can be called, by the model and by hand; None: nothing.
        toolbox: gives the tools there are now; asked before every turn. None: those of ``tools``.
        tool_problems: what could not be used of them, so far; asked together with ``toolbox``.
        timers: what is set to ring; None: nothing rings.
        demo: makes a place for the demo of the tools.
        adapters: that can be put on top of a model; None: there are none.
        adapter: the one that was asked for when the program was started: a name or a directory.
        force_adapter: use that one whatever it was made for.
        workshop: trains models; None: nothing does.
        now: the local time; a test passes its own.
        folder: where relative paths begin.
    """

    store: Store | None = None
    settings: Settings = field(default_factory=Settings)
    save_setting: Save | None = None
    shelf: ModelShelf | None = None
    snapshots: Snapshots | None = None
    notices: tuple[str, ...] = ()
    resume: str | None = None
    tools: ToolKit | None = None
    toolbox: Callable[[], Toolbox] | None = None
    tool_problems: Callable[[], Sequence[str]] | None = None
    timers: Timers | None = None
    demo: Callable[[], DemoRun] | None = None
    adapters: Registry | None = None
    adapter: str = ""
    force_adapter: bool = False
    workshop: Workshop | None = None
    now: Callable[[], datetime] = _local_now
    folder: Path = field(default_factory=Path.cwd)

    def __post_init__(self) -> None:
        if self.save_setting is None:
            self.save_setting = _in_memory(self.settings)

    def change(self, key: str, value: Any) -> None:
        """Change a setting for good; None takes it back.

        Raises:
            InvalidOption: when it cannot have this value.
            StorageError: when it cannot be written; it holds until the program ends.
        """
        assert self.save_setting is not None
        changed = self.settings.replaced(key, value)
        try:
            self.settings = self.save_setting(key, value)
        except BaseException:
            self.settings = changed
            raise
