"""Text that learned quantisation looks at, and text that it has not seen, to judge by.

Both are our own words and come with the package, so that a conversion downloads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mobilellm_mlx.errors import ConvertError, format_bytes

_MOST_BYTES = 50_000_000


def calibration_text(path: Path | None = None) -> str:
    """The text to learn from: the person's own, or ours when there is none.

    Args:
        path: a UTF-8 text file of at most 50 MB.

    Raises:
        ConvertError: when the file cannot be read, is too large or is not UTF-8.
    """
    return _shipped("calibration.txt") if path is None else _own_text(path)


def held_out_text() -> str:
    """Text of the same kinds that is not in ``calibration_text()``."""
    return _shipped("held_out.txt")


def _shipped(name: str) -> str:
    return resources.files(__package__).joinpath("text", name).read_text(encoding="utf-8")


def _own_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConvertError(f"`{path}` cannot be read: {reason}") from error
    if len(data) > _MOST_BYTES:
        raise ConvertError(
            f"`{path.name}` is larger than {format_bytes(_MOST_BYTES)}",
            "a few hundred kilobytes of varied text are plenty to calibrate with",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConvertError(
            f"`{path.name}` is not UTF-8 text: byte {error.start:,} does not belong there",
            "calibration takes plain text; save the file as UTF-8",
        ) from error


def samples(
    tokens: Sequence[int],
    length: int,
    *,
    prefix: Sequence[int] = (),
    at_least: int = 1,
    at_most: int | None = None,
) -> list[list[int]]:
    """Cut a text into windows of one length that do not overlap, each begun as the model expects.

    Args:
        tokens: ids of the text, without the prefix.
        length: ids of a window, prefix included.
        prefix: ids that start every window, such as the begin-of-sequence token.
        at_least: fewest windows to be content with.
        at_most: most windows to give; they are then spread over the whole text.

    Returns:
        The windows in the order of the text; what is left at its end is dropped.

    Raises:
        ConvertError: when the text is too short.
    """
    inner = length - len(prefix)
    if inner < 1:
        raise ValueError(f"a window of {length} tokens has no room behind {len(prefix)} of prefix")
    count = len(tokens) // inner
    if count < at_least:
        raise ConvertError(
            f"the calibration text is {len(tokens):,} tokens long, expected at least "
            f"{at_least * inner:,}",
            "give a longer text, or none to use the one that comes with the program",
        )
    kept = count if at_most is None else min(count, at_most)
    starts = [index * count // kept * inner for index in range(kept)]
    return [[*prefix, *tokens[start : start + inner]] for start in starts]
