"""All tools of this machine: those that come along, the user's own, and those of servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import MobileLLMError, ToolError
from mobilellm_mlx.tools.tool import Approve, Tool, deny
from mobilellm_mlx.tools.toolbox import Toolbox
from mobilellm_mlx.tools.userfile import load_user_tools

if TYPE_CHECKING:
    from mobilellm_mlx.adapters.record import AdapterInfo
    from mobilellm_mlx.chat.using import Caller, ToolKit
    from mobilellm_mlx.events import ModelLoaded
    from mobilellm_mlx.settings import Settings
    from mobilellm_mlx.tools.mcp import Servers

MAX_HITS = 20
"""Places in earlier chats that a search gives."""


class Workbench:
    """Every source of tools; those of servers may change while it is open.

    Args:
        settings: name the user's own file, the folders that were granted, and the servers.
        files: further files of tools. What is wrong with one of them is an error; what is wrong
            with anything that the settings name is a problem.
        search_chats: lines of chats in which words occur; None searches the history.
        servers: start those of the settings.

    Raises:
        ToolError: a file of ``files`` cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        files: Iterable[str | Path] = (),
        *,
        search_chats: Callable[[str], list[str]] | None = None,
        servers: bool = True,
    ) -> None:
        self._search_chats = search_chats or search_history
        self._problems: list[str] = []
        self._ungranted: list[str] = []
        """What is wrong with the folders that are named now."""
        self._folders = settings.get("tools.folders")
        self._builtin = self._build()
        self._added: list[Tool] = []
        if own := settings.get("tools.file"):
            try:
                self._add(load_user_tools(Path(own).expanduser()))
            except (ToolError, RuntimeError) as error:
                self._problems.append(f"your tools are left out: {error}")
        for file in files:
            tools = load_user_tools(Path(os.path.expanduser(file)))  # noqa: PTH111 (never raises)
            Toolbox([*self._tools, *tools])  # a name that is taken already is the file's mistake
            self._added += tools
        self._servers: Servers | None = None
        if servers and settings.mcp:
            from mobilellm_mlx.tools.mcp import Servers

            self._servers = Servers(settings.mcp.values())
            self._servers.start()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def problems(self) -> list[str]:
        """What could not be used, as sentences."""
        servers = self._servers.problems if self._servers else ()
        return [*self._ungranted, *self._problems, *servers]

    def toolbox(self, *, settings: Settings | None = None, wait_s: float | None = None) -> Toolbox:
        """What there is now; cheap enough to ask before every turn.

        Args:
            settings: as they are now; a folder that they grant or take back counts from here on.
            wait_s: how long to wait for servers that are still starting.
        """
        if settings is not None and settings.get("tools.folders") != self._folders:
            self._folders = settings.get("tools.folders")
            self._builtin = self._build()
        if self._servers is None:
            return Toolbox(self._tools)
        taken = {tool.name for tool in self._tools}
        return Toolbox([*self._tools, *self._servers.tools(wait_s=wait_s, taken=taken)])

    def close(self) -> None:
        """End the servers."""
        if self._servers is not None:
            self._servers.close()

    @property
    def _tools(self) -> list[Tool]:
        """All but those of servers."""
        return [*self._builtin, *self._added]

    def _build(self) -> list[Tool]:
        """The tools that come along, with the folders that are granted now."""
        from mobilellm_mlx.tools.builtin import Surroundings, builtin_tools

        around = Surroundings(folders=self._granted(), search_chats=self._search_chats)
        return builtin_tools(around)

    def _granted(self) -> tuple[Path, ...]:
        """The folders of the settings that are there."""
        folders = []
        self._ungranted = []
        for line in (self._folders or "").splitlines():
            if not line.strip():
                continue
            folder = Path(os.path.expanduser(line.strip()))  # noqa: PTH111 (never raises)
            if folder.is_absolute() and folder.is_dir():
                folders.append(folder)
            else:
                self._ungranted.append(
                    f"`{line.strip()}` of the setting `tools.folders` is not the whole path of a "
                    "folder"
                )
        return tuple(folders)

    def _add(self, tools: Sequence[Tool]) -> None:
        """Add tools whose names are not taken."""
        taken = {tool.name for tool in self._tools}
        for tool in tools:
            if tool.name in taken:
                self._problems.append(
                    f"`{tool.name}` of {tool.source} is left out: another tool has that name"
                )
            else:
                self._added.append(tool)


def search_history(words: str) -> list[str]:
    """Lines of earlier chats in which words occur; none where no chats are kept."""
    from mobilellm_mlx.chat.store import Store, history_path

    path = history_path()
    if not path.is_file():
        return []
    with closing(Store(path)) as store:
        return [
            f"{hit.chat.updated_at.astimezone():%Y-%m-%d} {hit.chat.title}: "
            f"{' '.join(hit.excerpt.split())}"
            for hit in store.search(words, MAX_HITS)
        ]


def make_kit(settings: Settings, toolbox: Toolbox, approve: Approve | None = None) -> ToolKit:
    """What a session needs to use tools.

    Args:
        settings: say how they are used.
        toolbox: the tools.
        approve: asks the person; None: nobody is there to ask.
    """
    from mobilellm_mlx.chat.using import ToolKit
    from mobilellm_mlx.tools.approval import Approvals, approvals_path

    style = settings.get("tools.style")
    return ToolKit(
        toolbox,
        Approvals(approvals_path()),
        approve or deny,
        reads_freely=settings.get("tools.free_reading"),
        style="" if style == "auto" else style,
        is_on=settings.get("tools.use"),
        caller=caller_for(settings),
    )


def caller_for(settings: Settings) -> Callable[[ModelLoaded], Caller | None]:
    """Finds the adapter for calls of a model, as the settings want it.

    Args:
        settings: ``tools.adapter`` is ``auto`` for the newest that fits the model, ``none``, or the
            name of one.
    """
    from mobilellm_mlx.adapters.registry import Registry

    found: dict[tuple[str, str, float], Caller | None] = {}

    def find(model: ModelLoaded) -> Caller | None:
        wanted = settings.get("tools.adapter")
        try:  # adapters come and go while a chat is open
            changed = Registry().root.stat().st_mtime
        except OSError:
            changed = 0.0
        key = model.path, wanted, changed
        if key not in found:
            found[key] = _find_caller(Path(model.path), wanted)
        return found[key]

    return find


def _find_caller(model: Path, wanted: str) -> Caller | None:
    """The adapter of a name, or the newest, that is for calls alone and for this model."""
    from mobilellm_mlx.adapters.identity import fits
    from mobilellm_mlx.adapters.registry import Registry
    from mobilellm_mlx.chat.using import Caller
    from mobilellm_mlx.tools.formats import find_format
    from mobilellm_mlx.tools.styles.calls_only import CallsOnly

    if wanted == "none":
        return None
    known: list[AdapterInfo] = []
    with suppress(MobileLLMError, OSError):  # tools work without it too
        known = sorted(Registry().list(), key=lambda one: one.created, reverse=True)
    for info in known:
        if not info.tools or not info.tools.get("only_calls"):
            continue
        # An adapter may come from anywhere, and name a format that cannot say no.
        with suppress(MobileLLMError, OSError, ValueError):
            if wanted in ("auto", info.name) and fits(info, model):
                return Caller(info.path, CallsOnly(find_format(str(info.tools.get("style")))))
    return None
