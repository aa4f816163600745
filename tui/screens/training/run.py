"""One run: its figures and curves while it is trained, and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.status import RunStatus

from ...messages import Problem
from ...text import Segment, fit, printable
from ...training import TrainingBoard
from ...trainlog import Curve, Story
from ...widgets.models import actions_line
from .headline import Headline
from .words import (
    counted,
    duration,
    figures_block,
    figures_line,
    loss_words,
    progress_line,
    rate_words,
    sample_content,
    state_words,
)

if TYPE_CHECKING:
    from ...widgets.plot import Plot

PLOTS = ("loss", "rate", "tok/s", "memory, GB")
ALL_PLOTS_FROM = (100, 34)
"""Columns and rows from which on all plots are shown; else one at a time."""
MOST_NOTES_SHOWN = 4
_ASKED = {"pause": "pausing …", "stop": "stopping …", "run": "going on …"}


class RunScreen(Screen[None]):
    """Watches a run.

    Args:
        board: knows it.
        name: of the run.
        try_it: shows what it has made beside what it was made of.
    """

    CSS_PATH = "training.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-thin"), (50, "-narrow"), (ALL_PLOTS_FROM[0], "-beside")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-low"), (ALL_PLOTS_FROM[1], "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause", id="run.pause", tooltip="Pause, or go on"),
        Binding("s", "stop", "Stop", id="run.stop", tooltip="Stop after this step, and save"),
        Binding("r", "resume", "Resume", id="run.resume", tooltip="Go on with a stopped run"),
        Binding("t", "try", "Try it", id="run.try", tooltip="Compare it with the base"),
        Binding("v", "turn", "Curve", id="run.curve", tooltip="The next curve"),
        Binding("left", "step(-1)", "Before", id="run.older", tooltip="Sample answers before"),
        Binding("right", "step(1)", "After", id="run.newer", tooltip="Sample answers after"),
        Binding("up,pageup", "scroll(-1)", "Up", id="run.up", show=False, tooltip="Read up"),
        Binding("down,pagedown", "scroll(1)", "Down", id="run.down", show=False, tooltip="Read on"),
        Binding("escape", "leave", "Back", id="run.close", tooltip="Back; the training goes on"),
    ]

    def __init__(
        self, board: TrainingBoard, name: str, try_it: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        self.run_name = name
        self._board = board
        self._try_it = try_it
        self._asked: Want | None = None
        self._said = ""
        self._plot = 0
        self._round: int | None = None
        """The step whose sample answers are shown; None: the last ones."""
        self._plots: list[Plot] = []
        self._head = Headline()
        self._progress = Static("", id="progress", markup=False)
        self._figures = Static("", id="figures", markup=False)
        self._told = Static("", id="told", markup=False)
        self._actions = Static("", id="actions", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._progress
        yield self._figures
        yield Container(id="plots")
        with VerticalScroll(id="samples", can_focus=False):
            yield self._told
        yield self._actions

    def on_mount(self) -> None:
        self._board.watch(self)
        self._board.follow(self.run_name)
        self._board.later(_load_plot, self._take_plots)
        self._draw()

    def on_unmount(self) -> None:
        self._board.unwatch(self)
        self._board.unfollow(self.run_name)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _take_plots(self, module: ModuleType | Exception) -> None:
        """The library is there: the curves can be drawn."""
        if not self.is_running:
            return
        if isinstance(module, Exception):  # the figures are there without it
            self._say(module)
            return
        self._plots = [module.Plot(title, from_zero=title != PLOTS[0]) for title in PLOTS]
        self.query_one("#plots").mount_all(self._plots)
        self.call_after_refresh(self._draw)

    # ---------------------------------------------------------------- what is shown

    @property
    def row(self) -> RunStatus:
        """How the run stands."""
        return self._board.get(self.run_name) or RunStatus(self.run_name, Path(), "interrupted")

    @property
    def story(self) -> Story:
        """What it has told."""
        return self._board.story(self.run_name)

    @on(Headline.Resized)
    @on(TrainingBoard.Ended)
    @on(TrainingBoard.Changed)
    def _draw(self) -> None:
        """Draw all of it anew."""
        row, story, width = self.row, self.story, max(10, self._head.size.width)
        if self._asked and not self._is_awaited(row):
            self._asked = None
        self._head.update(self._head_line(row, width))
        self._progress.update(progress_line(row, story, width))
        if self.size.height < 16 or self.size.width < 50:
            self._figures.update(figures_block(story, width))
        else:
            self._figures.update(figures_line(story, width))
        self._draw_plots(story)
        self._tell(row, story)
        self._actions.update(actions_line(self._doable(row), width))

    def _is_awaited(self, row: RunStatus) -> bool:
        """Whether what was asked for is still to come."""
        if not row.is_alive:
            return False
        return self._asked == "stop" or row.state != {"pause": "paused", "run": "running"}.get(
            self._asked or ""
        )

    def _head_line(self, row: RunStatus, width: int) -> Content:
        method = printable(f"{row.method} of {row.model}") if row.model else ""
        left = [
            Segment([(9, Content.styled(printable(row.name), "bold $primary"))]),
            Segment([(2, Content.styled(method, "dim")), (0, Content(""))]),
        ]
        state = Content.styled(_ASKED[self._asked], "bold") if self._asked else state_words(row)
        return fit(left, [Segment([(9, state)])], width)

    def _draw_plots(self, story: Story) -> None:
        if not self._plots:
            return
        across, down = ALL_PLOTS_FROM
        every = self.size.width >= across and self.size.height >= down
        self.query_one("#plots").set_class(every, "-all")
        step = story.step
        said = (
            "",
            rate_words(step.learning_rate) if step else "",
            f"{step.tok_per_s:,.0f}" if step else "",
            f"{step.memory_bytes / 1e9:.2f}, at most {step.peak_memory_bytes / 1e9:.2f}"
            if step
            else "",
        )
        curves = (
            [Curve(story.loss, "train"), Curve(story.valid_loss, "valid", marked=True)],
            [Curve(story.rate)],
            [Curve(story.speed)],
            [Curve(story.memory)],
        )
        for number, plot in enumerate(self._plots):
            plot.display = every or number == self._plot
            if plot.display:
                plot.show(curves[number], said[number])

    def _tell(self, row: RunStatus, story: Story) -> None:
        """Sample answers, and what else there is to say."""
        parts: list[Content] = []
        if self._said:
            parts.append(Content.styled(self._said, "bold"))
        elif row.reason and not row.is_alive:
            bad = row.state in ("failed", "interrupted")
            parts.append(
                Content.styled(printable(row.reason), "bold $text-error" if bad else "bold")
            )
        elif (end := _ending(row, story)) and not row.is_alive:
            parts.append(Content(end))
        rounds = list(story.samples)
        if rounds:
            at = self._round if self._round in story.samples else rounds[-1]
            place = f"{rounds.index(at) + 1} of {len(rounds)}"
            head = Content.assemble((f"Answers at step {at:,}", "bold"), (f"  {place}", "dim"))
            width = self._head.size.width - 1  # the scrollbar comes and goes
            parts.append(Content("\n").join([head, sample_content(story.samples[at], width)]))
        elif row.is_alive and story.started is None:
            parts.append(Content.styled("Reading model and data …", "dim"))
        notes = [printable(note) for note in story.notes[-MOST_NOTES_SHOWN:]]
        if notes:
            parts.append(Content.styled("\n".join(f"· {note}" for note in notes), "dim"))
        self._told.update(Content("\n\n").join(parts))

    def _doable(self, row: RunStatus) -> list[tuple[str, str, str]]:
        """Keys, words and actions that make sense now, the most useful first."""
        doable: list[tuple[str, str, str]] = []
        if row.is_alive:
            pause = "go on" if row.state == "paused" else "pause"
            doable += [("p", pause, "pause"), ("s", "stop and save", "stop")]
        elif row.can_resume:
            doable.append(("r", "resume", "resume"))
        if self._can_try(row):
            doable.append(("t", "try it", "try"))
        if not self.query_one("#plots").has_class("-all") and self._plots:
            doable.append(("v", "next curve", "turn"))
        if len(self.story.samples) > 1:
            doable.append(("← →", "answers", "step(-1)"))
        doable.append(("Esc", "back", "leave"))
        return doable

    def _can_try(self, row: RunStatus) -> bool:
        return self._try_it is not None and row.adapter is not None

    def _say(self, problem: Exception | None) -> None:
        if problem is not None and self.is_running:
            said = Problem.of(problem)
            self._said = printable(f"{said.text}; {said.hint}" if said.hint else said.text)
            self._asked = None
            self._draw()

    # ---------------------------------------------------------------- what a person does

    def _ask(self, want: Want) -> None:
        self._asked, self._said = want, ""
        self._board.ask(self.run_name, want, self._say)
        self._draw()

    def action_pause(self) -> None:
        """Pause, or go on."""
        if self.row.is_alive:
            self._ask("run" if self.row.state == "paused" else "pause")

    def action_stop(self) -> None:
        """Stop after this step; it can be resumed."""
        if self.row.is_alive:
            self._ask("stop")

    def action_resume(self) -> None:
        """Go on with a run that is not trained."""
        if self.row.can_resume:
            self._said = ""
            self._board.resume(
                self.run_name,
                lambda found: self._say(found if isinstance(found, Exception) else None),
            )

    def action_try(self) -> None:
        """Compare what it made with what it was made of."""
        if self._try_it is not None and self._can_try(self.row):
            self._try_it(self.run_name)

    def action_turn(self) -> None:
        """The next curve, where there is room for one only."""
        self._plot = (self._plot + 1) % len(PLOTS)
        self._draw()

    def action_step(self, by: int) -> None:
        """The sample answers of another validation."""
        rounds = list(self.story.samples)
        if not rounds:
            return
        at = rounds.index(self._round) if self._round in rounds else len(rounds) - 1
        at = min(max(0, at + by), len(rounds) - 1)
        self._round = rounds[at] if at < len(rounds) - 1 else None
        self._draw()

    def action_scroll(self, by: int) -> None:
        """Scroll the sample answers."""
        self.query_one("#samples").scroll_relative(y=3 * by, animate=False)

    def action_leave(self) -> None:
        """Back; what is trained goes on."""
        self.dismiss(None)


def _load_plot() -> ModuleType:
    """On a thread: what draws the curves takes a moment to import."""
    from ...widgets import plot

    return plot


def _ending(row: RunStatus, story: Story) -> str:
    """How it ended, in a sentence."""
    if (end := story.summary) is None:
        return ""
    took = f"in {duration(end.train_s)}" if end.train_s else ""
    fell = ""
    if end.first_loss is not None and end.best_loss is not None:
        fell = (
            f"; loss on unseen examples {loss_words(end.first_loss)} → {loss_words(end.best_loss)}"
        )
    made = f". It is in the registry as `{end.adapter}`" if end.adapter else ""
    return printable(
        f"{row.state.capitalize()} after {counted(end.step, 'step')} {took}{fell}{made}."
    )
