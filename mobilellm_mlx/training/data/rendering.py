"""Conversations through a chat template, and where in the result the answers stand.

A template is a program: it may add a system prompt, drop earlier reasoning, or write an end only
after the last answer. So an answer is not searched for: it is what comes between the prompt that
the model is given in a chat and the sign that ends its turn, in exactly the text that it would have
before it. Where later turns change earlier ones, every answer becomes an example of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mobilellm_mlx.errors import DataError, TemplateError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import Tokenizer
from mobilellm_mlx.training.config import LossOn, ToolFormat
from mobilellm_mlx.training.data.calls import as_functions, as_mappings, in_words
from mobilellm_mlx.training.data.encoding import Span
from mobilellm_mlx.training.data.guarding import Guard
from mobilellm_mlx.training.data.rows import Conversation, Turn

LEAVE_OUT = "-"
"""For a system prompt: none at all."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text to learn from.

    Attributes:
        text: what the template made, special tokens by name.
        spans: what is learned of it.
        marker: breaks up names of special tokens that are only talked about.
        needs_end: whether the template wrote no sign after the last answer.
        is_changed: whether an answer that is learned is not there as the data has it.
    """

    text: str
    spans: tuple[Span, ...]
    marker: str
    needs_end: bool = False
    is_changed: bool = False


class Renderer:
    """Renders conversations for training.

    Args:
        tokenizer: whose special tokens are kept from people's text.
        template: of the model.
        stop_tokens: end an answer.
        loss_on: which answers are learned.
        system: see ``TrainConfig.system``.
        tool_format: how calls are written; ``auto`` leaves it to a template that knows tools.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        stop_tokens: frozenset[int],
        loss_on: LossOn = "assistant",
        system: str = "",
        tool_format: ToolFormat = "auto",
    ):
        self._tokenizer = tokenizer
        self._guard = Guard(tokenizer)
        self._template = template
        self._loss_on = loss_on
        self._system = system
        self._tool_format = tool_format
        ends = [re.escape(name) for name, i in tokenizer.special.items() if i in stop_tokens]
        self._end = re.compile("|".join(sorted(ends, key=len, reverse=True))) if ends else None

    def render(self, conversation: Conversation) -> list[Rendered]:
        """One text, or one for each answer where the template changes earlier ones.

        Nothing behind the last answer is in it, unless everything is learned.

        Raises:
            DataError: when the template refuses it, or answers cannot be told apart.
        """
        messages, tools = self.messages(conversation)
        (guarded, tools), marker = self._guard.guard([messages, tools])
        try:
            return self._rendered(_Rendering(self._template, guarded, tools, marker))
        except TemplateError as error:
            hint = "give the model another template with `--template chatml`"
            if any(message["role"] == "system" for message in messages):
                hint = f"leave system prompts out with `--system {LEAVE_OUT}`, or {hint}"
            raise DataError(error.message, hint) from error

    def prompt(self, conversation: Conversation) -> list[int]:
        """Token ids that the answer to a conversation follows.

        Raises:
            DataError: when the template refuses it.
        """
        messages, tools = self.messages(conversation)
        (guarded, tools), marker = self._guard.guard([messages, tools])
        try:
            text = _Rendering(self._template, guarded, tools, marker).prompt(len(guarded))
        except TemplateError as error:
            raise DataError(error.message) from error
        return self._tokenizer.encode_template(text, marker)

    def messages(
        self, conversation: Conversation
    ) -> tuple[list[Mapping[str, Any]], list[dict[str, Any]] | None]:
        """Messages, and the tools of a template that lists them itself, as it is given them."""
        conversation = with_system(conversation, self._system)
        own = self._tool_format == "auto" and self._template.takes_tools
        if conversation.has_tools and own:
            return as_mappings(conversation), as_functions(conversation)
        return [message.to_dict() for message in self.in_words(conversation)], None

    def in_words(self, conversation: Conversation) -> list[Message]:
        """Messages with tools, calls and results as text."""
        return in_words(conversation, self._tool_format)

    def _rendered(self, rendering: _Rendering) -> list[Rendered]:
        messages, marker = rendering.messages, rendering.marker
        if self._loss_on == "all":
            text = rendering.until(len(messages))
            is_open = messages[-1]["role"] == "assistant" and self._is_open(text)
            return [Rendered(text, ((0, len(text)),), marker, is_open)]
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            return []
        whole = rendering.until(answers[-1] + 1)
        wanted = answers[-1:] if self._loss_on == "last" else answers
        spans = []
        for at in wanted:
            text = whole if at == answers[-1] else rendering.until(at + 1)
            start, end = self._span(rendering, at, text)
            if whole[:end] != text[:end]:
                return [self._alone(rendering, each) for each in wanted]
            spans.append((start, end))
        return [self._ending(rendering, whole, tuple(spans), wanted)]

    def _alone(self, rendering: _Rendering, at: int) -> Rendered:
        """One answer, in the text that the model has before it in a chat."""
        text = rendering.until(at + 1)
        return self._ending(rendering, text, (self._span(rendering, at, text),), [at])

    def _ending(
        self, rendering: _Rendering, text: str, spans: tuple[Span, ...], answers: Sequence[int]
    ) -> Rendered:
        """What is learned last is the end of the text."""
        contents = [str(rendering.messages[at]["content"]).strip() for at in answers]
        shown = all(c in text[a:b] for c, (a, b) in zip(contents, spans, strict=True))
        start, end = spans[-1]
        is_open = self._is_open(text[start:end])
        return Rendered(text[:end], spans, rendering.marker, is_open, not shown)

    def _span(self, rendering: _Rendering, at: int, text: str) -> tuple[int, int]:
        """Where an answer begins in the text that ends with it, and where its turn ends."""
        prompt = rendering.prompt(at)
        start = len(prompt) if text.startswith(prompt) else rendering.marked(at, text)
        found = self._end.search(text, start) if self._end else None
        return start, found.end() if found else len(text)

    def _is_open(self, text: str) -> bool:
        return self._end is None or not self._end.search(text)


@dataclass(frozen=True, slots=True)
class _Rendering:
    """A template with one conversation's guarded messages."""

    template: ChatTemplate
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    marker: str

    def until(self, count: int) -> str:
        """The first messages."""
        return self._render(self.messages[:count], False)

    def prompt(self, count: int) -> str:
        """The first messages and what stands before an answer."""
        return self._render(self.messages[:count], True)

    def marked(self, at: int, text: str) -> int:
        """Where the content of a message begins in ``text``, found with marks around it.

        Raises:
            DataError: when the template makes something else of a content with marks.
        """
        message = self.messages[at]
        content = str(message["content"])
        for inside in (content, content.strip()):
            marks = _BEGIN, _END
            put = {**message, "content": f"{_BEGIN}{inside}{_END}"}
            shown = self._render([*self.messages[:at], put], False)
            begin = shown.find(_BEGIN)
            plain = shown.replace(_BEGIN, "").replace(_END, "")
            if inside and plain == text and all(shown.count(mark) == 1 for mark in marks):
                return begin
        raise DataError(
            "the chat template changes this answer or what stands before it, so what is to be "
            "learned cannot be told",
            "learn everything with `--loss-on all`, or give the model another template with "
            "`--template chatml`",
        )

    def _render(self, messages: Sequence[Mapping[str, Any]], opens: bool) -> str:
        text = self.template.render(messages, add_generation_prompt=opens, tools=self.tools)
        # A filter may have written the marker as JSON can.
        escaped = f"\\u{ord(self.marker):04x}" if self.marker else ""
        return text.replace(escaped, self.marker) if escaped and escaped in text else text


_BEGIN, _END = chr(0xFDEE), chr(0xFDEF)
"""Two of Unicode's noncharacters; ``Tokenizer.guard`` takes the first that no text has."""


def with_system(conversation: Conversation, system: str) -> Conversation:
    """The conversation with another system prompt; an empty one leaves it, ``-`` takes it out."""
    if not system:
        return conversation
    turns = tuple(turn for turn in conversation.turns if turn.role != "system")
    if system != LEAVE_OUT:
        turns = (Turn("system", system), *turns)
    return replace(conversation, turns=turns)
