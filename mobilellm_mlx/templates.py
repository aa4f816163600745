"""Chat templates: messages to the exact prompt a model was tuned on.

Templates come with model files and are programs; they run in Jinja's sandbox. What people and tools
write is guarded, so it can never turn into a control token (see ``Tokenizer.guard``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from mobilellm_mlx.errors import TemplateError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.tokenizer import Tokenizer


class ChatTemplate:
    """A model's chat template, compiled once.

    Args:
        source: Jinja text, as Hugging Face checkpoints carry it.
        variables: names it may use beside the messages, such as ``bos_token``.

    Raises:
        TemplateError: when the text is not valid Jinja.
    """

    def __init__(self, source: str, variables: dict[str, Any] | None = None):
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is broken at line {error.lineno}: {error.message}",
                "use `mobilellm generate --raw` to go without it",
            ) from error
        except Exception as error:  # nested too deep, for one
            raise TemplateError(
                f"the chat template is broken: {type(error).__name__}: {error}",
                "use `mobilellm generate --raw` to go without it",
            ) from error
        self._variables = variables or {}

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt as text.

        Raises:
            TemplateError: when the template refuses these messages or fails.
        """
        try:
            return self._template.render(
                messages=[message.to_dict() for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except _Refused as error:
            raise TemplateError(
                f"the chat template refuses this conversation: {error}",
                "use `mobilellm generate --raw` to go without it",
            ) from error
        except Exception as error:  # a template is foreign code: anything can come out of it
            raise TemplateError(
                f"the chat template failed: {type(error).__name__}: {error}",
                "use `mobilellm generate --raw` to go without it",
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
