"""Themes: measured contrast, and only the terminal's own colours where that was promised."""

from __future__ import annotations

import pytest
from rich.color import Color as RichColor
from rich.color import ColorSystem
from textual.app import App, ComposeResult
from textual.color import Color
from textual.widgets import Input, OptionList, Static

from mobilellm_mlx.settings import THEMES as NAMES
from tui.themes import ANSI, CONTRAST, DARK, LIGHT, THEMES, wants_no_color

SURFACES = ("background", "surface", "panel")
TEXTS = (
    "foreground",
    "text",
    "text-muted",
    "primary",
    "warning",
    "error",
    "success",
    "text-primary",
    "text-warning",
    "text-error",
    "text-success",
)


def luminance(color: Color) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [part / 255 for part in color.rgb]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(text: str, surface: Color) -> float:
    if text.startswith("auto"):
        share = float(text.removeprefix("auto").strip().rstrip("%")) / 100
        color = surface + surface.get_contrast_text(share)
    else:
        color = surface + Color.parse(text)
    light, dark = sorted((luminance(color), luminance(surface)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_settings_know_the_themes_by_name() -> None:
    assert tuple(theme.name for theme in THEMES) == NAMES


@pytest.mark.parametrize(
    ("theme", "least"), [(DARK, 4.5), (LIGHT, 4.5), (CONTRAST, 7.0)], ids=lambda v: str(v)[:30]
)
def test_text_stands_out_from_every_surface(theme: object, least: float) -> None:
    colors = theme.to_color_system().generate()  # type: ignore[attr-defined]
    worst = {
        f"{text} on {surface}": round(contrast(colors[text], Color.parse(colors[surface])), 2)
        for text in TEXTS
        for surface in SURFACES
    }
    assert {pair: ratio for pair, ratio in worst.items() if ratio < least} == {}


@pytest.mark.parametrize("theme", [DARK, LIGHT, CONTRAST], ids=lambda theme: theme.name)
def test_what_the_cursor_stands_on_can_be_read(theme: object) -> None:
    colors = theme.to_color_system().generate()  # type: ignore[attr-defined]
    cursor = Color.parse(colors["block-cursor-background"])
    assert contrast(colors["block-cursor-foreground"], cursor) >= 4.5


def test_the_high_contrast_theme_has_edges_that_are_seen() -> None:
    colors = CONTRAST.to_color_system().generate()
    for edge in ("border", "border-blurred", "scrollbar"):
        assert contrast(colors[edge], Color.parse(colors["background"])) >= 3  # WCAG 1.4.11


def test_the_ansi_theme_defines_whatever_the_others_do() -> None:
    wanted = set(DARK.to_color_system().generate())
    assert wanted <= set(ANSI.to_color_system().generate())


class Sample(App[None]):
    CSS = "Static { color: $text-muted; } .w { color: $text-warning; border: round $border; }"

    def __init__(self, theme: str, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        for known in THEMES:
            self.register_theme(known)
        self.theme = theme

    def compose(self) -> ComposeResult:
        yield Static("muted")
        yield Static("warned", classes="w")
        yield Input("text")
        yield OptionList("one", "two")


def colors_drawn(app: App[None]) -> set[str]:
    """Every kind of colour in what would go to the terminal."""
    lines = app.screen._compositor.render_strips()
    found = set()
    for line in lines:
        for segment in line:
            style = segment.style
            for color in (style.color, style.bgcolor) if style else ():
                if color is not None:
                    found.add(color.type.name)
    return found


async def test_the_ansi_theme_draws_with_the_terminals_own_colours() -> None:
    app = Sample(ANSI.name)
    async with app.run_test(size=(40, 12)):
        assert colors_drawn(app) <= {"DEFAULT", "STANDARD"}
    app = Sample(DARK.name)
    async with app.run_test(size=(40, 12)):
        assert "TRUECOLOR" in colors_drawn(app)


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("", False), (None, False)])
def test_no_color_counts_when_it_says_something(value: str | None, wanted: bool) -> None:
    assert wants_no_color({} if value is None else {"NO_COLOR": value}) is wanted


async def test_with_no_color_none_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Sample(ANSI.name, ansi_color=True)
    async with app.run_test(size=(40, 12)):
        assert colors_drawn(app) <= {"DEFAULT"}


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_a_terminal_of_256_colours_shows_greys_as_greys(theme):
    """Terminal.app rounds: a surface that is nearly grey must not become yellow."""
    if theme.ansi:
        return
    for name in ("background", "surface", "panel"):
        red, green, blue = (int(getattr(theme, name)[at : at + 2], 16) for at in (1, 3, 5))
        assert max(red, green, blue) - min(red, green, blue) <= 20
        number = RichColor.from_rgb(red, green, blue).downgrade(ColorSystem.EIGHT_BIT).number
        assert number is not None and (number >= 232 or number in (16, 59, 102, 145, 188, 231))
