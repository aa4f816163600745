"""``mobilellm eval calls`` and ``training``: how well a model calls tools."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.eval_options import Loading, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_tables import print_results, tell_kept
from mobilellm_mlx.cli.shared import debug_option, model_option, require_text, resume_option
from mobilellm_mlx.evals.calls.asking import ALL_MODES, FORMAT, MODES
from mobilellm_mlx.events import EvalSummary, Event

if TYPE_CHECKING:
    from mobilellm_mlx.engine import ChatEngine
    from mobilellm_mlx.evals.task import Task
    from mobilellm_mlx.tools.asking import Style

DATA = ("home", "bfcl")
_LIMIT = 100
_seed_option = click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of what is drawn.",
)


@click.command("calls")
@model_option
@click.option(
    "--data",
    type=click.Choice([*DATA, "all"]),
    default="all",
    show_default=True,
    help="Home Assistant's sentences, Berkeley's function-calling cases, or both.",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(ALL_MODES),
    multiple=True,
    help="How to ask; repeatable, the first three when none is given.",
)
@click.option(
    "--format",
    "format_",
    default=FORMAT,
    show_default=True,
    callback=require_text,
    metavar="NAME",
    help="How calls are written in the modes free and one-step.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=_LIMIT,
    show_default=True,
    metavar="N",
    help="Requests of each data set; 0 asks all there are.",
)
@_seed_option
@click.option(
    "--offer",
    type=click.IntRange(1, 40),
    default=5,
    show_default=True,
    metavar="N",
    help="Tools on offer for a sentence of Home Assistant's.",
)
@click.option(
    "--offered-by",
    "choice",
    type=click.Choice(["drawn", "filter"]),
    default="drawn",
    show_default=True,
    help="The right tool and others by chance, or what the filter of a chat finds.",
)
@click.option("--reply", is_flag=True, help="Also score what is said after the right call.")
@resume_option
@measuring_options
def calls(
    model: str | None,
    data: str,
    modes: tuple[str, ...],
    as_json: bool,
    loading: Loading,
    **values: Any,
) -> int:
    """Measure how well a model calls tools.

    em_intent is the share of requests with the right tool, or none where none is wanted;
    em_structure the share with all arguments right as well. Nothing that is called is run. An
    interrupted run goes on where it stopped.
    """
    from mobilellm_mlx.evals.calls.bfcl import BFCL
    from mobilellm_mlx.evals.wheels import ensure_wheel

    chosen = DATA if data == "all" else (data,)
    cancel = Stop()

    def events() -> Iterator[Event]:
        if "bfcl" in chosen:
            yield from ensure_wheel(BFCL)
        tasks = [_task(name, values["offer"], values["choice"]) for name in chosen]
        with loading.make_engine(model) as engine:
            yield from call_events(engine, tasks, modes or MODES, values, cancel)

    return show(events(), as_json, _tell)


def _tell(summary: EvalSummary) -> None:
    print_results(summary.results)
    tell_kept(summary.results)


def _task(name: str, offer: int, choice: Any) -> Task:
    """A task by the name of its data."""
    if name == "home":
        from mobilellm_mlx.evals.calls.home import Home, HomeTask

        return HomeTask(Home(), offer=offer, choice=choice)
    from mobilellm_mlx.evals.calls.bfcl import BFCL, BfclTask
    from mobilellm_mlx.evals.wheels import Wheel

    return BfclTask(Wheel(BFCL))


def call_events(
    engine: ChatEngine,
    tasks: Sequence[Task],
    modes: Sequence[str],
    values: Mapping[str, Any],
    cancel: threading.Event,
) -> Iterator[Event]:
    """The events of measuring calls: every task in every mode, then one summary of all.

    Args:
        engine: not loaded yet.
        tasks: what to ask.
        modes: how to ask.
        values: ``format_``, ``limit``, ``seed``, ``reply`` and ``resume``, as the options say them.
        cancel: stops it.
    """
    from mobilellm_mlx.evals.calls.asking import style_of
    from mobilellm_mlx.evals.runner import run_tasks

    styles = {mode: style_of(mode, values["format_"]) for mode in modes}
    yield from engine.load()
    assert engine.info is not None
    runs = (
        (f"{task.name}, {mode}", _one_run(engine, task, mode, style, values, cancel))
        for task, (mode, style) in product(tasks, styles.items())
    )
    with console.interrupts(cancel):
        yield from run_tasks(runs, engine.info.model, cancel)


def _one_run(
    engine: ChatEngine,
    task: Task,
    mode: str,
    style: Style,
    values: Mapping[str, Any],
    cancel: threading.Event,
) -> Iterator[Event]:
    """The events of one task in one mode."""
    from mobilellm_mlx.evals.calls.asking import CallAnswerer, asking_settings
    from mobilellm_mlx.evals.runner import run_task
    from mobilellm_mlx.evals.task import Subject

    assert engine.info is not None
    limit, seed, reply = values["limit"] or None, values["seed"], values["reply"]
    settings = asking_settings(mode, style, task.requests(limit, seed), reply=reply)
    yield from run_task(
        task,
        Subject(engine.info.model, engine.info.fingerprint, engine.info.adapter, settings),
        CallAnswerer(engine, style, cancel, reply=reply),
        limit=limit,
        seed=seed,
        fresh=not values["resume"],
        cancel=cancel,
    )


@click.command("training")
@click.option(
    "--format",
    "format_",
    default=FORMAT,
    show_default=True,
    callback=require_text,
    metavar="NAME",
    help="How calls are written.",
)
@click.option(
    "--side",
    type=click.Choice(["train", "dev"]),
    default="train",
    show_default=True,
    help="Whose sentence templates; those of the test are not given.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 20_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="At most so many conversations.",
)
@click.option(
    "--offer",
    type=click.IntRange(1, 40),
    default=5,
    show_default=True,
    metavar="N",
    help="Tools on offer in each.",
)
@_seed_option
@debug_option
def training(format_: str, side: Any, count: int, offer: int, seed: int) -> None:
    """Print conversations with calls to train with, one JSON object a line.

    They are Home Assistant's sentences of templates that no measurement uses.
    """
    from mobilellm_mlx.evals.calls.home import Home, HomeTask
    from mobilellm_mlx.evals.calls.training import conversations

    for line in conversations(HomeTask(Home(), side, offer), format_, count, seed):
        click.echo(line)
