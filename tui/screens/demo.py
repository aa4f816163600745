"""Eight things to ask for, each really done by the model that is loaded, with all that happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mobilellm_mlx.chat.records import ToolUse
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.events import GenerationSummary, ToolAllowed, ToolsOffered

from .. import DEMO_TASKS
from .. import messages as heard
from ..bridge import Bridge
from ..house import DemoRun
from ..leave import Leave
from ..text import Segment, fit, format_seconds, meter, printable
from ..widgets.calls import advance, brief, describe, state_of
from ..widgets.models import actions_line
from ..widgets.toolcard import CardBody

BESIDE_FROM = 92
"""Columns from which on the tasks stand beside what becomes of them."""
BAR = 16

Stage = Literal["waits", "reading", "choosing", "asking", "running", "answering", "over"]
_SIGNS = {"waits": " ", "over": "✓"}
_STAGES = {
    "waits": "",
    "reading": "reading…",
    "choosing": "choosing a tool…",
    "asking": "? waiting for you",
    "running": "running…",
    "answering": "answering…",
    "over": "",
}


@dataclass(slots=True)
class Trial:
    """One of the tasks, and what has become of it.

    Attributes:
        said: what is asked for.
        stage: how far it is.
        offered: the tools that the model could choose from, all rounds together.
        uses: the calls it made.
        answer: what it said.
        summary: of the answer.
        problem: why there is none.
    """

    said: str
    stage: Stage = "waits"
    offered: list[str] = field(default_factory=list)
    uses: list[ToolUse] = field(default_factory=list)
    answer: str = ""
    summary: GenerationSummary | None = None
    problem: heard.Problem | None = None

    @property
    def is_running(self) -> bool:
        """Whether more will become of it."""
        return self.stage not in ("waits", "over")

    @property
    def sign(self) -> str:
        """How it went, in one cell."""
        if self.is_running:
            return "▸"
        is_stopped = self.summary is not None and self.summary.status == "cancelled"
        went_wrong = self.problem or is_stopped or any(use.status != "ok" for use in self.uses)
        return "✗" if went_wrong else _SIGNS[self.stage]

    @property
    def chosen_s(self) -> float:
        """For making the calls."""
        return sum(use.chosen_s for use in self.uses)

    @property
    def ran_s(self) -> float:
        """For running them."""
        return sum(use.elapsed_s for use in self.uses)

    @property
    def elapsed_s(self) -> float:
        """For all of it."""
        return self.chosen_s + self.ran_s + (self.summary.elapsed_s if self.summary else 0.0)


def trial_line(number: int, trial: Trial, width: int) -> Content:
    """A task on one line, with what it led to where there is room."""
    head = Segment([(99, Content(f"{trial.sign} {number} {trial.said}"))])
    tools = ", ".join(use.tool for use in trial.uses) or (
        "no tool" if trial.stage == "over" else ""
    )
    said = _STAGES[trial.stage] or ("" if trial.problem else brief(tools, 20))
    forms = [(1, Content.styled(said, "dim")), (0, Content(""))] if said else [(0, Content(""))]
    time = format_seconds(trial.elapsed_s) if trial.elapsed_s else ""
    timed = Segment([(2, Content.styled(f"{time:>6}", "dim")), (0, Content(""))])
    return fit([head], [Segment(forms), *([timed] if time else [])], width)


def describe_trial(trial: Trial) -> list[tuple[str, Content]]:
    """Labels and texts of all that happened, in the order in which it did."""
    facts: list[tuple[str, Content]] = []
    is_past = trial.stage in ("running", "answering", "over") or bool(trial.uses)
    if trial.offered:
        facts.append(("offered", Content(brief(", ".join(trial.offered), 200))))
    elif trial.stage in ("answering", "over"):
        facts.append(("offered", Content("nothing: no word of it hints at a tool")))
    if trial.offered and is_past and not trial.uses:
        facts.append(("chose", Content("none of them")))
    for use in trial.uses:
        facts += _describe_use(use, trial.is_running)
    if trial.answer:
        facts.append(("answer", Content(printable(trial.answer).strip())))
    if trial.problem is not None:
        facts.append(("error", Content.styled(printable(trial.problem.text), "bold")))
    if (summary := trial.summary) is not None:
        facts.append(("time", Content(_say_time(trial, summary))))
    if said := _STAGES[trial.stage]:
        facts.append(("", Content.styled(said, "bold")))
    return facts


def _describe_use(use: ToolUse, is_live: bool) -> list[tuple[str, Content]]:
    """A call; what the grammar gave is told from what the model chose by sign and word."""
    facts = [("chose", Content.styled(brief(use.tool) or "no whole call", "bold"))]
    if use.tokens:
        facts.append(("tokens", token_bar(use)))
    told = describe(use, state_of(use, is_live=is_live))
    return facts + [fact for fact in told if fact[0] not in ("call", "tokens", "time")]


def token_bar(use: ToolUse) -> Content:
    """How much of a call was the model's choice, and what the rest saved."""
    forced, chosen = use.forced_tokens, use.tokens - use.forced_tokens
    bar = meter(forced / use.tokens, BAR, "dim", "bold $primary")
    saved = use.tokens - use.forward_passes
    passes = f"; {use.forward_passes:,} pass{'' if use.forward_passes == 1 else 'es'}"
    passes += f", {saved:,} saved" if saved > 0 else ""
    return Content.assemble(
        bar, (f" {forced:,} forced", "dim"), ", ", (f"{chosen:,} chosen", "underline"), passes
    )


def _say_time(trial: Trial, summary: GenerationSummary) -> str:
    """Where the time went; how long the person thought about leave is not in it."""
    steps = [(trial.chosen_s, "choose"), (trial.ran_s, "run"), (summary.elapsed_s, "answer")]
    said = ", ".join(f"{format_seconds(spent)} to {what}" for spent, what in steps if spent)
    return f"{said}; stopped" if summary.status == "cancelled" else said


def say_sum(trials: Sequence[Trial]) -> str:
    """What all calls together have come to."""
    uses = [use for trial in trials for use in trial.uses if use.tokens]
    if not uses:
        return ""
    tokens, passes = sum(u.tokens for u in uses), sum(u.forward_passes for u in uses)
    calls = f"{len(uses)} call{'' if len(uses) == 1 else 's'}"
    return f"{calls}: {passes:,} forward pass{'' if passes == 1 else 'es'} for {tokens:,} tokens"


class TaskList(OptionList):
    """The tasks; a click only points at one."""

    BINDINGS: ClassVar[list[BindingType]] = []

    async def _on_click(self, event: events.Click) -> None:
        event.prevent_default()
        if (clicked := event.style.meta.get("option")) is not None:
            self.highlighted = clicked


class DemoScreen(Screen[None]):
    """Walks through the tasks, one at a time, as a chat would do them.

    Args:
        engine: answers; its model is loaded.
        run: what it happens in; closed with the screen.
        tasks: what is asked for.
    """

    CSS_PATH: ClassVar[list[str]] = ["../toolcard.tcss", "demo.tcss"]  # type: ignore[assignment]
    AUTO_FOCUS = "TaskList"
    HORIZONTAL_BREAKPOINTS = [(0, "-above"), (BESIDE_FROM, "-beside")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (18, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "next", "Run", id="demo.next", priority=True, tooltip="Run the next task"),
        Binding("r", "again", "Again", id="demo.again", tooltip="Run this task again"),
        Binding("a", "all", "All", id="demo.all", tooltip="Run all tasks that are left"),
        Binding("escape,q", "leave", "Leave", id="demo.leave", tooltip="Stop the task, or leave"),
        Binding("pageup", "page(-1)", "Up", id="demo.page_up", show=False, tooltip="Read up"),
        Binding("pagedown", "page(1)", "Down", id="demo.page_down", show=False, tooltip="Read on"),
    ]

    def __init__(self, engine: ChatEngine, run: DemoRun, tasks: Sequence[str] = DEMO_TASKS) -> None:
        super().__init__()
        self._run = run
        self._bridge = Bridge(engine, run.session)
        self._leave = Leave(self)
        self.trials = [Trial(said) for said in tasks]
        self._now: Trial | None = None
        """The one that runs."""
        self._goes_on = False
        """Whether the next one is run by itself."""
        self._head = Static("", id="demo-head", markup=False)
        self._list = TaskList(compact=True, markup=False)
        self._title = Static("", id="demo-title", markup=False)
        self._body = CardBody()
        self._actions = Static("", id="demo-actions", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        with Container(id="demo"):
            yield self._list
            with VerticalScroll(id="demo-detail", can_focus=False), Vertical():
                yield self._title
                yield self._body
        yield self._actions

    def on_mount(self) -> None:
        self._bridge.attach(self)
        self._draw()
        self._list.highlighted = 0

    def on_unmount(self) -> None:
        self._bridge.close(timeout_s=0.2)
        self._run.close()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    # ---------------------------------------------------------------- what is shown

    @property
    def pointed(self) -> Trial:
        """The task whose course is shown."""
        return self.trials[self._list.highlighted or 0]

    def _draw(self) -> None:
        """Draw the list anew, and what there is to say about the task pointed at."""
        at = self._list.highlighted
        width = max(10, self._list.scrollable_content_region.width - 1)
        lines = [trial_line(n, trial, width) for n, trial in enumerate(self.trials, 1)]
        self._list.set_options([Option(line) for line in lines])
        self._list.highlighted = at or 0
        title = Segment([(99, Content.styled("What tools can do", "bold $primary"))])
        total = Content.styled(say_sum(self.trials), "dim")
        gives_way = Segment([(1, total), (0, Content(""))])
        self._head.update(fit([title], [gives_way], max(10, self.size.width - 4)))
        self._describe()

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        trial = self.pointed
        self._title.update(Content.styled(printable(trial.said), "bold"))
        facts = describe_trial(trial)
        intro = "Enter asks the model for it. Nothing here touches your notes or timers."
        self._body.show(facts or [("", Content(intro))])
        self._draw_actions()

    def _draw_actions(self) -> None:
        if self._now is not None:
            doable = [("Esc", "stop", "leave")]
        else:
            doable = [("Enter", "next", "next")] if self._next() is not None else []
            doable += [("r", "again", "again")] if self.pointed.stage == "over" else []
            doable += [("a", "all", "all")] if self._next() is not None else []
            doable.append(("Esc", "leave", "leave"))
        self._actions.update(actions_line(doable, max(10, self.size.width - 4)))

    # ---------------------------------------------------------------- what a person does

    def _next(self) -> int | None:
        """The task to run: the one pointed at, or the next of those that were not run."""
        at = self._list.highlighted or 0
        order = [*range(at, len(self.trials)), *range(at)]
        return next((n for n in order if self.trials[n].stage == "waits"), None)

    @on(OptionList.OptionSelected)
    def action_next(self) -> None:
        """Run the next task."""
        if self._now is None and (at := self._next()) is not None:
            self._begin(at)

    def action_again(self) -> None:
        """Run the task that is pointed at, whether or not it has been run."""
        if self._now is None:
            self._begin(self._list.highlighted or 0)

    def action_all(self) -> None:
        """Run what is left, one after the other."""
        self._goes_on = True
        self.action_next()

    def action_leave(self) -> None:
        """Stop what runs, or leave."""
        self._goes_on = False
        if self._now is None:
            self.dismiss(None)
        else:
            self._bridge.stop()
            self._leave.withdraw()

    def action_page(self, step: int) -> None:
        """Scroll what is said about the task."""
        detail = self.query_one("#demo-detail")
        detail.scroll_relative(y=step * max(1, detail.size.height - 1), animate=False)

    def _begin(self, at: int) -> None:
        session, trial = self._run.session, Trial(self.trials[at].said, "reading")
        self.trials[at] = self._now = trial
        session.reset()  # every task stands for itself
        self._bridge.ask(lambda cancel: session.send(trial.said, cancel))
        self._list.highlighted = at
        self._draw()

    # ---------------------------------------------------------------- what the engine says

    @on(heard.ToolNews)
    def follow_call(self, event: heard.ToolNews) -> None:
        if (trial := self._now) is None:
            return
        advance(trial.uses, event.event)
        match event.event:
            case ToolsOffered(tools=tools):
                trial.offered = list(dict.fromkeys([*trial.offered, *tools]))
                trial.stage = "choosing"
            case ToolAllowed():
                trial.stage = "running"
            case _:
                trial.stage = "reading"
        self._draw()

    @on(heard.ApprovalWanted)
    def ask_leave(self, event: heard.ApprovalWanted) -> None:
        if self._now is None:
            event.answer(heard.STOPPED)
            return
        self._now.stage = "asking"
        self._draw()
        self._leave.ask(event)

    @on(heard.AnswerText)
    def follow_answer(self, event: heard.AnswerText) -> None:
        if (trial := self._now) is not None:
            began = trial.stage != "answering"
            trial.stage = "answering"
            trial.answer += event.text
            if began:
                self._draw()
            elif trial is self.pointed:
                self._describe()

    @on(heard.AnswerEnded)
    def end_answer(self, event: heard.AnswerEnded) -> None:
        if (trial := self._now) is not None:
            trial.summary = event.summary
            trial.answer = event.summary.text or trial.answer
            self._end(trial)

    @on(heard.AnswerFailed)
    def explain_failure(self, event: heard.AnswerFailed) -> None:
        if (trial := self._now) is not None:
            trial.problem = event.problem
            self._end(trial)

    def _end(self, trial: Trial) -> None:
        self._leave.withdraw()
        trial.stage = "over"
        self._now = None
        self._draw()
        if self._goes_on and self._next() is not None:
            self.call_later(self.action_next)
        else:
            self._goes_on = False
