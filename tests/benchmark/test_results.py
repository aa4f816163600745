"""Rows, ratios and notes from runs; results in files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellm_mlx.benchmark.results import (
    add_bandwidth,
    iter_notes,
    make_ratios,
    make_rows,
    middle,
    percentile,
)
from mobilellm_mlx.benchmark.saved import compare, differences, load, require_place, save
from mobilellm_mlx.errors import InvalidInput, StorageError
from mobilellm_mlx.events import BenchRun, BenchSummary


def run(engine: str, repeat: int, ttft_s: float, token_s: float, *, batch: int = 1) -> BenchRun:
    return BenchRun(engine, repeat, 100, 0, batch, ttft_s, [token_s] * 10)


RUNS = [
    run("mobilellm", 1, 0.5, 0.010),
    run("llama.cpp", 1, 1.0, 0.020),
    run("mobilellm", 2, 0.25, 0.020),
    run("llama.cpp", 2, 1.0, 0.010),
]


def test_a_row_has_speeds_with_their_spread_and_tokens_with_their_tail() -> None:
    ours, theirs = make_rows(RUNS)
    assert (ours["engine"], theirs["engine"], ours["repeats"]) == ("mobilellm", "llama.cpp", 2)
    prefill, decode = ours["prefill_tok_per_s"], ours["decode_tok_per_s"]
    assert prefill == pytest.approx({"median": 300, "min": 200, "max": 400, "repeats": 2})
    assert decode == pytest.approx({"median": 75, "min": 50, "max": 100, "repeats": 2})
    assert ours["token_s"]["p95"] == 0.020


def test_sequences_of_a_batch_are_all_counted() -> None:
    (row,) = make_rows([run("mobilellm", 1, 0.5, 0.01, batch=4)])
    assert row["prefill_tok_per_s"]["median"] == pytest.approx(800)
    assert row["decode_tok_per_s"]["median"] == pytest.approx(400)


def test_ratios_are_of_the_same_repeat() -> None:
    prefill, decode = make_ratios(RUNS)
    assert (prefill["min"], prefill["max"]) == pytest.approx((2, 4))
    assert (decode["min"], decode["max"]) == pytest.approx((0.5, 2))
    assert decode["repeats"] == 2


def test_a_slow_peer_that_was_asked_once_is_compared_with_every_repeat_of_ours() -> None:
    once = run("llama.cpp", 0, 10.0, 1.0)
    decode = make_ratios([once, *RUNS[::2]])[1]
    assert (decode["min"], decode["max"]) == pytest.approx((50, 100))


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([3.0], 0.95) == 3.0


def test_more_than_the_whole_bandwidth_is_explained() -> None:
    rows = make_rows(RUNS[:1])
    add_bandwidth(rows, 990, {middle(100, 0, 10): 10}, 50_000.0, 10)
    assert rows[0]["step_bytes"] == 1000
    assert rows[0]["bandwidth_share"] == pytest.approx(2.0)
    assert any("More than 100 %" in note for note in iter_notes(RUNS[:1], rows, {}))


def test_repeats_that_drift_are_noted_and_those_that_do_not_are_not() -> None:
    (note,) = iter_notes(RUNS, make_rows(RUNS), {})
    assert "mobilellm, prompt 100: 50% slower" in note and "llama.cpp, prompt 100: 100%" in note
    steady = [run("mobilellm", at, 0.5, 0.010 + 0.0004 * at) for at in (1, 2)]
    assert not list(iter_notes(steady, make_rows(steady), {}))


def summary(**other: object) -> BenchSummary:
    made = BenchSummary(model="tiny", machine={"chip": "M0", "cores": 4}, rows=make_rows(RUNS))
    return replace(made, **{"engines": [{"engine": "mobilellm", "form": "packed"}], **other})


def test_a_result_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save(path, summary())
    assert load(path) == summary()
    assert json.loads(path.read_text())["format"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_comparison_says_how_sure_it_is(tmp_path: Path) -> None:
    faster = [replace(run, token_s=[s / 2 for s in run.token_s]) for run in RUNS]
    found = compare(summary(rows=make_rows(faster)), summary())
    decode = next(one for one in found if (one["engine"], one["what"]) == ("mobilellm", "decode"))
    assert (decode["median"], decode["min"], decode["max"]) == pytest.approx((2, 1, 4))


def test_a_comparison_says_what_else_is_different() -> None:
    assert differences(summary(), summary()) == []
    other = summary(model="big", machine={"chip": "M1", "cores": 4}, engines=[])
    found = " ".join(differences(summary(), other))
    assert "big" in found and "another chip than then" in found and "form: packed now" in found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 2, "result": {}}',
        b'{"format": 1, "result": {"rows": 3}}',
        b'{"format": 1, "result": {"rows": [{"engine": "x"}]}}',
        b'{"format": 1, "result": {"machine": [], "rows": []}}',
    ],
)
def test_a_file_that_is_no_result_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"a\.json"):
        load(path)


def test_speeds_of_nothing_are_no_result(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save(path, summary())
    kept = json.loads(path.read_text())
    kept["result"]["rows"][0]["decode_tok_per_s"]["median"] = 0
    path.write_text(json.dumps(kept))
    with pytest.raises(InvalidInput, match="damaged"):
        load(path)


def test_a_place_that_cannot_hold_a_result_is_refused_before_measuring(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "a.json"):
        with pytest.raises(StorageError):
            require_place(path)
