"""Two answers to one question: without an adapter and with it, from the same seed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, Static

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.events import Event, GenerationSummary
from mobilellm_mlx.messages import Message

from .. import messages as heard
from ..bridge import Bridge
from ..text import Segment, fit, format_seconds, printable
from ..widgets.line import Line
from ..widgets.models import actions_line

BESIDE_FROM = 72
"""Columns from which on the answers stand side by side."""
MOST_TOKENS = 300
LONGEST_QUESTION = 4000


@dataclass(slots=True)
class Side:
    """One of those that answer, and what it said.

    Attributes:
        title: what it is called.
        adapter: directory of what is on top of the model; None: nothing.
        text: its answer.
        summary: of the answer.
        problem: why there is none.
    """

    title: str
    adapter: Path | None = None
    text: str = ""
    summary: GenerationSummary | None = None
    problem: heard.Problem | None = None

    def forget(self) -> None:
        """Before another question."""
        self.text, self.summary, self.problem = "", None, None

    @property
    def said(self) -> Content:
        """The answer, or why there is none."""
        if self.problem is not None:
            hint = f"\n{self.problem.hint}" if self.problem.hint else ""
            return Content.assemble(
                (printable(self.problem.text), "bold $text-error"), printable(hint)
            )
        return Content(printable(self.text).strip())

    @property
    def figures(self) -> str:
        """How long it took and how fast it was."""
        if (summary := self.summary) is None:
            return ""
        stopped = "stopped" if summary.status == "cancelled" else ""
        cut = "cut" if summary.generated_tokens >= MOST_TOKENS else ""
        parts = (
            f"{summary.generated_tokens} tokens",
            format_seconds(summary.elapsed_s),
            f"{summary.decode_tok_per_s:.0f} tok/s" if summary.decode_tok_per_s else "",
            stopped or cut,
        )
        return " · ".join(part for part in parts if part)


class SideView(Vertical):
    """One answer under the name of who gives it."""

    def __init__(self) -> None:
        super().__init__()
        self._title = Static("", classes="title", markup=False)
        self._text = Static("", classes="text", markup=False)

    def compose(self) -> ComposeResult:
        yield self._title
        with VerticalScroll(can_focus=False):
            yield self._text

    def show(self, side: Side, state: str) -> None:
        """Draw it.

        Args:
            side: what it said.
            state: what it is doing, in a few words.
        """
        width = max(10, self.size.width - 1)
        title = Segment([(9, Content.styled(printable(side.title), "bold"))])
        said = state or side.figures
        aside = Segment(
            [
                (2, Content.styled(said, "dim")),
                (1, Content.styled(said.partition(" · ")[0], "dim")),
                (0, Content("")),
            ]
        )
        self._title.update(fit([title], [aside], width))
        self._text.update(side.said)


class CompareScreen(Screen[None]):
    """Asks several sides the same question, one after the other.

    The questions are asked aside: what the model has read of the chat stays.

    Args:
        engine: answers; its model is loaded, and is the one that all sides stand on.
        sides: who is asked; two of them.
        instructions: the system prompt, for all.
        seed: of the first answers.
    """

    CSS_PATH = "compare.tcss"
    AUTO_FOCUS = "Input"
    HORIZONTAL_BREAKPOINTS = [(0, "-above"), (BESIDE_FROM, "-beside")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (18, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        # No priority: that would take Enter before the letters typed just ahead of it.
        Binding("enter", "ask", "Ask", id="compare.ask", tooltip="Ask both"),
        Binding(
            "ctrl+r", "reseed", "Again", id="compare.again", tooltip="Ask again from another seed"
        ),
        Binding("pageup", "page(-1)", "Up", id="compare.up", show=False, tooltip="Read up"),
        Binding("pagedown", "page(1)", "Down", id="compare.down", show=False, tooltip="Read on"),
        Binding("escape", "leave", "Back", id="compare.close", tooltip="Stop, or back"),
    ]

    def __init__(
        self,
        engine: ChatEngine,
        sides: Sequence[Side],
        *,
        instructions: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sides = list(sides)
        self._engine = engine
        self._bridge = Bridge(engine, Session(engine))
        self._instructions = instructions
        self._seed = seed
        self._at: int | None = None
        """The side that answers."""
        self._question = ""
        self._views = [SideView() for _ in self.sides]
        self._head = Static("", id="compare-head", markup=False)
        self._input = Line(placeholder="Ask both the same", max_length=LONGEST_QUESTION)
        self._actions = Static("", id="compare-actions", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        with Container(id="sides"):
            yield from self._views
        yield self._input
        yield self._actions

    def on_mount(self) -> None:
        self._bridge.attach(self)
        self._draw()

    def on_unmount(self) -> None:
        self._bridge.close(timeout_s=0.2)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # ---------------------------------------------------------------- what is shown

    def _draw(self) -> None:
        width = max(10, self._head.size.width)
        title = Segment([(9, Content.styled("Try it", "bold $primary"))])
        aside = Segment([(1, Content.styled(self._verdict(), "dim")), (0, Content(""))])
        self._head.update(fit([title], [aside], width))
        for number, (view, side) in enumerate(zip(self._views, self.sides, strict=True)):
            view.show(side, self._state(number, side))
        doable = [("Enter", "ask both", "ask")] if self._at is None else [("Esc", "stop", "leave")]
        if self._at is None:
            doable += [("Ctrl+R", "another seed", "reseed")] if self._question else []
            doable.append(("Esc", "back", "leave"))
        self._actions.update(actions_line(doable, width))

    def _verdict(self) -> str:
        seed = f"seed {self._seed}"
        answers = [side.text.strip() for side in self.sides if side.summary is not None]
        if len(answers) < len(self.sides):
            return seed
        return f"{seed} · {'the same answer' if len(set(answers)) == 1 else 'different answers'}"

    def _state(self, number: int, side: Side) -> str:
        if self._at is None:
            return ""
        if number == self._at:
            return "answering …" if side.text else "reading …"
        return "waits" if number > self._at else ""

    # ---------------------------------------------------------------- what a person does

    def action_ask(self) -> None:
        """Ask what stands in the line."""
        question = printable(self._input.value).strip() or self._question
        if question and self._at is None:
            self._question = question
            self._input.value = ""
            self._input.placeholder = question
            self._begin()

    def action_reseed(self) -> None:
        """Ask the same again, from another seed."""
        if self._question and self._at is None:
            self._seed += 1
            self._begin()

    def action_page(self, step: int) -> None:
        """Scroll the answers."""
        for scroll in self.query(VerticalScroll):
            scroll.scroll_relative(y=step * max(1, scroll.size.height - 1), animate=False)

    def action_leave(self) -> None:
        """Stop what is answered, or go back."""
        if self._at is None:
            self.dismiss(None)
        else:
            self._bridge.stop()

    def _begin(self) -> None:
        for side in self.sides:
            side.forget()
        self._go_on(0)

    def _go_on(self, number: int) -> None:
        self._at = number if number < len(self.sides) else None
        if self._at is not None:
            side = self.sides[self._at]
            self._bridge.ask(lambda cancel: self._answer(side, cancel))
        self._draw()

    def _answer(self, side: Side, cancel: threading.Event) -> Iterator[Event]:
        said = [Message("user", self._question)]
        if self._instructions:
            said.insert(0, Message("system", self._instructions))
        options = self._engine.defaults.merged({"seed": self._seed, "max_tokens": MOST_TOKENS})
        return self._engine.chat(said, options, cancel, aside=True, adapter=side.adapter)

    # ---------------------------------------------------------------- what the engine says

    @on(heard.AnswerText)
    def follow(self, event: heard.AnswerText) -> None:
        if self._at is not None:
            side = self.sides[self._at]
            side.text += event.text
            self._views[self._at].show(side, "answering …")

    @on(heard.AnswerEnded)
    def end(self, event: heard.AnswerEnded) -> None:
        if (at := self._at) is None:
            return
        side = self.sides[at]
        side.summary = event.summary
        side.text = event.summary.text or side.text
        stopped = event.summary.status == "cancelled"
        self._go_on(len(self.sides) if stopped else at + 1)

    @on(heard.AnswerFailed)
    def explain(self, event: heard.AnswerFailed) -> None:
        if (at := self._at) is not None:
            self.sides[at].problem = event.problem
            self._go_on(at + 1)

    @on(Input.Submitted)
    def ask_typed(self) -> None:
        self.action_ask()
