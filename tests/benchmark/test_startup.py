"""What of the start-up's comparison can be wrong without anybody noticing. Not timed."""

import sys
from pathlib import Path

import pytest

from mobilellm_mlx.benchmark import startup
from mobilellm_mlx.benchmark.startup import (
    AS_INSTALLED,
    DENSE,
    OURS,
    PEER,
    StartupResult,
    StartupTimes,
    iter_startup,
    make_rows,
)
from mobilellm_mlx.errors import EngineError, InvalidInput


def test_both_sides_are_asked_the_same(tmp_path) -> None:
    ours = startup.our_command(tmp_path)
    peer = startup.peer_command(tmp_path, same_blas=True)
    for command in (ours, peer):
        assert command[0] == sys.executable
        for words in ([startup.PROMPT], ["--temp", "0"], ["--max-tokens", "8"], [str(tmp_path)]):
            assert all(word in command for word in words)
    assert "mobilellm_mlx.backend" in " ".join(peer)
    assert "mobilellm_mlx" not in " ".join(startup.peer_command(tmp_path, same_blas=False))


def test_starts_of_ours_are_told_and_the_first_one_counts_for_nothing(tiny_dir) -> None:
    *told, result = iter_startup(tiny_dir, repeats=1, with_mlx_lm=False)
    assert [(time.case, time.repeat) for time in told] == [(OURS, 0), (OURS, 1)]
    assert all(isinstance(time, StartupTimes) and time.seconds > 0 for time in told)
    assert isinstance(result, StartupResult) and result.blas
    (row,) = result.rows
    assert (row["case"], row["what"], row["repeats"]) == (OURS, "seconds", 1)
    assert row["median"] == told[1].seconds
    assert result.ratio is None and result.is_met is None


def test_the_programs_take_turns_and_read_what_they_should(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []

    def first_byte_s(command: list[str], *, skip: int, **_: object) -> float:
        whose = "theirs" if "mlx_lm" in " ".join(command) else "ours"
        own_files = str(tiny_dir) in command
        started.append((f"{whose}, {'own' if own_files else 'dense'} files", skip))
        return 1.0

    monkeypatch.setattr(startup, "first_byte_s", first_byte_s)
    *_, result = iter_startup(tiny_dir, repeats=1, as_installed=True)
    turn = [("ours, dense files", 0), ("theirs, dense files", 1), ("ours, own files", 0)]
    assert started == [*turn, *turn, ("theirs, own files", 1)]
    assert {row["case"] for row in result.rows} == {DENSE, OURS, PEER, AS_INSTALLED}


@pytest.mark.parametrize(("peer", "is_met"), [(4.0, True), (1.5, False)])
def test_ratios_are_of_the_same_repeat_and_the_verdict_is_about_the_same_files(
    peer: float, is_met: bool
) -> None:
    times = [StartupTimes(case, 0, 99.0) for case in (DENSE, OURS, PEER)]
    for repeat, ours in enumerate([1.0, 0.9, 1.1], 1):
        times.append(StartupTimes(DENSE, repeat, ours))
        times.append(StartupTimes(PEER, repeat, peer * ours))
        times.append(StartupTimes(OURS, repeat, 2.0))
    result = StartupResult("OpenBLAS", rows=list(make_rows(times)))
    rows = {(row["case"], row["what"]): row for row in result.rows}
    seconds = rows[DENSE, "seconds"]
    assert (seconds["median"], seconds["min"], seconds["max"]) == (1.0, 0.9, 1.1)
    assert rows[DENSE, "ratio"]["max"] == pytest.approx(1 / peer)
    assert rows[OURS, "ratio"]["max"] == pytest.approx(2 / (0.9 * peer))
    assert result.is_met is is_met


def test_the_first_byte_after_the_skipped_lines_is_timed() -> None:
    code = "import time; print('x'); time.sleep(0.3); print('y'); time.sleep(0.3)"
    command = [sys.executable, "-u", "-c", code]
    skipped, whole = (startup.first_byte_s(command, skip=n) for n in (1, 0))
    assert skipped >= 0.3 and whole < skipped


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no such file')", "failed: no such file"),
        ("raise SystemExit(3)", "failed: exit code 3"),
        ("pass", "said nothing"),
        ("print('x', flush=True); import time; time.sleep(60)", "took more than 1 s"),
    ],
)
def test_a_run_that_fails_hangs_or_says_nothing_is_no_measurement(code: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        startup.first_byte_s([sys.executable, "-c", code], limit_s=1)


def test_nothing_to_repeat_is_refused(tiny_dir) -> None:
    with pytest.raises(InvalidInput, match="`repeats` is 0"):
        next(iter_startup(tiny_dir, repeats=0))


def test_modules_are_compiled_once_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    env = startup.make_environment(tmp_path / "bytecode")
    startup.first_byte_s([sys.executable, "-c", "import mobilellm_mlx.errors; print(1)"], env=env)
    assert list((tmp_path / "bytecode").rglob("errors.*.pyc"))
