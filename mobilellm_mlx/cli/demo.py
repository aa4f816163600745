"""``mobilellm demo``: what the model on this machine can do, tried for real."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.approval import ask_on_terminal
from mobilellm_mlx.cli.shared import (
    debug_option,
    is_interactive,
    load_options,
    loading_options,
    resolve_model,
)
from mobilellm_mlx.engine import ChatEngine, Engine
from mobilellm_mlx.events import (
    Event,
    GenerationSummary,
    Notice,
    ToolAllowed,
    ToolCalled,
    ToolEnded,
    ToolsOffered,
)
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.approval import Approvals
from mobilellm_mlx.tools.builtin import Surroundings, builtin_tools
from mobilellm_mlx.tools.tool import Answer, Approve, deny
from mobilellm_mlx.tools.toolbox import Toolbox


class Demo:
    """A conversation with the built-in tools, whose notes and timers lie in a folder of its own.

    Args:
        engine: answers.
        approve: asks for leave; None: nobody is there to ask.
    """

    def __init__(self, engine: ChatEngine, approve: Approve = deny) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mobilellm-demo-")
        tools = builtin_tools(Surroundings(data_dir=Path(self._folder.name)))
        self.session = Session(engine, tools=ToolKit(Toolbox(tools), Approvals(), approve))

    def close(self) -> None:
        """Leave nothing behind."""
        self._folder.cleanup()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@click.group()
def demo() -> None:
    """See what the model on this machine can do, tried for real."""


@demo.command()
@click.argument("model", required=False)
@click.option("--yes", is_flag=True, help="Allow every call: notes and timers are thrown away.")
@click.option("--lines", is_flag=True, help="Print what happens instead of opening the interface.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@loading_options
@debug_option
def tools(
    model: str | None, yes: bool, lines: bool, as_json: bool, context: int | None, compute: str
) -> int:
    """Let a model do eight small tasks with tools.

    MODEL is a name or a directory; the default is smollm2-135m.
    Notes and timers of the demo lie in a folder that is thrown away; nothing of yours is touched.
    """
    loading = load_options(context, compute)
    directory = resolve_model(model)
    tui = faces.tui()
    with Engine(directory, loading) as engine:
        if is_interactive() and not (lines or as_json or yes):
            from mobilellm_mlx.settings import load_settings

            house = tui.make_house(settings=load_settings()[0], demo=lambda: Demo(engine))
            tui.run_demo(engine, house=house, title=directory.name)
            return 0
        approve: Approve = (lambda *_: Answer(True)) if yes else ask_on_terminal
        somebody = sys.stderr is not None and sys.stderr.isatty()
        if not (yes or somebody):
            click.echo("note: nobody can be asked here; --yes allows every call", err=True)
        with Demo(engine, approve) as trial:
            for task in tui.DEMO_TASKS:
                trial.session.reset()
                events = trial.session.send(task)
                if not as_json:
                    _tell(task, events)
                elif code := console.print_json(events, "generate"):
                    return code
    return 0


def _tell(task: str, events: Iterator[Event]) -> None:
    """A task and all that came of it, in lines."""
    click.secho(task, bold=True)
    for event in events:
        match event:
            case ToolsOffered(tools=names):
                _line("offered", ", ".join(names))
            case ToolCalled():
                passes = f"{event.forward_passes} forward pass"
                cost = f"{event.tokens} tokens, {passes}{'' if event.forward_passes == 1 else 'es'}"
                _line("call", f"{event.words}  ({cost}, {event.elapsed_s:.1f} s)")
            case ToolAllowed():
                _line("allowed", event.by)
            case ToolEnded():
                _line("result" if event.status == "ok" else event.status, event.text)
            case Notice():
                _line("note", event.text)
            case GenerationSummary():
                _line("answer", event.text)
    click.echo()


def _line(label: str, text: str) -> None:
    click.echo(f"  {label:<8} {printable(' '.join(text.split()))}")
