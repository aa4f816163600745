"""Events for people on stderr, for programs as JSON lines on stdout."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from mobilellm_mlx.cli.errors import exit_code, explain, printable
from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import Event, GenerationSummary, Notice, Progress, Status, Summary

EXIT_CODES: dict[Status, int] = {"ok": 0, "error": 1, "cancelled": 130}
"""What to leave with after a job, by the status of its summary."""


@contextmanager
def _orderly_ends() -> Iterator[None]:
    """Let a job tidy up when it is terminated or its terminal is closed, not only on Ctrl-C."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there are signals heard
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_progress(events: Iterable[Event]) -> Summary | None:
    """A bar for each task and every notice on stderr; the summary, if there was one.

    Plain lines when nobody is watching live.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _orderly_ends():
        return _bars(console, events) if console.is_terminal else _progress_lines(events)


def _bars(console: Any, events: Iterable[Event]) -> Summary | None:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    summary = None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with Bars(*columns, TimeRemainingColumn(compact=True), console=console) as bars:
        tasks: dict[str, Any] = {}
        for event in events:
            if isinstance(event, Notice):
                bars.console.print(f"note: {printable(event.text)}", markup=False, highlight=False)
            elif isinstance(event, Summary):
                summary = event
            elif isinstance(event, Progress):
                if event.task not in tasks:
                    tasks[event.task] = bars.add_task(printable(event.task), amount="")
                bars.update(
                    tasks[event.task],
                    completed=event.done,
                    total=event.total,
                    amount=_amount(event),
                )
    return summary


def _amount(event: Progress) -> str:
    if event.unit == "bytes":
        total = f" of {format_bytes(event.total)}" if event.total else ""
        return f"{format_bytes(event.done)}{total}"
    total = f" of {event.total:,.0f}" if event.total else ""
    return f"{event.done:,.0f}{total} {event.unit}"


def _progress_lines(events: Iterable[Event]) -> Summary | None:
    task = summary = None
    for event in events:
        if isinstance(event, Progress) and event.task != task:
            task = event.task
            size = (
                f" ({format_bytes(event.total)})" if event.total and event.unit == "bytes" else ""
            )
            click.echo(f"{printable(task)}{size}", err=True)
        elif isinstance(event, Notice):
            click.echo(f"note: {printable(event.text)}", err=True)
        elif isinstance(event, Summary):
            summary = event
    return summary


def print_json(events: Iterable[Event], job: str) -> int:
    """Every event as a line; an error becomes the summary line. The exit code to leave with."""
    started = time.perf_counter()
    code = 0
    try:
        with _orderly_ends():
            for event in events:
                _write(event.to_json())
                if isinstance(event, Summary):
                    code = EXIT_CODES[event.status]
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        _write(Summary(job, "cancelled", time.perf_counter() - started).to_json())
        return 130
    except Exception as error:
        known = explain(error)
        elapsed = time.perf_counter() - started
        _write(Summary(job, "error", elapsed, known.message, known.hint).to_json())
        if "--debug" in sys.argv:
            raise
        code = exit_code(known)
    return code


@contextmanager
def interrupts(cancel: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C cancel the job, so that its summary still comes; the second interrupts.

    Args:
        cancel: set by the first one.
    """

    def ask(_: int, __: FrameType | None) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():  # only there are signals heard
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_answer(events: Iterator[Event], show_reasoning: bool = False) -> GenerationSummary | None:
    """The answer's text as it comes, on stdout; the summary at its end.

    Args:
        events: of one answer.
        show_reasoning: print on stderr what comes before the answer, dimmed on a terminal.
    """
    from mobilellm_mlx.events import Notice, ReasoningDelta, TextDelta

    summary = None
    reasoning = _Reasoning() if show_reasoning else None
    ends_line = True
    try:
        for event in events:
            if isinstance(event, TextDelta):
                if reasoning:
                    reasoning.end()
                sys.stdout.write(event.text)
                sys.stdout.flush()
                ends_line = event.text.endswith("\n")
            elif isinstance(event, ReasoningDelta) and reasoning:
                reasoning.write(event.text)
            elif isinstance(event, Notice):
                click.echo(f"note: {event.text}", err=True)
            elif isinstance(event, GenerationSummary):
                summary = event
    finally:
        if reasoning:
            reasoning.end()
        if not ends_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
    if summary and summary.status == "ok" and summary.reasoning_tokens and not summary.text:
        click.echo(f"note: {_only_reasoned(summary)}", err=True)
    return summary


class _Reasoning:
    """Reasoning on stderr, ended by one line break however it was left."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> None:
        self._line = (self._line + text).rpartition("\n")[2]
        click.secho(text, err=True, nl=False, dim=True)

    def end(self) -> None:
        if self._line:
            self._line = ""
            click.echo(err=True)


def _only_reasoned(summary: GenerationSummary) -> str:
    """Why nothing is on stdout, and what to do about it."""
    said = f"the model reasoned for {summary.reasoning_tokens:,} tokens and gave no answer"
    advice = {
        "length": "; raise `--max-tokens` or set `--thinking-budget`",
        "context": "; the context is full: set `--thinking-budget`",
    }
    return said + advice.get(summary.stop_reason, "")


def describe(summary: GenerationSummary) -> str:
    """What an answer cost, in one line."""
    reused = f" ({summary.cached_tokens} reused)" if summary.cached_tokens else ""
    thought = f" ({summary.reasoning_tokens} of reasoning)" if summary.reasoning_tokens else ""
    if summary.forced_tokens:
        thought = f" ({summary.forced_tokens} forced)"
    speed = f" at {summary.decode_tok_per_s:.1f} tok/s" if summary.decode_tok_per_s else ""
    return (
        f"prompt {summary.prompt_tokens} tokens{reused} at {summary.prefill_tok_per_s:.0f} tok/s, "
        f"first token after {summary.ttft_s:.2f} s, "
        f"{summary.generated_tokens} tokens{thought}{speed}, "
        f"peak {format_bytes(summary.peak_memory_bytes)}, seed {summary.options.get('seed')}"
    )
