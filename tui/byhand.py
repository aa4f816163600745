"""Making a call that a person typed: no model has a part in it, but the same checks hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mobilellm_mlx.chat.records import make_id
from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.events import ToolAllowed, ToolCalled, ToolEnded
from mobilellm_mlx.tools.approval import Approvals, make_request
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.running import run_tool
from mobilellm_mlx.tools.tool import Approve, Tool

from .messages import ToolEvent


def call_tool(
    tool: Tool,
    arguments: dict[str, Any],
    approvals: Approvals,
    approve: Approve | None,
    cancel: threading.Event,
    *,
    reads_freely: bool = False,
) -> Iterator[ToolEvent]:
    """Check, ask, run; on any thread but the interface's.

    Args:
        tool: that is called.
        arguments: as they were typed.
        approvals: knows what is allowed without asking.
        approve: asks the person; None: what they typed is leave enough.
        cancel: stops it.
        reads_freely: whether tools that only read need no leave.
    """
    call_id = make_id()
    called = ToolCalled(call_id, tool.name, arguments, "", tool.source, tool.reads_only, scope="")
    try:
        arguments = check_arguments(tool, arguments)
        request = make_request(call_id, tool, arguments)
        yield replace(called, arguments=arguments, words=request.words, scope=request.scope.value)
        by: Any = "you"
        if approve is not None:
            by = approvals.decide(request, reads_only_free=reads_freely)
        if by is None and approve is not None:
            answer = approve(request, cancel)
            if not answer.allowed:
                status: Any = "cancelled" if cancel.is_set() else "denied"
                yield ToolEnded(call_id, tool.name, status, "")
                return
            if answer.arguments is not None:
                arguments = check_arguments(tool, answer.arguments)
                request = make_request(call_id, tool, arguments)
            with suppress(MobileLLMError):  # that it cannot be kept costs another question
                approvals.remember(request, answer.duration)
            by = "you"
    except MobileLLMError as error:
        yield called
        why = f"{error.message}: {error.hint}" if error.hint else error.message
        yield ToolEnded(call_id, tool.name, "invalid", why)
        return
    yield ToolAllowed(call_id, by, arguments)
    outcome = run_tool(tool, arguments, cancel)
    said, spent = outcome.text, outcome.elapsed_s
    yield ToolEnded(call_id, tool.name, outcome.status, said, spent, outcome.is_shortened)
