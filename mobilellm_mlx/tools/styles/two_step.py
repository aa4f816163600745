"""Two steps for models that never heard of tools: first which tool, if any; then its arguments.

Both questions are a few earlier turns of a conversation in which the right answer was given. Small
models go on with what they see; what they are told about tools in words they hardly use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from mobilellm_mlx.grammar import choice_grammar, json_grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tools.asking import Ask, Asks, Offered, Used
from mobilellm_mlx.tools.formats.binding import argument_schema
from mobilellm_mlx.tools.formats.reading import as_data, as_line, compact
from mobilellm_mlx.tools.styles.evidence import with_evidence
from mobilellm_mlx.tools.styles.words import grounded, last_said, mentioned
from mobilellm_mlx.tools.tool import Call, Tool

_WORD = re.compile(r"\w+")

NONE = "none"
"""What a model says that wants no tool."""

_TASK = "Name the tool that the request needs, or none."
_SMALL_TALK = (
    "Write a short poem about rain.",
    "Why is the sky blue?",
    "Hello, how are you?",
)
"""Requests that want no tool; with fewer of them small models call too much."""
_EXAMPLES = 6
"""Requests that want one, shared by the tools on offer; each has one at least."""
_MAX_TOLD = 200
"""Characters of a description that a small model is shown."""
_MAX_SAID = 1_500
"""Characters of a request that are read; half of them of its end."""


class TwoStep:
    """Choose, then fill in."""

    name = "two-step"
    rounds = 1
    """Small models do not go on from one call to the next; asked again, they repeat themselves."""
    plain_answers = True

    def asks(self, conversation: Sequence[Message], offered: Sequence[Offered]) -> Asks:
        said = last_said(conversation)
        names = [one.tool.name for one in offered]
        # A name that begins like another one ends with the answer and not before it.
        chosen = yield Ask(_choice(said, offered), choice_grammar([*names, NONE]), max_tokens=64)
        if chosen not in names:
            return []
        arguments = yield from self.fill(said, offered[names.index(chosen)])
        return [Call(chosen, arguments)]

    def fill(self, said: str, offered: Offered) -> Generator[Ask, str, dict[str, object]]:
        """The second step alone: the arguments of a tool that is chosen already."""
        bound = mentioned(grounded([copying(offered)], said)[0], said)
        bound = with_evidence(bound, said)
        schema = argument_schema(bound)
        if not schema.get("properties"):
            return {}
        written = yield Ask(_filling(said, offered), json_grammar(schema), max_tokens=512)
        arguments: dict[str, object] = json.loads(written)
        return arguments

    def instructions(self, offered: Sequence[Offered]) -> str:
        return ""

    def tell(self, question: Message, used: Sequence[Used]) -> list[Message]:
        results = "\n".join(as_data(one.result) for one in used)
        told = (
            f"Use this result to answer.\n<result>\n{results}\n</result>\n\n"
            f"{question.content} Answer with the words of the result."
        )
        return [Message(question.role, told)]


def _choice(said: str, offered: Sequence[Offered]) -> tuple[Message, ...]:
    """The first question: requests of either kind by turns, and what each of them needs."""
    each = max(1, _EXAMPLES // max(1, len(offered)))
    wanted = [
        (request, one.tool.name)
        for nth in range(each)
        for one in offered
        for request in _nearest(one.tool, said)[nth : nth + 1]
    ]
    unwanted = [(request, NONE) for request in _SMALL_TALK]
    pairs = (pair for both in zip_longest(unwanted, wanted) for pair in both if pair)
    return (Message("system", _TASK), *_turns(pairs), _request(said))


def _filling(said: str, offered: Offered) -> tuple[Message, ...]:
    """The second question: requests for this tool, and the arguments of each."""
    tool = offered.tool
    pairs = ((example.said, compact(example.arguments)) for example in tool.examples)
    told = [as_line(tool.description, _MAX_TOLD)]
    if not tool.examples:
        told += _arguments_in_words(offered)
    return (Message("system", "\n".join(told)), *_turns(pairs), _request(said))


def copying(offered: Offered) -> Offered:
    """A server's tool with all its plain texts bound to what was said.

    Nobody wrote down which of them can only be said. Left free, a small model fills them until it
    is cut.
    """
    tool, properties = offered.tool, offered.schema.get("properties")
    if not tool.source.startswith("mcp:") or not isinstance(properties, Mapping):
        return offered
    texts = (
        name
        for name, part in properties.items()
        if isinstance(part, Mapping)
        and part.get("type") == "string"
        and not {"enum", "const", "format", "pattern"} & set(part)
    )
    return replace(offered, tool=replace(tool, spoken=tool.spoken.union(texts)))


def _arguments_in_words(offered: Offered) -> list[str]:
    """A line about every argument that is described."""
    properties = offered.schema.get("properties") or {}
    described = {
        name: part["description"]
        for name, part in properties.items()
        if isinstance(part, Mapping) and isinstance(part.get("description"), str)
    }
    return [f"{name}: {as_line(text, _MAX_TOLD)}" for name, text in described.items()]


def _nearest(tool: Tool, said: str) -> list[str]:
    """Requests for a tool, those first that have most words in common with what was said.

    Tools of other programs have no examples, and what no example shows a small model never says:
    then the description is one. It is in the imperative, as a request would be.
    """
    words = set(_WORD.findall(said.casefold()))
    requests = [example.said for example in tool.examples] or [as_line(tool.description, _MAX_TOLD)]
    return sorted(
        requests, key=lambda request: -len(words & set(_WORD.findall(request.casefold())))
    )


def _turns(pairs: Iterable[tuple[str, str]]) -> list[Message]:
    return [
        message
        for said, answer in pairs
        for message in (Message("user", said), Message("assistant", answer))
    ]


def _request(said: str) -> Message:
    """The request itself, of a very long one its beginning and its end."""
    if len(said) > _MAX_SAID:
        said = f"{said[: _MAX_SAID // 2]} … {said[-_MAX_SAID // 2 :]}"
    return Message("user", said)
