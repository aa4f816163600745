"""How ``mobilellm eval`` sets out what it found: tables, lines below them, figures."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from mobilellm_mlx.cli.errors import printable

Row = Sequence[str | Sequence[str]]
"""Cells of a table; one of several lines is a list."""
SHARES = ("acc", "acc_norm", "em_intent", "em_structure", "valid", "called", "restraint", "found")
"""Metrics that are shares, and shown in per cent."""
_WIDTH, _NARROWEST = 80, 24
"""Of lines below a table, in columns."""
_GAP, _BETWEEN = 2, 3
"""Spaces between what stands on a line, and between columns."""


def print_table(
    heads: Sequence[str],
    rows: Sequence[Row],
    foot: Sequence[Row] = (),
    *,
    keep_first_head: bool = False,
) -> None:
    """A table on stdout; where the terminal has no room for it, a few lines for each row.

    The first cell of a row, which names it, is never folded or cut.

    Args:
        heads: of the columns.
        rows: their cells.
        foot: rows below a line.
        keep_first_head: say it where there is no room too, before the name of each row.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    named = [heads, *rows, *foot]
    widths = [max(cell_len(line) for row in named for line in _lines(row[at]))
              for at in range(len(heads))]  # fmt: skip
    if sum(widths) + _BETWEEN * (len(heads) - 1) > console.width:
        for row in [*rows, *foot]:
            _print_row(heads, row, console.width, keep_first_head)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, head in enumerate(heads):
        side: Any = "left" if at == 0 else "right"
        table.add_column(Text(printable(head)), justify=side)
    for part in (rows, foot):
        for row in part:
            table.add_row(*(Text("\n".join(_lines(cell))) for cell in row))
        table.add_section()
    console.print(table)


def _print_row(heads: Sequence[str], row: Row, width: int, keep_first_head: bool) -> None:
    """A row as its name and, below, what its columns say, as many on a line as there is room."""
    head = f"{printable(heads[0])} " if keep_first_head else ""
    for line in _lines(row[0]):
        click.echo(head + line)
    said = [
        " ".join(filter(None, (printable(head), *_lines(cell))))
        for head, cell in zip(heads[1:], row[1:], strict=True)
        if any(_lines(cell))
    ]
    shown = " " * _GAP
    for text in said:
        if len(shown) + len(text) > width and shown.strip():
            click.echo(shown.rstrip())
            shown = " " * _GAP
        shown += text + " " * _GAP
    if shown.strip():
        click.echo(shown.rstrip())


def _lines(cell: str | Sequence[str]) -> list[str]:
    return [printable(line) for line in ([cell] if isinstance(cell, str) else cell)] or [""]


def say(sentence: str, *, err: bool = False) -> None:
    """A line below a table, folded like it; no word of it is cut.

    Args:
        sentence: what to say.
        err: on stderr.
    """
    width = max(_NARROWEST, min(_WIDTH, shutil.get_terminal_size().columns))
    click.echo(
        textwrap.fill(
            printable(sentence),
            width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        ),
        err=err,
    )


def share(metric: Mapping[str, Any] | None) -> str:
    """A share in per cent with its standard error."""
    from mobilellm_mlx.evals.statistics import metric_from, shown_error

    if metric is None or metric["mean"] is None:
        return "-"
    return with_error(metric["mean"], shown_error(metric_from(metric)))


def with_error(mean: float, error: float | None) -> str:
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} ±{100 * error:.1f}"


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def scaled(value: float | None, times: int, digits: int, sign: str = "-") -> str:
    return "-" if value is None else f"{times * value:{sign}.{digits}f}"


def chance(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def nonfinite(count: int) -> str:
    return "1 value is NaN or infinite" if count == 1 else f"{count} values are NaN or infinite"


def changes(
    metric: str, before: float, after: float, change: Mapping[str, Any], p: float | None
) -> list[str]:
    """The cells behind the name of what changed; shares in per cent.

    Args:
        metric: what it is a change of.
        before: mean.
        after: mean.
        change: between them, as ``Metric``.
        p: how likely so large a change is by chance.
    """
    times, digits = (100, 1) if metric in SHARES else (1, 3)
    low, high = (scaled(change[end], times, digits, "+") for end in ("low", "high"))
    return [
        f"{change['n']:,}",
        scaled(before, times, digits),
        scaled(after, times, digits),
        scaled(change["mean"], times, digits, "+"),
        "-" if change["low"] is None else f"{low} to {high}",
        chance(p),
    ]
