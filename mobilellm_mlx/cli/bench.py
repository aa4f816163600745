"""``mobilellm bench``: how fast a model is here, and beside other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.shared import (
    compute_option,
    debug_option,
    events_option,
    model_option,
    require_text,
    resolve_model,
)
from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.events import BenchSummary, Event

if TYPE_CHECKING:
    from mobilellm_mlx.benchmark.plan import Plan

_ALWAYS = {"table", "repeats", "save", "as_json"}
_TABLES = {
    "speed": {
        *("model", "prompts", "generate", "depths", "batches", "threads", "compute"),
        *("peers", "gguf", "node_modules", "peer_python", "compare", "plot"),
    },
    "layer-sharing": {"prompts", "generate", "threads", "compute", "bits"},
    "startup": {"model", "peers"},
    "turns": {"model", "peers"},
}
"""What each takes besides."""
_NEEDS = {"gguf": "llama.cpp", "node_modules": "llama.cpp", "peer_python": "transformers"}
"""Options that say something of one peer alone."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What the command line says of other programs."""

    peers: tuple[str, ...] = ()
    gguf: Path | None = None
    node_modules: Path | None = None
    python: str | None = None


def _counts(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        raise click.BadParameter(
            f"`{(text or '')[:40]}` is no list of whole numbers, such as 32,256."
        ) from None


def _peers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    from mobilellm_mlx.benchmark.peers import parse_peers

    require_text(context, option, text)
    return parse_peers(text or "")


_FILE = click.Path(path_type=Path)


@click.command()
@model_option
@click.option(
    "--prompt",
    "prompts",
    default="32,256",
    show_default=True,
    callback=_counts,
    metavar="N,N",
    help="Tokens of the prompts.",
)
@click.option(
    "--generate", default=64, show_default=True, metavar="N", help="Tokens after the first one."
)
@click.option(
    "--depth",
    "--kv",
    "depths",
    default="0",
    show_default=True,
    callback=_counts,
    metavar="N,N",
    help="Tokens of context behind which each prompt is read.",
)
@click.option(
    "--batch",
    "batches",
    default="1",
    show_default=True,
    callback=_counts,
    metavar="N,N",
    help="Sequences at once.",
)
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    metavar="N",
    help="Of each case, after a first time that does not count.",
)
@click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Of every program, all on the same N cores; default as each likes.",
)
@compute_option
@click.option(
    "--peers",
    callback=_peers,
    metavar="NAME,NAME",
    help="Measure beside mlx-lm, mlx-lm-as-installed, llama.cpp, transformers.",
)
@click.option("--gguf", type=_FILE, metavar="FILE", help="The same weights for llama.cpp.")
@click.option(
    "--llama-cpp",
    "node_modules",
    type=_FILE,
    metavar="DIR",
    help="Where node-llama-cpp is installed; default NODE_PATH.",
)
@click.option(
    "--peer-python",
    callback=require_text,
    metavar="FILE",
    help="The Python that has transformers; default this one.",
)
@click.option(
    "--table",
    type=click.Choice(list(_TABLES)),
    default="speed",
    show_default=True,
    help="What to measure.",
)
@click.option(
    "--bits",
    type=click.Choice(["4", "16"]),
    default="4",
    show_default=True,
    help="Of the random weights of --table layer-sharing.",
)
@click.option("--save", type=_FILE, metavar="FILE", help="Keep the result as JSON.")
@click.option(
    "--compare", type=_FILE, metavar="FILE", help="Show ratios to a result that was kept."
)
@click.option("--plot", type=_FILE, metavar="PNG", help="Draw the speeds.")
@events_option
@debug_option
def bench(
    model: str | None,
    prompts: tuple[int, ...],
    generate: int,
    depths: tuple[int, ...],
    batches: tuple[int, ...],
    repeats: int,
    threads: int | None,
    compute: str,
    peers: tuple[str, ...],
    gguf: Path | None,
    node_modules: Path | None,
    peer_python: str | None,
    table: str,
    bits: str,
    save: Path | None,
    compare: Path | None,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Measure how fast a model reads and writes, and what a token costs.

    \b
    speed          load, first forward pass, speeds, costs of a token (default)
    layer-sharing  table 7 of the MobileLLM paper, with random weights
    startup        from starting the program to the first token
    turns          the time to the first token in a long conversation

    Every program runs in a process of its own, and they take turns. Leave the machine alone
    meanwhile.
    """
    from mobilellm_mlx.benchmark.plan import Plan
    from mobilellm_mlx.benchmark.weights import require_gguf

    plan = Plan(prompts, depths, batches, generate, repeats, threads)
    _require_meant(table, peers, prompts)
    if gguf is not None:
        require_gguf(gguf)
    before = _prepare(save, compare, plot)
    beside = Beside(peers, gguf, node_modules, peer_python)

    def events() -> Iterator[Event]:
        for event in _events(table, model, plan, compute, int(bits), beside):
            if isinstance(event, BenchSummary):
                _keep(event, save, plot)
            yield event

    if as_json:
        return console.print_json(events(), "bench")
    summary = console.show_progress(events())
    if isinstance(summary, BenchSummary):
        _print(summary, before, save, plot)
    return 0


def _require_meant(table: str, peers: tuple[str, ...], prompts: tuple[int, ...]) -> None:
    """Refuse what was asked for and would not be done.

    Raises:
        InvalidOption: names it.
    """
    context = click.get_current_context()
    for option in context.command.params:
        name, flag = str(option.name), option.opts[0]
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name not in _TABLES[table] | _ALWAYS:
            tables = [each for each, takes in _TABLES.items() if name in takes]
            raise InvalidOption(
                f"`{flag}` means nothing to `--table {table}`",
                f"leave it out, or measure with `--table {tables[0]}`",
            )
        if name in _NEEDS and _NEEDS[name] not in peers:
            raise InvalidOption(
                f"`{flag}` is about {_NEEDS[name]}, which is not measured",
                f"add `--peers {_NEEDS[name]}`",
            )
        if table == "layer-sharing" and name == "prompts" and len(prompts) > 1:
            raise InvalidOption(
                f"`--table layer-sharing` reads one prompt, and `--prompt` names {len(prompts)}",
                f"take one, such as `--prompt {prompts[0]}`",
            )
    others = [name for name in peers if not name.startswith("mlx-lm")]
    if table in ("startup", "turns") and others:
        raise InvalidOption(
            f"`--table {table}` is not measured beside {others[0]}",
            "`--peers mlx-lm` is what it takes",
        )


def _prepare(save: Path | None, compare: Path | None, plot: Path | None) -> BenchSummary | None:
    """Refuse what would fail after minutes; the result to compare with."""
    from mobilellm_mlx.benchmark.saved import load, require_place
    from mobilellm_mlx.plots import require_figure_path, require_plots

    if save is not None:
        require_place(save)
    if plot is not None:
        require_plots()
        require_figure_path(plot)
    return None if compare is None else load(compare)


def _events(
    table: str, model: str | None, plan: Plan, compute: str, bits: int, beside: Beside
) -> Iterator[Event]:
    if table == "layer-sharing":
        from mobilellm_mlx.benchmark.sharing import iter_layer_sharing

        return iter_layer_sharing(plan, bits=bits, compute=compute)
    directory = resolve_model(model)
    if table in ("startup", "turns"):
        from mobilellm_mlx.benchmark.cases import iter_startup_events, iter_turns_events

        with_mlx_lm = any(name.startswith("mlx-lm") for name in beside.peers)
        if table == "turns":
            return iter_turns_events(directory, plan.repeats, with_mlx_lm)
        as_installed = "mlx-lm-as-installed" in beside.peers
        return iter_startup_events(directory, plan.repeats, with_mlx_lm, as_installed)
    return _speed_events(directory, plan, compute, beside)


def _speed_events(directory: Path, plan: Plan, compute: str, beside: Beside) -> Iterator[Event]:
    from mobilellm_mlx.benchmark.peers import Place
    from mobilellm_mlx.benchmark.run import iter_bench
    from mobilellm_mlx.benchmark.weights import find_gguf, make_prompt, model_name

    place = Place(
        directory,
        compute=compute,
        gguf=lambda: find_gguf(directory, beside.gguf, lambda text: click.echo(text, err=True)),
        python=beside.python or sys.executable,
        node_modules=beside.node_modules,
    )
    prompt = make_prompt(directory, plan.longest)
    yield from iter_bench(place, plan, prompt, name=model_name(directory), peers=beside.peers)


def _keep(summary: BenchSummary, save: Path | None, plot: Path | None) -> None:
    from mobilellm_mlx.benchmark.figure import plot_speeds
    from mobilellm_mlx.benchmark.saved import save as write

    if save is not None:
        write(save, summary)
    if plot is not None:
        chip = summary.machine.get("chip", "")
        plot_speeds(plot, summary.rows, f"{summary.model} on {chip}")


def _print(
    summary: BenchSummary, before: BenchSummary | None, save: Path | None, plot: Path | None
) -> None:
    from mobilellm_mlx.cli import bench_tables as tables

    if summary.table == "layer-sharing":
        tables.print_sharing(summary)
    elif summary.table == "speed":
        tables.print_speed(summary)
    else:
        tables.print_rows(summary)
    if before is not None:
        tables.print_comparison(summary, before)
    for path in (save, plot):
        if path is not None:
            click.echo(f"written to {path}", err=True)
