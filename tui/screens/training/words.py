"""What the screens of the training say: plain values into lines of text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from datetime import datetime
from math import isfinite

from textual.content import Content

from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import MemoryEstimated, Sampled
from mobilellm_mlx.training.status import RunStatus, State

from ...messages import Problem
from ...text import Segment, fit, meter, printable
from ...trainlog import Story
from ...widgets.models import LABEL, labelled, shorten
from ...workshop import Checkup, Piece
from .draft import title

SIGNS: dict[State, str] = {
    "running": "▸",
    "paused": "‖",
    "stopped": "■",
    "finished": "✓",
    "failed": "✗",
    "interrupted": "!",
}
LEARNED = "▌"
"""Stands before what is learned of an example."""
MOST_EXAMPLE_LINES = 14
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def state_words(row: RunStatus) -> Content:
    """How a run stands, by sign and word."""
    style = "bold" if row.is_alive or row.state in ("failed", "interrupted") else ""
    return Content.styled(f"{SIGNS[row.state]} {row.state}", style)


def counted(count: int, what: str) -> str:
    """How many there are, such as ``1 step`` and ``2,000 steps``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def as_in_form(text: str) -> str:
    """A hint that names options of the command line, with the names that the form has for them."""
    return _OPTION.sub(lambda found: title(found[1].replace("-", "_")) or found[0], text)


def loss_words(loss: float | None) -> str:
    """A loss, as precise as it means anything."""
    if loss is None:
        return "–"
    return f"{loss:.3f}" if isfinite(loss) and abs(loss) < 1000 else f"{loss:.3g}"


def rate_words(rate: float) -> str:
    """A learning rate, such as ``4.2e-4``."""
    return f"{rate:.1e}".replace("e-0", "e-") if rate else "0"


def duration(seconds: float) -> str:
    """A time that a training takes."""
    if seconds < 100:
        return f"{max(0, seconds):.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:02.0f} min"


def ago(then: datetime, now: datetime) -> str:
    """How long ago that was."""
    seconds = (now - then).total_seconds()
    if seconds < 90:
        return "now"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 86_400:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86_400:.0f} days ago" if seconds < 172_800 * 15 else f"{then:%Y-%m-%d}"


_COLUMNS = (("step", 11, 34), ("best", 6, 48), ("kind", 4, 58), ("last word", 11, 66))
"""Title, cells, and the least width of the line that has room for it."""
_WORDS_FROM = 48
"""Below that, the state of a run is a sign; the word stands under the list."""


def run_line(row: RunStatus, width: int, now: datetime) -> Content:
    """A run on one line; what there is no room for is left out."""
    state = state_words(row) if width >= _WORDS_FROM else Content(SIGNS[row.state])
    size = 14 if width >= _WORDS_FROM else 2
    steps = f"{row.step:,}/{row.steps:,}" if row.steps else ""
    cells = (steps, loss_words(row.best_loss), row.method, ago(row.updated, now))
    shown = [
        (f"{printable(cell):>{room}}", "dim" if title == "last word" else "")
        for cell, (title, room, least) in zip(cells, _COLUMNS, strict=True)
        if width >= least
    ]
    room = width - size - sum(2 + len(cell) for cell, _ in shown)
    name = shorten(printable(row.name), max(8, room))
    columns = [Content.assemble("  ", cell) for cell in shown]
    padding = Content(" " * (size - state.cell_length))
    return Content.assemble(state, padding, f"{name:<{max(8, room)}}", *columns)


def runs_columns(width: int) -> Content:
    """The titles above ``run_line``."""
    shown = [f"  {title:>{room}}" for title, room, least in _COLUMNS if width >= least]
    return Content("".join(shown).rjust(width))


def progress_line(row: RunStatus, story: Story, width: int) -> Content:
    """How far a run is, with a bar where there is room."""
    steps = row.steps or (story.started.steps if story.started else 0)
    at = story.step.step if story.step else row.step
    words = f"step {at:,} of {steps:,}" if steps else f"step {at:,}"
    left = [Segment([(9, Content(words))])]
    if story.step is not None:
        left.append(Segment([(3, Content(f"epoch {story.step.epoch:.1f}")), (0, Content(""))]))
        if row.state == "running" and (rest := story.step.left_s) is not None:
            left.append(Segment([(5, Content(f"{duration(rest)} left")), (0, Content(""))]))
    size = sum(segment.content.cell_length + 2 for segment in left)
    bar = meter(at / steps, min(40, width - size), "bold $primary") if steps else Content("")
    bars = [Segment([(1, bar), (0, Content(""))])] if width - size >= 10 else []
    return fit([*bars, *left], [], width)


def figures(story: Story) -> list[tuple[str, str, int]]:
    """The last numbers: what, how much, and how much that is worth on a short line."""
    found: list[tuple[str, str, int]] = []
    if story.step is not None:
        found.append(("loss", loss_words(story.step.loss), 9))
    if story.valid is not None:
        found.append(("valid", loss_words(story.valid.loss), 8))
        found.append(("best", f"{loss_words(story.valid.best_loss)} at {story.valid.best_step}", 6))
    if story.step is not None:
        found.append(("rate", rate_words(story.step.learning_rate), 3))
        found.append(("tok/s", f"{story.step.tok_per_s:,.0f}", 4))
        found.append(("memory", format_bytes(story.step.memory_bytes), 5))
    return found


def figures_line(story: Story, width: int) -> Content:
    """The last numbers on one line."""
    segments = [
        Segment([(worth, Content.assemble((f"{what} ", "dim"), value)), (0, Content(""))])
        for what, value, worth in figures(story)
    ]
    return fit(segments, [], width)


def figures_block(story: Story, width: int) -> Content:
    """The same under each other, two on a line."""
    cells = [
        Content.assemble((f"{what:<7}", "dim"), f"{value:<{max(8, width // 2 - 7)}}")
        for what, value in ((what, value.partition(" at ")[0]) for what, value, _ in figures(story))
    ]
    pairs = [cells[at : at + 2] for at in range(0, len(cells), 2)]
    return Content("\n").join([Content("").join(pair) for pair in pairs])


def estimate_words(estimate: MemoryEstimated, held_bytes: int = 0) -> list[tuple[str, str]]:
    """What a training would take in memory, against what there is."""
    parts = [
        (estimate.weights_bytes, "weights"),
        (estimate.gradients_bytes, "gradients"),
        (estimate.optimizer_bytes, "optimiser"),
        (estimate.activations_bytes, "activations"),
    ]
    said = " + ".join(f"{what} {format_bytes(size)}" for size, what in parts if size)
    fits = "fits" if estimate.fits else "does not fit"
    lines = [
        (
            "memory",
            f"{format_bytes(estimate.total_bytes)} = {said}; "
            f"{format_bytes(estimate.available_bytes)} free: {fits}",
        )
    ]
    if held_bytes:
        lines.append(("chat", f"Its model holds {format_bytes(held_bytes)} at the same time."))
    if not estimate.fits:
        lines += [("smaller", printable(as_in_form(remedy))) for remedy in estimate.remedies[:4]]
    return lines


def shortage_words(estimate: MemoryEstimated) -> str:
    """What speaks against a training that does not fit, and what would help."""
    need, free = format_bytes(estimate.total_bytes), format_bytes(estimate.available_bytes)
    help_ = "; ".join(printable(as_in_form(remedy)) for remedy in estimate.remedies[:3])
    said = f"It would take about {need}, and {free} are free. The machine may become very slow."
    return f"{said} Smaller would be: {help_}." if help_ else said


def example_lines(pieces: Sequence[Piece], width: int) -> list[Content]:
    """An example as the model reads it: what is learned has a bar before it, the rest is dim."""
    rows: list[Content] = []
    row = Content("")
    for text, learned in pieces:
        style = "" if learned else "dim"
        for number, line in enumerate(printable(text).split("\n")):
            if number:
                rows.append(row)
                row = Content("")
            if line:
                mark = f"{LEARNED} " if learned else "  "
                row = row + Content.styled(line, style) if row else Content.assemble(
                    (mark, "$primary"), (line, style)
                )  # fmt: skip
    rows = [each for each in [*rows, row] if each]
    shown = [each.truncate(width, ellipsis=True) for each in rows[:MOST_EXAMPLE_LINES]]
    if (more := len(rows) - MOST_EXAMPLE_LINES) > 0:
        shown.append(Content.styled(f"  … {counted(more, 'more line')}", "dim"))
    return shown


def checkup_content(checkup: Checkup, width: int, held_bytes: int = 0) -> Content:
    """The doctor's report, the memory it would take, and how the examples are read."""
    facts = [("", f"! {printable(as_in_form(text))}") for text in checkup.warnings]
    if checkup.estimate is not None:
        facts += estimate_words(checkup.estimate, held_bytes)
    facts += [(label, printable(text)) for label, text in checkup.facts]
    rows = [labelled(facts, width)]
    if checkup.examples:
        rows += [Content(""), Content.styled(f"{LEARNED} is learned, the rest is only read", "dim")]
    for example in checkup.examples:
        rows += [Content(""), *example_lines(example, width)]
    return Content("\n").join(rows)


def problem_content(problem: Problem) -> Content:
    """What went wrong, and what to do about it."""
    hint = f"\n{problem.hint}" if problem.hint else ""
    return Content.assemble((printable(problem.text), "bold $text-error"), printable(hint))


def sample_content(samples: Sequence[Sampled], width: int) -> Content:
    """Sample answers beside what was asked and what was expected."""
    rows: list[Content] = []
    for sample in samples:
        rows += [Content("")] if rows else []
        for label, text, style in (
            ("asked", sample.prompt, "dim"),
            ("says", sample.text or "(nothing)", "$foreground"),
            ("expected", sample.expected, "dim"),
        ):
            words = " ".join(printable(text).split())
            lines = textwrap.wrap(words, max(8, width - LABEL)) if words else []
            for number, line in enumerate(lines):
                first = "" if number else label
                rows.append(Content.assemble((f"{first:<{LABEL}}", "dim"), (line, style)))
    return Content("\n").join(rows)
