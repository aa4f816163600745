"""``mobilellm convert``: any checkpoint of the family becomes a verified model directory."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from mobilellm_mlx.cli import console, faces
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.shared import debug_option, require_text
from mobilellm_mlx.errors import InvalidOption, format_bytes
from mobilellm_mlx.events import ConvertSummary, Event

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", callback=require_text)
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Model directory to make.")
@click.option(
    "--recipe",
    metavar="NAME",
    help="Choice of bits: 4bit (default), 4bit-all, 4bit-blocks, 6bit, 8bit.",
)
@click.option(
    "--bits",
    type=click.Choice(["2", "3", "4", "5", "6", "8", "16"]),
    help="Bits of every matrix; 16 packs nothing.",
)
@click.option("--group-size", type=int, metavar="N", help="Weights that share a scale.")
@click.option(
    "--mode", default="affine", show_default=True, metavar="MODE", help="Or mxfp4, mxfp8, nvfp4."
)
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
@click.option(
    "--method",
    default="round",
    show_default=True,
    metavar="NAME",
    help="Or learn the rounding from text: gptq, dwq, awq.",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["1", "1.58", "2", "3", "4"]),
    help="Bits of a ParetoQ checkpoint, if its `config.json` names none.",
)
@click.option(
    "--fake-quant",
    type=click.Choice(["int4"]),
    help="What training rounded the 16-bit weights to: kept without rounding again.",
)
@click.option("--text", type=_PATH, metavar="FILE", help="Text to learn and measure with.")
@click.option("--config", type=_PATH, metavar="FILE", help="The source's `config.json`.")
@click.option("--tokenizer", type=_PATH, metavar="DIR", help="Where to take the tokenizer from.")
@click.option("--no-verify", is_flag=True, help="Do not measure what packing changed.")
@click.option("--force", is_flag=True, help="Replace a model directory that is there.")
@click.option("--offline", is_flag=True, help="Use only what was downloaded before.")
@click.option("--inspect", is_flag=True, help="Say what SOURCE is and would become; write nothing.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON lines; --inspect as an object."
)
@debug_option
def convert(source: str, output: Path | None, inspect: bool, as_json: bool, **values: Any) -> int:
    """Turn the checkpoint SOURCE into a model directory that chats.

    SOURCE is a directory, a single .bin, .pth, .safetensors or .gguf file, or a repository of the
    Hugging Face Hub such as facebook/MobileLLM-125M. No code of it runs and PyTorch is not needed.
    """
    if not source:
        raise click.UsageError("SOURCE is empty.")
    if output is None and not inspect:
        raise click.UsageError("Say where the result goes with -o DIR (or --inspect SOURCE).")
    if inspect:
        return _inspect(source, as_json, values)
    assert output is not None

    def events() -> Iterator[Event]:
        options = converter_options(values)
        yield from faces.convert("sources").convert_any(source, output, options, **_places(values))

    if as_json:
        return console.print_json(events(), "convert")
    summary = console.show_progress(events())
    if isinstance(summary, ConvertSummary):
        for line in describe(summary):
            click.echo(line, err=True)
        click.echo(summary.path)
    return 0


def _places(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("config", "tokenizer", "text", "offline")}


def converter_options(values: Mapping[str, Any]) -> Any:
    """The converter's options out of the command line's values.

    Raises:
        InvalidOption: for impossible ones.
    """
    recipes = faces.convert("recipes")
    rules = []
    for text in values["bits_for"]:
        pattern, _, bits = text.rpartition("=")
        if not pattern or not bits.isdecimal() or len(bits) > 2:
            raise InvalidOption(f"`--bits-for {text}` is not PATTERN=BITS", "as in `v_proj=6`")
        rules.append(recipes.Rule(pattern, int(bits)))
    width: Any = "auto"
    if values["bits"] is not None:
        width = None if values["bits"] == str(recipes.UNPACKED) else int(values["bits"])
    return faces.convert("plan").ConvertOptions(
        recipe=values["recipe"],
        bits=width,
        group_size=values["group_size"],
        mode=values["mode"],
        bits_for=tuple(rules),
        dtype=values["dtype"],
        method=values["method"],
        weight_bits=values["weight_bits"],
        fake_quant=values["fake_quant"],
        verify=not values["no_verify"],
        force=values["force"],
    )


def describe(summary: ConvertSummary) -> Iterator[str]:
    """What a conversion gave, in a few lines."""
    sizes = f"{format_bytes(summary.source_bytes)} -> {format_bytes(summary.bytes)}"
    millions = f"{summary.parameters / 1e6:,.0f}M"
    count = millions if summary.parameters >= 1e6 else f"{summary.parameters:,}"
    yield f"{count} parameters, {sizes} ({summary.bits_per_weight:.2f} bits a weight)"
    if summary.perplexity is not None and summary.reference_perplexity is not None:
        yield (
            f"perplexity {summary.perplexity:.2f} (source: "
            f"{summary.reference_perplexity:.2f}), next token agrees "
            f"{summary.top1_agreement or 0:.1%}, KL {summary.mean_kl:.4f} nats, over "
            f"{summary.verified_tokens:,} tokens"
        )
    licence = summary.licence or "not named by the source; look where you got it"
    yield f"licence: {licence}"
    verified = f", {summary.verify_s:.1f} s to verify" if summary.verify_s else ", not verified"
    yield (
        f"{summary.convert_s:.1f} s to convert with at most "
        f"{format_bytes(summary.convert_peak_memory_bytes)} of memory{verified}"
    )
    path = shlex.quote(summary.path)
    if summary.chat:
        yield f"try it: mobilellm chat {path}"
    else:  # a base model
        yield f"try it: mobilellm generate --raw -m {path} -p 'Once upon a time'"


def _inspect(source: str, as_json: bool, values: Mapping[str, Any]) -> int:
    options = converter_options(values)
    places = {name: values[name] for name in ("config", "offline")}
    row = faces.convert("sources").inspect_any(source, options, **places).to_dict()
    if as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        for label, value in _inspection_lines(row):
            click.echo(f"{printable(label):<11} {printable(value)}".rstrip())
    return 0


def _inspection_lines(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    runs = row["runs"] // row["layers"]
    yield "name", row["name"]
    yield "family", row["family"]
    yield "licence", row["licence"] or "not named; look where you got it"
    yield "parameters", f"{row['parameters']:,}"
    yield "layers", f"{row['layers']}{f', each run {runs} times' if runs > 1 else ''}"
    yield "context", f"{row['context']:,} tokens"
    yield "head", "is the embedding" if row["tied"] else "of its own"
    size = format_bytes(row["source_bytes"])
    yield "source", f"{size} in {row['tensors']:,} tensors, {row['format']}"
    size = format_bytes(row["converted_bytes"])
    yield "becomes", f"{size}, {row['bits_per_weight']:.2f} bits a weight"
    for words, count in row["packings"].items():
        yield "", f"{count:>4} x {words}"
    for tokens, count in row["memory"].items():
        yield "memory", f"{format_bytes(count)} with {tokens:,} tokens of context"
    for name, reason in row["left_out"].items():
        yield "left out", f"{name}: {reason}"
    for notice in row["notices"]:
        yield "note", notice
