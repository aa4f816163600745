"""Options of the command line made from the table of a training's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from mobilellm_mlx.cli.shared import require_text
from mobilellm_mlx.training.config import GROUPS, options

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OF_SMALL_MATRICES = (
    "rank",
    "alpha",
    "rank_stabilised",
    "dropout",
    "modules",
    "layers",
    "per_run",
)
"""Settings that mean nothing where the weights themselves are trained."""


class GroupedCommand(click.Command):
    """A command whose help has the settings of a training in groups, behind its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {
            param.name: record
            for param in self.get_params(ctx)
            if (record := param.get_help_record(ctx)) is not None
        }
        settings = {name for names in GROUPS.values() for name in names}
        own = [record for name, record in records.items() if name not in settings]
        sections = {"Options": own} | {
            title: [records[name] for name in names if name in records]
            for title, names in GROUPS.items()
        }
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def config_options(method: str) -> Callable[[_Function], _Function]:
    """An option for every setting that a method has; one that was not given is None.

    Args:
        method: of ``TrainConfig``.
    """

    def decorate(function: _Function) -> _Function:
        for each in reversed(options()):
            if each.name == "method" or (method == "full" and each.name in _OF_SMALL_MATRICES):
                continue
            function = _option(each)(function)
        return function

    return decorate


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the command line's values that somebody gave."""
    names = {each.name for each in options()}
    return {
        name: value
        for name, value in values.items()
        if name in names and value is not None and value != ()
    }


def _option(each: Any) -> Callable[[_Function], _Function]:
    flag, told, default = each.name.replace("_", "-"), each.metadata, each.default
    help_ = told["help"]
    if isinstance(default, bool):
        return click.option(f"--{flag}/--no-{flag}", each.name, default=None, help=help_)
    if isinstance(default, tuple):
        return click.option(
            f"--{flag}",
            each.name,
            multiple=True,
            callback=_split,
            metavar="NAME",
            help=f"{help_} Repeatable, or with commas between.  [default: {','.join(default)}]",
        )
    if default != "":
        shown = f"{default:g}" if isinstance(default, float) else default
        help_ = f"{help_}  [default: {shown}]"
    if told["choices"]:
        return click.option(
            f"--{flag}", each.name, type=click.Choice(list(told["choices"])), help=help_
        )
    if isinstance(default, str):
        return click.option(
            f"--{flag}", each.name, callback=require_text, metavar="TEXT", help=help_
        )
    range_: Any = click.IntRange if isinstance(default, int) else click.FloatRange
    kind = range_(min=told["least"], max=told["most"])
    metavar = "N" if isinstance(default, int) else "X"
    return click.option(f"--{flag}", each.name, type=kind, metavar=metavar, help=help_)


def _split(ctx: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    require_text(ctx, option, value)
    names = tuple(name for each in value for name in each.replace(",", " ").split())
    if value and not names:
        raise click.BadParameter("it names nothing.")
    return names
