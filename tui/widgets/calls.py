"""A call of a tool in words: how far it is, on one line, and all that is known of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from textual.content import Content
from textual.style import Style

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.events import ToolAllowed, ToolCalled, ToolsOffered

from ..messages import ToolEvent
from ..text import Segment, fit, format_seconds, printable
from .said import say_tokens

State = Literal["called", "waiting", "running", "done", "denied", "failed", "cut"]

RESULT_LINES = 12
RESULT_CHARACTERS = 1_200
"""Shown of a long result until somebody wants all of it."""
MOST_ARGUMENTS = 10
LONGEST_ARGUMENT = 300
LONGEST_LINE = 60
"""Characters of arguments or of a result that are worth a place on the line."""

_ALLOWED = {
    "you": "by you",
    "session": "by you, for this session",
    "always": "by a rule of yours",
    "reads only": "not asked: it only reads",
}
_ENDED = {
    "denied": "denied",
    "invalid": "wrong arguments",
    "failed": "failed",
    "timeout": "took too long",
    "cancelled": "stopped",
    "cut": "cut off, not run",
    "repeated": "not run again: it was the same call",
    "unavailable": "not possible here",
    "": "broken off",
}
"""How a call ended that has no result, in words; the empty one was never told how."""
_NEEDS_A_REASON = ("invalid", "failed", "unavailable")


def brief(text: str, most: int = LONGEST_LINE) -> str:
    """The beginning of a text of any length, on one line."""
    line = " ".join(printable(text[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def say_value(value: Any, most: int = LONGEST_LINE) -> str:
    """An argument as a person writes it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return brief(text, most)


def say_arguments(arguments: Mapping[str, Any], most: int = LONGEST_LINE) -> str:
    """What a call is made with, on one line; a name is left out where it helps nobody."""
    if len(arguments) == 1:
        return say_value(next(iter(arguments.values())), most)
    said = ", ".join(f"{brief(name, 24)} {say_value(v)}" for name, v in arguments.items())
    return brief(said, most)


def say_tokens_of(use: ToolUse) -> str:
    """What the grammar saved: ``12 of 16 tokens were forced: 5 forward passes``."""
    if not use.tokens:
        return ""
    passes = f"{use.forward_passes:,} forward pass{'' if use.forward_passes == 1 else 'es'}"
    return f"{use.forced_tokens:,} of {say_tokens(use.tokens)} were forced: {passes}"


def state_of(use: ToolUse, *, is_live: bool, is_waiting: bool = False) -> State:
    """How far a call is."""
    if use.status == "ok":
        return "done"
    if use.status == "denied" or use.status == "cut":
        return "denied" if use.status == "denied" else "cut"
    if use.status or not is_live:
        return "failed"
    if use.allowed:
        return "running"
    return "waiting" if is_waiting else "called"


def _shorter(
    text: str, sizes: Mapping[int, int], *, style: str = "", lead: str = "", rest: str = ""
) -> Segment:
    """A text that gives way in steps.

    Args:
        text: of any length.
        sizes: how long it may be, and what that is worth.
        style: of all of it.
        lead: stands in front.
        rest: stands alone when there is no room for any of it.
    """
    worths: dict[str, int] = {}
    for size, worth in sizes.items():
        worths[brief(text, size)] = worth  # one that is short anyhow is worth its last place
    forms = [(worth, Content.styled(f"{lead}{form}", style)) for form, worth in worths.items()]
    return Segment([*forms, (99, Content.styled(rest, style) if rest else Content(""))])


def head_line(
    use: ToolUse, state: State, is_open: bool, width: int, *, aside: str | None = None
) -> Content:
    """The one line of a card; what matters least gives way in a narrow window.

    Args:
        use: the call.
        state: how far it is.
        is_open: whether more is said below.
        width: of the line.
        aside: what is said instead of the result, which stands elsewhere then, as does what went
            wrong.
    """
    mark = "▾" if is_open else "▸"
    name = _shorter(
        use.tool or "a call", {40: 9, 20: 10, 12: 11}, style="bold", lead=f"{mark} ", rest=mark
    )
    sizes = {LONGEST_LINE: 2, 40: 3, 24: 5, 12: 8}
    made = _shorter(say_arguments(use.arguments), sizes, lead=" " if use.arguments else "")
    spent = use.chosen_s + use.elapsed_s
    time = Content.styled(f"· {format_seconds(spent)}", "dim")
    timed = Segment([(6, time), (0, Content(""))] if spent else [(0, Content(""))])
    if state == "done" and aside is not None:
        said = Content.styled(f"· {aside}", "dim")
        return fit([name, made, timed, Segment([(1, said), (0, Content(""))])], [], width, 1)
    if state == "done":
        sizes = {LONGEST_LINE: 2, 40: 4, 24: 7, 12: 9}
        result = _shorter(use.result.strip() or "nothing to say", sizes, lead="→ ", rest="→")
        return fit([name, made, result, timed], [], width, 1)
    words = {"called": "…", "waiting": "? waiting for you", "running": "running…"}.get(state)
    if words is not None:
        return fit([name, made, Segment([(99, Content.styled(words, "bold"))])], [], width, 1)
    style = "" if state == "denied" else "$text-error"
    end = Segment([(99, Content.styled(f"✗ {_ENDED.get(use.status, 'failed')}", style))])
    why = use.result if use.status in _NEEDS_A_REASON and aside is None else ""
    reason = _shorter(why, {LONGEST_LINE: 1, 40: 2, 24: 4}, style="dim")
    return fit([name, made, end, reason, timed], [], width, 1)


def shown_result(text: str, *, whole: bool) -> tuple[str, int]:
    """What is drawn of a result, and how many lines of it are not."""
    lines = printable(text).strip("\n").split("\n")
    if whole:
        return "\n".join(lines), 0
    kept: list[str] = []
    room = RESULT_CHARACTERS
    for line in lines[:RESULT_LINES]:
        if room <= 0:
            break
        kept.append(line if len(line) <= room else line[: room - 1] + "…")
        room -= len(line)
    return "\n".join(kept), len(lines) - len(kept)


def describe(use: ToolUse, state: State, *, whole: bool = False) -> list[tuple[str, Content]]:
    """Labels and texts of everything worth knowing about a call."""
    facts: list[tuple[str, Content]] = []
    if use.words.strip():
        facts.append(("call", Content(brief(use.words, LONGEST_ARGUMENT))))
    for label, arguments in _arguments(use.arguments):
        facts.append((label, arguments))
    if use.source and use.source != "builtin":
        facts.append(("from", Content(brief(use.source, LONGEST_ARGUMENT))))
    if use.allowed:
        facts.append(("allowed", Content(_ALLOWED.get(use.allowed, brief(use.allowed)))))
    if use.status:
        text, more = shown_result(use.result, whole=whole)
        label = "result" if use.status == "ok" else "why not"
        facts.append((label, Content(text or "nothing to say")))
        if more:
            click = Style.from_meta({"@click": "show_all"})
            facts.append(("", Content(f"… {more:,} more lines").stylize("dim").stylize(click)))
        if use.is_shortened:
            facts.append(("", Content.styled("the tool said more than is kept", "dim")))
    if use.chosen_s or use.elapsed_s:
        spent = [f"{format_seconds(use.chosen_s)} to choose"] * bool(use.chosen_s)
        spent += [f"{format_seconds(use.elapsed_s)} to run"] * (state == "done")
        facts.append(("time", Content(", ".join(spent))))
    if tokens := say_tokens_of(use):
        facts.append(("tokens", Content(tokens)))
    return [(label, text) for label, text in facts if text.plain]


def _arguments(arguments: Mapping[str, Any]) -> list[tuple[str, Content]]:
    """Every argument on a line of its own, as many as anybody reads."""
    if not arguments:
        return []
    lines = [
        Content.assemble((brief(name, 40), "dim"), " = ", say_value(value, LONGEST_ARGUMENT))
        for name, value in list(arguments.items())[:MOST_ARGUMENTS]
    ]
    if (more := len(arguments) - len(lines)) > 0:
        lines.append(Content.styled(f"… {more:,} more", "dim"))
    return [("with", Content("\n").join(lines))]


def advance(uses: list[ToolUse], event: ToolEvent) -> int | None:
    """Write down that a call has come one step further.

    Args:
        uses: the calls so far, changed in place.
        event: says which and how.

    Returns:
        Where the call stands in ``uses``; None when there is none of it.
    """
    if isinstance(event, ToolsOffered):
        return None
    if isinstance(event, ToolCalled):
        uses.append(_made(event))
        return len(uses) - 1
    at = next((n for n, use in enumerate(uses) if use.id == event.id), None)
    if isinstance(event, ToolAllowed):
        if at is not None:
            uses[at] = replace(uses[at], allowed=event.by, arguments=event.arguments)
        return at
    if at is None:  # a call that never was whole
        uses.append(ToolUse(event.id, event.tool))
        at = len(uses) - 1
    uses[at] = replace(
        uses[at],
        status=event.status,
        result=event.text,
        is_shortened=event.is_shortened,
        elapsed_s=event.elapsed_s,
    )
    return at


def _made(event: ToolCalled) -> ToolUse:
    return ToolUse(
        event.id,
        event.tool,
        event.arguments,
        event.words,
        event.source,
        tokens=event.tokens,
        forced_tokens=event.forced_tokens,
        forward_passes=event.forward_passes,
        chosen_s=event.elapsed_s,
    )
