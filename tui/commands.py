"""Slash commands: which there are, and how a line that begins with a slash is read.

They are data. The screen runs them by name, and hands in what their arguments can be completed to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from mobilellm_mlx.errors import InvalidInput

Argument = Literal[
    "name",
    "text",
    "key value",
    "path",
    "title",
    "policy",
    "sum",
    "place",
    "name arguments",
    "on|off|list|rules",
    "name|none",
]
Choices = Callable[[], Sequence[str]]

# A path, a date or a comment in code begins with a slash, too, and is none of these.
_COMMAND = re.compile(r"/([A-Za-z][A-Za-z-]*)(?:\s+(.*))?\s*", re.DOTALL)
_ESCAPED = re.compile(r"//[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Command:
    """What can be typed behind a slash.

    Attributes:
        name: without the slash; also what the screen is asked to run.
        summary: what it does, in a few words.
        argument: what may follow the name; None: nothing may.
        choices: gives what the argument can be completed to. It is asked at every key, so it
            answers from memory.
    """

    name: str
    summary: str
    argument: Argument | None = None
    choices: Choices | None = None

    @property
    def usage(self) -> str:
        """How it is typed: ``/model [name]``."""
        return f"/{self.name} [{self.argument}]" if self.argument else f"/{self.name}"


COMMANDS = (
    Command("new", "Start a new chat"),
    Command("resume", "Go on with an earlier chat"),
    Command("search", "Search all chats", "text"),
    Command("find", "Find in this chat", "text"),
    Command("model", "Choose the model that answers", "name"),
    Command("adapter", "Choose the adapter on top of the model", "name|none"),
    Command("train", "Train a model on your own examples"),
    Command("system", "Show or change the system prompt", "text"),
    Command("preset", "Take a system prompt that has a name", "name"),
    Command("set", "Change a setting", "key value"),
    Command("theme", "Change the colours", "name"),
    Command("export", "Write this chat to a file", "path"),
    Command("import", "Bring in a chat from a file", "path"),
    Command("rename", "Give this chat a title", "title"),
    Command("pin", "Keep this chat at the top"),
    Command("delete", "Delete this chat"),
    Command("undo", "Bring back what was deleted last"),
    Command("calc", "Work out a sum", "sum"),
    Command("time", "What time it is, here or elsewhere", "place"),
    Command("note", "Take a note", "text"),
    Command("tool", "Call a tool by its name", "name arguments"),
    Command("tools", "The tools that the model may use", "on|off|list|rules"),
    Command("demo", "See what tools can do"),
    Command("retry", "Ask the last question again"),
    Command("edit", "Change the last question"),
    Command("continue", "Go on with a stopped answer"),
    Command("branch", "Show another version of the last turn"),
    Command("copy", "Copy the last answer"),
    Command("code", "Copy a code block of the last answer"),
    Command("settings", "Open the settings"),
    Command("keys", "See and change the keys"),
    Command("context", "What the model sees, and how full it is", "policy"),
    Command("clear", "Empty the screen and start over"),
    Command("help", "Show what can be typed and pressed"),
    Command("quit", "Leave"),
)
"""What the chat can be told to do, in the order in which it is listed."""


def with_choices(
    commands: Sequence[Command], choices: Mapping[str, Choices]
) -> tuple[Command, ...]:
    """``commands``, of which those named in ``choices`` can complete their argument."""
    if unknown := choices.keys() - {command.name for command in commands}:
        raise ValueError(f"choices for no command: {', '.join(sorted(unknown))}")
    return tuple(
        replace(command, choices=choices.get(command.name, command.choices)) for command in commands
    )


def find_command(name: str, commands: Sequence[Command]) -> Command | None:
    """The command with that name, in letters of any case."""
    wanted = name.lower()
    return next((command for command in commands if command.name == wanted), None)


def read_command(text: str, commands: Sequence[Command]) -> tuple[Command, str] | None:
    """The command that ``text`` is, with its argument; None when it is something to say.

    Raises:
        InvalidInput: it looks like a command and is none, or has an argument it does not take.
    """
    if not commands or (match := _COMMAND.fullmatch(text)) is None:
        return None
    name, argument = match[1], (match[2] or "").strip()
    command = find_command(name, commands)
    if command is None:
        near = get_close_matches(name.lower(), [c.name for c in commands], n=1)
        meant = f" Did you mean /{near[0]}?" if near else ""
        raise InvalidInput(
            f"There is no command /{name}.{meant}", "A space in front sends the line as it is."
        )
    if argument and command.argument is None:
        raise InvalidInput(
            f"/{command.name} takes nothing behind it.",
            "A space in front sends the line as it is.",
        )
    return command, argument


def unescaped(text: str) -> str:
    """What ``text`` says: ``//help`` is the words ``/help`` and no command."""
    return text[1:] if _ESCAPED.match(text) else text
