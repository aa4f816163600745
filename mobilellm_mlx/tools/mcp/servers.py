"""All servers of the settings, for a program that knows nothing of event loops."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import re
import threading
from collections.abc import Collection, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import ServerConfig
from mobilellm_mlx.tools.mcp.process import Guard
from mobilellm_mlx.tools.tool import Scope, Tool

if TYPE_CHECKING:
    from mobilellm_mlx.tools.mcp.connection import Connection, Listed

MAX_NAME = 64
TICK_S = 0.05
CLOSE_S = 10.0
MISSING = (
    "servers of tools need the package `mcp`, which is not installed (pip install 'mcp>=2.3,<3')"
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server as a list shows it.

    Attributes:
        state: ``running``, ``starting``, ``failed``, or ``ended``: its next call starts it again.
        tools: the names of its tools as they are called here.
        problem: what is wrong, as a sentence.
    """

    name: str
    command: str
    state: str
    tools: tuple[str, ...] = ()
    problem: str = ""


class Servers:
    """Starts servers, lists their tools, and ends them.

    One thread owns them all; everything here may be called from any other. Without servers in the
    settings there is no thread, and the SDK is not loaded.

    Args:
        configs: as the settings have them.
    """

    def __init__(self, configs: Iterable[ServerConfig]):
        self._configs = list(configs)
        self._guard = Guard()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event
        self._thread: threading.Thread | None = None
        self._connections: dict[str, Connection] = {}
        self._started: Future[None] = Future()
        self._is_closed = False
        self._failure = ""

    def __enter__(self) -> Servers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin to start all servers, at the same time, and return at once."""
        with self._lock:
            if self._thread is not None or self._is_closed or not self._configs:
                return
            # A daemon: a program that is to end must not wait for it. See also ``Guard``.
            self._thread = threading.Thread(target=self._serve, name="mcp", daemon=True)
            self._thread.start()
        atexit.register(self.close)

    def tools(self, *, wait_s: float | None = None, taken: Collection[str] = ()) -> list[Tool]:
        """What the servers offer now; ``missing`` says why one of them cannot be used.

        Ask before every turn: a server may change its tools while it runs. A tool of before then
        says so when it is called, and is not run.

        Args:
            wait_s: how long to wait for servers that are about to start; None waits for each as
                long as the settings allow.
            taken: names that other tools have.
        """
        self.start()
        if self._thread is None:
            return []
        with contextlib.suppress(NotYet):
            self._started.result(wait_s)
        changed = [c for c in self._connections.values() if c.is_changed]
        if changed:
            with contextlib.suppress(NotYet, ToolError):
                self._run(_refresh(changed)).result(wait_s)
        names = set(taken)
        found = []
        for connection in list(self._connections.values()):
            for listed in list(connection.listed.values()):
                name = _name(connection.config.name, listed.name, names)
                names.add(name)
                found.append(self._tool(name, connection, listed))
        return found

    @property
    def problems(self) -> list[str]:
        """What is wrong, as sentences."""
        found = [self._failure] if self._failure else []
        for connection in list(self._connections.values()):
            found += [connection.problem] if connection.problem else []
            found += connection.notes
        return found

    def rows(self) -> list[ServerRow]:
        """Every server of the settings, in their order."""
        tools = self.tools(wait_s=0)
        rows = []
        for config in self._configs:
            connection = self._connections.get(config.name)
            if connection is None:
                state = "failed" if self._failure else "starting"
                rows.append(ServerRow(config.name, config.command, state, problem=self._failure))
                continue
            names = tuple(tool.name for tool in tools if tool.source == f"mcp:{config.name}")
            rows.append(
                ServerRow(
                    config.name, config.command, _state(connection), names, connection.problem
                )
            )
        return rows

    def close(self) -> None:
        """End every server with all that it started. Nothing can be called any more."""
        with self._lock:
            thread, loop = self._thread, self._loop
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or thread is None:
            return
        atexit.unregister(self.close)
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(self._leave.set)
        thread.join(CLOSE_S)
        self._guard.close()

    # ------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        try:
            connections = self._connect()
            self._connections = connections
            asyncio.run(self._own(list(connections.values())))
        except ImportError:
            self._failure = MISSING
        finally:
            if not self._started.done():
                self._started.set_result(None)

    def _connect(self) -> dict[str, Connection]:
        from mobilellm_mlx.tools.mcp.connection import Connection

        for name in ("mcp", "client"):  # loggers of the SDK, which repeat what servers say
            logging.getLogger(name).addHandler(logging.NullHandler())
        return {config.name: Connection(config, self._guard) for config in self._configs}

    async def _own(self, connections: list[Connection]) -> None:
        """Live from the first server's start to the last one's end."""
        self._leave = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._is_closed:
            self._leave.set()
        starting = asyncio.create_task(_refresh(connections))
        starting.add_done_callback(lambda _: self._started.set_result(None))
        await self._leave.wait()
        starting.cancel()
        await asyncio.gather(*(connection.close() for connection in connections))

    def _run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        if self._is_closed or self._loop is None:
            work.close()
            raise ToolError("the servers of tools have been ended", "start the program again")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # ------------------------------------------------------------------ tools

    def _tool(self, name: str, connection: Connection, listed: Listed) -> Tool:
        config = connection.config

        def run(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
            return self._wait(self._run(connection.call(listed, arguments)), config.name, cancel)

        return Tool(
            name=name,
            description=listed.description,
            parameters=listed.parameters,
            run=run,
            reads_only=listed.name in config.reads_only,
            source=f"mcp:{config.name}",
            # The one word about it that is the person's own: servers give none for relevance.
            keywords=(_plain(config.name).replace("_", " "),),
            scope=lambda _: Scope("server", config.name),
            # A call may have to start the server, and be late itself before we give it up.
            timeout_s=3 * config.timeout_s + CLOSE_S,
            missing=listed.missing,
        )

    def _wait(self, answer: Future[str], server: str, cancel: threading.Event) -> str:
        while True:
            try:
                return answer.result(TICK_S)
            except NotYet:
                if cancel.is_set():
                    answer.cancel()
                    raise ToolError(f"the call of the server `{server}` was stopped") from None
                if self._is_closed:
                    raise ToolError(f"the server `{server}` was ended during the call") from None


async def _refresh(connections: Iterable[Connection]) -> None:
    await asyncio.gather(*(connection.refresh() for connection in connections))


def _state(connection: Connection) -> str:
    if connection.is_running:
        return "running"
    if connection.listed:
        return "ended"
    return "failed" if connection.problem else "starting"


def _name(server: str, tool: str, taken: Collection[str]) -> str:
    """What a tool is called here: the server's name, then its own, in small letters."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", tool)
    start, own = _plain(server), _plain(words)
    name = own if own.startswith(f"{start}_") else f"{start}_{own}"
    name = name[:MAX_NAME].rstrip("_")
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name[: MAX_NAME - 1 - len(str(number))]}_{number}"
        number += 1
    return unique


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
