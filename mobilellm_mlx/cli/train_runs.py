"""``mobilellm train list`` and its like: what was trained, and asking it to wait or to end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import TrainingError

if TYPE_CHECKING:
    from mobilellm_mlx.events import Event
    from mobilellm_mlx.training.runs import Run
    from mobilellm_mlx.training.status import RunStatus, State

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_name_argument = click.argument("name", required=False, callback=require_text)

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 60


@click.command("list")
@_json_option
@debug_option
def list_(as_json: bool) -> None:
    """List the runs, the newest first."""
    from mobilellm_mlx.training.runs import list_runs, runs_dir

    found = list_runs()
    if as_json:
        click.echo(json.dumps({"runs": [each.to_dict() for each in found]}, indent=2))
        return
    if not found:
        click.echo(f"there are no runs yet; they will be kept in {runs_dir()}", err=True)
        return
    width = min(32, max(3, *(len(each.name) for each in found)))
    click.echo(f"{'run':<{width}}  {'state':<11} {'steps':>13} {'best':>8}  last word")
    for each in found:
        best = f"{each.best_loss:.4f}" if each.best_loss is not None else "-"
        click.echo(
            printable(
                f"{each.name:<{width}}  {each.state:<11} {_steps(each):>13} {best:>8}  "
                f"{_time(each.updated)}"
            )
        )


@click.command("show")
@_name_argument
@_json_option
@debug_option
def show(name: str | None, as_json: bool) -> None:
    """Show a run: what it is, how it stands, how its loss went.

    NAME is that of the run; without it the newest is shown.
    """
    run = _open(name)
    status = run.status()
    if as_json:
        click.echo(json.dumps(_described(run, status), indent=2))
        return
    for label, value in _facts(run, status):
        click.echo(f"{label:<12}{printable(value)}".rstrip())
    events = list(run.events())
    for label, kind in (("loss", "train_step"), ("validation", "validated")):
        for line in _curve(label, [event for event in events if event.name == kind]):
            click.echo(line)


@click.command("pause")
@_name_argument
@debug_option
def pause(name: str | None) -> None:
    """Let a run wait after the step it is in.

    NAME may be left out when only one is being trained. `mobilellm train resume` lets it go on.
    """
    run, state = _find_alive(name)
    if state == "paused" and run.want() == "pause":
        click.echo(f"{run.name} is paused already", err=True)
        return
    run.ask("pause")
    click.echo(f"{run.name} will wait after the step it is in", err=True)


@click.command("stop")
@_name_argument
@debug_option
def stop_run(name: str | None) -> None:
    """End a run after the step it is in, all saved.

    NAME may be left out when only one is being trained. `mobilellm train resume` goes on.
    """
    run, _ = _find_alive(name)
    run.ask("stop")
    click.echo(f"{run.name} will end after the step it is in", err=True)


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", callback=require_text)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def remove(names: tuple[str, ...], yes: bool) -> None:
    """Remove runs with their checkpoints.

    The adapter or model that came of it stays; `mobilellm adapters rm` takes adapters away.
    """
    from mobilellm_mlx.training.runs import Run, remove_run, run_names

    known = run_names()
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in known:
            Run.open(name)  # says what there is
    if not yes:
        what = f"the run {names[0]}" if len(names) == 1 else f"{len(names)} runs"
        click.confirm(f"Remove {what} for good?", abort=True, err=True)
    for name in names:
        remove_run(name)
        click.echo(f"removed {name}", err=True)


@click.command("recipes")
@_json_option
@debug_option
def recipes(as_json: bool) -> None:
    """List the settings that were tried, for `--recipe NAME`.

    The first lines of each file say how it is used.
    """
    from mobilellm_mlx.training.recipes import list_recipes

    found = list_recipes()
    if as_json:
        rows = [
            {
                "name": each.name,
                "description": each.description,
                "method": each.method,
                "path": str(each.path),
                "settings": each.values,
            }
            for each in found
        ]
        click.echo(json.dumps({"recipes": rows}, indent=2))
        return
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        click.echo(printable(f"{each.name:<{width}}  {each.method or 'any':<5} {each.description}"))
    if found:
        click.echo(f"they lie in {found[0].path.parent}", err=True)
    else:
        click.echo("there are no recipes", err=True)


# ---------------------------------------------------------------- finding a run


def find_paused(name: str | None) -> Run | None:
    """The run of a name, or the newest that is not finished, if a process waits with it."""
    from mobilellm_mlx.training.runs import Run, list_runs

    for each in list_runs():
        if name in (None, each.name) and (each.can_resume or each.state == "paused"):
            return Run.open(each.name) if each.state == "paused" else None
    return None


def pick_resumable(name: str | None) -> Run:
    """The run of a name, or the newest that is not finished.

    Raises:
        TrainingError: there is none, or it has nothing left to do.
    """
    from mobilellm_mlx.training.runs import Run, list_runs

    if name is None:
        name = next((each.name for each in list_runs() if each.can_resume), None)
        if name is None:
            raise TrainingError(
                "there is no run that could go on", "`mobilellm train lora DATA` begins one"
            )
    run = Run.open(name)
    if run.status().state == "finished":
        raise TrainingError(
            f"the run `{name}` is finished",
            "begin a new one, with more `--epochs` or other settings",
        )
    return run


def _open(name: str | None) -> Run:
    from mobilellm_mlx.training.runs import Run, list_runs

    if name is not None:
        return Run.open(name)
    for each in list_runs():
        return Run.open(each.name)
    raise TrainingError("there are no runs yet", "`mobilellm train lora DATA` begins one")


def _find_alive(name: str | None) -> tuple[Run, State]:
    """A run that is being trained, and how it stands; without a name the only one that is."""
    from mobilellm_mlx.training.runs import Run, list_runs

    if name is None:
        alive = [each.name for each in list_runs() if each.is_alive]
        if len(alive) != 1:
            raise TrainingError(
                f"{len(alive) or 'no'} runs are being trained, expected one",
                f"name one of {', '.join(alive)}" if alive else None,
            )
        name = alive[0]
    run = Run.open(name)
    status = run.status()
    if not status.is_alive:
        raise TrainingError(f"the run `{name}` is not being trained: it is {status.state}")
    return run, status.state


# ---------------------------------------------------------------- describing


def _described(run: Run, status: RunStatus) -> dict[str, Any]:
    return {
        **status.to_dict(),
        "created": run.created.isoformat(),
        "base": {
            "name": run.base.name,
            "path": str(run.base.path),
            "sha256": run.base.sha256,
            "licence": run.base.licence,
        },
        "data": {"path": str(run.data.path), "sha256": run.data.sha256},
        "config": run.config.to_dict(),
    }


def _facts(run: Run, status: RunStatus) -> Iterator[tuple[str, str]]:
    yield "run", run.name
    who = f", process {status.pid}" if status.pid else ""
    reason = f": {status.reason}" if status.reason else ""
    yield "state", f"{status.state}{reason}{who}"
    yield "steps", _steps(status)
    if status.best_loss is not None:
        yield "best", f"{status.best_loss:.4f} on validation, at step {status.best_step}"
    yield "model", f"{run.base.name} ({run.base.licence or 'licence not named'})"
    yield "data", str(run.data.path)
    yield "settings", _settings(run)
    yield "begun", _time(run.created)
    yield "last word", _time(status.updated)
    if status.adapter:
        yield "adapter", status.adapter
    yield "directory", str(run.path)
    if status.can_resume:
        yield "go on", f"mobilellm train resume {run.name}"


def _settings(run: Run) -> str:
    """The method, and what differs from the defaults."""
    from mobilellm_mlx.training.config import TrainConfig

    defaults, chosen = TrainConfig().to_dict(), run.config.to_dict()
    parts: list[str] = [run.config.method]
    for name, value in chosen.items():
        if name != "method" and value != defaults[name]:
            shown = ",".join(value) if isinstance(value, list) else str(value)
            parts.append(f"{name.replace('_', '-')} {shown}")
    return ", ".join(parts)


def _curve(label: str, events: Sequence[Event]) -> Iterator[str]:
    """A loss over its steps, as one line of bars."""
    losses = [float(event.loss) for event in events]  # type: ignore[attr-defined]
    if len(losses) < 2:
        return
    yield f"{label:<12}{sparkline(losses, _CURVE_WIDTH)}"
    steps = [int(event.step) for event in (events[0], events[-1])]  # type: ignore[attr-defined]
    yield (
        f"{'':<12}{losses[0]:.4f} at step {steps[0]:,}, {losses[-1]:.4f} at step {steps[1]:,}; "
        f"lowest {min(losses):.4f}"
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as bars of eight heights; several share a bar, as their mean, where they are many."""
    count = min(width, len(values))
    edges = [len(values) * at // count for at in range(count + 1)]
    means = [
        sum(value / (last - first) for value in values[first:last])
        for first, last in pairwise(edges)
    ]
    low, high = min(means), max(means)
    # In halves: the difference of two numbers may be larger than any number.
    range_ = high / 2 - low / 2
    return "".join(
        _BARS[round((len(_BARS) - 1) * ((mean / 2 - low / 2) / range_)) if range_ else 0]
        for mean in means
    )


def _steps(status: RunStatus) -> str:
    return f"{status.step:,} of {status.steps:,}" if status.steps else "not begun"


def _time(value: datetime) -> str:
    return f"{value.astimezone():%Y-%m-%d %H:%M}"
