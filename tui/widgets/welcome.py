"""The empty state: who answers here, what for, and how to begin."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import ModelLoaded

from ..text import format_count, printable

HOME = "Lives on this machine: what you type stays here."
CAUTION = "Small means quick, and often wrong. Check what matters."
KEYS = "Enter sends · / commands · Shift+Tab messages · F1 all keys"
TOOLS = ("has tools", "sums, times, units, timers, notes: /demo shows them")
ROWS = (
    ("good for", "short questions, rewriting, a first draft"),
    TOOLS,
    ("not for", "facts you cannot check, long reasoning"),
)


class Welcome(Vertical):
    """Shown while the conversation is empty.

    Args:
        title: what to call the model until it is loaded.
        tools: whether it may use any.
    """

    def __init__(self, title: str, *, tools: bool = False) -> None:
        super().__init__()
        self._title = title
        self._rows = [row for row in ROWS if tools or row is not TOOLS]
        self._facts = Static("", classes="facts", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(classes="card"):
            yield Static("MobileLLM for MLX", classes="name")
            yield self._facts
            yield Static(f"{HOME}\n{CAUTION}")
            yield Static(
                Content("\n").join(
                    [Content.assemble((f"{what:<10}", "dim"), said) for what, said in self._rows]
                ),
                classes="rows",
            )
            yield Static(KEYS, classes="keys")

    def on_mount(self) -> None:
        self._facts.update(
            Content.assemble(self._title or "a small model", ("\nnot in memory yet", "dim"))
        )

    def show_model(self, info: ModelLoaded) -> None:
        """Name the model that is now in memory."""
        about = [
            f"{format_count(info.parameters)} parameters",
            f"{format_bytes(info.weight_bytes)} in memory",
            f"licence {info.licence}" if info.licence else "licence unknown",
        ]
        name = f"{info.model} with {printable(info.adapter)}" if info.adapter else info.model
        self._facts.update(Content.assemble(name, ("\n" + " · ".join(about), "dim")))
