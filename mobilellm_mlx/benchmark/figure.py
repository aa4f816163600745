"""Speeds as a picture: a panel for reading and one for writing, a bar for each program and case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.benchmark.plan import Case
from mobilellm_mlx.plots import BLUE, FAINT, INK, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("prefill_tok_per_s", "reading a prompt, tokens a second"),
    ("decode_tok_per_s", "writing, tokens a second"),
)
_ROW_INCHES = 0.32


def plot_speeds(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the rows of a result.

    Args:
        path: of the PNG file.
        rows: at least one.
        title: says whose speeds they are.

    Raises:
        InvalidOption: see ``plots.save_figure``.
        StorageError: likewise.
    """
    ordered = sorted(rows, key=lambda row: (row["batch"], row["depth"], row["prompt"]))

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(1, 2, sharey=True)
        figure.suptitle(_title(title, ordered), x=0.012, ha="left", fontsize=12)
        for axis, (key, label) in zip(axes, _PANELS, strict=True):
            _draw_bars(axis, ordered, key, label)
        axes[0].set_yticks(range(len(ordered)), [_label(row, ordered) for row in ordered])
        axes[0].invert_yaxis()

    save_figure(path, draw, (9.0, 1.4 + _ROW_INCHES * len(ordered)))


def _draw_bars(axis: Axes, rows: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    axis.set_title(label, loc="left", fontsize=10, pad=8)
    axis.grid(visible=False, axis="y")
    for at, row in enumerate(rows):
        found = row[key]
        colour = BLUE if row["engine"] == rows[0]["engine"] else FAINT
        axis.barh(at, found["median"], height=0.62, color=colour)
        axis.plot([found["min"], found["max"]], [at, at], color=INK, linewidth=1.2)
        axis.annotate(
            f"{found['median']:,.0f}" if found["median"] >= 100 else f"{found['median']:.1f}",
            (max(found["max"], found["median"]), at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axis.set_xlim(0, 1.18 * max(row[key]["max"] for row in rows))


def _title(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """With the case where all rows are of one."""
    cases = {_case(row) for row in rows}
    return f"{title}, prompt {cases.pop().title}" if len(cases) == 1 else title


def _label(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Who, and what; the second only where there are several cases."""
    several = len({_case(one) for one in rows}) > 1
    return f"{row['engine']}, {_case(row).title}" if several else str(row["engine"])


def _case(row: Mapping[str, Any]) -> Case:
    return Case(row["prompt"], row["depth"], row["batch"])
