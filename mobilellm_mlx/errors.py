"""Every error a user can meet, as one tree.

::

    MobileLLMError
    ├── ConfigError            a configuration that is wrong or that we do not support
    ├── ModelNotFound          no such name in the catalogue or on the hub, no such directory
    ├── WeightsError           tensors missing, unexpected, of the wrong shape, or a damaged file
    ├── TokenizerError         no tokenizer, or one of an unknown kind
    ├── TemplateError          the chat template is broken or refuses the messages
    ├── ContextOverflow        the prompt does not fit the context
    ├── InsufficientMemory     the model and its cache would not fit, or the backend ran out
    ├── DownloadError          the package index or the hub did not give what was asked for
    │   └── ChecksumError      it gave something else
    ├── ConvertError           a foreign checkpoint that we cannot import
    ├── StorageError           the disk is full, read-only, or not ours
    ├── InvalidOption          an option with an impossible value
    ├── InvalidInput           a prompt that is empty or not text
    ├── InvalidGrammar         a schema, pattern or grammar that cannot bind an answer
    ├── ToolError              a tool that is unknown, was called wrongly, or failed
    ├── DataError              examples to train with that cannot be read or used
    ├── AdapterError           an adapter that is damaged, unknown, or of another model
    ├── TrainingError          a training that cannot begin, go on or be found
    └── EngineError            the engine was used after it ended, or failed inside

The head line says what happened with the value and what was expected; ``hint`` says what to do.
"""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """``count`` bytes for people, in decimal units as file managers show them."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


class MobileLLMError(Exception):
    """Base of all errors meant for the person at the keyboard."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(MobileLLMError):
    """A configuration that is wrong, or that would need maths we do not have."""


class ModelNotFound(MobileLLMError):
    """Neither a name in the catalogue nor a model directory."""


class WeightsError(MobileLLMError):
    """Tensors and network do not match, or the file is damaged."""


class TokenizerError(MobileLLMError):
    """No usable tokenizer in the model directory."""


class TemplateError(MobileLLMError):
    """The chat template is missing, broken or refuses the messages."""


class ContextOverflow(MobileLLMError):
    """The prompt does not fit the context.

    Attributes:
        tokens: how many tokens were asked for.
        limit: how many the context holds.
    """

    def __init__(self, tokens: int, limit: int, hint: str | None = None):
        super().__init__(
            f"the prompt is {tokens:,} tokens but the context is {limit:,}",
            hint or "shorten the prompt or start a new chat",
        )
        self.tokens = tokens
        self.limit = limit


MEMORY_REMEDIES = (
    "close other programs, use a shorter context with `--context 2048`, "
    "or choose a smaller model or `--compute packed`"
)


class InsufficientMemory(MobileLLMError):
    """The job would not fit, or the backend could not allocate."""

    def __init__(self, message: str, hint: str = MEMORY_REMEDIES):
        super().__init__(message, hint)


class DownloadError(MobileLLMError):
    """The package index or the hub could not be reached, or has no such file."""


class ChecksumError(DownloadError):
    """What arrived is not what was pinned."""


class ConvertError(MobileLLMError):
    """A foreign checkpoint that cannot be imported."""


class StorageError(MobileLLMError):
    """Reading or writing the cache failed: full, read-only, or not ours."""


class InvalidOption(MobileLLMError):
    """An option with an impossible value."""


class InvalidInput(MobileLLMError):
    """A prompt that is empty or not text."""


class InvalidGrammar(MobileLLMError):
    """A schema, regular expression or grammar that cannot bind an answer."""


class ToolError(MobileLLMError):
    """A tool that is unknown, was called with wrong arguments, refused, or failed."""


class DataError(MobileLLMError):
    """Examples that cannot be read or used; the message names file and line."""


class AdapterError(MobileLLMError):
    """An adapter that is damaged, unknown, or made for another model."""


class TrainingError(MobileLLMError):
    """A training that cannot begin, go on, or be found."""


class EngineError(MobileLLMError):
    """The engine was used after it ended, or failed inside."""
