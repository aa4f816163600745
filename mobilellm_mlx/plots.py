"""Figures as PNG files, drawn by matplotlib, which is the extra ``plots``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import InvalidOption, StorageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4499"
"""Told apart by people who see red and green alike (Okabe and Ito, 2008; the last by Tol). What a
colour means is always said by a word or a shape as well."""
INK, FAINT = "#222222", "#8a8a8a"
DOTS_PER_INCH = 160

_PNG = b"\x89PNG\r\n\x1a\n"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a figure is the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "white",
    "text.usetex": False,
    "text.parse_math": False,  # a name may have a dollar sign
}


@dataclass(frozen=True, slots=True)
class Point:
    """Something that was measured.

    Attributes:
        label: written beside it.
        x: across.
        y: up.
        low: lower end of its interval; None where there is none.
        high: upper end.
    """

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure of quality.

    Attributes:
        label: says what goes up.
        points: in any order.
        is_log: whether the axis is logarithmic; all values are above zero then.
        level: drawn as a line across: what the others are compared with.
    """

    label: str
    points: Sequence[Point]
    is_log: bool = False
    level: float | None = None


def require_plots() -> None:
    """Say what is missing before any work is done.

    Raises:
        InvalidOption: when matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InvalidOption(
            "drawing a plot needs matplotlib, which is not installed",
            "pip install 'matplotlib>=3.9'",
        ) from None


def require_figure_path(path: Path) -> None:
    """Refuse a place for a figure before any work is done.

    Raises:
        InvalidOption: when its name is not one of a PNG file, or something else would be lost.
    """
    if path.suffix.lower() != ".png":
        raise InvalidOption(f"`{path.name}` does not end in `.png`", "plots are PNG files")
    if not path.parent.is_dir():
        raise InvalidOption(f"there is no directory `{path.parent}`", "make it first")
    try:
        with path.open("rb") as file:
            is_png = file.read(len(_PNG)) == _PNG
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidOption(f"`{path}` cannot be replaced: {error.strerror}") from error
    if not is_png:
        raise InvalidOption(f"`{path}` is there and is not a PNG file", "choose another name")


def save_figure(
    path: Path, draw: Callable[[Figure], None], size: tuple[float, float] = (7.0, 4.4)
) -> None:
    """Draw a figure and write it whole, or not at all.

    Args:
        path: of the PNG file; another PNG there is replaced.
        draw: puts axes on an empty figure.
        size: width and height in inches.

    Raises:
        InvalidOption: when matplotlib is missing, or the path is none for a figure.
        StorageError: when it cannot be written.
    """
    require_plots()
    require_figure_path(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with rc_context(_STYLE):
        # Without pyplot: no window system is looked for, and nothing is kept between figures.
        figure = Figure(figsize=size, layout="constrained")
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.1, h_pad=0.1)
        FigureCanvasAgg(figure)
        draw(figure)
        try:
            with scratch.open("wb") as file:
                figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError as error:
            raise StorageError(f"the plot `{path}` cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)


def plot_size_quality(path: Path, panels: Sequence[Panel], title: str, across: str) -> None:
    """Quality against size: a panel for each measure, one above the other.

    Args:
        path: of the PNG file.
        panels: at least one, with a point for each model.
        title: says what is seen.
        across: label of the axis that they share.

    Raises:
        InvalidOption: see ``save_figure``.
        StorageError: likewise.
    """

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        figure.suptitle(title, x=0.012, ha="left", fontsize=12)
        for axis, panel, colour in zip(axes, panels, (BLUE, VERMILION, GREEN), strict=False):
            _draw_panel(axis, panel, colour)
        axes[-1].set_xlabel(across)
        axes[-1].set_xlim(left=0)
        figure.draw_without_rendering()  # from here on places in pixels are known
        for axis, panel in zip(axes, panels, strict=True):
            _write_labels(axis, panel)

    save_figure(path, draw, (7.0, 0.9 + 2.9 * len(panels)))


def _draw_panel(axis: Axes, panel: Panel, colour: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_title(panel.label, loc="left", fontsize=10, pad=8)
    axis.grid(visible=False, axis="x")
    if panel.is_log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if panel.level is not None:
        axis.axhline(panel.level, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for point in panel.points:
        axis.plot([point.x] * 2, _reach(point), color=colour, linewidth=1.4, zorder=2)
    places = [[point.x for point in panel.points], [point.y for point in panel.points]]
    look: dict[str, Any] = {
        "color": colour,
        "markersize": 6.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
    axis.plot(*places, "o", **look, zorder=3)
    axis.margins(x=0.12, y=0.15)


def _reach(point: Point) -> tuple[float, float]:
    """The ends of a point's interval."""
    low, high = point.low, point.high
    return point.y if low is None else low, point.y if high is None else high


_PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (6, 5, "left", "bottom"),
    (6, -5, "left", "top"),
    (-6, 5, "right", "bottom"),
    (-6, -5, "right", "top"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
)
"""Where a label can stand: points to the right and up, and what of it is there. The best first."""


def _write_labels(axis: Axes, panel: Panel) -> None:
    """Write each label where it hides least: points, intervals, the line and other labels."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    def pixels(x: float, y: float) -> Any:
        return axis.transData.transform((x, y))

    taken = []
    for point in panel.points:
        (x, low), (_, high) = (pixels(point.x, end) for end in _reach(point))
        y = pixels(point.x, point.y)[1]
        taken.append((3, Bbox([[x - 7, y - 7], [x + 7, y + 7]])))
        taken.append((3, Bbox([[x - 2, min(low, y)], [x + 2, max(high, y)]])))
    if panel.level is not None:
        y = pixels(0, panel.level)[1]
        taken.append((1, Bbox([[axis.bbox.x0, y - 2], [axis.bbox.x1, y + 2]])))
    for point in sorted(panel.points, key=lambda point: (point.x, point.y)):
        costs: list[tuple[int, int, Any, Any]] = []
        for right, up, across, along in _PLACES:
            text = axis.annotate(
                point.label,
                (point.x, point.y),
                xytext=(right, up),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=9,
                zorder=4,
                in_layout=False,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
            box = text.get_window_extent()
            hidden = sum(weight for weight, other in taken if box.overlaps(other))
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.figure.bbox.x1 - 4
            costs.append((hidden + 9 * (not inside), len(costs), text, box))
        kept = min(costs, key=lambda one: one[:2])
        taken.append((3, kept[3]))
        for one in costs:
            if one is not kept:
                one[2].remove()
