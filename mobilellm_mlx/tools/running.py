"""Running a call: never longer than allowed, never more said than a model can read."""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.tool import MAX_RESULT, Outcome, Status, Tool

_TICK_S = 0.02
"""How often the flag of a turn is looked at; nothing tells a thread of two events at once."""
_GRACE_S = 0.5
"""What a tool has to tidy up in once nobody waits any more: end its children, close its files."""
_CUT = "\n[cut here: the result is longer]"
_MAX_ERROR = 300

# Whole sequences that steer a terminal: without their first character they would be rubbish.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z]"
)
_UNSAID = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffd\ud800-\udfff]")
_JOINS = "\u200d"


def run_tool(tool: Tool, arguments: Mapping[str, Any], cancel: threading.Event) -> Outcome:
    """Run a call and wait for its end, its time or its cancelling; never raises.

    The tool runs in a thread of its own. Whoever waits leaves when the time is over or ``cancel``
    is set; the flag that the tool was given is set then, and a tool that does not look at it is
    left behind.

    Args:
        tool: that is called.
        arguments: as ``check_arguments`` gave them.
        cancel: set when the turn is stopped.
    """
    if tool.missing:
        return Outcome("unavailable", clean_text(tool.missing)[0])
    if cancel.is_set():
        return Outcome("cancelled", f"`{tool.name}` was not begun")
    started = time.perf_counter()
    ended, stop = threading.Event(), threading.Event()
    told: list[str | BaseException] = []

    def work() -> None:
        try:
            told.append(tool.run(arguments, stop))
        except BaseException as error:  # a tool may even try to leave Python
            told.append(error)
        ended.set()

    worker = threading.Thread(target=work, name=f"tool-{tool.name}", daemon=True)
    try:
        worker.start()
    except RuntimeError:
        return Outcome("failed", f"`{tool.name}` could not be started: there are too many threads")
    end: Status = "ok"
    while not ended.wait(_TICK_S):
        if cancel.is_set():
            end = "cancelled"
        elif time.perf_counter() - started > tool.timeout_s:
            end = "timeout"
        if end != "ok":
            stop.set()
            ended.wait(_GRACE_S if end == "timeout" else _GRACE_S / 10)
            break
    elapsed_s = time.perf_counter() - started
    if end != "ok":
        late = f"gave nothing within {tool.timeout_s:g} s"
        said = "was stopped" if end == "cancelled" else late
        return Outcome(end, f"`{tool.name}` {said}{_aftermath(tool, told)}", elapsed_s)
    return _outcome(tool, told.pop(), elapsed_s)


def _aftermath(tool: Tool, told: list[str | BaseException]) -> str:
    """What a call that nobody waits for any more may still have done.

    Only one that has ended with an error has surely left off, and not even then what a server does.
    """
    has_left_off = bool(told) and not isinstance(told[0], str)
    if tool.reads_only or (has_left_off and not tool.source.startswith("mcp:")):
        return ""
    return "; what it had begun may be done all the same"


def _outcome(tool: Tool, told: object, elapsed_s: float) -> Outcome:
    """What a tool gave or raised, as plain text."""
    if isinstance(told, MobileLLMError):
        return Outcome("failed", _one_line(told.message), elapsed_s)
    if isinstance(told, BaseException):
        return Outcome("failed", f"`{tool.name}` failed: {describe_error(told)}", elapsed_s)
    if not isinstance(told, str):
        kind = type(told).__name__
        return Outcome("failed", f"`{tool.name}` gave no text but {kind}", elapsed_s)
    if _is_binary(told):
        return Outcome("failed", f"`{tool.name}` gave binary data, not text", elapsed_s)
    text, is_shortened = clean_text(told)
    return Outcome("ok", text or "(nothing)", elapsed_s, is_shortened)


def describe_error(error: BaseException) -> str:
    """An exception in one short line; its own words may be anything."""
    kind = type(error).__name__
    try:
        said = _one_line(str(error)[: 4 * _MAX_ERROR])
    except Exception:  # an exception that cannot even be shown
        said = ""
    return f"{kind}: {said}" if said else kind


def _one_line(text: str) -> str:
    line = " ".join(clean_text(text)[0].split())
    return line if len(line) <= _MAX_ERROR else f"{line[: _MAX_ERROR - 1]}…"


def clean_text(text: str, limit: int = MAX_RESULT) -> tuple[str, bool]:
    """The beginning of a text without what steers a terminal, and whether it was cut.

    Args:
        text: of any origin and length; only its beginning is looked at.
        limit: characters that are kept, with the words that say that it was cut.
    """
    head = text[: 4 * limit]
    head = head.encode("utf-8", "replace").decode("utf-8")  # half of a pair is no character
    plain = printable(_ESCAPES.sub("", head)).strip("\n")
    if len(plain) <= limit and len(head) == len(text):
        return plain, False
    if limit <= len(_CUT):
        return plain[:limit], True
    return _whole_characters(plain, limit - len(_CUT)) + _CUT, True


def _whole_characters(text: str, at: int) -> str:
    """At most ``at`` characters, not ending within one that is written as several."""
    while 0 < at < len(text) and (
        unicodedata.combining(text[at])
        or text[at] in "\ufe0f\u20e3\u200d"
        or text[at - 1] == _JOINS
    ):
        at -= 1
    return text[:at]


def _is_binary(text: str) -> bool:
    """Whether a text is no text: bytes that somebody decoded."""
    head = text[:MAX_RESULT]
    return "\x00" in head or len(_UNSAID.findall(head)) * 10 > len(head)
