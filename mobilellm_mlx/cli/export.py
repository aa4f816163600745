"""``mobilellm export``: a model in the formats of other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.shared import debug_option, resolve_model
from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import Event, ExportSummary

_FORMATS = ("safetensors", "gguf")
_TYPES = ("auto", "f16", "bf16", "f32", "q8_0", "q4_0", "q4_1")


@click.command()
@click.argument("model")
@click.option(
    "--format", "format_", type=click.Choice(_FORMATS), required=True, help="What to write."
)
@click.option(
    "--type",
    "type_",
    type=click.Choice(_TYPES),
    default="auto",
    show_default=True,
    help="Of the weights; auto keeps packed ones, as 8 bits where it has to.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="The GGUF file, or the directory for safetensors.",
)
@click.option("--force", is_flag=True, help="Replace an output that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@debug_option
def export(model: str, format_: str, type_: str, output: Path, force: bool, as_json: bool) -> int:
    """Write MODEL (a name or a directory) for other programs.

    safetensors is a Hugging Face directory with unpacked weights; gguf is one file for llama.cpp,
    in which packed weights stay packed where it has blocks for them. The output is read back and
    compared before it gets its name.
    """
    output = Path(os.path.expanduser(output))  # noqa: PTH111 (it raises nothing)

    def start() -> Iterator[Event]:
        job: Any = faces.convert("export.job")
        options = job.ExportOptions(format_, type_, force)
        # Fetching a model shows bars of its own, so it is not part of the events.
        events: Iterator[Event] = job.export(resolve_model(model), output, options)
        return events

    if as_json:
        return console.print_json(_started(start), "export")
    summary = console.show_progress(start())
    if isinstance(summary, ExportSummary):
        click.echo(describe(summary), err=True)
        click.echo(summary.path)
    return 0


def _started(start: Callable[[], Iterator[Event]]) -> Iterator[Event]:
    """The events of a job whose start may fail, too."""
    yield from start()


def describe(summary: ExportSummary) -> str:
    """What an export gave, in one line."""
    lost = "no value changed"
    if not summary.lossless:
        lost = f"{summary.rounded} of {summary.tensors} tensors rounded"
    return f"{format_bytes(summary.bytes)} of {summary.format} ({summary.type}), {lost}"
