"""What every model is asked where several are compared: windows of one text, and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx.errors import InvalidInput, TokenizerError
from mobilellm_mlx.evals.divergence import WINDOW
from mobilellm_mlx.evals.task import Task, digest
from mobilellm_mlx.loading import load_words, read_json
from mobilellm_mlx.models import build_config
from mobilellm_mlx.tokenizer import Tokenizer

TOKENS = 4096
"""To compare distributions over, unless somebody asks for others."""
MOST_TOKENS = 65_536
"""The reference's hidden states of so many are a fraction of a model."""
MOST_CHARACTERS = 16 * MOST_TOKENS


@dataclass(frozen=True, slots=True)
class Exam:
    """What every model is asked.

    Attributes:
        windows: ids of the text, cut.
        data_sha256: of all that could be cut, so that a longer run goes on from a shorter one.
        limit: windows to read.
        tasks: to choose answers in.
        questions: the first of each task; None for all.
        measures_speed: whether to.
        fresh: ask everything again.
        adapter: directory of one that every model has on; None for none.
        max_memory: bytes that MLX may hold, weights included; None for what suits the backend.
    """

    windows: Sequence[Sequence[int]]
    data_sha256: str
    limit: int
    tasks: Sequence[Task] = ()
    questions: int | None = None
    measures_speed: bool = True
    fresh: bool = False
    adapter: Path | None = None
    max_memory: int | None = None


def make_exam(directories: Sequence[Path], text: str, tokens: int = TOKENS) -> Exam:
    """Cut a text for some models, after making sure that they read it alike.

    Args:
        directories: of the models, the reference first.
        text: to read; of a long one the beginning.
        tokens: of it, in whole windows.

    Raises:
        InvalidInput: when a model has other tokens, or the text is too short.
        MobileLLMError: whatever is wrong with a directory.
    """
    text = text[:MOST_CHARACTERS]
    words = [load_words(directory) for directory in directories]
    reference = words[0].tokenizer
    ids = reference.encode(text)
    pieces = _pieces(reference, _width(directories[0]))
    for directory, other in zip(directories[1:], words[1:], strict=True):
        own = other.tokenizer
        if _pieces(own, _width(directory)) != pieces or own.encode(text) != ids:
            raise InvalidInput(
                f"`{directory.name}` has other tokens than `{directories[0].name}`, so what they "
                "say next cannot be compared",
                "compare models that were made from the same one; the bits per byte of `mobilellm "
                "eval ppl` compare between tokenizers",
            )
    length = min(WINDOW, *(one.context_limit for one in words))
    inner = length - len(reference.prefix)
    starts = range(0, min(len(ids), MOST_TOKENS) - inner + 1, inner) if inner > 1 else ()
    windows = [(*reference.prefix, *ids[start : start + inner]) for start in starts]
    if not windows:
        raise InvalidInput(
            f"the text has {len(ids):,} tokens, expected at least {max(inner, 2):,}",
            "give a longer one with `--text`",
        )
    return Exam(windows, digest(windows), max(1, round(tokens / length)))


def _width(directory: Path) -> int:
    """Logits of a model, which may be more than it has tokens."""
    return build_config(read_json(directory / "config.json")).vocab_size


def _pieces(tokenizer: Tokenizer, width: int) -> list[object]:
    """What every id of a model means."""
    found: list[object] = [width, tokenizer.prefix, sorted(tokenizer.special.items())]
    for id in range(tokenizer.vocab_size):
        try:
            found.append(tokenizer.token_bytes(id))
        except TokenizerError:  # an id that nothing has
            found.append(None)
    return found
