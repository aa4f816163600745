"""Using tools on the way to an answer: choose, ask leave, run, note; within limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx.chat.calling import Calls, call_tools
from mobilellm_mlx.chat.records import ToolUse, make_id
from mobilellm_mlx.engine import ChatEngine, Wearing
from mobilellm_mlx.errors import (
    AdapterError,
    ContextOverflow,
    InsufficientMemory,
    InvalidGrammar,
    MobileLLMError,
    ToolError,
)
from mobilellm_mlx.events import (
    Event,
    ModelLoaded,
    Notice,
    ToolAllowed,
    ToolCalled,
    ToolEnded,
    ToolsOffered,
)
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tools.approval import Approvals, By, make_request
from mobilellm_mlx.tools.asking import Offered, Style
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.running import run_tool
from mobilellm_mlx.tools.tool import Approve, Call, Outcome, Request, Status, deny
from mobilellm_mlx.tools.toolbox import Toolbox

MAX_ROUNDS = 5
"""How often a turn may ask for tools, whatever the model wants."""
MAX_CALLS = 10
"""Calls in one turn; some formats can hold several at once."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An adapter that makes a model better at calls.

    Attributes:
        adapter: its directory.
        style: the manner of asking that it was trained on.
    """

    adapter: Path
    style: Style


@dataclass(slots=True)
class ToolKit:
    """What a session needs to use tools.

    Attributes:
        toolbox: the tools there are.
        approvals: what the person has allowed before.
        approve: asks the person; where nobody can be asked, nothing is allowed.
        reads_freely: whether tools that only read may run without being asked for.
        style: the manner of asking; empty takes what the model was trained on.
        is_on: whether the model is offered tools at all.
        caller: finds the adapter for calls of a model, if there is one.
    """

    toolbox: Toolbox
    approvals: Approvals
    approve: Approve = deny
    reads_freely: bool = False
    style: str = ""
    is_on: bool = True
    caller: Callable[[ModelLoaded], Caller | None] | None = None

    def style_for(self, engine: ChatEngine) -> Style:
        """The manner of asking that suits a model without an adapter for calls."""
        from mobilellm_mlx.tools.styles import find_style, style_for

        return find_style(self.style) if self.style else style_for(engine.template)

    def caller_for(self, engine: ChatEngine) -> Caller | None:
        """The adapter for calls of the model in memory, unless another manner is wanted."""
        if self.style or self.caller is None or engine.info is None:
            return None
        return self.caller(engine.info)


Prompt = Callable[[Sequence[ToolUse], str], Sequence[Message]]
"""The conversation with the tools used so far, and more instructions, as a model is asked it."""
Note = Callable[[Sequence[ToolUse]], None]
"""Writes down which tools were used."""


@dataclass(slots=True)
class Work:
    """What using tools for one answer has come to.

    Attributes:
        done: keys of calls that were made for the same question before.
        uses: the tools used, in order.
        instructions: what the system prompt gained.
        calls: what came of asking for the last time; None when the model was not asked.
        opening: what a call begins with, where a model may speak instead; empty elsewhere.
        answer: what to say without asking the model again.
    """

    done: frozenset[str] = frozenset()
    uses: list[ToolUse] = field(default_factory=list)
    instructions: str = ""
    calls: Calls | None = None
    opening: str = ""
    answer: str | None = None


def use_tools(
    kit: ToolKit,
    engine: ChatEngine,
    said: str,
    prompt: Prompt,
    note: Note,
    options: GenerationOptions,
    cancel: threading.Event,
    done: frozenset[str] = frozenset(),
) -> Generator[Event, None, Work]:
    """Let a model use tools, until it wants none or may not go on.

    A call is noted before it is run, and again with what came of it.

    Args:
        kit: tools, and who is asked.
        engine: with its model in memory.
        said: the question.
        prompt: makes the prompt.
        note: writes the uses down.
        options: for what the model says by the way.
        cancel: stops it.
        done: keys of calls that were made for this question before; see ``Way``.
    """
    work = Work(done)
    caller = kit.caller_for(engine)
    style = caller.style if caller else kit.style_for(engine)
    adapter: Wearing = caller.adapter if caller else "same"
    seen: set[str] = set()
    for _ in range(min(style.rounds, MAX_ROUNDS)):
        offered = kit.toolbox.offer(said)
        if not offered or cancel.is_set():
            break
        yield ToolsOffered([one.tool.name for one in offered])
        work.instructions = style.instructions(offered)
        try:
            conversation = prompt(work.uses, work.instructions)
            calls = yield from call_tools(
                engine, style, conversation, offered, options, cancel, adapter
            )
        except (
            AdapterError, ContextOverflow, InsufficientMemory, InvalidGrammar, ToolError
        ) as error:  # fmt: skip
            yield Notice(f"no tool was used: {error.message}")
            work.calls, work.instructions = None, ""  # they may be what there was no room for
            break
        work.calls, work.opening = calls, calls.opening
        if calls.is_cut and calls.speech is None and not cancel.is_set():
            work.uses.append(_cut(style, calls))
            note(work.uses)
            yield _ended(work.uses[-1])
        if not calls.calls:
            break
        ended = yield from _use_all(kit, style, calls, offered, seen, work, note, cancel)
        # Who said no to one call is not asked for the next, and who repeats itself is done.
        if cancel.is_set() or not ended or ended[-1] in ("denied", "cancelled", "repeated"):
            break
    work.answer = plain_answer(kit, style, work.uses)
    return work


def _use_all(
    kit: ToolKit,
    style: Style,
    calls: Calls,
    offered: Sequence[Offered],
    seen: set[str],
    work: Work,
    note: Note,
    cancel: threading.Event,
) -> Generator[Event, None, list[Status]]:
    """Run what a model has called for at once; gives how each call ended."""
    ended: list[Status] = []

    def keep(use: ToolUse) -> None:
        """Note a use, in its place when it is known already."""
        if work.uses and work.uses[-1].id == use.id:
            work.uses[-1] = use
        else:
            work.uses.append(use)
        note(work.uses)

    cost = calls  # of all calls together; it stands beside the first
    for call in calls.calls[: MAX_CALLS - len(work.uses)]:
        use = _begin(kit, style, call, cost)
        cost = Calls()
        status = yield from _use(kit, use, offered, seen, keep, cancel, work.done)
        ended.append(status)
        if status in ("denied", "cancelled"):
            break
    return ended


def plain_answer(kit: ToolKit, style: Style, uses: Sequence[ToolUse]) -> str | None:
    """What to say without asking the model, because it would only spoil it; None: ask it."""
    if not style.plain_answers or not uses:
        return None
    said = []
    for use in uses:
        if use.status == "ok":
            if not kit.toolbox.find(use.tool).answers:
                return None
            said.append(use.result)
        elif use.status != "repeated":
            what = "Nothing was done" if use.status in ("denied", "cut") else "That did not work"
            said.append(f"{what}: {use.result.rstrip('.')}.")
    return "\n".join(said)


def joined(instructions: str | None, more: str) -> str | None:
    """A system prompt and what tools add to it."""
    return "\n\n".join(part for part in (instructions, more) if part) or None


def _begin(kit: ToolKit, style: Style, call: Call, cost: Calls) -> ToolUse:
    try:
        tool = kit.toolbox.find(call.name)
        words, source = tool.words(call.arguments), tool.source
    except ToolError:
        words, source = "", ""
    return ToolUse(
        make_id(),
        call.name,
        call.arguments,
        words,
        source,
        tokens=cost.tokens,
        forced_tokens=cost.forced_tokens,
        forward_passes=cost.forward_passes,
        chosen_s=cost.elapsed_s,
        format=style.name,
    )


def _cut(style: Style, calls: Calls) -> ToolUse:
    """A call that never became one."""
    return ToolUse(
        make_id(),
        "",
        status="cut",
        result="the call was longer than it may be, so it was not run",
        tokens=calls.tokens,
        forced_tokens=calls.forced_tokens,
        forward_passes=calls.forward_passes,
        chosen_s=calls.elapsed_s,
        format=style.name,
    )


def _called(use: ToolUse, request: Request | None) -> ToolCalled:
    return ToolCalled(
        use.id,
        use.tool,
        use.arguments,
        use.words,
        use.source,
        request is not None and request.tool.reads_only,
        request.scope.value if request else "",
        use.tokens,
        use.forced_tokens,
        use.forward_passes,
        use.chosen_s,
    )


def _ended(use: ToolUse) -> ToolEnded:
    status: Any = use.status
    return ToolEnded(use.id, use.tool, status, use.result, use.elapsed_s, use.is_shortened)


def _use(
    kit: ToolKit,
    use: ToolUse,
    offered: Sequence[Offered],
    seen: set[str],
    keep: Callable[[ToolUse], None],
    cancel: threading.Event,
    done: frozenset[str],
) -> Generator[Event, None, Status]:
    """One call, from the model's wish to its outcome; gives how it ended."""
    request, outcome = _look_at(kit, use, offered, seen)
    if request is not None:
        use = replace(use, arguments=request.call.arguments, words=request.words)
    yield _called(use, request)
    if request is not None and outcome is None:
        leave = _ask_leave(kit, request, cancel, done)
        for problem in kit.approvals.take_problems():
            yield Notice(problem)
        request, outcome = leave.request, leave.refusal
        use = replace(
            use, arguments=request.call.arguments, words=request.words, allowed=leave.by or ""
        )
        if leave.note:
            yield Notice(leave.note)
        if leave.by is not None:
            keep(use)  # before anything happens, so that it is known what was begun
            yield ToolAllowed(use.id, leave.by, request.call.arguments)
            outcome = run_tool(request.tool, request.call.arguments, cancel)
    assert outcome is not None
    use = replace(
        use,
        status=outcome.status,
        result=outcome.text,
        is_shortened=outcome.is_shortened,
        elapsed_s=outcome.elapsed_s,
    )
    keep(use)
    yield _ended(use)
    return outcome.status


def _look_at(
    kit: ToolKit, use: ToolUse, offered: Sequence[Offered], seen: set[str]
) -> tuple[Request | None, Outcome | None]:
    """What to ask leave for, or why the call is not even asked for."""
    request, outcome = None, None
    keys = {Call(use.tool, use.arguments).key}  # as the model wrote it, and as it would be run
    try:
        tool = kit.toolbox.find(use.tool)
        schema = next((one.schema for one in offered if one.tool is tool), None)
        arguments = check_arguments(tool, use.arguments, schema)
        request = make_request(use.id, tool, arguments)
        keys.add(request.call.key)
        outcome = Outcome("unavailable", tool.missing) if tool.missing else None
    except MobileLLMError as error:
        outcome = Outcome("invalid", error.message)
    if keys & seen:
        outcome = Outcome("repeated", "the same call was made before in this turn")
    seen |= keys
    return request, outcome


@dataclass(frozen=True, slots=True)
class _Leave:
    """Whether a call may be run.

    Attributes:
        request: as it may be; the person may have changed the arguments.
        by: who allowed it; None: nobody did.
        refusal: what became of it then.
        note: what the person should know.
    """

    request: Request
    by: By | Literal["you"] | None = None
    refusal: Outcome | None = None
    note: str = ""


def _ask_leave(
    kit: ToolKit, request: Request, cancel: threading.Event, done: frozenset[str]
) -> _Leave:
    by = kit.approvals.decide(request, reads_only_free=kit.reads_freely)
    is_again = request.call.key in done and not request.tool.reads_only
    if by is not None and not is_again:
        return _Leave(request, by)
    answer = kit.approve(request, cancel)
    if cancel.is_set():
        return _Leave(request, refusal=Outcome("cancelled", "the answer was stopped"))
    if not answer.allowed:
        why = answer.reason if answer.reason not in ("", "you") else "you did not allow it"
        return _Leave(request, refusal=Outcome("denied", why))
    if answer.arguments is not None and answer.arguments != request.call.arguments:
        try:
            arguments = check_arguments(request.tool, answer.arguments)
            request = make_request(request.id, request.tool, arguments)
        except MobileLLMError as error:
            return _Leave(request, refusal=Outcome("invalid", error.message))
    if answer.duration == "reading":
        kit.reads_freely = True
        return _Leave(request, "you")
    try:
        kit.approvals.remember(request, answer.duration)
    except MobileLLMError as error:  # it is allowed now; it will be asked for again
        return _Leave(request, "you", note=error.message)
    return _Leave(request, "you")
