"""Figures as files: whole ones, of sensible sizes, that replace nothing else."""

import struct
import sys
from pathlib import Path

import pytest

from mobilellm_mlx.errors import InvalidOption, StorageError
from mobilellm_mlx.plots import Panel, Point, plot_size_quality, require_plots, save_figure

POINTS = [
    Point("eight bits", 143, 0.0002, 0.00018, 0.00024),
    Point("four $bits$", 84, 0.012, None, 0.0142),
    Point("two bits", 50, 6.1),
]
PANELS = [Panel("KL", POINTS, is_log=True), Panel("accuracy", POINTS, level=5.0)]


@pytest.fixture(autouse=True)
def _drawn() -> None:
    pytest.importorskip("matplotlib")


def _nothing(figure: object) -> None:
    """Leaves the figure empty."""


def size(path: Path) -> tuple[int, int]:
    start = path.read_bytes()[:24]
    assert start.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", start[16:])
    return width, height


def test_a_plot_is_a_png_with_a_panel_for_each_measure(tmp_path: Path) -> None:
    plot_size_quality(tmp_path / "one.png", PANELS[:1], "What it costs", "MB")
    plot_size_quality(tmp_path / "two.png", PANELS, "What it costs", "MB")
    (width, low), (same, high) = size(tmp_path / "one.png"), size(tmp_path / "two.png")
    assert width == same > 1000
    assert 400 < low < high < 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_labels_stay_apart_and_inside(tmp_path: Path) -> None:
    close = [Point(f"model number {n}", 80 + 3 * n, 0.01 * 1.2**n) for n in range(4)]
    close.append(Point("the largest of all models", 270, 0.001))
    boxes = []

    def watch(figure: object) -> None:
        from mobilellm_mlx import plots

        axis = figure.subplots()  # type: ignore[attr-defined]
        panel = Panel("KL", close, is_log=True)
        plots._draw_panel(axis, panel, plots.BLUE)
        figure.draw_without_rendering()  # type: ignore[attr-defined]
        plots._write_labels(axis, panel)
        boxes.extend(text.get_window_extent() for text in axis.texts)
        right = figure.bbox.x1  # type: ignore[attr-defined]
        assert all(box.x0 > 0 and box.x1 < right for box in boxes)

    save_figure(tmp_path / "a.png", watch)
    assert len(boxes) == 5
    pairs = [(one, other) for at, one in enumerate(boxes) for other in boxes[:at]]
    assert not any(one.overlaps(other) for one, other in pairs)


def test_another_plot_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(InvalidOption, match=r"notes\.png.* is not a PNG"):
        plot_size_quality(path, PANELS, "", "")
    assert path.read_text() == "not a picture"
    path.unlink()
    save_figure(path, _nothing, (2, 1))
    save_figure(path, _nothing, (2, 2))
    assert size(path) == (320, 320)


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "missing/plot.png"])
def test_a_place_that_is_none_for_a_plot_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption):
        save_figure(tmp_path / name, _nothing)


def test_a_directory_in_the_plots_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(InvalidOption, match="cannot be replaced"):
        save_figure(tmp_path / "plot.png", _nothing)


def test_a_drawing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    save_figure(path, _nothing, (2, 1))
    before = path.read_bytes()

    def fail(_: object) -> None:
        raise StorageError("nothing to draw")

    with pytest.raises(StorageError):
        save_figure(path, fail)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["plot.png"]


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidOption) as error:
        require_plots()
    assert error.value.hint == "pip install 'matplotlib>=3.9'"
