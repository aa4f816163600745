"""Tools in conversations to learn from: as the template has them, or in a format of ours.

Where a template does not know tools, they stand as they do in a chat: listed in the system prompt,
called in the answer, their results in a message of the user's (see ``tools.styles.one_step``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mobilellm_mlx.errors import DataError, ToolError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Offered, Used
from mobilellm_mlx.tools.formats import Format, find_format
from mobilellm_mlx.tools.styles.words import instructed
from mobilellm_mlx.tools.tool import Call, Tool
from mobilellm_mlx.training.data.rows import Conversation, Turn

FORMAT = "hermes"
"""How calls are written for a template that has no form of its own."""


def in_words(conversation: Conversation, format_name: str = "auto") -> list[Message]:
    """The messages with tools, calls and results as text.

    Raises:
        DataError: when a tool cannot be told to a model.
    """
    if not conversation.has_tools:
        return [Message(turn.role, turn.content) for turn in conversation.turns]
    form = find_format(FORMAT if format_name == "auto" else format_name)
    messages = list(_written(conversation.turns, form))
    if not conversation.tools:
        return messages
    try:
        offered = [_offered(tool) for tool in conversation.tools]
        return list(instructed(messages, form.render_tools(offered)))
    except (ToolError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"its `tools` cannot be told to a model: {str(error)[:200]}") from None


def as_mappings(conversation: Conversation) -> list[Mapping[str, Any]]:
    """The messages as templates expect them that know tools by themselves."""
    messages: list[Mapping[str, Any]] = []
    for turn in conversation.turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in turn.calls
            ]
            for call, name in zip(message["tool_calls"], turn.call_ids, strict=False):
                call |= {"id": name} if name else {}
        if turn.answers:
            message["tool_call_id"] = turn.answers
        messages.append(message)
    return messages


def as_functions(conversation: Conversation) -> list[dict[str, Any]] | None:
    """The tools as OpenAI describes functions; None where there are none."""
    return [{"type": "function", "function": tool} for tool in conversation.tools] or None


def _written(turns: Sequence[Turn], form: Format) -> Iterator[Message]:
    """The messages one by one; results that follow each other share one."""
    results: list[str] = []
    waiting: list[tuple[str, Call]] = []
    for turn in turns:
        if turn.role == "tool":
            results.append(form.render_result(Used(_called(waiting, turn.answers), turn.content)))
            continue
        if results:
            yield Message("user", "\n".join(results))
            results = []
        if turn.calls:
            ids = turn.call_ids or ("",) * len(turn.calls)
            waiting = list(zip(ids, turn.calls, strict=True))
        calls = form.render_calls(turn.calls) if turn.calls else ""
        yield Message(turn.role, "\n".join(filter(None, [turn.content.rstrip(), calls]))
                      if calls else turn.content)  # fmt: skip
    if results:
        yield Message("user", "\n".join(results))


def _called(waiting: list[tuple[str, Call]], name: str) -> Call:
    """The call that a result belongs to: the one of that id, else the first without a result."""
    at = next((at for at, (each, _) in enumerate(waiting) if name and each == name), 0)
    return waiting.pop(at)[1] if waiting else Call("tool")


def _offered(tool: Mapping[str, Any]) -> Offered:
    described = Tool(tool["name"], tool["description"], tool["parameters"], run=_never)
    return Offered(described, described.parameters)


def _never(arguments: Mapping[str, Any], cancel: object) -> str:
    raise ToolError("a tool of a data set cannot be run")
