"""One server: started when it is needed, asked for its tools, and called.

Everything here runs on the event loop of ``Servers``. The session of the SDK must be left by the
task that entered it, so each life of a server is one task, and calls come from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError

from mobilellm_mlx import __version__
from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import ServerConfig
from mobilellm_mlx.tools.mcp.process import TICK_S, Child, Guard
from mobilellm_mlx.tools.mcp.results import text_of
from mobilellm_mlx.tools.mcp.schemas import Unusable, clean_schema
from mobilellm_mlx.tools.mcp.transport import Transport
from mobilellm_mlx.tools.mcp.wording import one_line, sentence

MAX_TOOLS = 128
MAX_PAGES = 20
MAX_DESCRIPTION = 300
LAST_WORDS_S = 1.0
_NAME = re.compile(r"[\w./:-]{1,128}", re.ASCII)
_EMPTY: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as a server lists it, cleaned.

    Attributes:
        name: what the server calls it.
        missing: why it cannot be used; empty when it can.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    missing: str = ""

    @property
    def seal(self) -> str:
        """Another one when anything was changed that people or models are told."""
        return json.dumps([self.name, self.description, self.parameters, self.missing])


@dataclass(frozen=True, slots=True)
class _Life:
    """A server that runs."""

    child: Child
    transport: Transport
    session: ClientSession


class Connection:
    """A server, whether it runs or not.

    Attributes:
        listed: its tools by the names that it gives them, as of the last time it was asked.
        problem: what is wrong with it, as a sentence; empty when nothing is.
        notes: what was left out of what it listed.
    """

    def __init__(self, config: ServerConfig, guard: Guard):
        self.config = config
        self.listed: dict[str, Listed] = {}
        self.problem = ""
        self.notes: list[str] = []
        self._guard = guard
        self._opening = asyncio.Lock()
        self._leave = asyncio.Event()
        self._life: _Life | None = None
        self._coming: Transport | None = None
        """To a server that is being greeted."""
        self._task: asyncio.Task[None] | None = None
        self._begun: asyncio.Future[ToolError | None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is somebody to talk to."""
        return self._life is not None and not self._life.transport.gone.is_set()

    @property
    def is_changed(self) -> bool:
        """Whether it said that its tools are others now."""
        return self._life is not None and self._life.transport.is_changed

    async def refresh(self) -> None:
        """Start it if it does not run, and know its tools; what goes wrong is its ``problem``."""
        with contextlib.suppress(ToolError):
            await self._ready()

    async def call(self, tool: Listed, arguments: Mapping[str, Any]) -> str:
        """The result of a call as text.

        Args:
            tool: as it was when the person allowed it.
            arguments: checked.

        Raises:
            ToolError: says what went wrong.
        """
        life = await self._ready()
        known = self.listed.get(tool.name)
        if known is None:
            raise ToolError(f"the server `{self.config.name}` has no tool `{tool.name}` any more")
        if known.seal != tool.seal:
            raise ToolError(
                f"the server `{self.config.name}` has changed what it says about `{tool.name}`; "
                "it must be allowed again"
            )
        params = types.CallToolRequestParams(name=tool.name, arguments=dict(arguments))
        request = types.CallToolRequest(params=params)
        # Not `call_tool`: that checks results by the server's own schema, patterns and all.
        asked = life.session.send_request(request, types.CallToolResult)
        return text_of(self.config.name, await self._patiently(life, asked))

    async def close(self) -> None:
        """End the server; a later call starts it again."""
        self._leave.set()
        if self._coming is not None:  # it may never answer its greeting
            self._coming.give_up("is not wanted any more")
        if self._task is not None:
            await asyncio.wait([self._task])

    # ---------------------------------------------------------------------- one life

    async def _ready(self) -> _Life:
        """The running server, its tools known.

        Raises:
            ToolError: it cannot be started, or does not behave as a server.
        """
        async with self._opening:
            if not self._is_coming:
                await self.close()  # nothing of the one before may be left
                self._leave = asyncio.Event()
                self._begun = asyncio.get_running_loop().create_future()
                self._task = asyncio.create_task(self._live(self._begun))
            assert self._begun is not None
            await asyncio.wait([self._begun])  # who stops waiting does not stop the start
            if error := self._begun.result():
                raise error
            if (life := self._life) is None:
                raise self._error("has just ended", None)
            if life.transport.is_changed:
                await self._list(life)
            return life

    @property
    def _is_coming(self) -> bool:
        """Whether it runs, or is about to."""
        if self._task is None or self._begun is None or self._task.done():
            return False
        return not self._begun.done() or self.is_running

    async def _live(self, begun: asyncio.Future[ToolError | None]) -> None:
        """Run the server until it ends or is not wanted any more."""
        child = None
        try:
            child = Child(self.config, self._guard)
            self._coming = transport = Transport(child)
            async with (
                transport.carrying(),
                ClientSession(transport.incoming, transport.outgoing, client_info=_us()) as session,
            ):
                await self._begin(_Life(child, transport, session), begun)
                await self._until_the_end(transport)
                if child.fault and begun.result() is None:
                    self.problem = f"the server `{self.config.name}` {_fate(child)}"
        except ToolError as error:
            self._note(begun, error)
        except Exception as error:  # of the SDK's own tasks: this server's end, nobody else's
            self._note(begun, self._error(f"was lost: {sentence(str(error), 200)}", None))
        finally:
            self._life = self._coming = None
            if child is not None:
                await child.end()

    async def _begin(self, life: _Life, begun: asyncio.Future[ToolError | None]) -> None:
        """Greet the server and ask for its tools. An error must not leave the session's block."""
        try:
            await self._patiently(life, life.session.initialize())
            await self._list(life)
        except ToolError as error:
            self._leave.set()
            self._note(begun, error)
        else:
            self.problem = ""
            self._life, self._coming = life, None
            begun.set_result(None)

    def _note(self, begun: asyncio.Future[ToolError | None], error: ToolError) -> None:
        self.problem = f"{error.message} ({error.hint})" if error.hint else error.message
        if not begun.done():
            begun.set_result(error)

    async def _until_the_end(self, transport: Transport) -> None:
        ends = [asyncio.create_task(event.wait()) for event in (self._leave, transport.gone)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    # ---------------------------------------------------------------------- questions

    async def _patiently(self, life: _Life, answer: Awaitable[_T]) -> _T:
        """Wait for an answer, but not for ever.

        Raises:
            ToolError: there was none, or one that is none.
        """
        late = f"did not answer within {self.config.timeout_s:g} s"
        timer = asyncio.get_running_loop().call_later(
            self.config.timeout_s, life.transport.give_up, late
        )
        try:
            return await answer
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                with anyio.move_on_after(LAST_WORDS_S):
                    await life.transport.gone.wait()
            if life.transport.gone.is_set():
                raise await self._last_words(life) from None
            said = sentence(error.message, 300)
            raise self._error(f"says: {said}", life) from None
        except (ValueError, RuntimeError):  # pydantic's errors are such
            if life.transport.gone.is_set():
                raise await self._last_words(life) from None
            raise self._error("gave an answer that makes no sense", life) from None
        finally:
            timer.cancel()

    async def _last_words(self, life: _Life) -> ToolError:
        """Why a server ended; its exit status comes a moment after the end of its output."""
        with anyio.move_on_after(LAST_WORDS_S):
            while life.child.process.poll() is None:
                await asyncio.sleep(TICK_S)
        return self._error(_fate(life.child), life)

    def _error(self, what: str, life: _Life | None) -> ToolError:
        asked = sorted(life.transport.refused) if life is not None else []
        why = f" (it asked for {', '.join(asked)}, which no server gets here)" if asked else ""
        return ToolError(f"the server `{self.config.name}` {what}{why}")

    async def _list(self, life: _Life) -> None:
        life.transport.is_changed = False
        found = await self._patiently(life, _pages(life.session))
        notes = []
        if len(found) > MAX_TOOLS:
            notes.append(f"has more than {MAX_TOOLS} tools; the first ones count")
        listed: dict[str, Listed] = {}
        for tool in found[:MAX_TOOLS]:
            if not _NAME.fullmatch(tool.name):
                notes.append("has a tool whose name is no word; it is left out")
            elif tool.name not in listed:
                listed[tool.name] = _clean(tool, self.config.name)
        notes += [
            f"has no tool `{one_line(name, 60)}`, which `reads_only` names"
            for name in self.config.reads_only
            if name not in listed
        ]
        self.listed = listed
        self.notes = [f"the server `{self.config.name}` {note}" for note in dict.fromkeys(notes)]


def _fate(child: Child) -> str:
    """How a server ended, for a sentence that begins with its name."""
    if child.fault:
        return f"{child.fault}, and was ended"
    code = child.process.poll()
    status = "" if code is None else f" with status {code}"
    return f"ended{status}" + (f"; its last words: {child.last_words}" if child.last_words else "")


async def _pages(session: ClientSession) -> list[types.Tool]:
    found: list[types.Tool] = []
    cursor = None
    for _ in range(MAX_PAGES):
        params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
        request = types.ListToolsRequest(params=params)
        page = await session.send_request(request, types.ListToolsResult)
        found += page.tools
        cursor = page.next_cursor
        if not cursor or len(found) > MAX_TOOLS:
            break
    return found


def _clean(tool: types.Tool, server: str) -> Listed:
    parameters, missing = _EMPTY, ""
    try:
        parameters = clean_schema(tool.input_schema)
    except Unusable as error:
        missing = f"the server `{server}` describes it in a way that cannot be used: {error}"
    description = one_line(tool.description or "", MAX_DESCRIPTION)
    return Listed(tool.name, description or f"Call {tool.name}.", parameters, missing)


def _us() -> types.Implementation:
    return types.Implementation(name="mobilellm", version=__version__)
