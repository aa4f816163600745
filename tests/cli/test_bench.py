"""``mobilellm bench``: its tables, its events, and a person's mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.benchmark import cases, sharing
from mobilellm_mlx.benchmark import run as job
from mobilellm_mlx.benchmark.results import add_bandwidth, make_ratios, make_rows, middle
from mobilellm_mlx.cli import VERBS, bench_tables
from mobilellm_mlx.events import BenchRun, BenchSummary, Event

ABOUT: dict[str, Any] = {
    "version": "1",
    "form": "packed",
    "dtype": "float32",
    "blas": "OpenBLAS",
    "threads": 1,
    "load_s": 0.2,
    "init_s": 0.05,
    "execute_s": {"median": 0.012, "min": 0.011, "max": 0.013},
    "peak_memory_bytes": 400_000_000,
}
OURS = {
    **ABOUT,
    "engine": "mobilellm",
    "bits": 4,
    "kernels": "avx512, 1 thread",
    "backend": "cpu",
    "device": "some chip",
    "host_s": {"median": 0.0004, "p95": 0.0005},
    "primitives": 6,
    "compiled_calls": 1,
    "bandwidth_bytes_per_s": 10e9,
    "bandwidth_of": "memchr",
}
MACHINE = {"chip": "EPYC", "cores": 2, "memory_bytes": 8e9, "system": "Linux", "load": 0.5}


def made(*peers: str, table: str = "speed") -> BenchSummary:
    runs = [
        BenchRun(engine, repeat, 256, 0, 1, 0.5 * slow, [0.012 * slow] * 64)
        for repeat in (1, 2)
        for slow, engine in enumerate(("mobilellm", *peers), 1)
    ]
    rows = make_rows(runs)
    add_bandwidth(rows, 98_000_000, {middle(256, 0, 64): 1_000_000}, 10e9, 64)
    return BenchSummary(
        model="tiny",
        table=table,
        machine=MACHINE,
        settings={"repeats": 2, "generate": 64, "threads": None},
        engines=[OURS, *({**ABOUT, "engine": peer} for peer in peers)],
        rows=rows,
        ratios=make_ratios(runs),
        notes=["It was warm."],
    )


@pytest.fixture
def bench(
    run: Callable[..., Any], tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    monkeypatch.setitem(VERBS, "bench", ("mobilellm_mlx.cli.bench:bench", "Measure speed."))
    monkeypatch.chdir(tmp_path)
    return lambda *args: run("bench", "-m", str(tiny_dir), *args)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is started: the summary has one row for ours and for each peer."""

    def iter_bench(*_: Any, peers: tuple[str, ...], **__: Any) -> Iterator[Event]:
        yield made(*peers)

    monkeypatch.setattr(job, "iter_bench", iter_bench)


def test_a_real_run_ends_with_a_table_that_says_what_was_measured(bench) -> None:
    result = bench("--prompt", "8", "--generate", "2", "--repeats", "1")
    assert result.code == 0 and "Traceback" not in result.err
    for said in ("load ms", "prefill tok/s", "share", "MLX primitives", "GB/s", "repeats: 1"):
        assert said in result.out


@pytest.mark.usefixtures("scripted")
def test_a_table_fits_into_eighty_columns(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for args in ((), ("--peers", "llama.cpp,transformers")):
        out = bench(*args).out
        assert max(map(len, out.splitlines())) <= 80
        assert "TTFT ms" in out and not re.search(r"TTFT ms \d", out)  # not folded into pieces


@pytest.mark.usefixtures("scripted")
def test_peers_stand_below_ours_with_how_many_times_as_fast_it_was(bench) -> None:
    out = bench("--peers", "llama.cpp").out
    (row,) = [line for line in out.splitlines() if line.startswith("llama.cpp  ") and "." in line
              and "2.00 (2.00-2.00)" in line]  # fmt: skip
    assert row.count("2.00 (2.00-2.00)") == 2
    assert "note: It was warm." in out


@pytest.mark.usefixtures("scripted")
def test_what_is_kept_can_be_compared_with_later(bench) -> None:
    assert bench("--save", "a.json").code == 0
    result = bench("--compare", "a.json")
    assert "1.00 (1.00-1.00)" in result.out


@pytest.mark.usefixtures("scripted")
def test_a_plot_is_a_png(bench) -> None:
    assert bench("--plot", "a.png", "--peers", "llama.cpp").code == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_events_and_the_last_line_is_the_summary(bench) -> None:
    result = bench("--prompt", "8", "--generate", "2", "--repeats", "1", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["event"] for line in lines} == {"progress", "bench_run", "summary"}
    assert (lines[-1]["event"], lines[-1]["job"]) == ("summary", "bench")
    assert lines[-1]["status"] == "ok" and lines[-1]["rows"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--prompt", "some"), "no list of whole numbers"),
        (("--prompt", "0"), "`prompt` is 0"),
        (("--peers", "vllm"), "`vllm`"),
        (("--compare", "nothing.json"), "cannot be read"),
        (("--save", "no/such/place.json"), "does not exist"),
        (("--plot", "a.jpg"), ".png"),
        (("--table", "layer-sharing"), "`-m` means nothing to `--table layer-sharing`"),
        (("--table", "turns", "--plot", "a.png"), "--table speed"),
        (("--table", "turns", "--prompt", "64"), "`--prompt` means nothing to `--table turns`"),
        (("--bits", "16"), "--table layer-sharing"),
        (("--table", "startup", "--peers", "llama.cpp"), "not measured beside llama.cpp"),
        (("--gguf", "a.gguf"), "`--gguf` is about llama.cpp, which is not measured"),
        (("--peers", "llama.cpp", "--gguf", "a.gguf"), "`a.gguf` cannot be read"),
        (("--threads", "5000"), "`threads` is 5,000, and this machine has"),
        (("--prompt", "900000"), "tokens of context"),
    ],
)
def test_a_mistake_is_a_sentence(bench, args: tuple[str, ...], said: str) -> None:
    result = bench(*args)
    assert result.code in (1, 2) and said in result.err and "Traceback" not in result.err


def test_layer_sharing_reads_one_prompt(run: Callable[..., Any]) -> None:
    result = run("bench", "--table", "layer-sharing", "--prompt", "8,16")
    assert result.code == 2 and "reads one prompt, and `--prompt` names 2" in result.err


@pytest.mark.usefixtures("scripted")
def test_a_row_that_is_folded_says_what_names_it(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    lines = bench().out.splitlines()
    assert "prompt 256" in lines and max(map(len, lines)) <= 50


def test_layer_sharing_stands_beside_the_papers_figures(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {
            "name": name,
            "load_s": {"median": 0.1},
            "init_s": {"median": 0.1},
            "execute_s": {"median": 0.1},
            "decode_tok_per_s": {"median": 10.0, "min": 9.0, "max": 11.0},
            "paper_ms": list(paper),
        }
        for name, paper in sharing.PAPER.items()
    ]
    ratio = {"name": "LS-125M", "what": "token", "median": 1.9, "min": 1.8, "max": 2.0}
    summary = BenchSummary(
        table="layer-sharing",
        machine=MACHINE,
        settings={"repeats": 2, "generate": 8},
        engines=[OURS],
        rows=rows,
        ratios=[ratio],
    )
    bench_tables.print_sharing(summary)
    out = capsys.readouterr().out
    assert re.search(r"iPhone 13 +43.6 +1,388.2 +16.0", out) and "1.90 (1.80-2.00)" in out


def test_other_tables_are_told_row_by_row(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"engine": "mobilellm", "what": "ratio", "median": 1.1, "min": 1.0, "max": 1.2}

    def events(*_: Any) -> Iterator[Event]:
        yield BenchSummary(table="turns", machine=MACHINE, rows=[row], notes=["met."])

    monkeypatch.setattr(cases, "iter_turns_events", events)
    out = bench("--table", "turns").out
    assert "mobilellm, ratio" in out and "1.100" in out and "met." in out
