"""What can be completed in the prompt: the beginning of a command, of its argument, of a file."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from .attachments import Entry, list_folder, locate, mention, unfinished_mention
from .commands import Command, find_command
from .text import printable

MOST_CHOICES = 200
"""More than anybody scrolls through; typing one more letter is faster."""
_WORD = re.compile(r"/([A-Za-z-]*)")
_ARGUMENT = re.compile(r"/([A-Za-z-]+)\s+(.*)")

T = TypeVar("T")


def on_thread(function: Callable[[], T]) -> Future[T]:
    """Run ``function`` on a thread of its own that leaving the program does not wait for."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # whoever stops waiting must not cancel it in mid-work

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mobilellm-files", daemon=True).start()
    return future


# ---------------------------------------------------------------- what is asked for


@dataclass(frozen=True, slots=True)
class Choice:
    """A row of the list.

    Attributes:
        label: what is offered.
        detail: what that is.
        insert: what takes the place of what was typed.
    """

    label: str
    detail: str
    insert: str


@dataclass(frozen=True, slots=True)
class Request:
    """Something that was begun and can be completed.

    Attributes:
        kind: the name of a command, one of its choices, or a file.
        start: the column where it begins; it ends at the cursor.
        typed: what stands there.
        path: of a file: what was typed of its path.
        command: of an argument: whose.
    """

    kind: Literal["command", "argument", "file"]
    start: int
    typed: str
    path: str = ""
    command: Command | None = None

    @property
    def folder(self) -> str:
        """The path up to its last slash, as it was typed."""
        return self.path[: self.path.rfind("/") + 1]

    @property
    def name(self) -> str:
        """What the choices are compared with."""
        return self.path[len(self.folder) :] if self.kind == "file" else self.typed.lstrip("/")

    @property
    def is_eager(self) -> bool:
        """Whether Enter takes the best match without having been pointed at it.

        Not where nothing has been typed yet, nor where a new file may be meant.
        """
        return self.kind == "command" or bool(self.name and not self._is_path_argument)

    @property
    def _is_path_argument(self) -> bool:
        return self.kind == "file" and self.command is not None


def find_request(
    line: str, column: int, is_first: bool, commands: Sequence[Command]
) -> Request | None:
    """What the cursor stands at the end of, if that can be completed.

    Args:
        line: the cursor's.
        column: the cursor's.
        is_first: whether it is the first line; commands begin nowhere else.
        commands: which there are.
    """
    before, after = line[:column], line[column:]
    if after and not after[0].isspace():
        return None
    if is_first and commands:
        if match := _WORD.fullmatch(before):
            return Request("command", 0, before)
        if (match := _ARGUMENT.fullmatch(before)) and (command := find_command(match[1], commands)):
            start, typed = match.start(2), match[2]
            if command.choices is not None:
                return Request("argument", start, typed, command=command)
            if command.argument == "path":
                return Request("file", start, typed, path=typed, command=command)
            if command.argument != "text":
                return None
    if found := unfinished_mention(before):
        start, path = found
        return Request("file", start, before[start:], path=path)
    return None


def rank(typed: str, name: str) -> int | None:
    """How well ``name`` fits what was typed; None: not at all.

    0 is the same, 1 begins with it, 2 contains it, 3 has its first letter and then the others.
    """
    typed, name = typed.casefold(), name.casefold()
    if name.startswith(typed):
        return 0 if typed == name else 1
    if len(typed) > 1 and typed in name:
        return 2
    letters = iter(name)
    if name[:1] == typed[:1] and all(letter in letters for letter in typed):
        return 3
    return None


def _best(typed: str, names: Iterable[tuple[str, T]], loosest: int) -> list[T]:
    """The things whose names fit, the best first, otherwise in their order."""
    found = [
        (fit, thing)
        for name, thing in names
        if (fit := rank(typed, name)) is not None and fit <= loosest
    ]
    return [thing for _, thing in islice(sorted(found, key=lambda pair: pair[0]), MOST_CHOICES)]


def command_choices(request: Request, commands: Sequence[Command]) -> list[Choice]:
    """Commands that fit what was typed."""
    fitting = _best(request.name, ((command.name, command) for command in commands), 3)
    return [
        Choice(c.usage, c.summary, f"/{c.name} " if c.argument else f"/{c.name}") for c in fitting
    ]


def argument_choices(request: Request, names: Sequence[str]) -> list[Choice]:
    """Arguments that fit what was typed."""
    fitting = _best(request.name, ((name, name) for name in names), 3)
    return [Choice(printable(name), "", name) for name in fitting]


def file_choices(request: Request, entries: Sequence[Entry]) -> list[Choice]:
    """Files and folders that fit what was typed; hidden ones only behind a typed dot."""
    hidden = request.name.startswith(".")
    names = ((e.name, e) for e in entries if hidden or not e.name.startswith("."))
    choices = []
    for entry in _best(request.name, names, 2):
        path = f"{request.folder}{entry.name}{'/' if entry.is_folder else ''}"
        if request.command is not None:
            insert = path
        elif entry.is_folder:
            insert = mention(path, finished=False)
        else:
            insert = f"{mention(path)} "
        label = f"{entry.name}/" if entry.is_folder else entry.name
        choices.append(Choice(label, "folder" if entry.is_folder else "", insert))
    return choices


# ---------------------------------------------------------------- the state of completing


class FolderReader:
    """Reads one folder at a time, where a slow disk holds nobody up.

    Args:
        arrived: called on the reading thread when a folder has been read.
    """

    def __init__(self, arrived: Callable[[], object]) -> None:
        self._arrived = arrived
        self._folder: Path | None = None
        self._reading: Future[list[Entry]] | None = None

    def entries(self, folder: Path) -> list[Entry] | None:
        """What is in ``folder``; None while it is being read."""
        if folder != self._folder or self._reading is None:
            self._folder = folder
            self._reading = on_thread(lambda: list_folder(folder))
            self._reading.add_done_callback(lambda _: self._arrived())
        return self._reading.result() if self._reading.done() else None

    def forget(self) -> None:
        """Read anew the next time."""
        self._folder = self._reading = None

    async def wait(self, patience_s: float) -> None:
        """Until the folder has been read, or ``patience_s`` at most."""
        if self._reading is not None and not self._reading.done():
            await asyncio.wait({asyncio.wrap_future(self._reading)}, timeout=patience_s)


class Completer:
    """What is offered at the cursor, and which of it is chosen.

    It follows the text at once and not through messages, because a key means one thing while
    something is offered and another while nothing is.

    Args:
        commands: which there are.
        root: where relative paths begin.
        folders: lists folders.
    """

    def __init__(self, commands: Sequence[Command], root: Path, folders: FolderReader) -> None:
        self.commands = commands
        self.choices: list[Choice] = []
        self.selected: int | None = None
        self.is_waiting = False
        """Whether a folder is still being read."""
        self.request: Request | None = None
        self._root = root
        self._folders = folders
        self._closed_at: tuple[str, int] | None = None
        self._last: object = None

    @property
    def is_open(self) -> bool:
        """Whether anything is offered."""
        return bool(self.choices)

    @property
    def choice(self) -> Choice | None:
        """What Enter takes: nothing where all of it has been typed already."""
        if self.request is None or self.selected is None:
            return None
        choice = self.choices[self.selected]
        return None if choice.insert.rstrip() == self.request.typed.rstrip() else choice

    def follow(self, line: str, column: int, is_first: bool) -> bool:
        """Offer what fits the cursor's line now; whether that is a change."""
        state = (line, column, is_first)
        if state == self._last and not self.is_waiting:
            return False
        self._last = state
        request = find_request(line, column, is_first, self.commands)
        if request is None or (request.kind, request.start) != self._closed_at:
            self._closed_at = None
        if request is None or self._closed_at is not None:
            return self._offer(None, [])
        return self._offer(request, self._find(request))

    def _find(self, request: Request) -> list[Choice]:
        self.is_waiting = False
        if request.kind == "command":
            return command_choices(request, self.commands)
        if request.kind == "argument":
            choices = request.command.choices if request.command else None
            return argument_choices(request, choices() if choices else ())
        entries = self._folders.entries(locate(request.folder, self._root))
        self.is_waiting = entries is None
        return file_choices(request, entries or ())

    def _offer(self, request: Request | None, choices: list[Choice]) -> bool:
        changed = choices != self.choices or request != self.request
        if request is None or request.kind != "file":
            self.is_waiting = False
            self._folders.forget()
        self.request, self.choices = request, choices
        if changed:
            self.selected = 0 if choices and request and request.is_eager else None
        return changed

    def move(self, step: int) -> None:
        """Choose the next row or the one before; from either end to the other."""
        if self.choices:
            at = (-1 if step > 0 else 0) if self.selected is None else self.selected
            self.selected = (at + step) % len(self.choices)

    def close(self) -> bool:
        """Offer nothing until something else is begun; whether anything was offered."""
        was_open = self.is_open
        if self.request is not None:
            self._closed_at = (self.request.kind, self.request.start)
        self._offer(None, [])
        return was_open
