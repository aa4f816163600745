"""Runs and recipes that somebody else made: no link is followed, no pipe waited for, no figure too
large for the machine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.cli.train_runs import _time, sparkline
from mobilellm_mlx.errors import StorageError, TrainingError
from mobilellm_mlx.events import Notice, TrainStep
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.journal import parse_line
from mobilellm_mlx.training.recipes import load_recipe
from mobilellm_mlx.training.runs import Base, Run, list_runs

HUGE = 10**400
"""Larger than any float."""
PRECIOUS = "precious, without an end of line"
STEP = TrainStep(1, 0.1, 0.5, 1e-3, 1.0, 100, 80.0, 7, 9, 2.0)


@contextmanager
def promptly(seconds: float = 2.0) -> Iterator[None]:
    """Fails what would otherwise wait for ever, or for minutes."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"it was not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run() -> Run:
    base = Base("Org/Tiny", Path("/models/tiny"), "ab" * 32, "MIT")
    return Run.create(TrainConfig(), base, Path("/data/d.jsonl"), "cd" * 32, "mine")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "letter.txt"
    path.write_text(PRECIOUS)
    return path


def line(**changed: Any) -> str:
    """A step as the journal keeps it, with other figures."""
    return json.dumps({**json.loads(STEP.to_json()), **changed})


def summary(**changed: Any) -> str:
    return json.dumps({"event": "summary", "job": "train", **changed})


# ---------------------------------------------------------------- links and pipes


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(run: Run, victim: Path) -> None:
    (run.path / "lock").symlink_to(victim)
    with pytest.raises(StorageError, match="lock"), run.lock():
        pass
    assert victim.read_text() == PRECIOUS
    assert run.status().pid is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
def test_figures_are_not_written_through_a_link(run: Run, victim: Path, name: str) -> None:
    run.note(Notice("begun"))  # its files are looked at closely once, before the first line
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(victim)
    with pytest.raises(StorageError, match="metrics"):
        run.note(STEP)
    assert victim.read_text() == PRECIOUS


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
def test_a_torn_line_is_not_mended_through_a_link(run: Run, victim: Path, name: str) -> None:
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(victim)
    with pytest.raises(StorageError, match="metrics"):
        run.note(STEP)
    assert victim.read_text() == PRECIOUS


def test_a_letter_is_not_read_as_what_a_run_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(line() + "\n")
    (run.path / "metrics.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match="metrics"):
        list(run.events())


@pytest.mark.parametrize("name", ["control", "metrics.jsonl", "metrics.csv", "lock"])
def test_nobody_waits_for_a_pipe_in_a_run(run: Run, name: str) -> None:
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    with promptly():
        assert run.want() == "run"
        assert [each.name for each in list_runs()] == ["mine"]
        if name.startswith("metrics"):
            with pytest.raises(StorageError, match="metrics"):
                run.note(STEP)
        if name == "lock":
            with pytest.raises(StorageError, match="lock"), run.lock():
                pass


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("said", [
    line(loss=HUGE), line(memory_bytes=HUGE), line(step=-HUGE), line(left_s=HUGE),
    summary(reason=["diverged"]), summary(status={}), summary(error=5),
    json.dumps({"event": "memory_estimated", "weights_bytes": 1, "gradients_bytes": 1,
                "optimizer_bytes": 1, "activations_bytes": 1, "total_bytes": 1,
                "available_bytes": 1, "fits": False, "remedies": 5}),
], ids=["loss", "memory", "step", "left", "reason", "status", "error", "remedies"])  # fmt: skip
def test_figures_that_nobody_could_show_are_passed_over(run: Run, said: str) -> None:
    assert parse_line(said.encode()) is None
    (run.path / "metrics.jsonl").write_text(f"{line()}\n{said}\n")
    (found,) = list_runs()
    assert (found.step, found.loss, found.state) == (1, 0.5, "interrupted")


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", HUGE), ("seed", HUGE), ("rank", -HUGE), ("method", HUGE), ("epochs", 1e308)],
    ids=["alpha", "seed", "rank", "method", "epochs"],
)
def test_a_setting_too_large_for_a_machine_is_refused_in_a_sentence(
    run: Run, name: str, value: Any
) -> None:
    record = run.path / "run.json"
    values = json.loads(record.read_text())
    values["config"][name] = value
    record.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=f"`{name}` is") as caught:
        Run.open("mine")
    assert len(caught.value.message) < 400
    (found,) = list_runs()
    assert found.state == "failed" and f"`{name}`" in found.reason


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_a_run_was_not_made_at_an_end_of_time(run: Run, created: str) -> None:
    record = run.path / "run.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "created": created}))
    with pytest.raises(TrainingError, match="not a time of usual years"):
        Run.open("mine")


def test_a_usual_time_can_be_shown_anywhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "America/New_York")
        time.tzset()
        assert _time(Run.open("mine").created)
    time.tzset()


def test_a_curve_of_the_largest_numbers_there_are_is_drawn() -> None:
    assert sparkline([1.7e308] * 200 + [1.0] * 20, 60)[0] == "█"
    assert sparkline([-1.7e308, 1.7e308], 2) == "▁█"
    assert sparkline([1.0, 1.0], 2) == "▁▁"
    assert sparkline([1.0, 2.0, 3.0], 3) == "▁▅█"


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"alpha = {'9' * 400}", "`alpha` is a number of 1,329 bits"),
        (f"seed = 0x{'f' * 5000}", "`seed` is a number of 20,000 bits"),
        (f"method = 0x{'f' * 5000}", "`method` is a number of 20,000 bits"),
        (f"modules = [0x{'f' * 5000}]", "expected a list of texts"),
        (f"rank = {{a = 0x{'f' * 5000}}}", "`rank` is 'a dict'"),
        (".".join("a" * 45_000) + " = 1", "more than 500 dots"),
        (f"[{'.'.join('a' * 45_000)}]\nb.c = 1", "more than 500 dots"),
    ],
    ids=["float", "hexadecimal", "no text", "in a list", "in a table", "key", "heading"],
)
def test_a_recipe_cannot_keep_the_machine_busy(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text + "\n")
    with promptly(), pytest.raises(TrainingError) as caught:
        load_recipe(str(path))
    assert said in caught.value.message
    assert len(caught.value.message) < 400 + len(str(path))
