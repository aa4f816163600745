"""The tools that come with the program: useful on a Mac, safe everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mobilellm_mlx import paths
from mobilellm_mlx.tools.command import Runner, SystemRunner
from mobilellm_mlx.tools.tool import Tool


def _now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True)
class Surroundings:
    """What the built-in tools may know and reach; everything is handed in by the door.

    Attributes:
        folders: what the person granted; files outside do not exist for the tools.
        data_dir: where notes and timers are kept.
        search_chats: gives lines from chats in which words occur, best first; None where there are
            no chats.
        runner: starts programs.
        now: the time, with its zone.
        platform: as in ``sys.platform``.
        home: the person's directory, shown as ``~``.
    """

    folders: tuple[Path, ...] = ()
    data_dir: Path = field(default_factory=paths.data_dir)
    search_chats: Callable[[str], list[str]] | None = None
    runner: Runner = field(default_factory=SystemRunner)
    now: Callable[[], datetime] = _now
    platform: str = sys.platform
    home: Path = field(default_factory=Path.home)

    @property
    def is_mac(self) -> bool:
        return self.platform == "darwin"


def builtin_tools(around: Surroundings) -> list[Tool]:
    """All tools of this directory, those that are ``missing`` here included."""
    from . import (
        calculator,
        chats,
        clipboard,
        clock,
        files,
        notes,
        opening,
        shortcuts,
        system,
        timers,
        units,
    )

    modules = (
        *(calculator, clock, units, timers, notes),
        *(chats, files, clipboard, opening, system, shortcuts),
    )
    return [tool for module in modules for tool in module.tools(around)]
