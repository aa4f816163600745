"""What a line says, whichever of the common forms it is written in.

Told by its keys: ``messages`` (OpenAI's form, with ``tools``, and our own export of chats),
``conversations`` (ShareGPT's, as Glaive's calls are published), ``prompt`` with ``completion``, and
``text``. One file may mix them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.messages import Role
from mobilellm_mlx.tools.tool import Call
from mobilellm_mlx.training.data.reading import kind, parse_json

MAX_TURNS = 512
"""Messages of one conversation."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SPEAKERS: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, the calls that it makes, and which call it is the result of."""

    role: Role
    content: str
    calls: tuple[Call, ...] = ()
    call_ids: tuple[str, ...] = ()
    answers: str = ""
    """The id of the call that a tool's message is the result of; empty where none was named."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, and the tools that were there: each with ``name``, ``description``, ``parameters``."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def has_tools(self) -> bool:
        """Whether tools are listed, called or heard in it."""
        return bool(self.tools) or any(turn.calls or turn.role == "tool" for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what is to follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be learned as it is."""

    text: str


Row = Conversation | Pair | Text


def read_row(value: Mapping[str, Any]) -> Row:
    """What an object of a data set says.

    Raises:
        DataError: when it says nothing that is known, or says it wrongly.
    """
    if "messages" in value:
        return _conversation(value, "messages", "role", "content", _ROLES)
    if "conversations" in value:
        return _conversation(value, "conversations", "from", "value", _SPEAKERS)
    if "prompt" in value and "completion" in value:
        return Pair(_text(value, "prompt"), _text(value, "completion"))
    if "text" in value:
        return Text(_text(value, "text"))
    known = ("messages", "conversations", "prompt", "completion", "text")
    keys = [key[:40] for key in islice(value, 6)]
    close = next((c[0] for key in keys if (c := get_close_matches(key, known, 1))), None)
    found = ", ".join(f"`{key}`" for key in keys) or "no key at all"
    raise DataError(
        f"it has {found}, expected `messages`, `conversations`, `prompt` and `completion`, "
        "or `text`",
        f"did you mean `{close}`?" if close and close not in value else None,
    )


def _conversation(
    value: Mapping[str, Any], list_key: str, role_key: str, text_key: str, roles: dict[str, Role]
) -> Conversation:
    items = value[list_key]
    if not isinstance(items, list) or not items:
        found = "empty" if items == [] else kind(items)
        raise DataError(f"`{list_key}` is {found}, expected a list of messages")
    if len(items) > MAX_TURNS:
        raise DataError(f"it has {len(items):,} messages, at most {MAX_TURNS} are taken")
    turns = []
    for number, item in enumerate(items, 1):
        try:
            turns.append(_turn(item, role_key, text_key, roles))
        except DataError as error:
            raise DataError(f"message {number}: {error.message}", error.hint) from None
    system = value.get("system")
    if isinstance(system, str) and system.strip() and turns[0].role != "system":
        turns.insert(0, Turn("system", system))
    return Conversation(tuple(turns), _tools(value.get("tools") or value.get("functions")))


def _turn(item: Any, role_key: str, text_key: str, roles: dict[str, Role]) -> Turn:
    if not isinstance(item, dict):
        raise DataError(f"it is {kind(item)}, expected an object")
    name = item.get(role_key)
    if not isinstance(name, str) or name not in roles:
        found = f"`{name[:40]}`" if isinstance(name, str) else kind(name)
        close = get_close_matches(name[:40], roles, 1) if isinstance(name, str) else []
        hint = f"did you mean `{close[0]}`?" if close else None
        raise DataError(f"`{role_key}` is {found}, expected one of {', '.join(roles)}", hint)
    if name == "function_call":
        written = _loads(_text(item, text_key), text_key)
        calls = tuple(map(_call, written if isinstance(written, list) else [written]))
        return Turn("assistant", "", calls)
    calls, ids = _calls(item)
    if item.get(text_key) is None and calls:
        return Turn(roles[name], "", calls, ids)
    answers = item.get("tool_call_id")
    answers = answers if isinstance(answers, str) else ""
    return Turn(roles[name], _content(item, text_key), calls, ids, answers)


def _calls(item: Mapping[str, Any]) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """The calls of a message and their ids."""
    made = item.get("tool_calls")
    if made is None and item.get("function_call") is not None:
        made = [item["function_call"]]  # how one call was written before there could be several
    if made is None:
        return (), ()
    if not isinstance(made, list):
        raise DataError(f"`tool_calls` is {kind(made)}, expected a list")
    if made and item.get("role") not in ("assistant", None):
        raise DataError(f"the role `{item['role']}` makes calls, only `assistant` can")
    ids = [each.get("id") if isinstance(each, dict) else None for each in made]
    return tuple(map(_call, made)), tuple(i if isinstance(i, str) else "" for i in ids)


def _call(value: Any) -> Call:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict):
        raise DataError(f"a call is {kind(value)}, expected an object")
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or not name.strip():
        raise DataError("a call has no `name`")
    if isinstance(arguments, str):
        arguments = _loads(arguments, "arguments") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise DataError(
            f"the arguments of the call to `{name[:40]}` are {kind(arguments)}, expected an object"
        )
    return Call(name, arguments)


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):
        value = _loads(value, "tools") if value.strip() else None
    if not value:
        return ()
    if not isinstance(value, list):
        raise DataError(f"`tools` is {kind(value)}, expected a list of tools")
    return tuple(map(_tool, value))


def _tool(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise DataError("a tool in `tools` has no `name`")
    description, parameters = value.get("description"), value.get("parameters")
    return {
        "name": value["name"],
        "description": description if isinstance(description, str) else "",
        "parameters": parameters if isinstance(parameters, dict) else {"type": "object"},
    }


def _loads(text: str, key: str) -> Any:
    """JSON that stands in a text."""
    try:
        return parse_json(text)
    except DataError as error:
        raise DataError(f"the text in `{key}`: {error.message}") from None


def _content(item: Mapping[str, Any], key: str) -> str:
    """A message's text; of one in parts the parts that are text."""
    value = item.get(key)
    if not isinstance(value, list):
        return _text(item, key)
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, dict) else kind(part)
            raise DataError(f"`{key}` has a part of the kind `{str(found)[:40]}`, expected text")
        texts.append(_text(part, "text"))
    return "".join(texts)


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        found = kind(value) if key in item else "missing"
        raise DataError(f"`{key}` is {found}, expected a text")
    return value


def is_blank(row: Row) -> bool:
    """Whether there is nothing in it to learn: no answer, or none that says anything."""
    match row:
        case Text(text):
            return not text.strip()
        case Pair(_, completion):
            return not completion.strip()
        case Conversation(turns):
            answers = [turn for turn in turns if turn.role == "assistant"]
            return not answers or any(not a.content.strip() and not a.calls for a in answers)


def asked(row: Row) -> str:
    """What tells prompts apart: the words before the first answer, the system prompt aside."""
    match row:
        case Text(text):
            return text
        case Pair(prompt):
            return prompt
    said = []
    for turn in row.turns:
        if turn.role == "assistant":
            break
        if turn.role != "system":
            said.append(turn.content)
    return "\n".join(said)


def answered(row: Row) -> str:
    """The last answer."""
    match row:
        case Text(text):
            return text
        case Pair(_, completion):
            return completion
    answers = [turn for turn in row.turns if turn.role == "assistant"]
    if not answers:
        return ""
    calls = [[call.name, call.arguments] for call in answers[-1].calls]
    return answers[-1].content + (json.dumps(calls, ensure_ascii=False) if calls else "")
