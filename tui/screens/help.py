"""All keys on one page, taken from the bindings themselves, and the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from ..text import format_key

Rows = list[tuple[str, str]]


def describe_keys(active: Mapping[str, ActiveBinding]) -> Rows:
    """Rows of keys and what they do; keys of one action share a row.

    Bindings without a tooltip are Textual's own editing keys and are left out. The innermost
    widget's keys come first, each widget's in the order in which its class declares them.
    """

    def rank(found: ActiveBinding) -> tuple[int, int]:
        declared = [b.id for b in type(found.node).BINDINGS if isinstance(b, Binding)]
        known = found.binding.id in declared
        depth = len(found.node.ancestors_with_self)
        return -depth, declared.index(found.binding.id) if known else len(declared)

    rows: dict[str, list[str]] = {}
    for key, found in sorted(active.items(), key=lambda item: rank(item[1])):
        if found.binding.tooltip:
            rows.setdefault(found.binding.tooltip, []).append(format_key(key))
    return [(" ".join(keys), what) for what, keys in rows.items()]


class HelpScreen(ModalScreen[None]):
    """The keys that work on the screen below, those of what has the focus first.

    Args:
        below: the screen.
        more: further sections, each a heading and its rows.
    """

    CSS_PATH = "help.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-roomy")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close", id="help.close", show=False),
    ]

    def __init__(self, below: Screen[Any], more: Sequence[tuple[str, Rows]] = ()) -> None:
        super().__init__()
        self._sections = [("", describe_keys(below.active_bindings)), *more]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys and commands" if len(self._sections) > 1 else "Keys"
            box.border_subtitle = "Esc closes"
            for heading, rows in self._sections:
                if heading:
                    yield Static(heading, classes="heading", markup=False)
                with Grid():
                    for keys, what in rows:
                        yield Static(keys, classes="keys", markup=False)
                        yield Static(what, markup=False)
