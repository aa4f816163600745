"""The process in which a user's own tools run: one request as a line, one answer as a line.

It is started by ``userfile`` for every listing and every call. What the user's code prints goes
nowhere; the pipes to the parent are moved out of its way first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from mobilellm_mlx.errors import MobileLLMError, ToolError
from mobilellm_mlx.tools.running import describe_error
from mobilellm_mlx.tools.tool import MAX_RESULT, Tool

MAX_MEMORY_BYTES = 4_000_000_000
"""Address space of this process, where the system has such a limit (macOS does not)."""
MAX_VALUES = 500
_MODULE = "user_tools"


def main() -> None:
    """Read a request, do it, answer, and leave."""
    requests, answers = _own_pipes()
    _limit_memory()
    request = json.loads(_line(requests))
    threading.Thread(target=_die_with_parent, args=(requests,), daemon=True).start()
    _send(answers, _answer(request, answers))
    os._exit(0)  # nothing of the user's may hold it up


def _own_pipes() -> tuple[int, int]:
    """The pipes to the parent, under other numbers; the usual ones lead nowhere afterwards."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return requests, answers


def _limit_memory() -> None:
    import resource

    for kind, limit in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):
            hard = resource.getrlimit(kind)[1]
            soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (soft, hard))


def _line(pipe: int) -> bytes:
    held = b""
    while not held.endswith(b"\n"):
        piece = os.read(pipe, 65_536)
        if not piece:
            os._exit(1)  # the parent has gone
        held += piece
    return held


def _die_with_parent(requests: int) -> None:
    """The parent holds its end open for as long as it waits."""
    with suppress(OSError):
        while os.read(requests, 1):
            pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever the user's code has started
    os._exit(1)


def _send(pipe: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    with suppress(OSError):
        while data:
            data = data[os.write(pipe, data) :]


def _answer(request: dict[str, Any], answers: int) -> dict[str, Any]:
    path = Path(request["path"])
    try:
        found = _tools(path, request["import_s"], answers)
        if request["do"] == "list":
            return {"tools": [_described(tool) for tool in found.values()]}
        tool = found.get(request["name"])
        if tool is None:
            raise ToolError(f"`{path.name}` no longer defines `{request['name']}`")
        if request["do"] == "live":
            return {"values": [str(v) for v in tool.live[request["argument"]]()][:MAX_VALUES]}
        arguments = request["arguments"]
        checked = tool.check(arguments) if tool.check else arguments
        # Cut here already, well behind what will be shown of it: nobody reads the rest.
        return {"text": tool.run(checked, threading.Event())[: 2 * MAX_RESULT]}
    except MobileLLMError as error:
        return {"error": error.message, "hint": error.hint}
    except BaseException as error:  # whatever the user's code does, sys.exit included
        return {"error": f"`{request.get('name', path.name)}` failed: {_located(error, path)}"}


def _tools(path: Path, import_s: float, answers: int) -> dict[str, Tool]:
    """The tools that a file defines, by name.

    Raises:
        ToolError: the file cannot be imported, or defines none.
    """
    patience = threading.Timer(import_s, _give_up, (path, import_s, answers))
    patience.daemon = True
    patience.start()
    try:
        module = _imported(path)
    except BaseException as error:
        reason = error.message if isinstance(error, ToolError) else describe_error(error)
        line = _line_number(error, path)
        raise ToolError(
            f"`{path.name}` cannot be used{f', line {line}' if line else ''}: {reason}",
            error.hint if isinstance(error, ToolError) else None,
        ) from None
    finally:
        patience.cancel()
    found: dict[str, Tool] = {}
    for value in list(vars(module).values()):
        if isinstance(value, Tool) and found.setdefault(value.name, value) is not value:
            raise ToolError(f"`{path.name}` defines two tools called `{value.name}`")
    if not found:
        raise ToolError(
            f"`{path.name}` defines no tool",
            "put `@tool` above a function; `from mobilellm_mlx.tools import tool` brings it in",
        )
    return found


def _imported(path: Path) -> ModuleType:
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    sys.dont_write_bytecode = True
    sys.path.insert(0, str(path.parent))  # its neighbours are its own
    spec = spec_from_file_location(_MODULE, path, loader=SourceFileLoader(_MODULE, str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _give_up(path: Path, import_s: float, answers: int) -> None:
    """Say where the file hangs, and leave."""
    main_thread = threading.main_thread().ident
    frame = sys._current_frames().get(main_thread or 0)
    while frame is not None and frame.f_code.co_filename != str(path):
        frame = frame.f_back
    line = f", line {frame.f_lineno}" if frame is not None else ""
    said = f"`{path.name}` cannot be used{line}: it was still busy after {import_s:g} s"
    hint = "what takes long belongs into the tool, not beside it"
    _send(answers, {"error": said, "hint": hint})
    os._exit(0)


def _located(error: BaseException, path: Path) -> str:
    line = _line_number(error, path)
    where = f" ({path.name}, line {line})" if line else ""
    return f"{describe_error(error)}{where}"


def _line_number(error: BaseException, path: Path) -> int | None:
    """The line of the user's file at which an error came about, the innermost."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return frames[-1].lineno if frames else None


def _described(tool: Tool) -> dict[str, Any]:
    """A tool as plain data; what is left out of it stays in this process."""
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "reads_only": bool(tool.reads_only),
        "answers": bool(tool.answers),
        "live": list(tool.live),
        "spoken": sorted(tool.spoken),
        "keywords": [str(keyword) for keyword in tool.keywords],
        "examples": [[each.said, each.arguments] for each in tool.examples],
        "timeout_s": float(tool.timeout_s),
        "missing": str(tool.missing),
    }


if __name__ == "__main__":
    main()
