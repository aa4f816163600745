"""Which chat template a model is trained with, and what ends its answers then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx.errors import DataError, TemplateError
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import Tokenizer
from mobilellm_mlx.training.config import TrainConfig

CHATML = "chatml"
_START, _END = "<|im_start|>", "<|im_end|>"
_MAX_TEMPLATE_BYTES = 100_000

_SOURCE = (
    "{%% for message in messages %%}{{ '%s<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '%s\\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}{%% endif %%}"
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is spoken to.

    Attributes:
        template: None for a model that only completes texts.
        stop_tokens: end an answer.
        source: the template's text where it is not the model's own. Then whatever is trained must
            carry it and the names of the stop tokens, or the model is not spoken to as it learned.
        end: the name of the token that ends an answer with it.
    """

    template: ChatTemplate | None
    stop_tokens: frozenset[int]
    source: str | None = None
    end: str | None = None


def choose_template(
    template: ChatTemplate | None,
    config: TrainConfig,
    tokenizer: Tokenizer,
    stop_tokens: frozenset[int],
) -> Manner:
    """The template that ``config.template`` names, else the model's own.

    ``chatml`` uses the tokens ``<|im_start|>`` and ``<|im_end|>`` where the tokenizer has them, and
    ``<|im_end|>`` then ends answers beside what did before. A tokenizer without them gets the same
    template with the first mark as plain text, several tokens long, and the model's own end of text
    in place of the second; the prefix of the tokenizer (a begin token) comes first of all. Either
    way the adapter or model that is trained must keep ``Manner.source`` as its chat template.

    Args:
        template: the model's own, if any.
        config: names another one.
        tokenizer: of the model.
        stop_tokens: of the model.

    Raises:
        DataError: when the file cannot be read, is broken, or answers could never end.
    """
    if not config.template:
        return Manner(template, stop_tokens)
    variables = dict(template.variables) if template else _variables(tokenizer, stop_tokens)
    if config.template == CHATML:
        return _chatml(tokenizer, stop_tokens, variables)
    source = _read(Path(config.template).expanduser())
    made = ChatTemplate(source, variables)
    try:
        made.compile()
    except TemplateError as error:
        raise DataError(f"`{config.template}`: {error.message}") from error
    return Manner(made, stop_tokens, source, _end_name(tokenizer, stop_tokens))


def _chatml(tokenizer: Tokenizer, stop_tokens: frozenset[int], variables: dict[str, str]) -> Manner:
    end = _END if {_START, _END} <= tokenizer.special.keys() else None
    if end:
        stop_tokens |= {tokenizer.special[end]}
    else:
        end = _end_name(tokenizer, stop_tokens)
    if end is None:
        raise DataError(
            "the tokenizer has no token that could end an answer",
            "name one as `eos_token` in the model's `tokenizer_config.json`",
        )
    prefix = "".join(_name(tokenizer, token) or "" for token in tokenizer.prefix)
    first = "' + ('" + prefix + "' if loop.first else '') + '" if prefix else ""
    source = _SOURCE % (first, end)
    return Manner(ChatTemplate(source, variables), stop_tokens, source, end)


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(
                f"there is no template `{path}`", "`--template` takes `chatml` or a Jinja file"
            )
        with path.open("rb") as file:
            data = file.read(_MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error
    if len(data) > _MAX_TEMPLATE_BYTES:
        raise DataError(f"`{path}` is far too long for a chat template")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DataError(f"`{path}` is not UTF-8 text") from None


def _variables(tokenizer: Tokenizer, stop_tokens: frozenset[int]) -> dict[str, str]:
    """What a template may ask for, as far as the tokenizer tells."""
    begin = _name(tokenizer, tokenizer.prefix[0]) if tokenizer.prefix else None
    found = {"bos_token": begin, "eos_token": _end_name(tokenizer, stop_tokens)}
    return {name: value for name, value in found.items() if value}


def _end_name(tokenizer: Tokenizer, stop_tokens: frozenset[int]) -> str | None:
    names = (_name(tokenizer, token) for token in sorted(stop_tokens))
    return next((name for name in names if name), None)


def _name(tokenizer: Tokenizer, token: int) -> str | None:
    """The name of a special token that a template can write into Jinja quotes."""
    names = (name for name, i in tokenizer.special.items() if i == token and len(name) > 1)
    return next((name for name in names if "'" not in name and "\\" not in name), None)
