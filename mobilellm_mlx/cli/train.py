"""``mobilellm train``: a model of one's own from a file of examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.shared import debug_option, require_text, resolve_model
from mobilellm_mlx.cli.train_check import check
from mobilellm_mlx.cli.train_data import data
from mobilellm_mlx.cli.train_job import is_first, perform
from mobilellm_mlx.cli.train_options import GroupedCommand, config_options, given
from mobilellm_mlx.cli.train_runs import (
    find_paused,
    list_,
    pause,
    pick_resumable,
    recipes,
    remove,
    show,
    stop_run,
)
from mobilellm_mlx.errors import InvalidOption

if TYPE_CHECKING:
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.runs import Run


@click.group()
def train() -> None:
    """Fine-tune a model on your own examples.

    What is learned is kept as an adapter beside the model, or as a new model. A training can be
    stopped and gone on with at any time.
    """


_TRAINING = (
    click.argument("data", callback=require_text),
    click.option("-m", "--model", metavar="MODEL", help="Name or directory; default smollm2-135m."),
    click.option(
        "--recipe",
        callback=require_text,
        metavar="NAME",
        help="Settings that were tried; `mobilellm train recipes` lists them. Or a file.",
    ),
    click.option(
        "--name", callback=require_text, metavar="NAME", help="Of the run, and of its adapter."
    ),
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
_yes_option = click.option("-y", "--yes", is_flag=True, help="Begin without asking.")
_force_option = click.option("--force", is_flag=True, help="Begin even if memory may not do.")

_ABOUT = {
    "lora": "Train small matrices beside the weights on DATA (LoRA).",
    "dora": "Train small matrices and the sizes of the weights (DoRA).",
    "full": "Train all weights on DATA; `mobilellm fuse` makes a model of the result.",
}
_HELP = """

DATA is a file of JSON lines, or a folder with `train.jsonl` and perhaps `valid.jsonl` and
`test.jsonl`. `mobilellm train check DATA` says what is in it.

Ctrl-C ends it after the present step, with everything saved; `mobilellm train resume` goes on.
"""


def _make_command(method: str) -> click.Command:
    def command(data: str, model: str | None, recipe: str | None, **values: Any) -> int:
        def make() -> Run:
            config = choose_config(method, recipe, given(values))
            return make_run(config, data, model, values["name"])

        return perform(make, resume=False, **_flags(values))

    command.__doc__ = _ABOUT[method] + _HELP
    decorators = (
        *_TRAINING,
        config_options(method),
        _force_option,
        _yes_option,
        _json_option,
        debug_option,
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return click.command(method, cls=GroupedCommand)(command)


for _method in _ABOUT:
    train.add_command(_make_command(_method))


@train.command("resume")
@click.argument("name", required=False, callback=require_text)
@click.option(
    "--force", is_flag=True, help="Also if model, data or settings are not what they were."
)
@_json_option
@debug_option
def resume(name: str | None, force: bool, as_json: bool) -> int:
    """Go on with a run that was stopped or cut off.

    NAME is that of the run; without it, it is the newest that is not finished. It goes on from its
    newest checkpoint as if nothing had happened. A paused one is told to go on.
    """
    if is_first() and (run := find_paused(name)):
        run.ask("run")
        click.echo(f"{run.name} goes on", err=True)
        return 0
    return perform(
        lambda: pick_resumable(name), resume=True, force=force, yes=True, as_json=as_json
    )


for _command in (data, check, pause, stop_run, list_, show, remove, recipes):
    train.add_command(_command)


def _flags(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("force", "yes", "as_json")}


# ---------------------------------------------------------------- what is to be trained


def choose_config(method: str, recipe: str | None, chosen: dict[str, Any]) -> TrainConfig:
    """The settings: options stand before the recipe, the recipe before the defaults.

    Raises:
        InvalidOption: the recipe is for another method.
        MobileLLMError: the recipe or a setting is not sound.
    """
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.recipes import load_recipe

    values: dict[str, Any] = {}
    if recipe is not None:
        found = load_recipe(recipe)
        values = found.values
        if found.method and (found.method == "full") != (method == "full"):
            raise InvalidOption(
                f"the recipe `{found.name}` is for `{found.method}`, not for `{method}`",
                f"use `mobilellm train {found.method} --recipe {found.name}`",
            )
    return TrainConfig().merged({**values, **chosen, "method": method})


def make_run(config: TrainConfig, data: str, model: str | None, name: str | None) -> Run:
    """A new run: the model fetched if need be, model and data looked at, nothing trained.

    Raises:
        MobileLLMError: something is not as it should be.
    """
    from mobilellm_mlx.adapters.identity import model_sha256
    from mobilellm_mlx.training.data.reading import data_sha256
    from mobilellm_mlx.training.runs import Base, Run, check_name

    if name is not None:
        check_name(name)
    path = Path(os.path.expanduser(data)).absolute()  # noqa: PTH111 (it raises nothing)
    data_hash = data_sha256(path)  # before a model is fetched for it
    directory = resolve_model(model).absolute()
    known, licence = _describe(directory)
    base = Base(known, directory, model_sha256(directory), licence)
    return Run.create(config, base, path, data_hash, name)


def _describe(directory: Path) -> tuple[str, str | None]:
    """A model's name and licence, by its own files."""
    from mobilellm_mlx.cli.inventory import describe_directory

    row = describe_directory(directory)
    return str(row.get("name") or directory.name), row.get("licence")
