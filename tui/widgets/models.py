"""The list of models, the words about one of them, and what can be done with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.style import Style
from textual.widgets import OptionList

from mobilellm_mlx.errors import format_bytes

from ..pulls import Pull, Verdict
from ..shelf import ModelRow
from ..text import Segment, fit, format_count, format_seconds, meter, printable

COLUMNS = (  # title, cells, the least width of the line that has room for it
    ("params", 6, 46),
    ("context", 7, 60),
    ("on disk", 8, 34),
    ("memory", 8, 54),
    ("licence", 10, 70),
)
MARK = "● "
LABEL = 9
BAR = 10


def model_line(
    row: ModelRow, width: int, pull: Pull | None = None, in_use: bool = False
) -> Content:
    """One model in columns, as many as ``width`` has room for; a pull takes their place."""
    mark = MARK if in_use else " " * len(MARK)
    cells = _cells(row)
    shown = [(cells[i], size) for i, (_, size, least) in enumerate(COLUMNS) if width >= least]
    if pull is not None:
        words = pull_words(pull, width)
        size = max(sum(size + 1 for _, size in shown), words.cell_length + 1)
        columns = [Content(" " * max(1, size - words.cell_length)), words]
    else:
        columns = [Content.assemble(" ", _cell(*cell)) for cell in shown]
        size = sum(size + 1 for _, size in shown)
    name = shorten(printable(row.name), max(4, width - len(MARK) - size))
    filler = " " * max(0, width - len(MARK) - size - Content(name).cell_length)
    return Content.assemble(mark, name, filler, *columns)


def columns_line(width: int) -> Content:
    """The titles above the columns of ``model_line``."""
    shown = [
        f" {title:<{size}}" if title == "licence" else f" {title:>{size}}"
        for title, size, least in COLUMNS
        if width >= least
    ]
    return Content("".join(shown).rjust(width))


def _cell(cell: tuple[str, str], size: int) -> tuple[str, str]:
    text, style = cell
    left = style == "left"
    text = shorten(text, size)
    return (text.ljust(size) if left else text.rjust(size), "" if left else style)


def _cells(row: ModelRow) -> tuple[tuple[str, str], ...]:
    """Text and style of every column."""
    size = _about(row.bytes, row.converted_bytes)
    memory = row.memory
    if memory is None:
        need = ("?", "dim")
    elif memory.fits:
        need = (f"{'~' if memory.is_estimate else ''}{format_bytes(memory.need_bytes)}", "")
    else:
        need = ("too big", "bold")
    if row.trouble:
        need = ("unusable", "bold")
    terms = "NC" if row.non_commercial else printable(row.licence or "?")
    return (
        (_parameters(row), ""),
        (f"{row.context:,}" if row.context else "?", ""),
        (size, ""),
        need,
        (f"{terms}, gated" if row.gated and not row.installed else terms, "left"),
    )


def _about(exact: int | None, about: int | None) -> str:
    if exact is not None:
        return format_bytes(exact)
    return f"~{format_bytes(about)}" if about else "?"


def _parameters(row: ModelRow) -> str:
    return format_count(row.parameters) if row.parameters else printable(row.size) or "?"


def shorten(text: str, size: int) -> str:
    """At most ``size`` characters; the middle goes, for names differ at their ends."""
    if len(text) <= size:
        return text
    end = (size - 1) * 2 // 3
    return f"{text[: size - 1 - end]}…{text[len(text) - end :]}"


def pull_words(pull: Pull, width: int) -> Content:
    """How far a pull is, for a line of the list."""
    share = f"{100 * pull.share:.0f} %" if pull.share is not None else ""
    match pull.phase:
        case "queued":
            return Content("waits its turn")
        case "paused":
            return Content(f"paused at {share}" if share and pull.row.resumes else "stopped")
        case "failed":
            return Content.styled("failed", "bold")
        case "pausing" | "cancelling":
            return Content("stopping")
    rate = f" {format_bytes(pull.per_s):>9}/s" if pull.per_s and width >= 54 else ""
    if pull.share is None:
        return Content(f"working{rate}")
    return Content.assemble(meter(pull.share, BAR, "bold"), f" {share:>5}{rate}")


def describe_pull(pull: Pull) -> str:
    """How far a pull is, in a sentence or two."""
    task = printable(pull.task) or "beginning"
    parts = [task[:1].upper() + task[1:]]
    if pull.share is not None:
        parts.append(f"{100 * pull.share:.0f} %")
    if pull.in_bytes and pull.total:
        parts.append(f"{format_bytes(pull.done)} of {format_bytes(pull.total)}")
    if pull.per_s:
        parts.append(f"{format_bytes(pull.per_s)}/s")
    if pull.left_s is not None:
        parts.append(f"{_duration(pull.left_s)} left")
    kept = "What came is kept, and it goes on from there."
    if not pull.row.resumes:
        kept = "Your package index cannot continue: nothing is kept, and it starts over."
    match pull.phase:
        case "queued":
            return "Waits until the pull before it is over."
        case "paused":
            return f"Stopped. {kept}"
        case "pausing" | "cancelling":
            return "Stopping at the next block that comes."
        case "failed" if pull.problem is not None:
            hint = f" ({pull.problem.hint})" if pull.problem.hint else ""
            return printable(f"It failed: {pull.problem.text}{hint}. {kept}")
    return " · ".join(parts)


def pull_status(pulls: Sequence[Pull]) -> str:
    """The pull that runs in a few words for a status line; empty when none does."""
    running = next((pull for pull in pulls if pull.phase == "running"), None)
    if running is None:
        return ""
    waiting = sum(pull.phase == "queued" for pull in pulls)
    share = f" {100 * running.share:.0f} %" if running.share is not None else ""
    more = f", {waiting} waiting" if waiting else ""
    return printable(f"pulling {running.row.name}{share}{more}")


def describe_model(
    row: ModelRow, verdict: Verdict | None = None, now: float = 0.0, checking: bool = False
) -> list[tuple[str, str]]:
    """Labels and texts of everything worth knowing about a model; a label may be empty."""
    lines = [("licence", _licence(row)), ("gate", _gate(row))]
    if row.memory is not None:
        lines.append(("memory", row.memory.arithmetic))
    if row.trouble:
        lines.append(("trouble", printable(row.trouble)))
    if row.installed:
        size = f"{format_bytes(row.bytes)} at " if row.bytes is not None else ""
        lines.append(("files", printable(f"{size}{home(row.path)}")))
        lines.append(("check", _verified(verdict, now, checking)))
        lines.append(("packing", printable(row.packing)))
    else:
        lines.append(("fetch", _fetch(row)))
    lines.append(("about", printable(row.about)))
    return [(label, text) for label, text in lines if text]


def title_line(row: ModelRow, in_use: bool) -> Content:
    """What it is called, who made it, and whether it can be talked to."""
    facts = [f"by {row.authors}"] if row.authors else []
    if row.chats is not None:
        facts.append("chats" if row.chats else "completes text, does not chat")
    if in_use:
        facts.append("in use")
    more = "".join(f" · {fact}" for fact in facts)
    return Content.assemble((printable(row.title or row.name), "bold"), (printable(more), "dim"))


def _licence(row: ModelRow) -> str:
    if row.non_commercial:
        return printable(f"{row.licence} (NC): no commercial use")
    if row.licence:
        return printable(row.licence)
    if "facebook" in row.page:
        return "unknown; the family's others forbid commercial use (NC)"
    return "unknown: its makers say under which terms it may be used"


def _gate(row: ModelRow) -> str:
    if row.installed or row.gated is False:
        return ""
    way = f"accept its terms, then `hf auth login` or set HF_TOKEN: {row.page}"
    return printable(way if row.gated else f"not known; if there is one, {way}")


def _fetch(row: ModelRow) -> str:
    size = f"{format_bytes(row.download_bytes)} " if row.download_bytes else ""
    made = f"; ~{format_bytes(row.converted_bytes)} on disk" if row.converted_bytes else ""
    return printable(f"{size}from {row.source}{'' if size else ', size unknown'}{made}")


def _verified(verdict: Verdict | None, now: float, checking: bool) -> str:
    if checking:
        return "comparing every file with its SHA-256 ..."
    if verdict is None:
        return "not checked yet: v compares every file with its SHA-256"
    if not verdict.compared:
        return printable(f"not possible: {verdict.damage}")
    if verdict.damage:
        return printable(f"damaged: {verdict.damage}; remove it and fetch it again")
    return f"every file matches its SHA-256, checked {_ago(now - verdict.at)}"


def _ago(seconds: float) -> str:
    if seconds < 60:
        return "just now"
    return f"{seconds / 60:.0f} min ago" if seconds < 5400 else f"{seconds / 3600:.0f} h ago"


def _duration(seconds: float) -> str:
    return f"{max(1, seconds):.0f} s" if seconds < 100 else format_seconds(seconds)


def home(path: Path) -> str:
    """A path as people write it."""
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)


def labelled(lines: Sequence[tuple[str, str]], width: int) -> Content:
    """Texts beside their labels, wrapped so that the labels stand alone."""
    rows: list[Content] = []
    for label, text in lines:
        indent = LABEL if label and width >= 40 else 0
        wrapped = textwrap.wrap(text, max(8, width - indent), break_on_hyphens=False) or [""]
        for number, line in enumerate(wrapped):
            first = f"{label if number == 0 else '':<{LABEL}}" if indent else ""
            style = "bold $text-error" if _is_bad(label, text) else ""
            rows.append(Content.assemble((first, "dim"), (line, style)))
    return Content("\n").join(rows)


def _is_bad(label: str, text: str) -> bool:
    return label == "trouble" or text.endswith("does not fit") or text.startswith("damaged")


def actions_line(actions: Sequence[tuple[str, str, str]], width: int) -> Content:
    """Keys, words and what they do, as one line that can be clicked; the last ones give way."""
    segments: list[Segment] = []
    for worth, (key, words, action) in enumerate(reversed(actions)):
        click = Style.from_meta({"@click": f"screen.{action}"})
        whole = Content.assemble((key, "bold"), f" {words}").stylize(click)
        segments.insert(0, Segment([(2 * worth + 1, whole), (0, Content(""))]))
    return fit(segments, [], width, gap=3)


class ModelList(OptionList):
    """A list in which a click only points: choosing is Enter, or a click below on what it does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter", "select", "Use", id="models.use", tooltip="Use the model; fetch it if needed"
        ),
    ]

    async def _on_click(self, event: events.Click) -> None:
        event.prevent_default()
        clicked = event.style.meta.get("option")
        if clicked is not None and not self.get_option_at_index(clicked).disabled:
            self.highlighted = clicked
