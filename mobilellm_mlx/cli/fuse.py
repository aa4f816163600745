"""``mobilellm fuse``: a model and its adapter become one model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.convert import converter_options
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option, require_text, resolve_model
from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import Event, FuseSummary

_PATH = click.Path(path_type=Path)
_NEVER = {"method": "round", "weight_bits": None, "fake_quant": None}
"""The converter's options that make no sense of a model that is a model already."""


@click.command()
@click.argument("model", callback=require_text)
@click.option(
    "--adapter",
    required=True,
    callback=require_text,
    metavar="NAME",
    help="Name of an adapter, or its directory.",
)
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Model directory to make.")
@click.option(
    "--bits",
    type=click.Choice(["2", "3", "4", "5", "6", "8", "16"]),
    help="Bits of every matrix; 16 packs nothing. Without it, those that the adapter changes have "
    "8, or more if they have more in MODEL, and the others what they have there.",
)
@click.option("--recipe", metavar="NAME", help="A choice of bits, as of `mobilellm convert`.")
@click.option("--group-size", type=int, metavar="N", help="Weights that share a scale.")
@click.option("--mode", default="affine", metavar="MODE", help="Or mxfp4, mxfp8, nvfp4.")
@click.option(
    "--bits-for",
    multiple=True,
    callback=require_text,
    metavar="PATTERN=N",
    help="Other bits for some modules, as `v_proj=6`; repeatable.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    metavar="TYPE",
    help="Of what is not packed: float16, bfloat16, float32.",
)
@click.option("--text", type=_PATH, metavar="FILE", help="Text to measure with.")
@click.option("--no-verify", is_flag=True, help="Do not measure what is left of the adapter.")
@click.option("--force", is_flag=True, help="Replace a model directory that is there.")
@click.option("--force-adapter", is_flag=True, help="Take an adapter of another model.")
@click.option("--dry-run", is_flag=True, help="Measure and say everything; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@debug_option
def fuse(
    model: str,
    adapter: str,
    output: Path | None,
    text: Path | None,
    force_adapter: bool,
    dry_run: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Make one model of MODEL (a name or a directory) and an adapter.

    The result needs no adapter and runs everywhere that MODEL runs. Rounding to few bits can take
    away what the adapter has learned, so what it changes is packed with at least 8 bits unless you
    choose otherwise, and how much of it is left is measured and said.
    """
    if output is None and not dry_run:
        raise click.UsageError("Say where the result goes with -o DIR (or --dry-run).")
    target = None
    if output is not None and not dry_run:
        target = Path(os.path.expanduser(output))  # noqa: PTH111 (it raises nothing)

    def events() -> Iterator[Event]:
        from mobilellm_mlx.adapters import Registry

        options = converter_options({**values, **_NEVER})
        found = Registry().find(adapter)
        # Fetching a model shows bars of its own, so it is not part of the events.
        path = resolve_model(model)
        job: Any = faces.convert("fuse.job")
        yield from job.fuse(path, found, target, options, text=text, other_base=force_adapter)

    if as_json:
        return console.print_json(events(), "fuse")
    summary = console.show_progress(events())
    if isinstance(summary, FuseSummary):
        for line in describe(summary):
            click.echo(printable(line), err=True)
        if summary.path:
            click.echo(summary.path)
    return 0


def describe(summary: FuseSummary) -> Iterator[str]:
    """What fusing gave, in a few lines."""
    sizes = f"{format_bytes(summary.source_bytes)} -> {format_bytes(summary.bytes)}"
    yield f"{sizes} ({summary.bits_per_weight:.2f} bits a weight)"
    changed = f"`{summary.adapter}` changes {summary.adapted_tensors:,} tensors"
    if summary.relative_change is not None:
        changed += f" by {summary.relative_change:.2%} of their size"
    if summary.share_kept is not None and summary.cosine is not None:
        changed += f"; {summary.share_kept:.0%} of that is left (cosine {summary.cosine:.2f})"
    yield changed
    if least := _least(summary):
        yield f"least is left in {least}"
    if summary.mean_kl is not None and summary.adapter_kl is not None:
        yield (
            f"the adapter moves the model by KL {summary.adapter_kl:.4f} nats, rounding by "
            f"{summary.mean_kl:.4f}; next token agrees {summary.top1_agreement or 0:.1%} with the "
            f"adapter on its base, over {summary.verified_tokens:,} tokens"
        )
    yield f"licence: {summary.licence or 'not named by the model; look where you got it'}"
    verified = f", {summary.verify_s:.1f} s to verify" if summary.verify_s else ", not verified"
    yield (
        f"{summary.convert_s:.1f} s to fuse with at most "
        f"{format_bytes(summary.convert_peak_memory_bytes)} of memory{verified}"
    )
    if summary.dry_run:
        yield "nothing was written: leave out --dry-run and say where with -o DIR"
        return
    verb = "chat" if summary.chat else "generate --raw -p 'Once upon a time' -m"
    yield f"try it: mobilellm {verb} {shlex.quote(summary.path)}"


def _least(summary: FuseSummary, most: int = 3) -> str:
    """The tensors that lost most of the change, where some lost much of it."""
    known = [row for row in summary.tensors if row.get("share_kept") is not None]
    worst = sorted(known, key=itemgetter("share_kept"))[:most]
    return ", ".join(
        f"{row['name'].removesuffix('.weight')} ({max(row['share_kept'], 0):.0%})"
        for row in worst
        if row["share_kept"] < 0.9
    )
