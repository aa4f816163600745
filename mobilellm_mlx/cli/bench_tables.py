"""Results of ``mobilellm bench`` as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from mobilellm_mlx.benchmark.plan import Case
from mobilellm_mlx.cli.eval_text import print_table, say
from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import BenchSummary


def print_speed(summary: BenchSummary) -> None:
    """Who was measured where, the speeds, what a token costs, and what to know of it."""
    ours, *others = summary.engines
    _print_machine(summary)
    for about in summary.engines:
        say(_ran(about))
    click.echo()
    _print_beginnings(summary.engines)
    click.echo()
    if others:
        _print_beside(summary)
        click.echo()
    _print_alone([row for row in summary.rows if row["engine"] == ours["engine"]])
    click.echo()
    _print_costs(summary, ours, others)
    _print_notes(summary)


def _print_machine(summary: BenchSummary) -> None:
    machine = summary.machine
    load = machine.get("load")
    say(
        f"{summary.model} on {machine['chip']}, {machine['cores']} cores, "
        f"{format_bytes(machine['memory_bytes'])}, {machine['system']}"
        + (f", load {load:.1f}" if load is not None else "")
    )


def _ran(about: Mapping[str, Any]) -> str:
    """One line that says what a program ran."""
    parts = [_form(about)]
    if about.get("dtype"):
        parts[0] += f" in {about['dtype']}"
    if about.get("kernels"):
        parts.append(f"kernels {about['kernels']}")
    if about.get("blas"):
        parts.append(f"BLAS {about['blas']}{_threads(about.get('threads'))}")
    if about.get("backend"):
        parts.append(f"{about['backend']} {about.get('device', '')}")
    return f"{about['engine']} {about.get('version', '')}: {'; '.join(parts)}"


def _form(about: Mapping[str, Any]) -> str:
    if not about.get("bits"):
        return f"{about.get('form', 'unknown')} weights"
    state = "as packed" if about["form"] == "packed" else "unpacked"
    return f"{about['bits']}-bit weights, {state},"


def _threads(count: object) -> str:
    return f" ({count} thread{'s' * (count != 1)})" if isinstance(count, int) else ""


def _print_beginnings(engines: Sequence[Mapping[str, Any]]) -> None:
    """The paper's split, and the memory that all of it took."""
    rows = [
        [
            str(about["engine"]),
            _ms(about["load_s"]),
            _ms(about["init_s"]),
            _ms(about["execute_s"]["median"]),
            _peak(about),
        ]
        for about in engines
    ]
    print_table(["", "load ms", "init ms", "execute ms", "peak memory"], rows)


def _peak(about: Mapping[str, Any]) -> str:
    host, device = about.get("peak_memory_bytes"), about.get("device_peak_bytes")
    if host is None:
        return "-"
    if about.get("backend", "cpu") != "cpu" and device:
        return f"{format_bytes(device)} (GPU)"
    return format_bytes(host)


def _print_alone(rows: Sequence[Mapping[str, Any]]) -> None:
    """The cases of one program, below each other."""
    table = []
    for row in rows:
        share = row.get("bandwidth_share")
        table.append([
            _title(row),
            _ms(row["ttft_s"]["median"]),
            _speed(row["prefill_tok_per_s"]),
            _speed(row["decode_tok_per_s"]),
            _ms(row["token_s"]["median"]),
            _ms(row["token_s"]["p95"]),
            f"{share:.0%}" if share is not None else "-",
        ])  # fmt: skip
    heads = ["prompt", "TTFT ms", "prefill tok/s", "decode tok/s", "ms/token", "p95", "share"]
    print_table(heads, table, keep_first_head=True)
    say("p95 is of ms/token; share is of the bandwidth of memory, see below.")


def _print_beside(summary: BenchSummary) -> None:
    """A table for each case, the programs below each other."""
    ratios = {
        (one["peer"], one["prompt"], one["depth"], one["batch"], one["what"]): one
        for one in summary.ratios
    }
    cases = dict.fromkeys((row["prompt"], row["depth"], row["batch"]) for row in summary.rows)
    for at, key in enumerate(cases):
        own = [row for row in summary.rows if (row["prompt"], row["depth"], row["batch"]) == key]
        table = []
        for row in own:
            cells = [str(row["engine"]), _ms(row["ttft_s"]["median"])]
            for what in ("prefill", "decode"):
                found = ratios.get((row["engine"], *key, what))
                cells += [_median(row[f"{what}_tok_per_s"]), _ratio(found)]
            table.append(cells)
        if at:
            click.echo()
        say(f"prompt {Case(*key).title}, in tok/s")
        print_table(["", "TTFT ms", "prefill", "ours is", "decode", "ours is"], table)
    say("`ours is`: how many times as fast mobilellm was in the same repeats (lowest-highest).")


def _print_costs(
    summary: BenchSummary, ours: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> None:
    """Bytes, primitives and host time of a token."""
    rows = [row for row in summary.rows if row.get("step_bytes")]
    if rows:
        row = rows[0]
        rate = row["step_bytes"] / max(row["token_s"]["median"], 1e-9)
        say(
            f"A step reads {format_bytes(row['step_bytes'])} of weights, keys and values "
            f"(prompt {_title(row)}): {rate / 1e9:.1f} GB/s of the "
            f"{ours['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s that this machine gives "
            f"({ours['bandwidth_of']})."
        )
    for about in (ours, *others):
        if about.get("host_s"):
            calls = about.get("compiled_calls")
            extra = f" and {calls} compiled call" if calls else ""
            say(
                f"{about['engine']}: {about['primitives']:,} MLX primitives{extra} a token "
                f"of one sequence, {about['host_s']['median'] * 1e3:.2f} ms of Python to ask for "
                f"them (p95 {about['host_s']['p95'] * 1e3:.2f})."
            )


def _print_notes(summary: BenchSummary) -> None:
    settings = summary.settings
    threads, tokens = settings.get("threads"), settings["generate"]
    say(
        f"Medians (lowest-highest), repeats: {settings['repeats']} after a warm-up; "
        f"{tokens} token{'s' * (tokens > 1)} after the first; p95 over all of them"
        + (f"; {threads} thread{'s' * (threads > 1)} on as many cores." if threads else ".")
    )
    for note in summary.notes:
        say(f"note: {note}")


def print_sharing(summary: BenchSummary) -> None:
    """Table 7 of the paper, and ours."""
    from mobilellm_mlx.benchmark.sharing import LOADS

    _print_machine(summary)
    say(f"{_ran({**summary.engines[0], 'engine': 'mobilellm'})}; shape of MobileLLM-125M")
    click.echo()
    cost = {one["name"]: one for one in summary.ratios}
    table = []
    for row in summary.rows:
        # The paper's figures stand below ours, in fewer columns than beside them.
        paper = [f"{value:,.1f}" for value in row.get("paper_ms") or ()]
        own = [_ms(row[name]["median"]) for name in ("load_s", "init_s", "execute_s")]
        table.append([
            [row["name"], *(["  iPhone 13"] if paper else [])],
            *(map(list, zip(own, paper, strict=True)) if paper else own),
            _speed(row["decode_tok_per_s"]),
            _ratio(cost.get(row["name"])),
        ])  # fmt: skip
    heads = ["", "load", "init", "execute", "decode tok/s", "cost of a token"]
    print_table(heads, table)
    say(
        f"Load, init and execute in ms. Medians (lowest-highest), loads: {LOADS}, runs: "
        f"{summary.settings['repeats']}. The cost of a token is how many times as long it takes as "
        f"with {summary.rows[0]['name']}. iPhone 13: the paper's figures, with ExecuTorch, MPS, "
        "float16; the length of its forward pass is not said. Ours is one token."
    )
    for note in summary.notes:
        say(f"note: {note}")


def print_rows(summary: BenchSummary) -> None:
    """Figures that are no speeds: start-up, turns."""
    _print_machine(summary)
    click.echo()
    table = [
        [
            f"{row.get('case') or row.get('engine')}, {row['what']}",
            *(
                f"{row[name]:,.{0 if row['what'].startswith('tokens') else 3}f}"
                for name in ("min", "median", "max")
            ),
        ]
        for row in summary.rows
    ]
    print_table([summary.table, "min", "median", "max"], table)
    for note in summary.notes:
        say(note)


def print_comparison(summary: BenchSummary, before: BenchSummary) -> None:
    """How many times as fast as what was kept."""
    from mobilellm_mlx.benchmark.saved import compare, differences

    ratios = compare(summary, before)
    click.echo()
    if not ratios:
        say("Nothing was measured then that was measured now.")
    else:
        found = {
            (one["engine"], one["prompt"], one["depth"], one["batch"], one["what"]): one
            for one in ratios
        }
        keys = dict.fromkeys(key[:4] for key in found)
        table = [
            [
                f"{engine}, prompt {Case(*case).title}",
                *(_ratio(found[engine, *case, what]) for what in ("prefill", "decode")),
            ]
            for engine, *case in keys
        ]
        print_table(["times as fast as then", "prefill", "decode"], table)
    for difference in differences(summary, before):
        say(difference)


def _title(row: Mapping[str, Any]) -> str:
    return Case(row["prompt"], row["depth"], row["batch"]).title


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _median(found: Mapping[str, float]) -> str:
    return f"{found['median']:,.{_digits(found)}f}"


def _speed(found: Mapping[str, float]) -> str:
    if found.get("repeats") == 1:
        return _median(found)
    ends = "-".join(f"{found[end]:.{_digits(found)}f}" for end in ("min", "max"))
    return f"{_median(found)} ({ends})"


def _digits(found: Mapping[str, float]) -> int:
    return 0 if found["median"] >= 100 else 1


def _ratio(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if found.get("repeats") == 1:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})"
