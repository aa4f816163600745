"""``mobilellm eval harness``: the tasks of EleutherAI's lm-eval, run by lm-eval itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.eval_options import Loading, max_memory_option, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_tables import tell_kept
from mobilellm_mlx.cli.eval_text import say
from mobilellm_mlx.cli.shared import model_option, require_text
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.events import EvalSummary, Event, Notice

if TYPE_CHECKING:
    from mobilellm_mlx.evals.harness import HarnessJob

ONLINE = (
    "lm-eval fetches the data of its tasks from the Hugging Face Hub, unless it has done so "
    "before; with --offline it fetches nothing"
)


@click.command("harness")
@click.option(
    "--tasks",
    required=True,
    callback=require_text,
    metavar="NAMES",
    help="Of lm-eval's tasks or groups, with commas between.",
)
@model_option
@click.option(
    "--include",
    callback=require_text,
    metavar="DIR",
    help="A directory with tasks of your own (YAML); code that they name is run.",
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(0),
    metavar="N",
    help="Examples before each question; without it as the task says.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="The first N documents of each task; 0, the default, asks all.",
)
@click.option("--offline", is_flag=True, help="Use no network: data must be in lm-eval's cache.")
@max_memory_option
@measuring_options
def harness(
    tasks: str,
    model: str | None,
    include: str | None,
    num_fewshot: int | None,
    limit: int,
    offline: bool,
    max_memory: int | None,
    as_json: bool,
    loading: Loading,
) -> int:
    """Measure a model with the tasks of EleutherAI's lm-eval.

    lm-eval is not part of this program: pip install 'lm-eval>=0.4.9'. It fetches the data
    of its tasks from the Hugging Face Hub.
    """
    _set_network(offline)
    from mobilellm_mlx.evals.harness import Asked, HarnessJob, lm_eval

    cancel = Stop()
    jobs: list[HarnessJob] = []

    def events() -> Iterator[Event]:
        asked = Asked(_names(tasks), _directory(include), num_fewshot, limit or None, max_memory)
        lm_eval()  # before a model is fetched for nothing
        if not offline:
            yield Notice(ONLINE)
        with loading.make_engine(model) as engine, console.interrupts(cancel):
            yield from engine.load()
            jobs.append(HarnessJob(engine, asked, cancel))
            yield from jobs[0].events()

    def tell(summary: EvalSummary) -> None:
        if summary.status != "ok":
            say("stopped: lm-eval keeps nothing of a part; the same command begins again")
        for line in jobs[0].table.splitlines():
            click.echo(printable(line))
        tell_kept(summary.results)

    return show(events(), as_json, tell)


def _set_network(offline: bool) -> None:
    """What the libraries under lm-eval look at when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def _names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise InvalidInput("`--tasks` names no task", "`lm-eval ls tasks` lists them")
    return names


def _directory(include: str | None) -> Path | None:
    path = None if include is None else Path(include)
    if path is not None and not path.is_dir():
        raise InvalidInput(f"`{include}` is not a directory", "name one with YAML files of tasks")
    return path
