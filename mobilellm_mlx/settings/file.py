"""The file of the settings: read without ever failing, changed one value at a time.

Comments and order are the person's and survive every change. Another running program may have
written since we read: every change begins by reading again, under a lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from types import MappingProxyType
from typing import Any

from mobilellm_mlx import paths
from mobilellm_mlx.errors import InvalidOption, MobileLLMError, StorageError, format_bytes
from mobilellm_mlx.settings.schema import GROUPS, find
from mobilellm_mlx.settings.values import Settings

MAX_BYTES = 256_000
MAX_PROBLEMS = 20
"""Nobody reads more."""

# Python's reader needs time that grows with the square of a dotted key: half an hour for 256 kB.
_LONG_KEY = re.compile(r"""(?:(?<![\w-])(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}""")


def settings_path() -> Path:
    """Where the settings are kept."""
    return paths.config_dir() / "settings.toml"


def load_settings(path: Path | None = None) -> tuple[Settings, list[str]]:
    """The settings, and what is wrong with the file as sentences.

    Never fails: a file that cannot be read counts as empty, a value that cannot be used as not set.
    """
    path = path or settings_path()
    try:
        data = _read(path)
    except MobileLLMError as error:
        return Settings(), [f"{error.message}; it is ignored"]
    return _interpret(data)


def save_setting(key: str, value: Any, path: Path | None = None) -> Settings:
    """Write one value; None takes it out. Gives the settings as they are in the file now.

    A file that cannot be parsed is moved aside first.

    Raises:
        InvalidOption: no such setting, or it cannot have this value.
        StorageError: the file could not be written.
    """
    setting = find(key)
    if value is not None:
        setting.check(value)
    path = (path or settings_path()).resolve()  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            try:
                data = _read(path)
            except InvalidOption:
                _set_aside(path)
                data = {}
            text = _changed(path, data, setting.group, setting.name, value)
            if len(text.encode()) > MAX_BYTES:
                raise StorageError(
                    f"the settings would be larger than {format_bytes(MAX_BYTES)}",
                    "shorten or delete some presets",
                )
            _write(path, text)
            return _interpret(tomllib.loads(text))[0]
    except OSError as error:
        raise StorageError(
            f"cannot write the settings to {path}: {error.strerror or error}",
            "free space on the disk or allow this directory to be written",
        ) from error


# -------------------------------------------------------------------------------- reading


def _read(path: Path) -> dict[str, Any]:
    """The file as plain data; empty when there is none.

    Raises:
        StorageError: there is something, but it cannot be read.
        InvalidOption: it was read, and is not what it should be.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if not S_ISREG(status.st_mode):  # a pipe would be waited for
        raise StorageError(f"{path} is not a file")
    if status.st_size > MAX_BYTES:
        size, most = format_bytes(status.st_size), format_bytes(MAX_BYTES)
        raise InvalidOption(f"{path} has {size}, expected at most {most}")
    try:
        text = path.read_bytes()[: MAX_BYTES + 1].decode("utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path} is not UTF-8: byte {error.start}") from error
    if _LONG_KEY.search(text):
        raise InvalidOption(f"{path} has a name of more than 32 parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InvalidOption(f"{path} is not TOML: {reason[:200]}") from error


def _flatten(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values; ``keys.chat.new`` may be written as tables in tables."""
    for group, table in data.items():
        if group not in GROUPS or not isinstance(table, dict):
            yield group, table
            continue
        todo = [(group, table)]
        while todo:
            start, inner = todo.pop()
            for name, value in inner.items():
                key = f"{start}.{name}"
                if group == "keys" and isinstance(value, dict):
                    todo.append((key, value))
                else:
                    yield key, value


def _interpret(data: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in _flatten(data):
        try:
            if key in GROUPS:
                raise InvalidOption(f"`{key}` is not a table", f"write it as `[{key}]`")
            values[key] = find(key).check(value)
        except InvalidOption as error:
            hint = f" ({error.hint})" if error.hint else ""
            problems.append(f"{error.message}{hint}; it is ignored")
    settings = Settings(MappingProxyType(values))
    preset = settings.get("chat.preset")
    if preset and preset not in settings.presets:
        # Kept: the preset may come back, and until then there is a text to fall back to.
        problems.append(f"there is no preset called `{preset}`; new chats begin without it")
    if len(problems) > MAX_PROBLEMS:
        rest = len(problems) - MAX_PROBLEMS
        problems = [*problems[:MAX_PROBLEMS], f"and {rest:,} more problems in the settings"]
    return settings, problems


# -------------------------------------------------------------------------------- writing


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process that holds it."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _set_aside(path: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    kept = path.with_name(f"{path.stem}-damaged-{stamp}{path.suffix}")
    path.rename(kept)
    return kept


def _changed(path: Path, data: dict[str, Any], group: str, name: str, value: Any) -> str:
    """The text of the file with one value changed and everything else as it was."""
    import tomlkit  # slow to import, and only needed here
    from tomlkit.exceptions import TOMLKitError

    source = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
    wanted = _edit(data, group, name, value)
    try:
        text = tomlkit.dumps(_edit(tomlkit.parse(source), group, name, value))
        if tomllib.loads(text) == wanted:
            return text
    except (TOMLKitError, ValueError, TypeError, KeyError, RecursionError):
        pass
    # TOML in a form that cannot be edited in place: what is valid stays, all of it lies beside.
    shutil.copy2(path, path.with_name(f"{path.name}.backup"))
    plain: dict[str, Any] = {}
    for key, kept in _interpret(wanted)[0].values.items():
        table, _, rest = key.partition(".")
        _edit(plain, table, rest, kept)
    return tomlkit.dumps(plain)


def _edit(data: Any, group: str, name: str, value: Any) -> Any:
    """Change one value of ``data``, which is a dict or behaves like one."""
    if not isinstance(data.get(group), dict):
        if value is None:
            return data
        data[group] = {}
    table = data[group]
    if group == "keys":
        _remove_nested(table, name)
    if value is not None:
        table[name] = value
    elif name in table:
        del table[name]
    return data


def _remove_nested(table: Any, name: str) -> None:
    """Take out ``chat.new`` where it was written as a table ``chat``."""
    first, _, rest = name.partition(".")
    if rest and isinstance(inner := table.get(first), dict):
        _remove_nested(inner, rest)
        if rest in inner:
            del inner[rest]
        if not inner:
            del table[first]


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole; a crash leaves the old one or the new one."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(mode)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
