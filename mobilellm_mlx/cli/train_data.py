"""``mobilellm train data``: data to train with, made of packages that anyone can fetch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option
from mobilellm_mlx.events import Event

_MOST = 50_000

_OPTIONS = (
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        metavar="DIR",
        help="Folder to make.",
    ),
    click.option(
        "--count",
        type=click.IntRange(1, _MOST),
        default=8000,
        show_default=True,
        metavar="N",
        help="Conversations to train with, at most.",
    ),
    click.option(
        "--valid",
        type=click.IntRange(1, _MOST),
        default=240,
        show_default=True,
        metavar="N",
        help="Conversations to validate with, at most.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="N",
        help="Of what is drawn.",
    ),
    click.option("--force", is_flag=True, help="Replace what an earlier run wrote there."),
    click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON."),
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return debug_option(command)


@click.group()
def data() -> None:
    """Make data to train with.

    A folder holds train.jsonl, valid.jsonl and manifest.json, which names the packages that they
    are made of and their licences.
    """


@data.command()
@_options
def tools(output: Path, as_json: bool, **values: Any) -> None:
    """Conversations in which tools are called, and many in which none is wanted.

    Home Assistant's sentences (templates that no measurement uses), sentences for the built-in
    tools, dialogues of Glaive's and instructions, with one to five tools on offer.
    """
    from mobilellm_mlx.evals.training_data import write_tools

    _make(write_tools(output, **values), output, as_json=as_json)


@data.command()
@_options
def chat(output: Path, as_json: bool, **values: Any) -> None:
    """Instructions with answers, to make a chat model of a base model.

    They were written by a larger model and hold mistakes.
    """
    from mobilellm_mlx.evals.training_data import write_chat

    _make(write_chat(output, **values), output, as_json=as_json)


def _make(events: Iterator[Event], output: Path, *, as_json: bool) -> None:
    from mobilellm_mlx.evals.training_data import MANIFEST

    console.show_progress(events)
    manifest = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    for name, file in manifest["files"].items():
        click.echo(f"{printable(str(output / name))}  {file['rows']:,} conversations")
    for source in manifest["sources"]:
        click.echo(f"  {source['package']} {source['version']}, {source['licence']}")
