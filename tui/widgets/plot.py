"""Curves. This module is imported when the first one is drawn: what it draws with takes a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static
from textual_hires_canvas import Canvas, HiResMode

from ..trainlog import Curve, Series

LEFT = 8
"""Cells for the numbers beside the vertical axis."""
CELLS_PER_TICK = 12
"""That a number along the horizontal axis has to itself, at least."""
ROWS_PER_TICK = (2, 3, 4)
"""That one beside the vertical axis may have; all of them the same."""
MARK, THIN = "●", "─"
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to cells: ``least`` lies at ``start``, ``most`` at ``end``."""

    least: float
    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.least) / ((self.most - self.least) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, cells: int) -> list[float]:
        """Round values on it, ``cells`` or more apart."""
        span, room = self.most - self.least, abs(self.end - self.start) + 1
        if span <= 0:
            return [self.least]
        rough = span / max(1, room // cells)
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * each for each in _STEPS if unit * each >= rough * 0.999)
        first, last = ceil(self.least / step - 1e-6), floor(self.most / step + 1e-6)
        return [number * step for number in range(first, last + 1)]


def level_scale(least: float, most: float, rows: int) -> tuple[Scale, list[float]]:
    """A vertical axis on ``rows`` rows, as fine as holds both values, and its ticks.

    Every tick is a round number in the middle of a row, and all are equally many rows apart.
    """
    span = max(most - least, abs(most) / 20)
    span = span if span > 1e-12 else 1.0
    unit = floor(log10(span / rows))
    gaps = [gap for gap in ROWS_PER_TICK if gap <= rows // 2] or ROWS_PER_TICK[:1]
    steps = [10.0**power * each for power in range(unit, unit + 3) for each in _STEPS[:-1]]
    row, gap, step = next(
        (row, gap, step)
        for row, gap, step in sorted((step / gap, gap, step) for step in steps for gap in gaps)
        if row * rows >= span and most <= (floor(least / row + 0.5) + rows - 0.5) * row
    )
    lowest = floor(least / row + 0.5)
    # A little less than all rows: the lowest value is still within the last one.
    scale = Scale((lowest - 0.5) * row, (lowest + rows - 0.5) * row, rows - 0.01, 0.0)
    first = ceil(lowest / gap)
    return scale, [step * number for number in range(first, (lowest + rows - 1) // gap + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Numbers as short as they can be told apart."""
    if not ticks:
        return []
    largest = max(abs(tick) for tick in ticks)
    if 0 < largest < 0.01:
        return [
            f"{tick:.1e}".replace("e-0", "e-").replace(".0e", "e") if tick else "0"
            for tick in ticks
        ]
    if largest >= 10_000:
        return [f"{tick / 1000:g}k" for tick in ticks]
    gap = ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0
    places = next((n for n in range(4) if abs(gap * 10**n - round(gap * 10**n)) < 1e-6), 4)
    return [f"{tick:.{places}f}" for tick in ticks]


def thinned(series: Series, columns: int) -> list[tuple[float, float]]:
    """The points of a curve, or their means where there are more than columns to show them."""
    points = list(zip(series.steps, series.values, strict=True))
    size = ceil(len(points) / max(1, columns))
    if size <= 1:
        return points
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


class Plot(Vertical):
    """Curves under a line that names them and says their last values.

    Args:
        title: what is drawn.
        from_zero: the vertical axis begins there, so that small changes look small.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "plot--axis",
        "plot--tick",
        "plot--thin",
        "plot--strong",
    }
    DEFAULT_CSS = """
    Plot { height: 1fr; width: 1fr; }
    Plot > Static { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Plot > Canvas { height: 1fr; width: 1fr; }
    Plot > .plot--axis { color: $border; }
    Plot > .plot--tick { color: $secondary; }
    Plot > .plot--thin { color: $secondary; }
    Plot > .plot--strong { color: $primary; text-style: bold; }
    """

    def __init__(self, title: str, *, from_zero: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._title = title
        self._from_zero = from_zero
        self._head = Static(Content.styled(title, "bold"), markup=False)
        self._canvas = Canvas(1, 1)
        self._curves: Sequence[Curve] = ()

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._canvas

    def show(self, curves: Sequence[Curve], said: str = "") -> None:
        """Draw curves.

        Args:
            curves: those of them that are empty are left out.
            said: the last values, in words.
        """
        names = [
            Content.assemble(
                "   ",
                (f"{MARK} ", "$primary bold") if curve.marked else (f"{THIN} ", "$secondary"),
                (curve.name, "dim"),
            )
            for curve in curves
            if curve.name and curve.series
        ]
        value = Content.styled(f"  {said}" if said else "", "$foreground")
        self._head.update(Content.assemble((self._title, "bold"), value, *names))
        self._curves = curves
        self._draw()

    @on(Canvas.Resize)
    def _draw(self) -> None:
        """Draw all of it anew, as large as there is room."""
        canvas, size = self._canvas, self._canvas.size
        if not self.is_mounted or size.width <= LEFT + 2 or size.height < 3:
            return
        with canvas.batch_refresh():
            canvas.reset(size)
            columns = 2 * (size.width - LEFT)
            lines = [(curve, thinned(curve.series, columns)) for curve in self._curves]
            points = [point for _, line in lines for point in line]
            if not points:
                return
            values = [value for _, value in points] + ([0.0] if self._from_zero else [])
            across = Scale(0.0, max(at for at, _ in points), LEFT, size.width - 0.6)
            up, ticks = level_scale(min(values), max(values), size.height - 1)
            self._draw_axes(across, up, ticks, size.height)
            for curve, line in sorted(lines, key=lambda each: each[0].marked):
                self._draw_line(curve, [(across.at(x), up.at(y)) for x, y in line])

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self.is_mounted:  # another theme: the canvas holds colours
            self.call_after_refresh(self._draw)

    def _style(self, name: str) -> str:
        return str(self.get_component_rich_style(name, partial=True))

    def _draw_axes(self, across: Scale, up: Scale, levels: list[float], height: int) -> None:
        axis = self._style("plot--axis")
        for row in range(height - 1):
            self._canvas.set_pixel(LEFT - 1, row, "│", axis)
        for tick, label in zip(levels, tick_labels(levels), strict=True):
            row = floor(up.at(tick))
            self._canvas.set_pixel(LEFT - 1, row, "┤", axis)
            self._write(label[: LEFT - 2].rjust(LEFT - 2), 0, row)
        ticks = [tick for tick in across.ticks(CELLS_PER_TICK) if tick == int(tick)]
        for tick, label in zip(ticks, tick_labels(ticks), strict=True):
            start = floor(across.at(tick)) - len(label) // 2
            self._write(label, min(start, self._canvas.size.width - len(label)), height - 1)

    def _write(self, text: str, column: int, row: int) -> None:
        style = self._style("plot--tick")
        for at, char in enumerate(text):
            self._canvas.set_pixel(max(0, column) + at, row, char, style)

    def _draw_line(self, curve: Curve, line: Sequence[tuple[float, float]]) -> None:
        style = self._style("plot--strong" if curve.marked else "plot--thin")
        if curve.marked or len(line) == 1:
            for x, y in line:
                self._canvas.set_pixel(floor(x), floor(y), MARK, style)
        else:
            pairs = [(*before, *after) for before, after in pairwise(line)]
            self._canvas.draw_hires_lines(pairs, hires_mode=HiResMode.BRAILLE, style=style)
