"""Runs: made whole, noted line by line, locked by one process, read back whatever happened."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import StorageError, TrainingError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Event,
    Notice,
    Progress,
    RolledBack,
    Sampled,
    TrainPaused,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.runs import Base, Run, list_runs, remove_run, runs_dir

BASE = Base("Org/Tiny Model", Path("/models/tiny"), "ab" * 32, "MIT")
CONFIG = TrainConfig(rank=4, modules=("q_proj", "v_proj"))


def make(name: str | None = None, config: TrainConfig = CONFIG) -> Run:
    return Run.create(config, BASE, Path("/data/d.jsonl"), "cd" * 32, name)


def started(start: int = 0) -> TrainStarted:
    return TrainStarted("r", "/r", "tiny", "lora", 10, 100, 50, 5, 40, 20, start)


def step(number: int, loss: float | None = None) -> TrainStep:
    loss = 1 / number if loss is None else loss
    return TrainStep(number, number / 20, loss, 5e-4, 1.5, number * 100, 80.5, 7, 9, number * 2.0)


def validated(number: int, loss: float = 0.5) -> Validated:
    return Validated(number, loss, True, loss, number, 500, 1.0)


def files(run: Run) -> tuple[bytes, bytes]:
    return ((run.path / "metrics.jsonl").read_bytes(), (run.path / "metrics.csv").read_bytes())


# ---------------------------------------------------------------- making and finding


def test_a_run_is_read_as_it_was_made() -> None:
    run = make("mine")
    found = Run.open("mine")
    assert found == run
    assert (found.config, found.base, found.data.sha256) == (CONFIG, BASE, "cd" * 32)
    assert run.checkpoints.is_dir()


def test_runs_without_a_name_get_one_of_model_and_method() -> None:
    names = [make().name, make().name, make(config=replace(CONFIG, method="dora")).name]
    assert names == ["tiny-model-lora", "tiny-model-lora-2", "tiny-model-dora"]


@pytest.mark.parametrize("name", ["mine", "MINE"])
def test_a_name_is_given_once_whatever_its_capitals(name: str) -> None:
    make("mine")
    with pytest.raises(TrainingError, match="there is a run") as caught:
        make(name)
    assert "resume" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/tmp/x", ".x", "-x", "a" * 65, "a\n", "a b"]
)
def test_a_name_cannot_be_a_path(name: str) -> None:
    with pytest.raises(TrainingError, match="cannot be the name"):
        make(name)
    with pytest.raises(TrainingError, match="cannot be the name"):
        Run.open(name)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    make("kitchen")
    with pytest.raises(TrainingError, match="no run `kitchn`") as caught:
        Run.open("kitchn")
    assert caught.value.hint == "did you mean `kitchen`?"


def changed(**values: Any) -> str:
    good = json.loads((make("good").path / "run.json").read_text())
    return json.dumps({**good, **values})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"version": 2}, "newer version"),
        ({"version": "1"}, "names no version"),
        ({"config": {"rank": -5}}, "`rank` is -5"),
        ({"config": {"rnak": 5}}, "no setting `rnak`"),
        ({"config": None}, "no `config`"),
        ({"base": {"name": "x", "path": "a\0b", "sha256": "y"}}, "no `path`"),
        ({"base": {"name": "x" * 5000, "path": "a", "sha256": "y"}}, "no `name`"),
        ({"data": []}, "no `data`"),
        ({"created": "yesterday"}, "not a time"),
        ({"created": "2026-01-01"}, "no time zone"),
    ],
)
def test_a_run_file_that_is_not_sound_is_refused_in_a_sentence(
    values: dict[str, Any], said: str
) -> None:
    run = make("odd")
    (run.path / "run.json").write_text(changed(**values))
    with pytest.raises(TrainingError, match="`odd` cannot be read") as caught:
        Run.open("odd")
    assert said in caught.value.message and caught.value.hint
    (listed,) = [each for each in list_runs() if each.name == "odd"]
    assert listed.state == "failed" and said in listed.reason


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff", '"' + "x" * (1 << 20)])
def test_a_run_file_that_is_something_else_can_only_be_removed(text: str) -> None:
    run = make("odd")
    (run.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(TrainingError, match="`odd` cannot be read"):
        Run.open("odd")
    remove_run("odd")
    assert list_runs() == [] and list(runs_dir().iterdir()) == []


def test_runs_are_listed_newest_first() -> None:
    for age, name in enumerate(("b", "a", "c")):
        run = make(name)
        run.note(started())
        os.utime(run.path / "metrics.jsonl", (2000 - age, 2000 - age))
    assert [each.name for each in list_runs()] == ["b", "a", "c"]


# ---------------------------------------------------------------- what it said


def test_events_are_read_as_they_were_noted_without_progress() -> None:
    run = make()
    said: list[Event] = [
        started(),
        step(1),
        validated(1),
        Sampled(1, "wie geht's?\u2028", "\x1b[31m\n😀", "gut"),
        CheckpointSaved(1, "/r/1"),
        TrainSummary(run="r", step=1),
    ]
    run.note(Progress("reading", 1, 2))
    for event in said:
        run.note(event)
    assert list(Run.open(run.name).events()) == said


def test_the_table_has_a_row_for_each_step_and_each_validation() -> None:
    run = make()
    for event in (started(), step(1), step(2), validated(2), step(3)):
        run.note(event)
    assert (run.path / "metrics.csv").read_text().splitlines() == [
        "step,epoch,loss,valid_loss,learning_rate,gradient_norm,tok_per_s,memory_bytes,elapsed_s",
        "1,0.05,1.0,,0.0005,1.5,80.5,7,2.0",
        "2,0.1,0.5,,0.0005,1.5,80.5,7,4.0",
        "2,,,0.5,,,,,",
        "3,0.15,0.3333333333333333,,0.0005,1.5,80.5,7,6.0",
    ]


def test_after_a_cut_the_later_steps_have_never_been() -> None:
    early: list[Event] = [
        started(), Notice("hello"), step(1), step(2), validated(2), CheckpointSaved(2, "/r/2"),
    ]  # fmt: skip
    late: list[Event] = [
        step(3), Notice("late"), validated(3), Sampled(3, "a", "b"),
        TrainSummary(run="r", reason="stopped", step=3),
    ]  # fmt: skip
    short, long = make("short"), make("long")
    for event in early:
        short.note(event)
    for event in early + late:
        long.note(event)
    long.cut(2)
    assert files(long) == files(short)
    for run in (long, short):
        run.note(started(2))
        run.note(step(3))
    assert files(long) == files(short)


def test_a_cut_takes_the_end_away_even_when_the_run_stopped_there() -> None:
    run = make()
    for event in (started(), step(1), TrainSummary(run="r", reason="stopped", step=1)):
        run.note(event)
    run.cut(1)
    assert list(run.events()) == [started(), step(1)]


def test_what_was_before_a_way_back_is_kept_by_a_cut_behind_it() -> None:
    run = make()
    back = RolledBack(3, 1, "the loss is nan", 1e-4, 2)
    for event in (started(), step(1), step(2), back, step(2, 0.7), step(3, 0.6)):
        run.note(event)
    run.cut(2)
    assert list(run.events()) == [started(), step(1), step(2), back, step(2, 0.7)]


def test_a_torn_last_line_is_no_event_and_the_next_one_is_not_joined_to_it() -> None:
    run = make()
    run.note(started())
    run.note(step(1))
    for name in ("metrics.jsonl", "metrics.csv"):
        with (run.path / name).open("ab") as file:
            file.write(b'{"event": "train_st')
    again = Run.open(run.name)
    assert list(again.events()) == [started(), step(1)]
    assert again.status().step == 1
    again.note(step(2))
    assert list(again.events()) == [started(), step(1), step(2)]
    assert len((run.path / "metrics.csv").read_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "train_step", "step": "1"}',
        step(2).to_json().replace("80.5", "NaN"),
        step(2).to_json().replace("80.5", "1e999"),
        step(2).to_json().replace('"step": 2', '"step": "two"'),
        step(2).to_json().replace('"step": 2', '"step": null'),
        validated(2).to_json().replace("true", '"yes"'),
        '{"event": []}',
        "[" * 10_000,
        "",
    ],
)
def test_lines_with_foreign_figures_are_passed_over(line: str) -> None:
    run = make()
    run.note(started())
    run.note(step(1))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert list(run.events()) == [started(), step(1)]
    assert (run.status().step, run.status().loss) == (1, 1.0)
    run.cut(1)
    assert list(run.events()) == [started(), step(1)]


def test_a_reader_gets_what_is_new_and_everything_after_a_cut() -> None:
    run = make()
    reader = Run.open(run.name).reader()
    assert reader.read() == ([], True)
    run.note(started())
    run.note(step(1))
    assert reader.read() == ([started(), step(1)], False)
    assert reader.read() == ([], False)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(step(2).to_json().encode()[:20])
    assert reader.read() == ([], False)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(step(2).to_json().encode()[20:] + b"\n")
    assert reader.read() == ([step(2)], False)
    run.cut(1)
    run.note(started(1))
    assert reader.read() == ([started(), step(1), started(1)], True)


# ---------------------------------------------------------------- a disk that refuses


def full_disk(monkeypatch: pytest.MonkeyPatch, written_before: int) -> None:
    """From now on a write takes some bytes, and the next one is refused."""
    real = os.write
    left = [written_before]

    def write(handle: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(handle, bytes(data)[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("written_before", [0, 10, 400])
def test_an_event_that_the_disk_refuses_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, written_before: int
) -> None:
    run = make()
    run.note(started())
    run.note(step(1))
    before = files(run)
    length = len(step(2).to_json()) + 1
    assert 10 < length < 400
    # The last case lets the line of JSON through and stops in the middle of the table's.
    full_disk(monkeypatch, min(written_before, length + 5))
    with pytest.raises(StorageError, match="the disk is full"):
        run.note(step(2))
    monkeypatch.undo()
    assert files(run) == before


def test_a_run_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make("other")

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        make("mine")
    assert [path.name for path in runs_dir().iterdir()] == ["other"]


def test_a_cut_that_the_disk_refuses_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    for event in (started(), step(1), step(2)):
        run.note(event)
    before = files(run)

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        run.cut(1)
    assert files(run) == before
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


# ---------------------------------------------------------------- who trains it

HOLD = """
import sys
from mobilellm_mlx.training.runs import Run
run = Run.open(sys.argv[1])
with run.lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Any:
    """Another process that holds the lock of a run."""
    processes = []

    def hold(run: Run) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, run.name], stdin=pipe, stdout=pipe, env=os.environ
        )
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def test_two_processes_cannot_train_one_run_and_a_dead_one_blocks_nobody(holder) -> None:
    run = make()
    run.note(started())
    run.note(step(3))
    process = holder(run)
    assert (run.status().state, run.status().pid) == ("running", process.pid)
    with pytest.raises(TrainingError, match=f"by process {process.pid}"), run.lock():
        pass
    with pytest.raises(TrainingError, match=f"by process {process.pid}"):
        run.remove()
    process.send_signal(signal.SIGKILL)
    process.wait()
    status = run.status()
    assert (status.state, status.pid, status.step) == ("interrupted", None, 3)
    with run.lock():
        assert run.status().state == "running"
        with run.lock():  # the same run, held already
            pass
        assert run.status().pid == os.getpid()
        with pytest.raises(TrainingError, match=str(os.getpid())), Run.open(run.name).lock():
            pass
    assert run.status().state == "interrupted"


def test_looking_at_a_run_does_not_keep_it_from_being_trained() -> None:
    run = make()
    with run.lock():
        pass
    with (run.path / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # for a moment, as a process that asks how it stands
        moment = threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        moment.start()
        with run.lock():
            assert run.status().pid == os.getpid()
        moment.join()


def test_a_run_that_is_removed_is_gone() -> None:
    run = make("mine")
    (run.checkpoints / "000010").mkdir()
    run.remove()
    assert list_runs() == [] and list(runs_dir().iterdir()) == []
    make("mine")


def test_what_was_asked_is_forgotten_when_a_training_begins() -> None:
    run = make()
    assert run.want() == "run"
    for want in ("pause", "stop", "run"):
        Run.open(run.name).ask(want)
        assert run.want() == want
    run.ask("stop")
    with run.lock():
        assert run.want() == "run"
        run.ask("pause")
        with run.lock():
            assert run.want() == "pause"


def test_a_word_that_is_not_understood_asks_for_nothing() -> None:
    run = make()
    (run.path / "control").write_bytes(b"\xff" * 5000)
    assert run.want() == "run"


# ---------------------------------------------------------------- how it stands


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ([], "interrupted", ""),
        ([started()], "interrupted", ""),
        ([started(), step(1), TrainPaused(1)], "interrupted", ""),
        ([TrainSummary(run="r")], "finished", ""),
        ([TrainSummary(run="r", reason="early stop")], "finished", "no better for long"),
        ([TrainSummary(run="r", reason="stopped")], "stopped", ""),
        ([TrainSummary(run="r", reason="stopped", status="cancelled")], "stopped", ""),
        ([TrainSummary(run="r", reason="diverged")], "failed", "it diverged"),
        ([TrainSummary(run="r", reason="error", status="error", error="no!")], "failed", "no!"),
        ([TrainSummary(run="r", reason="stopped"), started(1), step(2)], "interrupted", ""),
    ],
)
def test_a_run_that_nobody_trains_stands_as_it_ended(
    said: list[Event], state: str, reason: str
) -> None:
    run = make()
    for event in said:
        run.note(event)
    status = run.status()
    assert (status.state, status.reason, status.pid) == (state, reason, None)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ([started(), step(1)], "running"),
        ([started(), step(1), TrainPaused(1)], "paused"),
        ([started(), step(1), TrainPaused(1), step(2)], "running"),
        ([TrainSummary(run="r", reason="stopped")], "running"),
    ],
)
def test_a_run_that_is_trained_runs_or_is_paused(said: list[Event], state: str) -> None:
    run = make()
    with run.lock():
        for event in said:
            run.note(event)
        assert Run.open(run.name).status().state == state


def test_a_status_has_the_newest_figures() -> None:
    run = make()
    for event in (
        started(),
        step(1),
        validated(1, 0.9),
        step(2),
        Validated(2, 1.0, False, 0.9, 1, 500, 1.0),
        Sampled(2, '{"event": "train_step"}', '\n{"event": "validated"'),
        TrainSummary(run="r", step=2, adapter="mine"),
    ):
        run.note(event)
    status = run.status()
    assert (status.step, status.steps, status.loss) == (2, 40, 0.5)
    assert (status.best_loss, status.best_step, status.adapter) == (0.9, 1, "mine")
    assert (status.method, status.model) == ("lora", "Org/Tiny Model")
    assert json.loads(json.dumps(status.to_dict()))["state"] == "finished"


def test_runs_and_recipes_are_read_without_mlx() -> None:
    code = (
        "import sys, mobilellm_mlx.training.runs, mobilellm_mlx.training.recipes\n"
        "found = [name for name in sys.modules if name.partition('.')[0] in ('mlx', 'numpy')]\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
