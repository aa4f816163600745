"""A server of tools in the settings: the table ``[mcp.NAME]`` and what may stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.plain import STEERING
from mobilellm_mlx.settings.wording import close, shown

DEFAULT_TIMEOUT_S = 20.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_LONGEST = 4_000
_MOST = 100


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server of the Model Context Protocol is started.

    Attributes:
        name: what it is called here; its tools' names begin with it.
        command: the program: a path, or a name that is looked up as in a shell.
        args: its arguments, one by one; no shell sees them.
        env: variables it is given beside the few that it always gets.
        timeout_s: how long its start, and each call, may take.
        cwd: where it runs; None gives it an empty directory that goes when it ends.
        reads_only: tools, as the server calls them, that are known to change nothing.
    """

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    timeout_s: float = DEFAULT_TIMEOUT_S
    cwd: str | None = None
    reads_only: tuple[str, ...] = ()


def check_name(name: str) -> None:
    """Whether a server can be called that.

    Raises:
        InvalidOption: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidOption(
            f"{shown(name)} cannot be the name of a server",
            "use up to 24 of a-z, 0-9, `_` and `-`, a letter first",
        )


def check_server(key: str, value: Any) -> dict[str, Any]:
    """The table called ``key`` if a server can be started from it.

    Raises:
        InvalidOption: names the first entry that is wrong, and says what was expected.
    """
    if not isinstance(value, dict):
        raise InvalidOption(
            f"`{key}` is {shown(value)}, expected a table", f"write it as `[{key}]`"
        )
    for name, entry in value.items():
        if name not in _ENTRIES:
            near = close(name, _ENTRIES)
            raise InvalidOption(
                f"there is no entry {shown(name)} in `{key}`",
                f"did you mean `{near}`?" if near else f"there are {', '.join(_ENTRIES)}",
            )
        is_right, expected = _ENTRIES[name]
        if not is_right(entry):
            # Keys and tokens stand in these: what is wrong with them is said without showing them.
            said = "no such" if name in ("args", "env") else shown(entry)
            raise InvalidOption(f"`{key}.{name}` is {said}, expected {expected}")
    if "command" not in value:
        raise InvalidOption(
            f"`{key}` says no `command`", 'write the program to start: `command = "uvx"`'
        )
    return value


def server_config(name: str, table: Mapping[str, Any]) -> ServerConfig:
    """A checked table as the program uses it."""
    return ServerConfig(
        name=name,
        command=table["command"],
        args=tuple(table.get("args", ())),
        env=MappingProxyType(dict(table.get("env", {}))),
        timeout_s=float(table.get("timeout_s", DEFAULT_TIMEOUT_S)),
        cwd=table.get("cwd"),
        reads_only=tuple(table.get("reads_only", ())),
    )


# -------------------------------------------------------------------------------- entries


def _is_word(value: Any) -> bool:
    """A text that a program can be handed."""
    return (
        isinstance(value, str)
        and len(value) <= _LONGEST
        and not any("\ud800" <= c <= "\udfff" for c in value)
        and not STEERING.search(value)
    )


def _is_name(value: Any) -> bool:
    return _is_word(value) and bool(value.strip()) and "\n" not in value


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(map(_is_word, value))


def _are_variables(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST
        and all(_VARIABLE.fullmatch(name) for name in value)
        and all(map(_is_word, value.values()))
    )


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0.1 <= value <= 600


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "command": (_is_name, "the name or the path of a program"),
    "args": (_are_words, 'a list of texts such as `["-m", "server"]`'),
    "env": (_are_variables, 'texts by name such as `{KEY = "value"}`'),
    "timeout_s": (_is_duration, "between 0.1 and 600"),
    "cwd": (_is_name, "the path of a directory"),
    "reads_only": (_are_words, "a list of the server's tools that change nothing"),
}
