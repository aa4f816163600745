"""Small functions from values to the words and bars of the interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from mobilellm_mlx.plain import printable as printable


def format_key(key: str) -> str:
    """A key as it is written on keyboards: ``ctrl+pageup`` gives ``Ctrl+PgUp``."""
    names = {
        "escape": "Esc",
        "pageup": "PgUp",
        "pagedown": "PgDn",
        "newline": "Ctrl+J",
        "slash": "/",
    }
    if len(key) == 1:  # a letter by itself is typed as it stands
        return key
    return "+".join(names.get(part, part.capitalize()) for part in key.split("+"))


def format_seconds(seconds: float) -> str:
    """A duration short enough for a status line."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def format_count(count: int) -> str:
    """A number of parameters as models are named: 134,515,008 is 135M."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M" if count >= 1_000_000 else f"{count:,}"


def meter(share: float, width: int, full: str = "$foreground", rest: str = "dim") -> Content:
    """A bar ``width`` cells wide of which ``share`` is full; readable without colour."""
    filled = min(width, max(0, round(share * width)))
    if share > 0 and filled == 0:
        filled = 1
    return Content.assemble(("━" * filled, full), ("─" * (width - filled), rest))


@dataclass(slots=True)
class Segment:
    """A part of a line in several forms, the longest first; the last may be empty.

    Each form comes with its worth: the form with the smallest worth on the line is the first to
    give way to the next shorter one. The last form stays, whatever its worth.
    """

    forms: list[tuple[int, Content]]

    @property
    def content(self) -> Content:
        return self.forms[0][1]


def _width(segments: Sequence[Segment], gap: int) -> int:
    widths = [w for segment in segments if (w := segment.content.cell_length)]
    return sum(widths) + gap * max(0, len(widths) - 1)


def fit(left: Sequence[Segment], right: Sequence[Segment], width: int, gap: int = 2) -> Content:
    """One line of at most ``width`` cells: ``left`` at its beginning, ``right`` at its end.

    Shortens and then drops the least important segments until the rest fits; never wraps.
    """
    segments = [*left, *right]
    while _width(segments, gap) > width:
        shrinkable = [segment for segment in segments if len(segment.forms) > 1]
        if not shrinkable:
            break
        min(shrinkable, key=lambda segment: segment.forms[0][0]).forms.pop(0)
    space = Content(" " * gap)
    begin = space.join([s.content for s in left if s.content])
    end = space.join([s.content for s in right if s.content])
    filler = Content(" " * max(0, width - begin.cell_length - end.cell_length))
    return (begin + filler + end).truncate(width)
