"""``mobilellm tools``: what a model may ask to be done, and doing it by hand."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import ToolError

if TYPE_CHECKING:
    from mobilellm_mlx.cli.toolbox import Workbench
    from mobilellm_mlx.tools.tool import Tool
    from mobilellm_mlx.tools.toolbox import Toolbox

_Function = TypeVar("_Function", bound=Callable[..., Any])

_NAME_COLUMNS, _LEAVE_COLUMNS = 20, 10
_WIDEST = 100

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def files_option(function: _Function) -> _Function:
    """``--tools FILE``: a file of the person's own tools; repeatable."""
    option = click.option(
        "--tools",
        "files",
        multiple=True,
        metavar="FILE",
        callback=require_text,
        help="Add the tools of a Python file of yours; repeatable.",
    )
    return option(function)


@click.group(invoke_without_command=True)
@click.pass_context
def tools(ctx: click.Context) -> None:
    """List, show and call the tools that a model may use.

    Without a command they are listed.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_tools)


@tools.command("list")
@files_option
@_json_option
@debug_option
def list_tools(files: Sequence[str] = (), as_json: bool = False) -> None:
    """List the tools, where they come from, and which of them ask first."""
    with _open(files) as bench:
        known = bench.toolbox().tools
        problems = bench.problems
    if as_json:
        rows = [_described(tool) for tool in known]
        click.echo(json.dumps({"tools": rows, "problems": problems}, indent=2))
        return
    width = _width()
    source = None
    for tool in known:
        if tool.source != source:
            source = tool.source
            click.secho(_origin(source), bold=True)
        _print_row(tool, width)
    click.echo()
    click.echo("`mobilellm tools show NAME` tells more, `mobilellm tools call NAME` runs one.")
    _print_problems(problems)


@tools.command("show")
@click.argument("name", callback=require_text)
@files_option
@_json_option
@debug_option
def show_tool(name: str, files: Sequence[str], as_json: bool) -> None:
    """Show what the tool NAME does and what it takes."""
    with _open(files, name) as bench:
        box = bench.toolbox()
        problems = bench.problems
        tool = _find(box, name, problems)
        live = _live_values(box, tool)
    if as_json:
        click.echo(json.dumps(_described(tool) | {"live": live}, indent=2))
        return
    _print_fact("name", tool.name)
    _print_fact("does", tool.description)
    _print_fact("from", _origin(tool.source))
    _print_fact("leave", "reads only, changes nothing" if tool.reads_only else "asks first")
    _print_fact("time", f"at most {tool.timeout_s:g} s")
    if tool.missing:
        _print_fact("not here", tool.missing)
    required = tool.parameters.get("required", [])
    for at, (argument, schema) in enumerate(tool.parameters.get("properties", {}).items()):
        words = _parameter_words(argument, schema, argument in required, live.get(argument))
        _print_fact("takes" if at == 0 else "", words)
    for at, example in enumerate(tool.examples):
        _print_fact("said" if at == 0 else "", example.said)


@tools.command("call")
@click.argument("name", callback=require_text)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...", callback=require_text)
@click.option(
    "--json",
    "whole",
    metavar="OBJECT",
    callback=require_text,
    help="All arguments as one JSON object, instead of KEY=VALUE.",
)
@files_option
@debug_option
def call_tool(name: str, pairs: Sequence[str], whole: str | None, files: Sequence[str]) -> int:
    """Run the tool NAME by hand, without a model.

    Nobody is asked: typing this is the leave. The result goes to stdout.
    """
    from mobilellm_mlx.tools.checking import check_arguments
    from mobilellm_mlx.tools.running import run_tool

    if whole is not None and pairs:
        raise click.UsageError("Give KEY=VALUE or --json, not both.")
    with _open(files, name) as bench:
        box = bench.toolbox()
        tool = _find(box, name, bench.problems)
        if tool.missing:
            raise ToolError(f"`{tool.name}` cannot be used here: {tool.missing}")
        arguments = _read_object(whole) if whole is not None else _read_pairs(tool, pairs)
        schema = box.live_schema(tool, json.dumps(arguments, ensure_ascii=False))
        checked = check_arguments(tool, arguments, schema)
        cancel = threading.Event()
        with console.interrupts(cancel):
            outcome = run_tool(tool, checked, cancel)
    if outcome.status == "cancelled":
        click.echo(f"note: {printable(outcome.text)}", err=True)
        return 130
    if outcome.status != "ok":
        raise ToolError(outcome.text)
    click.echo(outcome.text)
    return 0


# ---------------------------------------------------------------- sources


@contextmanager
def _open(files: Sequence[str], name: str | None = None) -> Iterator[Workbench]:
    """All tools; what is wrong with the file of the settings is said.

    Args:
        files: with tools of the person's own.
        name: of the tool that is wanted; servers are started only when it is none of ours.
    """
    from mobilellm_mlx.cli.toolbox import Workbench
    from mobilellm_mlx.settings import load_settings

    settings, problems = load_settings()
    _print_problems(problems)
    with Workbench(settings, files, servers=False) as bench:
        known = {tool.name for tool in bench.toolbox().tools}
        if name in known or not settings.mcp:
            yield bench
            return
    with Workbench(settings, files) as bench:
        yield bench


def _find(box: Toolbox, name: str, problems: Sequence[str]) -> Tool:
    """A tool by name; one that is not there may be so because of a problem."""
    try:
        return box.find(name)
    except ToolError:
        _print_problems(problems)
        raise


def _live_values(box: Toolbox, tool: Tool) -> dict[str, list[str]]:
    """The values that exist now, by argument."""
    try:
        properties = box.live_schema(tool)["properties"]
    except ToolError:  # there are none of something that it needs
        return {}
    shown = {name: properties.get(name, {}) for name in tool.live}
    return {
        name: schema.get("enum") or schema.get("items", {}).get("enum", [])
        for name, schema in shown.items()
    }


# ---------------------------------------------------------------- arguments


def _read_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--json is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError('--json takes an object, such as {"key": "value"}.')
    return value


def _read_pairs(tool: Tool, pairs: Sequence[str]) -> dict[str, Any]:
    """What was typed as ``key=value``, each value as its argument takes it."""
    arguments: dict[str, Any] = {}
    properties = tool.parameters.get("properties", {})
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"'{printable(pair)}' is not KEY=VALUE.")
        if key in arguments:
            raise click.UsageError(f"'{printable(key)}' is given twice.")
        if properties and key not in properties:
            near = get_close_matches(key, properties, n=1)
            takes = ", ".join(f"`{name}`" for name in properties)
            hint = f"did you mean `{near[0]}`?" if near else f"it takes {takes}"
            raise ToolError(f"`{tool.name}` takes no `{printable(key)[:40]}`", hint)
        arguments[key] = _typed(text, properties.get(key, {}))
    return arguments


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """A text as the value it stands for; one that stands for none stays a text."""
    kinds = schema.get("type")
    if kinds == "string" or text in schema.get("enum", ()):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if kinds == "array":
            return [part.strip() for part in text.split(",") if part.strip()]
        return text
    return [value] if kinds == "array" and not isinstance(value, list) else value


# ---------------------------------------------------------------- words


def _width() -> int:
    """Columns to write in; a pipe gets whole lines."""
    if not sys.stdout.isatty():
        return 10_000
    return max(40, min(shutil.get_terminal_size().columns, _WIDEST)) - 1


def _origin(source: str) -> str:
    kind, _, where = source.partition(":")
    if kind == "file":
        return f"From {printable(Path(where).name)} ({printable(where)})"
    if kind == "mcp":
        return f"From the server {printable(where)}"
    return "Built in"


def _print_row(tool: Tool, width: int) -> None:
    leave = "reads only" if tool.reads_only else "asks first"
    start = f"  {tool.name:<{_NAME_COLUMNS}} {leave:<{_LEAVE_COLUMNS}}  "
    missing = f" (not here: {tool.missing})" if tool.missing else ""
    _print_wrapped(start, f"{tool.description}{missing}", min(len(start), width // 2), width)


def _print_fact(label: str, words: str) -> None:
    _print_wrapped(f"{label:<9} ", words, 10, _width())


def _print_wrapped(start: str, words: str, indent: int, width: int) -> None:
    click.echo(
        textwrap.fill(
            printable(words),
            width,
            initial_indent=start,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
    )


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(f"note: {printable(problem)}", err=True)


def _parameter_words(
    name: str, schema: Mapping[str, Any], required: bool, live: Sequence[str] | None
) -> str:
    """``percent: how bright (whole number from 0 to 100)``."""
    kind = _kind_words(schema, live)
    default = f", {json.dumps(schema['default'])} if left out" if "default" in schema else ""
    optional = "" if required or default else ", may be left out"
    facts = f"{kind}{default}{optional}"
    about = str(schema.get("description", "")).rstrip(".")
    return f"{name}: {about} ({facts})" if about else f"{name}: {facts}"


def _kind_words(schema: Mapping[str, Any], live: Sequence[str] | None) -> str:
    values = live if live is not None else schema.get("enum")
    if values is not None:
        some = ", ".join(str(value) for value in values[:12])
        more = f" and {len(values) - 12} more" if len(values) > 12 else ""
        return f"one of {some}{more}" if values else "one of those that exist; there are none now"
    kind = schema.get("type", "value")
    names = {"string": "text", "integer": "whole number", "array": "list", "boolean": "true/false"}
    said = names.get(kind, str(kind)) if isinstance(kind, str) else "value"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and max(abs(low), abs(high)) < 10**15:
        said += f" from {low:g} to {high:g}"
    return said


def _described(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "source": tool.source,
        "reads_only": tool.reads_only,
        "usable": not tool.missing,
        "missing": tool.missing,
        "parameters": tool.parameters,
        "examples": [{"said": each.said, "arguments": each.arguments} for each in tool.examples],
        "timeout_s": tool.timeout_s,
    }
