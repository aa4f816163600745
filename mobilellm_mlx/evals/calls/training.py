"""Conversations with calls, in the form that trainers read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from mobilellm_mlx.evals.calls.home import HomeTask
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.formats import find_format


def conversations(task: HomeTask, format: str, count: int, seed: int) -> Iterator[str]:
    """Lines ``{"messages": [...]}``: the tools on offer, what is said, the call.

    Where nothing is wanted the call is "no call"; formats that cannot say so leave these out.

    Args:
        task: whose sentences; not those of the test.
        format: how tools and calls are written.
        count: at most so many.
        seed: of what is drawn.

    Raises:
        ToolError: when there is no such format.
    """
    written = find_format(format)
    for request in task.requests(count, seed):
        calls = request.gold.calls
        if not calls and not written.declines:
            continue
        messages = (
            Message("system", written.render_tools(request.payload.offered)),
            Message("user", request.payload.said),
            Message("assistant", written.render_calls(calls)),
        )
        yield json.dumps({"messages": [one.to_dict() for one in messages]}, ensure_ascii=False)
