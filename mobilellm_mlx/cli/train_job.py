"""One training, from the command line to its end: shown, interrupted, tidied up after."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Protocol, cast

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import exit_code, explain
from mobilellm_mlx.cli.shared import is_interactive
from mobilellm_mlx.cli.train_signals import Interruptions
from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Event,
    Summary,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)

if TYPE_CHECKING:
    from mobilellm_mlx.training.runs import Run


_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")


def is_first() -> bool:
    """Whether this is the process that speaks, of those that ``mlx.launch`` started."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


class _Face(Protocol):
    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """Events as JSON lines on stdout."""

    def show(self, event: Event) -> None:
        sys.stdout.write(event.to_json() + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


class _Silence:
    """Nothing: nobody listens."""

    def show(self, event: Event) -> None:
        pass

    def close(self) -> None:
        pass


def perform(make: Callable[[], Run], *, resume: bool, force: bool, yes: bool, as_json: bool) -> int:
    """Train a run and show it; the exit code to leave with.

    Args:
        make: gives the run.
        resume: whether to go on with it.
        force: also if memory may not do, or if what it was made for has changed.
        yes: begin without asking.
        as_json: print events, an error as a summary too.
    """
    if not is_first():
        return _help_along()
    started = time.perf_counter()
    try:
        if any(name in os.environ for name in _RANKS):  # the others wait, but not for long
            from mobilellm_mlx.training.workers import join_workers

            join_workers()
        run = make()
        face: _Face = _Lines() if as_json else _table(run)
        asks = not (yes or as_json or resume) and is_interactive()
        return _Training(run, face, force=force, asks=asks, is_new=not resume).perform()
    except (KeyboardInterrupt, click.Abort):
        if as_json:
            _Lines().show(Summary("train", "cancelled", time.perf_counter() - started))
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        if not as_json:
            raise
        known = explain(error)
        elapsed = time.perf_counter() - started
        _Lines().show(Summary("train", "error", elapsed, known.message, known.hint))
        if "--debug" in sys.argv:
            raise
        return exit_code(known)


def _help_along() -> int:
    """Take part in what the first process trains; it says what there is to say."""
    from mobilellm_mlx.training.job import help_along
    from mobilellm_mlx.training.workers import WorkerLost

    for number in (signal.SIGINT, signal.SIGHUP):  # the first one heeds them
        signal.signal(number, signal.SIG_IGN)
    try:
        help_along()
    except WorkerLost:
        return 1
    return 0


def _table(run: Run) -> _Face:
    from mobilellm_mlx.cli.train_table import TrainTable

    return TrainTable(run)


class _Training:
    """One training from here to its end.

    Args:
        run: to train.
        face: shows its events.
        force: also if it may not fit.
        asks: whether to ask before the first step.
        is_new: whether it begins now; one that does not get to its first step is removed again.
    """

    def __init__(self, run: Run, face: _Face, *, force: bool, asks: bool, is_new: bool):
        self._run, self._face = run, face
        self._force, self._asks, self._is_new = force, asks, is_new
        self._stop = threading.Event()
        self._interruptions = Interruptions(self._stop)
        self._summary: Summary | None = None
        self._has_begun = self._reader_left = False

    def perform(self) -> int:
        """Train; the exit code."""
        with self._interruptions:
            try:
                from mobilellm_mlx.training.job import train

                events = train(
                    self._run, resume=not self._is_new, force=self._force, stop=self._stop
                )
                with closing(cast("Generator[Event]", events)):
                    self._follow(events)
            except BaseException as error:
                with suppress(OSError):
                    self._face.close()
                self._tidy_up(error)
                if not self._has_said(error):
                    raise
        return self._exit_code()

    def _follow(self, events: Iterator[Event]) -> None:
        for event in events:
            if isinstance(event, TrainStep | Validated | CheckpointSaved):
                self._has_begun = True
            if isinstance(event, Summary):
                self._summary = event
            self._show(event)
            if isinstance(event, TrainStarted) and self._asks:
                with self._interruptions.suspended():
                    click.confirm("Begin?", default=True, abort=True, err=True)

    def _has_said(self, error: BaseException) -> bool:
        """Whether the summary has told of an error, so that there is no more to say."""
        is_told = self._summary is not None and self._summary.status == "error"
        return is_told and isinstance(error, MobileLLMError) and "--debug" not in sys.argv

    def _exit_code(self) -> int:
        if self._summary is None or self._reader_left:
            return 0
        if self._interruptions.number is not None and self._summary.status != "error":
            return 128 + self._interruptions.number
        return console.EXIT_CODES[self._summary.status]

    def _show(self, event: Event) -> None:
        """Show it. When nobody reads any more the training ends as after Ctrl-C, all saved."""
        try:
            self._face.show(event)
        except OSError as error:
            self._reader_left = isinstance(error, BrokenPipeError)
            self._face = _Silence()
            self._stop.set()

    def _tidy_up(self, error: BaseException) -> None:
        """Leave no run behind that never began, and none without a word on how it ended."""
        with suppress(MobileLLMError, OSError):
            if self._is_new and not self._has_begun:
                self._run.remove()
            elif self._has_begun and self._summary is None and isinstance(error, Exception):
                known = explain(error)
                status = self._run.status()
                self._run.note(
                    TrainSummary(
                        status="error",
                        error=known.message,
                        hint=known.hint,
                        run=self._run.name,
                        path=str(self._run.path),
                        reason="error",
                        step=status.step,
                        steps=status.steps,
                        best_loss=status.best_loss,
                        best_step=status.best_step,
                    )
                )
