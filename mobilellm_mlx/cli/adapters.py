"""``mobilellm adapters``: what was trained, on which model, with what, and how well."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.adapters import AdapterInfo, Registry
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import format_bytes

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_HEADER = ("name", "method", "rank", "base", "loss", "made", "size")
_NAME_COLUMNS, _BASE_COLUMNS = 20, 18
_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EMPTY = """\
There are none yet. `mobilellm train lora DATA` makes one; one of mlx-lm's can be used where it
lies, with `--adapter DIRECTORY`."""


@click.group()
def adapters() -> None:
    """List, show, rename, remove and export adapters."""


@adapters.command("list")
@_json_option
@debug_option
def list_adapters(as_json: bool) -> None:
    """List the adapters that are here.

    Loss is the least on the validation examples: it compares only where the data is the same.
    """
    registry = Registry()
    found, damaged = registry.list(), registry.damaged()
    if as_json:
        told = {name: error.message for name, error in damaged.items()}
        rows = [_row(info) for info in found]
        click.echo(json.dumps({"adapters": rows, "damaged": told}, indent=2))
        return
    if not found and not damaged:
        click.echo(_EMPTY)
        return
    _print_line(_HEADER)
    for info in found:
        _print_line(_cells(info))
    for name, error in damaged.items():
        click.echo(_wrapped(name, f"damaged: {printable(error.message)}"))
    if any(info.shipped for info in found):
        click.echo("* came with the program")


@adapters.command("show")
@click.argument("adapter", callback=require_text)
@_json_option
@debug_option
def show_adapter(adapter: str, as_json: bool) -> None:
    """Show what ADAPTER (a name or a directory) is, and where it comes from."""
    info = Registry().find(adapter)
    if as_json:
        click.echo(json.dumps(_row(info), indent=2))
        return
    for label, value in _lines(info).items():
        if value:
            text = printable(value)
            click.echo(f"{label:<11} {text}" if label == "path" else _wrapped(label, text))


@adapters.command("rename")
@click.argument("name", callback=require_text)
@click.argument("new", callback=require_text)
@debug_option
def rename_adapter(name: str, new: str) -> None:
    """Call the adapter NAME by another name, NEW.

    Chats remember an adapter by its name: what was answered with it can be made again only under
    that one.
    """
    click.echo(f"{name} is now {Registry().rename(name, new).name}", err=True)


@adapters.command("rm")
@click.argument("name", callback=require_text)
@click.option("--yes", is_flag=True, help="Do not ask.")
@debug_option
def remove_adapter(name: str, yes: bool) -> None:
    """Remove the adapter NAME; the run that made it stays."""
    registry = Registry()
    registry.require_own(name)
    if not yes:
        click.confirm(
            f"Remove the adapter {name}? It cannot be brought back.", abort=True, err=True
        )
    registry.remove(name)
    click.echo(f"{name} is removed", err=True)


@adapters.command("export")
@click.argument("name", callback=require_text)
@click.argument("directory", type=click.Path(path_type=Path))
@debug_option
def export_adapter(name: str, directory: Path) -> None:
    """Copy the adapter NAME into DIRECTORY, a new one, for mlx-lm.

    There `mlx_lm.generate --model BASE --adapter-path DIRECTORY` uses it.
    """
    info = Registry().export(name, directory.expanduser())
    click.echo(str(info.path))


def _row(info: AdapterInfo) -> dict[str, Any]:
    """All that is known, as JSON can say it."""
    return {**asdict(info), "path": str(info.path), "template": info.has_template}


def _cells(info: AdapterInfo) -> tuple[str, ...]:
    return (
        printable(info.name) + ("*" if info.shipped else ""),
        info.method,
        str(info.rank) if info.rank else "",
        _short(printable(Path(info.base_name).name) or "?", _BASE_COLUMNS),
        _loss(info.scores.get("best_loss")),
        printable(info.created[:10]) or "?",
        format_bytes(info.bytes),
    )


def _print_line(cells: Iterable[str]) -> None:
    name, method, rank, base, loss, made, size = cells
    if len(name) > _NAME_COLUMNS:  # a long one has a line to itself
        click.echo(name)
        name = ""
    click.echo(
        f"{name:<{_NAME_COLUMNS}} {method:<6} {rank:>4}  {base:<{_BASE_COLUMNS}} {loss:>6}  "
        f"{made:<10} {size:>7}".rstrip()
    )


def _short(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def _loss(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and abs(value) < 1000 else ""


def _lines(info: AdapterInfo) -> dict[str, str]:
    """What ``show`` says, by label; what is not known is empty."""
    return {
        "name": info.name + (" (came with the program)" if info.shipped else ""),
        "method": _method(info),
        "modules": _modules(info),
        "base": _base(info),
        "licence": f"{info.licence} (of the base)" if info.licence else "unknown: see the base's",
        "data": _named(info.data_name, info.data_sha256),
        "scores": _listed(info.scores),
        "training": _listed(info.config),
        "tools": _listed(info.tools or {}),
        "template": "brings its own" if info.has_template else "",
        "stop token": info.stop_token,
        "made": " by ".join(part for part in (info.created, info.made_by) if part),
        "size": format_bytes(info.bytes),
        "path": str(info.path),
    }


def _method(info: AdapterInfo) -> str:
    if info.method == "full":
        return "full: whole weights in place of the base's"
    runs = ", one for each run of a shared block" if info.per_run else ""
    return f"{info.method}, rank {info.rank}, scale {info.scale:g}{runs}"


def _modules(info: AdapterInfo) -> str:
    """Which modules of which blocks."""
    if info.method == "full":
        return ""
    last = f"the last {info.num_layers} blocks" if info.num_layers else "all blocks"
    if info.keys is None:
        return f"every matrix of {last}"
    names: dict[str, list[str]] = {}  # by the blocks that they are of
    for key in info.keys:
        found = _IN_BLOCK.fullmatch(key)
        number, name = found.groups() if found else ("", key)
        names.setdefault(name, []).append(number)
    groups: dict[str, list[str]] = {}
    for name, numbers in names.items():
        outside = not numbers[0] and name.startswith("model.")
        blocks = f"blocks {', '.join(numbers)}" if numbers[0] else "" if outside else last
        groups.setdefault(blocks, []).append(name)
    return "; ".join(
        ", ".join(sorted(members)) + (f" of {blocks}" if blocks else "")
        for blocks, members in groups.items()
    )


def _base(info: AdapterInfo) -> str:
    return _named(info.base_name, info.base_sha256) or "unknown: nothing says so"


def _named(name: str, sha256: str | None) -> str:
    return f"{name} (SHA-256 {sha256[:16]}…)" if sha256 else name


def _listed(values: Mapping[str, Any]) -> str:
    """What a table says, on a line; what says nothing is left out."""
    told = {name: value for name, value in values.items() if value not in ("", None, [], False)}
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in told.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is True:
        return "yes"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _wrapped(label: str, value: str) -> str:
    """A value beside its label, over several lines where it must be."""
    return textwrap.fill(
        value,
        79,
        initial_indent=f"{label:<11} ",
        subsequent_indent=" " * 12,
        break_long_words=True,
        break_on_hyphens=False,
    )
