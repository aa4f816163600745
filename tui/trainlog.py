"""What a training has told so far: its last figures, and the curves they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from mobilellm_mlx.events import (
    Event,
    MemoryEstimated,
    Notice,
    RolledBack,
    Sampled,
    TrainPaused,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)

MOST_POINTS = 2000
"""Of a curve; more than any window is wide. Beyond it, every two become one."""
MOST_NOTES = 50
MOST_ROUNDS = 100
"""Validations whose sample answers are kept."""


class Series:
    """A curve over the steps that never grows beyond what can be drawn."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[float] = []
        self._every = 1
        self._heap: list[tuple[float, float]] = []

    def __bool__(self) -> bool:
        return bool(self.steps)

    def add(self, step: float, value: float) -> None:
        """Add what was measured at a step; a run that went back takes back what came after it."""
        if not isfinite(value):
            return
        self.cut(step - 1)
        self._heap.append((step, value))
        if len(self._heap) < self._every:
            return
        self.steps.append(sum(at for at, _ in self._heap) / len(self._heap))
        self.values.append(sum(height for _, height in self._heap) / len(self._heap))
        self._heap.clear()
        if len(self.steps) > MOST_POINTS:
            self.steps = _halved(self.steps)
            self.values = _halved(self.values)
            self._every *= 2

    def cut(self, step: float) -> None:
        """Forget what was measured after ``step``."""
        while self.steps and self.steps[-1] > step:
            self.steps.pop()
            self.values.pop()
        self._heap = [(at, height) for at, height in self._heap if at <= step]


def _halved(values: list[float]) -> list[float]:
    """The means of every two; what is left over at the end stays."""
    pairs = [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=False)]
    return pairs + values[2 * len(pairs) :]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot.

    Attributes:
        series: what is drawn.
        name: of the line, where there is more than one.
        marked: its points are marked, and not joined: a cell has room for one line only.
    """

    series: Series
    name: str = ""
    marked: bool = False


@dataclass(slots=True)
class Story:
    """A run as its events tell it."""

    started: TrainStarted | None = None
    estimate: MemoryEstimated | None = None
    step: TrainStep | None = None
    valid: Validated | None = None
    summary: TrainSummary | None = None
    """Of its end; gone as soon as it goes on."""
    samples: dict[int, list[Sampled]] = field(default_factory=dict)
    """Sample answers, by the step at which they were given."""
    notes: list[str] = field(default_factory=list)
    """What else was said, the last at the end."""
    pause: str = ""
    """The note of a pause that has not ended yet."""
    loss: Series = field(default_factory=Series)
    valid_loss: Series = field(default_factory=Series)
    rate: Series = field(default_factory=Series)
    speed: Series = field(default_factory=Series)
    memory: Series = field(default_factory=Series)

    @property
    def series(self) -> Iterator[Series]:
        """All curves."""
        yield from (self.loss, self.valid_loss, self.rate, self.speed, self.memory)

    def take(self, event: Event) -> None:
        """Go on telling; an event with values that cannot be is passed over."""
        if not is_sound(event):
            return
        match event:
            case TrainStarted():
                self.started, self.summary = event, None
                self._go_on()
            case MemoryEstimated():
                self.estimate = event
            case TrainStep(step=step):
                self.step, self.summary = event, None
                self._go_on()
                self.loss.add(step, event.loss)
                self.rate.add(step, event.learning_rate)
                self.speed.add(step, event.tok_per_s)
                self.memory.add(step, event.memory_bytes / 1e9)
            case Validated(step=step):
                if event.is_overfitting and not (self.valid and self.valid.is_overfitting):
                    self._note(
                        f"step {step}: the training's loss falls while the one on unseen examples "
                        "rises; more of this will not help"
                    )
                self.valid = event
                self.valid_loss.add(step, event.loss)
            case Sampled():
                self._take_sample(event)
            case RolledBack():
                self._note(
                    f"step {event.step}: {event.reason}; back to step {event.to_step} with a rate "
                    f"of {event.learning_rate:.2g}, {event.tries_left} tries left"
                )
                for series in self.series:
                    series.cut(event.to_step)
            case TrainPaused(step=step):
                self.pause = f"step {step}: paused"
                self._note(self.pause)
            case Notice(text=text):
                self._note(text)
            case TrainSummary():
                self.summary = event

    def _note(self, text: str) -> None:
        self.notes = [*self.notes, text][-MOST_NOTES:]

    def _go_on(self) -> None:
        """A pause is over: its note says so too."""
        if self.pause:
            over = f"{self.pause}, then went on"
            self.notes = [over if note == self.pause else note for note in self.notes]
            self.pause = ""

    def _take_sample(self, event: Sampled) -> None:
        for later in [step for step in self.samples if step > event.step]:
            del self.samples[later]  # the run went back
        here = self.samples.setdefault(event.step, [])
        if event.prompt not in [known.prompt for known in here]:
            here.append(event)
        while len(self.samples) > MOST_ROUNDS:
            del self.samples[list(self.samples)[1]]  # the first shows where it came from


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


def is_sound(event: Event) -> bool:
    """Whether its values are of the kinds they should be: files can be written by hand."""
    return all(_fits(str(each.type), getattr(event, each.name)) for each in fields(event))


def _fits(declared: str, value: Any) -> bool:
    kind, _, rest = declared.partition(" | ")
    if kind not in _KINDS or (rest == "None" and value is None):
        return True
    return isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
