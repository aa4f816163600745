"""A training as a table for people: a line now and then, validations and samples among them."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx import paths, plain
from mobilellm_mlx.catalogue import DEFAULT
from mobilellm_mlx.cli.errors import print_error, printable
from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import (
    Event,
    MemoryEstimated,
    Notice,
    Progress,
    RolledBack,
    Sampled,
    Summary,
    TrainPaused,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.training.runs import Run

LINES = 40
"""Steps that are printed of a run, about; the others pass by in the last line of a terminal."""

_HEAD = (
    f"{'step':>7}{'epoch':>7}{'loss':>9}{'valid':>9}{'rate':>10}{'tok/s':>8}{'memory':>10}"
    f"{'left':>12}"
)
_TEXT_WIDTH, _SAMPLE_WIDTH = 70, 61
_TIMED_STEPS = 5
"""After which there is something to say about the time of an epoch."""


class TrainTable:
    """Shows a training's events, on stdout.

    Args:
        run: what is shown.
    """

    def __init__(self, run: Run):
        from rich.console import Console

        self._run = run
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live: Any = None
        self._memory: MemoryEstimated | None = None
        self._started: TrainStarted | None = None
        self._every = 1
        self._steps = 0
        self._has_head = self._is_timed = False
        self._shows: dict[type[Event], Callable[[Any], None]] = {
            MemoryEstimated: self._keep_memory,
            TrainStarted: self._begin,
            TrainStep: self._step,
            Validated: self._validated,
            Sampled: self._sampled,
            RolledBack: self._rolled_back,
            TrainPaused: self._paused,
            Notice: self._notice,
            Progress: self._progress,
        }

    def show(self, event: Event) -> None:
        """Show an event; the last one is the summary."""
        if isinstance(event, Summary):
            self.close()
            self._end(event)
        elif show := self._shows.get(type(event)):
            show(event)

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    # ---------------------------------------------------------------- before it starts

    def _keep_memory(self, event: MemoryEstimated) -> None:
        self._memory = event

    def _begin(self, event: TrainStarted) -> None:
        self.close()  # the progress of what came before
        self._started = event
        self._every = _round_up(event.steps / LINES)
        for label, text in self._facts(event):
            self._print(f"  {label:<9}{printable(text)}".rstrip())

    def _facts(self, event: TrainStarted) -> Iterator[tuple[str, str]]:
        base, licence = self._run.base.name, self._run.base.licence or "licence not named"
        yield "model", f"{base} ({licence})"
        yield "method", _method(self._run)
        yield (
            "data",
            (
                f"{_short(self._run.data.path)}: {event.train_examples:,} examples, "
                f"{event.valid_examples:,} more to validate with"
            ),
        )
        share = event.trained_parameters / max(1, event.total_parameters)
        yield "trained", f"{event.trained_parameters:,} parameters ({share:.1%} of all)"
        if self._memory:
            yield (
                "memory",
                (
                    f"about {format_bytes(self._memory.total_bytes)} of "
                    f"{format_bytes(self._memory.available_bytes)} that are free"
                ),
            )
        epochs = event.steps / max(1, event.steps_per_epoch)
        going_on = f", going on after {event.start_step:,}" if event.start_step else ""
        yield "steps", f"{event.steps:,}, {_number(epochs)} times through the data{going_on}"
        if event.workers > 1:
            yield "workers", f"{event.workers}"
        yield "run", event.run

    # ---------------------------------------------------------------- while it runs

    def _step(self, event: TrainStep) -> None:
        self._steps += 1
        last = self._started.steps if self._started else 0
        if self._steps == 1 or event.step % self._every == 0 or event.step == last:
            self._row(
                f"{event.step:>7}{event.epoch:>7.2f}{event.loss:>9.4f}{'':>9}"
                f"{event.learning_rate:>10.2e}{event.tok_per_s:>8.0f}"
                f"{format_bytes(event.peak_memory_bytes):>10}"
                f"{format_time(event.left_s) if event.left_s is not None else '':>12}".rstrip()
            )
        if not self._is_timed and self._steps >= _TIMED_STEPS and event.left_s is not None:
            self._say_time(event, last)
        left = f", {format_time(event.left_s)} left" if event.left_s is not None else ""
        self._watch(
            f"step {event.step:,} of {last:,}, loss {event.loss:.3f}, "
            f"{event.tok_per_s:.0f} tok/s{left}"
        )

    def _say_time(self, event: TrainStep, last: int) -> None:
        """Once, after a few steps: how long an epoch and all of it will take."""
        self._is_timed = True
        if event.left_s is None or not self._started or event.step >= last:
            return
        epoch_s = event.left_s / (last - event.step) * self._started.steps_per_epoch
        self._print(
            f"{'':>7}  about {format_time(epoch_s)} an epoch, "
            f"{format_time(event.left_s)} to the end, without validations",
            "dim",
        )

    def _validated(self, event: Validated) -> None:
        if event.is_best:
            said = "* best so far" if event.step else ""
        else:
            said = f"  best {event.best_loss:.4f} at {event.best_step:,}"
        if event.is_overfitting:
            said += "; overfitting"
        # As long as a row of steps, so that the eye finds the figure in its column.
        self._row(f"{event.step:>7}{'':>7}{'':>9}{event.loss:>9.4f}  {said}".rstrip(), "bold")

    def _sampled(self, event: Sampled) -> None:
        shown = [("asked", event.prompt, 1), ("answers", event.text, 3)]
        if event.expected and event.expected.strip() != event.text.strip():
            shown.append(("wanted", event.expected, 2))
        for label, text, most in shown:
            width = max(20, min(_SAMPLE_WIDTH, self._console.width - 19))
            for number, line in enumerate(_wrapped(text, most, width)):
                style = "" if label == "answers" else "dim"
                self._print(f"{'':>7}  {'' if number else label:<9}{line}", style)

    def _rolled_back(self, event: RolledBack) -> None:
        tries = "once more" if event.tries_left == 1 else f"{event.tries_left} times more"
        after = f"this may happen {tries}" if event.tries_left else "the next time is the last"
        text = (
            f"step {event.step:,} went wrong: {printable(event.reason)}. Back to step "
            f"{event.to_step:,} with a rate of {event.learning_rate:.2e}; {after}."
        )
        for line in textwrap.wrap(text, _TEXT_WIDTH):
            self._print(f"{'':>7}  {line}", "bold")

    def _paused(self, event: TrainPaused) -> None:
        name = self._run.name
        self._print(f"paused after step {event.step:,}; `mobilellm train resume {name}` goes on")
        self._watch(f"paused after step {event.step:,}")

    def _notice(self, event: Notice) -> None:
        text = f"note: {printable(event.text)}"
        if self._console.is_terminal:
            self._print(text)
        else:
            click.echo(text, err=True)

    def _progress(self, event: Progress) -> None:
        if self._has_head or event.total:
            share = f" {event.done / event.total:.0%}" if event.total else ""
            self._watch(f"{printable(event.task)}{share}")

    # ---------------------------------------------------------------- at the end

    def _end(self, event: Summary) -> None:
        if isinstance(event, TrainSummary) and event.steps:
            self._print()
            for line in describe(event, self._run):
                self._print(printable(line))
        if event.status == "error":
            print_error(event.error or "the training ended with an error", event.hint)

    # ---------------------------------------------------------------- drawing

    def _row(self, text: str, style: str = "") -> None:
        if not self._has_head:
            self._has_head = True
            self._print()
            self._print(_HEAD, "dim", wraps=False)
        self._print(text, style, wraps=False)

    def _print(self, text: str = "", style: str = "", *, wraps: bool = True) -> None:
        """A line; in a narrow terminal it is wrapped or, if it is a row, loses its last columns."""
        from rich.text import Text

        self._console.print(
            Text(text, style),
            no_wrap=not wraps,
            overflow="fold" if wraps else "crop",
            soft_wrap=not self._console.is_terminal,
        )

    def _watch(self, text: str) -> None:
        """The last line of a terminal; elsewhere there is none."""
        from rich.live import Live
        from rich.text import Text

        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text(f"  {text}", no_wrap=True, overflow="ellipsis"), refresh=True)


def describe(event: TrainSummary, run: Run) -> Iterator[str]:
    """What a training gave, and what to do with it, in a few lines."""
    ends = {
        "finished": "finished",
        "early stop": "ended early, no better for long",
        "stopped": "stopped",
        "diverged": "given up, it went wrong again and again",
        "error": "ended by an error",
    }
    yield (
        f"{ends[event.reason]}: {event.step:,} of {event.steps:,} steps in "
        f"{format_time(event.train_s)}, {event.tok_per_s:.0f} tok/s"
    )
    if event.best_loss is not None:
        first = f"{event.first_loss:.4f} -> " if event.first_loss is not None else ""
        test = f"; on the test examples {event.test_loss:.4f}" if event.test_loss else ""
        yield f"loss on validation: {first}{event.best_loss:.4f} at step {event.best_step}{test}"
    if event.peak_memory_bytes:
        estimate = event.estimated_memory_bytes
        told = f" (estimated: {format_bytes(estimate)})" if estimate else ""
        yield f"memory: at most {format_bytes(event.peak_memory_bytes)}{told}"
    yield f"run: {_short(run.path)}"
    if event.adapter:
        yield f"use it: mobilellm chat{_model_argument(run)} --adapter {event.adapter}"
    elif event.reason == "stopped" and event.first_loss is not None:
        first_at = min(run.config.validation_interval(event.steps), event.steps)
        if event.step < first_at:
            yield f"no adapter yet: the first validation comes at step {first_at:,}"
    if event.reason in ("stopped", "error"):
        yield f"go on:  mobilellm train resume {run.name}"


def format_time(seconds: float) -> str:
    """A duration for people, in one or two units."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def _model_argument(run: Run) -> str:
    """What names the base on the command line; nothing for the default model."""
    if run.base.path == paths.models_dir() / DEFAULT:
        return ""
    known = run.base.path == paths.models_dir() / run.base.name
    return f" {shlex.quote(run.base.name if known else str(run.base.path))}"


def _method(run: Run) -> str:
    config = run.config
    if config.method == "full":
        return "full: all weights"
    modules = ", ".join(config.modules)
    names = {"lora": "LoRA", "dora": "DoRA"}
    return f"{names[config.method]} of rank {config.rank} on {modules}, layers {config.layers}"


def _short(path: Path) -> str:
    """A path with ``~`` for the home."""
    with suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _round_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 25, 50, 100 ..."""
    scale = 1
    while True:
        for step in (1, 2, 2.5, 5):
            each = step * scale
            if each == int(each) and each >= value:
                return int(each)
        scale *= 10


def _wrapped(text: str, most: int, width: int) -> list[str]:
    """Some words of a text that may be long, and may be anything."""
    words = " ".join(plain.UNSEEN.sub("", plain.printable(text)).split())
    lines = textwrap.wrap(words, width, max_lines=most, placeholder=" ...")
    return lines or ["(nothing)"]
