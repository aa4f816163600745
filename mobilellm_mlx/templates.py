"""Chat templates: messages to the exact prompt a model was tuned on.

Templates come with model files and are programs; they run in Jinja's sandbox. What people and tools
write is guarded, so it can never turn into a control token (see ``Tokenizer.guard``).
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from mobilellm_mlx.errors import TemplateError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from _typeshed import TraceFunction
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

_GO_WITHOUT = "use `mobilellm generate --raw` to go without it"

RENDER_LIMIT_S = 1.0
MAX_TEXT = 16_000_000
"""Bounds on a template's running time and on the texts its arithmetic puts together. They stop what
no honest template does; against one that is out to waste memory they are a fence, not a wall."""

_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}
"""Ways to make a very long text in one call, which nothing could interrupt; filters and methods."""


class ChatTemplate:
    """A model's chat template, compiled when it is first used: `--raw` goes without a broken one.

    Args:
        source: Jinja text, as Hugging Face checkpoints carry it.
        variables: names it may use beside the messages, such as ``bos_token``.
    """

    def __init__(self, source: str, variables: dict[str, Any] | None = None):
        self.source = source
        self.variables = variables or {}

    def compile(self) -> None:
        """Do now what the first use would do.

        Raises:
            TemplateError: when the text is not valid Jinja.
        """
        _ = self._template

    @cached_property
    def _template(self) -> Template:
        from jinja2 import TemplateSyntaxError

        try:
            return _make_environment().from_string(self.source)
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is broken at line {error.lineno}: {error.message}", _GO_WITHOUT
            ) from error
        except Exception as error:  # nested too deep, for one
            raise TemplateError(
                f"the chat template is broken: {type(error).__name__}: {error}", _GO_WITHOUT
            ) from error

    @property
    def takes_tools(self) -> bool:
        """Whether it lists tools by itself, in the form its model was trained on."""
        return re.search(r"\{[{%][^}]*\btools\b", self.source) is not None

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt as text.

        Args:
            messages: a mapping may say more than a ``Message``, such as ``tool_calls``.
            add_generation_prompt: end with what stands before an answer.
            tools: for a template that takes them, as OpenAI describes functions.

        Raises:
            TemplateError: when the template refuses these messages or fails.
        """
        template = self._template
        try:
            with _time_limit(RENDER_LIMIT_S):
                return template.render(
                    messages=[m.to_dict() if isinstance(m, Message) else m for m in messages],
                    add_generation_prompt=add_generation_prompt,
                    tools=tools,  # None too: Hugging Face's templates ask whether it `is none`
                    **self.variables,
                )
        except _TooMuch as error:
            raise TemplateError(f"the chat template was stopped: {error}", _GO_WITHOUT) from error
        except _Refused as error:
            raise TemplateError(
                f"the chat template refuses this conversation: {error}",
                _GO_WITHOUT,
            ) from error
        except Exception as error:  # a template is foreign code: anything can come out of it
            raise TemplateError(
                f"the chat template failed: {type(error).__name__}: {error}",
                _GO_WITHOUT,
            ) from error

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt as token ids; only the template's own special tokens count as such.

        Raises:
            TemplateError: when the template refuses these messages or fails.
        """
        contents, marker = tokenizer.guard([message.content for message in messages])
        guarded = [
            Message(message.role, content)
            for message, content in zip(messages, contents, strict=True)
        ]
        rendered = self.render(guarded, add_generation_prompt=add_generation_prompt)
        return tokenizer.encode_template(rendered, marker)


def _make_environment() -> SandboxedEnvironment:
    """Jinja's sandbox with what Hugging Face templates expect, and bounds on what they may cost."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: marks the model's own words for training; here it means nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Arithmetic is looked at before it is done: one operation can last for ever."""

        intercepted_binops = frozenset({"**", "*", "+", "%"})

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> None:
            """Jinja would let its own ``str.format`` pass before it asks whether that is safe."""

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "%" and isinstance(left, str):
                raise _TooMuch("it formats with `%`, which can pad a text without end")
            sizes = [len(v) if hasattr(v, "__len__") else abs(v) for v in (left, right)]
            if operator == "**" and (sizes[0] > 1000 or sizes[1] > 1000):
                raise _TooMuch("it computes a power that is too large")
            sized = hasattr(left, "__len__") or hasattr(right, "__len__")
            total = sizes[0] * sizes[1] if operator == "*" else sizes[0] + sizes[1]
            if operator != "**" and sized and total > MAX_TEXT:
                raise _TooMuch(f"it makes a text of more than {MAX_TEXT:,} characters")
            return super().call_binop(context, operator, left, right)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    for name in _PADDING:
        environment.filters.pop(name, None)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt Python code on this thread after a while.

    A template's loops cannot be cancelled from outside; a trace function is called on every line of
    them, and in nothing else that takes time. The sandbox itself has no loops worth the name, and
    more lines than the templates: there only the calls are watched.
    """
    from jinja2 import sandbox

    end = time.monotonic() + seconds
    without_loops = {__file__, sandbox.__file__}

    def trace(frame: FrameType, event: str, argument: Any) -> TraceFunction | None:
        if time.monotonic() > end:
            raise _TooMuch(f"it ran for more than {seconds:.0f} s")
        return None if frame.f_code.co_filename in without_loops else trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(previous)


class _TooMuch(Exception):
    """A template wanted more time or space than any honest one needs."""


class _Refused(Exception):
    """A template called ``raise_exception``."""


def _refuse(message: object) -> NoReturn:
    raise _Refused(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML, which models were not trained on.

    The parameters, and their order, are those of the Hugging Face library's filter.
    """
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
