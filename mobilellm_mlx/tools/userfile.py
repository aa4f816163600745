"""A user's own file of tools. Nothing of it ever runs in this process."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.bounds import bounded
from mobilellm_mlx.tools.running import clean_text
from mobilellm_mlx.tools.tool import Example, Live, Tool

IMPORT_S = 10.0
"""How long a file may take to be imported."""
LIVE_S = 5.0
"""How long the values that exist now may take to be listed; a turn waits for them."""
MAX_TIMEOUT_S = 600.0
MAX_ANSWER_BYTES = 1_000_000
"""Of what the child may say; one that says more is ended."""
_TICK_S = 0.02
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_START_S = 10.0
"""What a cold machine may take to start Python."""


def load_user_tools(path: Path) -> list[Tool]:
    """The tools that a Python file defines.

    The file is run in a child process, here to list its tools and once for every call. The child
    has the user's environment and rights: a file of tools is a program that its owner chose.

    Args:
        path: of the file.

    Raises:
        ToolError: there is no such file, it cannot be imported, or it defines no tool.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (it follows no links)
    if not path.is_file():
        raise ToolError(
            f"there is no file `{clean_text(str(path))[0]}`", "`--tools` takes a file of Python"
        )
    answer = _ask(path, {"do": "list"}, IMPORT_S + _START_S, threading.Event())
    try:
        return [_tool(path, row) for row in answer["tools"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ToolError(f"`{path.name}` said something that is no list of tools") from None


def _tool(path: Path, row: Mapping[str, Any]) -> Tool:
    """A tool that runs in a child."""
    name = _named(path, str(row["name"]))
    timeout_s = float(row["timeout_s"])
    timeout_s = min(max(timeout_s, 0.1), MAX_TIMEOUT_S) if timeout_s == timeout_s else 0.1

    def run(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
        request = {"do": "call", "name": name, "arguments": dict(arguments)}
        return str(_ask(path, request, timeout_s + 1, cancel).get("text", ""))

    live: dict[str, Live] = {each: partial(_values, path, name, each) for each in row["live"]}
    return Tool(
        name=name,
        description=clean_text(str(row["description"]), 1_000)[0],
        parameters=bounded(_described(path, name, row["parameters"])),
        run=run,
        reads_only=row["reads_only"] is True,
        answers=row["answers"] is True,
        source=f"file:{path}",
        live=live,
        spoken=frozenset(row["spoken"]),
        examples=tuple(Example(str(said), dict(arguments)) for said, arguments in row["examples"]),
        keywords=tuple(row["keywords"]),
        timeout_s=timeout_s,
        missing=clean_text(str(row["missing"]), 500)[0],
    )


def _named(path: Path, name: str) -> str:
    """A name that models, rules and lists can hold."""
    if not _NAME.fullmatch(name) or name == "none":  # what a model says that wants no tool
        raise ToolError(
            f"`{path.name}` has a tool that is called `{clean_text(name, 80)[0]}`",
            "use lower-case letters, digits and _, a letter first; `none` stands for no tool",
        )
    return name


def _described(path: Path, name: str, parameters: Any) -> dict[str, Any]:
    """A schema of arguments, if it is one: those made by ``@tool`` always are."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(parameters)
        is_object = parameters.get("type", "object") == "object"
    except (SchemaError, AttributeError, RecursionError):
        is_object = False
    if not is_object:
        raise ToolError(f"the parameters of `{name}` in `{path.name}` are no schema of an object")
    return dict(parameters)


def _values(path: Path, name: str, argument: str) -> Sequence[str]:
    request = {"do": "live", "name": name, "argument": argument}
    values = _ask(path, request, LIVE_S, threading.Event()).get("values", [])
    return [str(value) for value in values]


# ---------------------------------------------------------------- the child


def _ask(
    path: Path, request: dict[str, Any], timeout_s: float, cancel: threading.Event
) -> dict[str, Any]:
    """One request to a child of its own, which is dead when this returns.

    Args:
        path: of the user's file.
        request: see ``worker``.
        timeout_s: starting and importing included.
        cancel: ends it early.

    Raises:
        ToolError: what the child says went wrong, or what became of it.
    """
    # -P: modules that happen to lie where we were started must not be taken for Python's.
    argv = [sys.executable, "-P", "-m", "mobilellm_mlx.tools.worker"]
    line = json.dumps({"path": str(path), "import_s": IMPORT_S} | request).encode() + b"\n"
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"Python cannot be started for `{path.name}`: {error.strerror}") from None
    assert child.stdin is not None and child.stdout is not None
    try:
        with suppress(OSError):
            child.stdin.write(line)
            child.stdin.flush()
        said = _read_line(child.stdout.fileno(), timeout_s, cancel, path)
        if said is None:
            raise ToolError(_end(child, path))
    finally:
        _end_group(child)
    return _checked(said, path)


def _read_line(pipe: int, timeout_s: float, cancel: threading.Event, path: Path) -> bytes | None:
    """What the child says up to the end of a line; None when it ends before that."""
    until = time.monotonic() + timeout_s
    held = bytearray()
    with selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        while not held.endswith(b"\n"):
            if cancel.is_set():
                raise ToolError(f"`{path.name}` was stopped")
            if time.monotonic() > until:
                raise ToolError(f"`{path.name}` gave nothing within {timeout_s:g} s")
            if not waiting.select(_TICK_S):
                continue
            piece = os.read(pipe, 65_536)
            if not piece:
                return None
            held += piece
            if len(held) > MAX_ANSWER_BYTES:
                raise ToolError(f"`{path.name}` said more than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(held)


def _end(child: subprocess.Popen[bytes], path: Path) -> str:
    """What became of a child that gave no answer."""
    try:
        code = child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return f"`{path.name}` closed its pipe without an answer"
    if code < 0:
        return f"`{path.name}` was ended by signal {-code}; it may have taken too much memory"
    return f"`{path.name}` left Python with code {code}, without an answer"


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started, and take note of its end."""
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    child.wait()


def _checked(said: bytes, path: Path) -> dict[str, Any]:
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ToolError(f"`{path.name}` said something that is no answer")
    if "error" in answer:
        hint = answer.get("hint")
        raise ToolError(clean_text(str(answer["error"]), 500)[0], str(hint) if hint else None)
    return answer
