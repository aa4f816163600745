"""Messages to and from a server's process, line by line, with a limit on everything.

The transport of the SDK keeps a line until it ends, however long it gets, and hands on whatever
comes. This one reads no more than an answer can need, and of what a server says unasked only what
matters: requests, which the session refuses, and that its tools are others now.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage

from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.tools.mcp.process import Child
from mobilellm_mlx.tools.mcp.wording import one_line

MAX_LINE = 8_000_000
"""Bytes of one message: a picture fits."""
MAX_BYTES = 16_000_000
MAX_LINES = 10_000
"""What a server may say between two requests of ours, errors included."""
MAX_GARBAGE = 50
"""Lines that are no messages. Some servers greet with a few."""
_CHUNK = 65_536


class Transport:
    """Carries messages between a session and a process.

    Attributes:
        is_changed: whether the server said that its tools are others now.
        refused: what it asked of us last, and was refused.
        gone: set when nothing more can come.
    """

    def __init__(self, child: Child):
        self._child = child
        self._bytes = self._lines = self._garbage = 0
        self._inward, self.incoming = anyio.create_memory_object_stream[SessionMessage | Exception](
            0
        )
        self.outgoing, self._outward = anyio.create_memory_object_stream[SessionMessage](0)
        self.is_changed = False
        self.refused: set[str] = set()
        self.gone = asyncio.Event()

    @asynccontextmanager
    async def carrying(self) -> AsyncIterator[None]:
        """Carry messages for as long as this lasts; ``incoming`` ends when the process does."""
        process = self._child.process
        assert process.stdin and process.stdout and process.stderr
        async with (
            _reading(process.stdout) as said,
            _reading(process.stderr) as errors,
            _writing(process.stdin) as writer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._hear, said)
            tasks.start_soon(self._overhear, errors)
            tasks.start_soon(self._speak, writer)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                for stream in (self._inward, self.incoming, self.outgoing, self._outward):
                    stream.close()

    def give_up(self, fault: str) -> None:
        """Kill the process; whoever waits for an answer learns at once that none will come.

        Args:
            fault: why, as the end of a sentence that begins with the server's name.
        """
        self._child.kill(fault)
        self._inward.close()  # a program that got away may hold the other end of the pipe
        self.gone.set()

    async def _hear(self, said: asyncio.StreamReader) -> None:
        closed = (anyio.BrokenResourceError, anyio.ClosedResourceError)
        try:
            with self._inward, contextlib.suppress(OSError, *closed):
                await self._hear_lines(said)
        finally:
            self.gone.set()

    async def _hear_lines(self, said: asyncio.StreamReader) -> None:
        line = bytearray()
        while chunk := await said.read(_CHUNK):
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                await self._take(bytes(line + piece))
                line.clear()
            line += rest
            if len(line) > MAX_LINE:
                self.give_up(f"sent a message of more than {format_bytes(MAX_LINE)}")
            if not self._is_bearable(len(chunk), len(ended)):
                return

    async def _overhear(self, errors: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while chunk := await errors.read(_CHUNK):
                self._child.remember(chunk)
                if not self._is_bearable(len(chunk), 0):
                    return

    def _is_bearable(self, more_bytes: int, more_lines: int) -> bool:
        self._bytes += more_bytes
        self._lines += more_lines
        if self._garbage > MAX_GARBAGE:
            self.give_up("does not speak the Model Context Protocol")
        if self._bytes > MAX_BYTES or self._lines > MAX_LINES:
            self.give_up("said more than any answer needs")
        return not self._child.fault

    async def _take(self, line: bytes) -> None:
        """Hand on a message that matters."""
        if not line.strip() or self._garbage > MAX_GARBAGE:
            return
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self._garbage += 1
            return
        if isinstance(message, types.JSONRPCNotification):
            self.is_changed |= message.method == "notifications/tools/list_changed"
            return
        if isinstance(message, types.JSONRPCRequest) and message.method != "ping":
            self.refused = {one_line(message.method, 60), *list(self.refused)[:2]}
        await self._inward.send(SessionMessage(message))

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        # A server that closes its input gets no further: what waits for it ends when it is late.
        with contextlib.suppress(OSError, anyio.ClosedResourceError):
            async for sent in self._outward:
                if isinstance(sent.message, types.JSONRPCRequest):
                    self._bytes = self._lines = self._garbage = 0
                text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode("utf-8", "replace") + b"\n")
                await writer.drain()


@asynccontextmanager
async def _reading(pipe: IO[bytes]) -> AsyncIterator[asyncio.StreamReader]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield reader
    finally:
        transport.close()


@asynccontextmanager
async def _writing(pipe: IO[bytes]) -> AsyncIterator[asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield asyncio.StreamWriter(transport, protocol, None, loop)
    finally:
        if not transport.is_closing():
            transport.abort()
