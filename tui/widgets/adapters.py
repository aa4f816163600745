"""The list of adapters, and the words about one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import OptionList

from mobilellm_mlx.adapters import AdapterInfo
from mobilellm_mlx.errors import format_bytes

from ..text import Segment, fit
from .calls import brief
from .models import MARK, home, shorten

COLUMNS = (  # title, cells, the least width of the line that has room for it
    ("method", 8, 30),
    ("loss", 6, 40),
    ("size", 8, 50),
    ("made", 10, 62),
    ("for", 22, 88),
)
BETTER_WITHOUT = "while it chooses a tool; the rest of a chat is better without it"
DIGITS = 12
"""Of a SHA-256: as many as a person compares."""


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """An adapter as it stands in the list.

    Attributes:
        info: what its files say.
        model: name of the model in memory; empty while there is none.
        fits: whether it was made for that model; None when nothing says so.
        is_on: whether it is on top of that model now.
    """

    info: AdapterInfo
    model: str = ""
    fits: bool | None = None
    is_on: bool = False
    damage: str = ""
    """Why its files cannot be read; then the rest of it is not known."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it cannot be switched on here, whatever the person does."""
        return bool(self.damage) or (self.fits is False and not self.is_on)

    @property
    def obstacle(self) -> str:
        """Why it cannot be switched on; empty when it can."""
        if self.damage:
            return "damaged"
        if not self.model:
            return "no model is in memory yet"
        if self.is_elsewhere:
            base = self.info.base_name
            made_for = f"another {base}" if base == self.model else base or "another model"
            return f"made for {made_for}, not for {self.model}"
        return ""


def adapter_line(row: AdapterRow, width: int) -> Content:
    """One adapter in columns, as many as ``width`` has room for; why it cannot be switched on
    takes their place."""
    info = row.info
    if row.is_elsewhere:
        why = brief("damaged" if row.damage else f"for {info.base_name or 'another model'}", 60)
        called = Content(f"{' ' * len(MARK)}{brief(info.name, 80)}")
        aside = Segment([(1, Content(why)), (0, Content(""))])
        return fit([Segment([(9, called)])], [aside], width).stylize("dim")
    cells = (
        (how(info), ""),
        (best_loss(info), ""),
        (format_bytes(info.bytes), ""),
        (day(info.created) or "?", ""),
        (info.base_name or "?", "left"),
    )
    shown = [(cells[n], size) for n, (_, size, least) in enumerate(COLUMNS) if width >= least]
    room = width - len(MARK) - sum(size + 1 for _, size in shown)
    name = shorten(brief(info.name, 80), max(4, room))
    line = f"{MARK if row.is_on else ' ' * len(MARK)}{name:<{max(4, room)}}"
    for (text, side), size in shown:
        text = shorten(brief(text, 80), size)
        line += f" {text.ljust(size) if side else text.rjust(size)}"
    style = "bold" if row.is_on else "dim" if row.obstacle else ""
    return Content.styled(line, style).truncate(width, ellipsis=True)


def columns_line(width: int) -> Content:
    """The titles above the columns of ``adapter_line``."""
    shown = [
        f" {title:<{size}}" if title == "for" else f" {title:>{size}}"
        for title, size, least in COLUMNS
        if width >= least
    ]
    return Content("".join(shown).rjust(width))


def title_line(row: AdapterRow) -> Content:
    """What it is called, and how it stands to the model in memory."""
    state = "on" if row.is_on else row.obstacle or "off"
    unsure = " · does not say which model it was made for"
    more = f" · {brief(state, 200)}{unsure if row.fits is None and not row.is_elsewhere else ''}"
    return Content.assemble((brief(row.info.name, 80), "bold"), (more, "dim"))


def describe_adapter(row: AdapterRow) -> list[tuple[str, str]]:
    """Labels and texts of everything worth knowing about an adapter."""
    info = row.info
    if row.damage:
        return [("damage", brief(row.damage, 1000))]
    tools = info.tools or {}
    only_calls = bool(tools.get("only_calls"))
    facts = [
        ("does", ("chooses tools; it helps " + BETTER_WITHOUT) if only_calls else ""),
        ("came", "with this program" if info.shipped else ""),
        ("scores", _table(info.scores)),
        ("for", _with_digest(info.base_name or "unknown model", info.base_sha256)),
        ("matrices", _matrices(info)),
        ("data", _with_digest(info.data_name or "unknown", info.data_sha256)),
        ("made", " by ".join(part for part in (day(info.created), info.made_by) if part)),
        ("licence", f"{info.licence}, as of its base" if info.licence else "unknown"),
        ("files", f"{format_bytes(info.bytes)} at {home(info.path)}"),
        ("training", _table(info.config)),
    ]
    return [(label, brief(text, 1000)) for label, text in facts if text]


def how(info: AdapterInfo) -> str:
    """How it was made, as short as can be: ``LoRA 8``."""
    names = {"lora": "LoRA", "dora": "DoRA"}
    return f"{names[info.method]} {info.rank}" if info.method in names else "full"


def best_loss(info: AdapterInfo) -> str:
    """The lowest loss on examples that it was not trained on."""
    loss = info.scores.get("best_loss")
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        return "?"
    return f"{loss:.3f}" if 0 <= loss < 1e6 else "?"  # which NaN is not


def day(created: str) -> str:
    """The date of an ISO 8601 moment as it was here; empty when it is none."""
    try:
        return f"{datetime.fromisoformat(created).astimezone():%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return ""


def _matrices(info: AdapterInfo) -> str:
    if info.method == "full":
        return "whole weights in place of the base's"
    keys = ", ".join(sorted({key.rpartition(".")[2] for key in info.keys or ()}))
    blocks = f"the last {info.num_layers} blocks" if info.num_layers else "all blocks"
    runs = ", one for each run" if info.per_run else ""
    where = keys or "every matrix"
    return f"{how(info)} (rank), scale {info.scale:g}, beside {where} of {blocks}{runs}"


def _with_digest(name: str, digest: str | None) -> str:
    return f"{name} (SHA-256 {digest[:DIGITS]}…)" if digest else f"{name} (no SHA-256)"


def _table(values: Mapping[str, Any]) -> str:
    """Names and values on one line; what is itself a table is left to its file."""
    plain = {name: v for name, v in values.items() if isinstance(v, str | int | float | list)}
    return " · ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in plain.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(str(each) for each in value[:8])
    return str(value) or "none"


class AdapterList(OptionList):
    """A list in which a click only points."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,space",
            "select",
            "On or off",
            id="adapters.switch",
            tooltip="Let the adapter answer, or no longer",
        ),
    ]

    async def _on_click(self, event: events.Click) -> None:
        event.prevent_default()
        clicked = event.style.meta.get("option")
        if clicked is not None and not self.get_option_at_index(clicked).disabled:
            self.highlighted = clicked
