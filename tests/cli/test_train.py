"""``mobilellm train``: options and recipes, the table, stopping, and what is kept of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from mobilellm_mlx.cli.train import train as group
from mobilellm_mlx.cli.train_runs import sparkline
from mobilellm_mlx.cli.train_table import _round_up, format_time
from mobilellm_mlx.errors import TrainingError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Event,
    MemoryEstimated,
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
from mobilellm_mlx.training import recipes
from mobilellm_mlx.training.config import TrainConfig, options
from mobilellm_mlx.training.runs import Run, list_runs, runs_dir
from tests.cli.processes import environment

SMALL = ("rank", "alpha", "rank_stabilised", "dropout", "modules", "layers", "per_run")
FITS = MemoryEstimated(1, 2, 3, 4, 1_420_000_000, 6_100_000_000, True)


def started(run: Run, steps: int = 100) -> TrainStarted:
    return TrainStarted(
        run.name, str(run.path), "tiny", "lora", 4_884, 139_000, 1204, 63, steps, 50
    )


def step(number: int, steps: int = 100) -> TrainStep:
    left = (steps - number) * 2.0
    return TrainStep(number, number / 50, 3.0 / number, 5e-4, 1.0, 9, 212.0, 7, 9, 2.0, left)


def whole(run: Run) -> Iterator[Event]:
    """A training as it usually goes."""
    yield Progress("reading the data", 1, 2)
    yield FITS
    yield started(run)
    yield Validated(0, 3.2, True, 3.2, 0, 5, 1.0)
    for number in range(1, 101):
        yield step(number)
        if number == 50:
            yield RolledBack(51, 50, "the loss is nan", 2.5e-4, 2)
            yield Validated(50, 1.5, True, 1.5, 50, 5, 1.0)
            yield Sampled(50, "light on", "\x1b[31mSure\r\n" + "fine " * 90, "HassTurnOn")
            yield CheckpointSaved(50, "/r/50", True)
            yield Notice("half way")
    yield Validated(100, 1.75, False, 1.5, 50, 5, 1.0, True)
    yield TrainSummary(
        run=run.name, path=str(run.path), adapter=run.name, step=100, steps=100, first_loss=3.2,
        best_loss=1.5, best_step=50, train_s=200, tok_per_s=210, peak_memory_bytes=1_210_000_000,
        estimated_memory_bytes=1_420_000_000,
    )  # fmt: skip


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Puts a scripted training in the place of the real one; what it was called with."""

    def script(events: Callable[[Run], Iterator[Event]] = whole) -> dict[str, Any]:
        called: dict[str, Any] = {}

        def train(run: Run, *, resume: bool, force: bool, stop: Any) -> Iterator[Event]:
            called.update(run=run, resume=resume, force=force, stop=stop)
            with run.lock():
                for event in events(run):
                    run.note(event)
                    yield event

        module = ModuleType("mobilellm_mlx.training.job")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return called

    return script


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes in the place of the program's own."""
    directory = tmp_path / "recipes"
    directory.mkdir()
    text = 'description = "Short answers"\nmethod = "lora"\nrank = 4\nepochs = 2\n'
    (directory / "style.toml").write_text(text)
    (directory / "whole.toml").write_text('description = "All of it"\nmethod = "full"\n')
    monkeypatch.setattr(recipes, "recipes_dir", lambda: directory)
    return directory


# ---------------------------------------------------------------- settings


def test_every_setting_has_an_option_with_its_help(run) -> None:
    for method in ("lora", "dora", "full"):
        said = " ".join(run("train", method, "--help").out.split())
        for each in options():
            flag = f"--{each.name.replace('_', '-')} "
            has_none = each.name == "method" or (method == "full" and each.name in SMALL)
            assert (flag in said) is not has_none, (method, flag)
    assert "0 is 0.0005, or 0.00005 for full" in said


def test_options_stand_before_the_recipe_and_the_recipe_before_the_defaults(
    run, job, data, shelf, tiny_dir
) -> None:
    called = job()
    result = run(
        "train", "dora", str(data), "-m", str(tiny_dir), "--recipe", "style", "--epochs", "5",
        "--modules", "q_proj,v_proj", "--modules", "down_proj", "--pack", "--learning-rate", "1e-3",
    )  # fmt: skip
    assert result.code == 0, result.err
    expected = TrainConfig(
        method="dora", rank=4, epochs=5.0, modules=("q_proj", "v_proj", "down_proj"), pack=True,
        learning_rate=1e-3,
    )  # fmt: skip
    assert called["run"].config == expected
    assert (called["resume"], called["force"]) == (False, False)
    assert Run.open(called["run"].name).config == expected


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rank", "0"], "0 is not in the range"),
        (["--rank", "x"], "not a valid integer"),
        (["--dropout", "2"], "2.0 is not in the range"),
        (["--optimizer", "adamx"], "is not one of"),
        (["--modules", ","], "it names nothing"),
        (["--rnak", "4"], "No such option"),
        (["--recipe", "whole"], "is for `full`, not for `lora`"),
    ],
)
def test_an_impossible_setting_is_wrong_usage(run, data, shelf, args, said) -> None:
    result = run("train", "lora", str(data), *args)
    assert result.code == 2 and said in result.err
    assert not runs_dir().exists()


def test_the_data_must_be_named(run) -> None:
    result = run("train", "lora")
    assert result.code == 2 and "Missing argument 'DATA'" in result.err


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl", "hint:"),
        (["DATA", "--recipe", "styel"], "no recipe `styel`", "did you mean `style`?"),
        (["DATA", "--epochs", "0"], "`steps` and `epochs` are 0", ""),
        (["DATA", "--name", "../x"], "cannot be the name of a run", "hint:"),
        (["DATA", "-m", "smollm"], "no model named `smollm`", "did you mean"),
    ],
)
def test_a_mistake_is_said_in_a_sentence_and_leaves_no_run(
    run, job, data, shelf, args, said, hint
) -> None:
    job()
    result = run("train", "lora", *(str(data) if each == "DATA" else each for each in args))
    assert result.code == 1
    assert said in result.err and hint in result.err and "Traceback" not in result.err
    assert list_runs() == []


def test_a_name_that_is_taken_is_not_used_twice(run, job, data, tiny_dir) -> None:
    job()
    command = ("train", "lora", str(data), "-m", str(tiny_dir), "--name", "mine")
    assert run(*command).code == 0
    result = run(*command)
    assert result.code == 1 and "there is a run `mine` already" in result.err


# ---------------------------------------------------------------- the table


def test_people_see_what_will_be_done_then_the_steps_then_what_came_of_it(
    run, job, data, tiny_dir
) -> None:
    job()
    result = run("train", "lora", str(data), "-m", str(tiny_dir), "--name", "mine")
    assert result.code == 0
    lines = result.out.splitlines()
    assert all(len(line) <= 80 for line in lines if str(data) not in line and "/" not in line)
    text = " ".join(result.out.split())
    for said in (
        "method LoRA of rank 8 on *_proj, layers all",
        "1,204 examples, 63 more to validate with",
        "trained 4,884 parameters (3.5% of all)",
        "memory about 1.42 GB of 6.10 GB that are free",
        "steps 100, 2 times through the data",
        "finished: 100 of 100 steps in 3 min, 210 tok/s",
        "loss on validation: 3.2000 -> 1.5000 at step 50",
        "memory: at most 1.21 GB (estimated: 1.42 GB)",
        "--adapter mine",
    ):
        assert said in text, said
    assert result.err == "note: half way\n"
    assert "\x1b" not in result.out


def test_validations_stand_out_by_a_word_and_samples_hang_below(run, job, data, tiny_dir) -> None:
    job()
    out = run("train", "lora", str(data), "-m", str(tiny_dir)).out
    heads = [line for line in out.splitlines() if line.split()[:2] == ["step", "epoch"]]
    assert len(heads) == 1
    column = heads[0].index("valid") + len("valid")
    (best,) = [line for line in out.splitlines() if "* best so far" in line]
    assert best[:column].split() == ["50", "1.5000"]
    (worse,) = [line for line in out.splitlines() if "overfitting" in line]
    assert worse[:column].split() == ["100", "1.7500"] and "best 1.5000 at 50" in worse
    assert "asked    light on" in out and "wanted   HassTurnOn" in out
    (answer,) = [line for line in out.splitlines() if "answers" in line]
    assert answer.startswith(" " * 9 + "answers  ") and "Sure fine" in answer
    assert "step 51 went wrong: the loss is nan. Back to step 50" in " ".join(out.split())


@pytest.mark.parametrize(
    ("number", "first_loss", "is_said"), [(3, 3.2, True), (10, 3.2, False), (3, None, False)]
)
def test_what_is_stopped_before_anything_was_judged_says_when_it_will_be(
    run, job, data, tiny_dir, number, first_loss, is_said
) -> None:
    def stopped(run_: Run) -> Iterator[Event]:
        yield started(run_)
        yield step(number)
        yield TrainSummary(
            status="cancelled", reason="stopped", run=run_.name, step=number, steps=100,
            first_loss=first_loss,
        )  # fmt: skip

    job(stopped)
    out = run("train", "lora", str(data), "-m", str(tiny_dir)).out
    assert ("no adapter yet: the first validation comes at step 10" in out) == is_said
    assert "mobilellm train resume" in out


@pytest.mark.parametrize(("steps", "rows"), [(5, 5), (100, 21), (450, 24), (10_000, 41)])
def test_a_long_run_prints_about_forty_lines(run, job, data, tiny_dir, steps, rows) -> None:
    def long(run_: Run) -> Iterator[Event]:
        yield started(run_, steps)
        yield from (step(number, steps) for number in range(1, steps + 1))
        yield TrainSummary(run=run_.name, step=steps, steps=steps)

    job(long)
    out = run("train", "lora", str(data), "-m", str(tiny_dir)).out
    printed = [line for line in out.splitlines() if "5.00e-04" in line]
    assert len(printed) == rows
    assert printed[0].split()[0] == "1" and printed[-1].split()[0] == str(steps)


def test_programs_get_every_event_as_a_line(run, job, data, tiny_dir) -> None:
    job()
    result = run("train", "lora", str(data), "-m", str(tiny_dir), "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["event"] for line in lines[:4]] == [
        "progress", "memory_estimated", "train_started", "validated",
    ]  # fmt: skip
    assert (lines[-1]["job"], lines[-1]["status"]) == ("train", "ok")
    assert sum(line["event"] == "train_step" for line in lines) == 100


# ---------------------------------------------------------------- when it goes wrong


def refuses(run: Run) -> Iterator[Event]:
    yield FITS
    raise TrainingError("it needs more memory than there is", "use a smaller `--batch-size`")


def says_and_raises(run: Run) -> Iterator[Event]:
    yield started(run)
    yield step(1)
    yield TrainSummary(
        status="error", error="the disk is full", hint="free some", run=run.name, reason="error",
        step=1, steps=100,
    )  # fmt: skip
    raise TrainingError("the disk is full", "free some")


def breaks(run: Run) -> Iterator[Event]:
    yield started(run)
    yield step(1)
    raise RuntimeError("a defect")


def test_a_training_that_never_began_leaves_no_run(run, job, data, tiny_dir) -> None:
    job(refuses)
    command = ("train", "lora", str(data), "-m", str(tiny_dir))
    result = run(*command)
    assert result.code == 1 and "error: it needs more memory" in result.err
    result = run(*command, "--json")
    summary = json.loads(result.out.splitlines()[-1])
    assert (summary["status"], summary["hint"]) == ("error", "use a smaller `--batch-size`")
    assert list_runs() == []


def test_an_error_is_said_once(run, job, data, tiny_dir) -> None:
    job(says_and_raises)
    command = ("train", "lora", str(data), "-m", str(tiny_dir), "--name")
    result = run(*command, "a")
    assert result.code == 1 and result.err == "error: the disk is full\nhint: free some\n"
    assert "go on: mobilellm train resume a" in " ".join(result.out.split())
    result = run(*command, "b", "--json")
    assert result.code == 1 and result.out.count('"summary"') == 1
    assert {each.reason for each in list_runs()} == {"the disk is full"}


def test_a_defect_in_the_middle_is_noted_in_the_run(run, job, data, tiny_dir) -> None:
    job(breaks)
    result = run("train", "lora", str(data), "-m", str(tiny_dir))
    assert result.code == 1 and "internal error: RuntimeError: a defect" in result.err
    (status,) = list_runs()
    assert status.state == "failed" and "a defect" in status.reason and status.step == 1


def test_at_a_terminal_it_asks_first_and_a_no_leaves_nothing(
    run, job, data, tiny_dir, monkeypatch
) -> None:
    monkeypatch.setattr("mobilellm_mlx.cli.train_job.is_interactive", lambda: True)
    job()
    command = ("train", "lora", str(data), "-m", str(tiny_dir), "--name", "mine")
    result = run(*command, stdin=b"n\n")
    assert result.code == 130 and "Begin?" in result.err
    assert "1,204 examples" in result.out and "epoch" not in result.out
    assert list_runs() == []
    assert run(*command, stdin=b"\n").code == 0
    assert "Begin?" not in run(*command[:-1], "other", "--yes").err


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize("line", [("lora", "data.jsonl"), ("resume", "mine")], ids=" ".join)
def test_the_other_processes_of_a_launch_help_and_are_quiet(run, job, monkeypatch, line) -> None:
    job()
    helped = []
    monkeypatch.setattr(sys.modules["mobilellm_mlx.training.job"], "help_along",
                        lambda: helped.append(True), raising=False)  # fmt: skip
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setenv("MLX_RANK", "1")
    result = run("train", *line)  # model and data are what the first one says
    assert (result.code, result.out, result.err) == (0, "", "")
    assert helped == [True] and list_runs() == []


# ---------------------------------------------------------------- what is kept


@pytest.fixture
def finished(run, job, data, tiny_dir) -> Run:
    called = job()
    assert run("train", "lora", str(data), "-m", str(tiny_dir), "--name", "mine").code == 0
    found: Run = called["run"]
    return found


def stopped(run_: Run) -> Iterator[Event]:
    yield started(run_)
    yield step(1)
    yield TrainSummary(run=run_.name, reason="stopped", status="cancelled", step=1, steps=100)


def test_a_finished_run_does_not_go_on(run, finished) -> None:
    result = run("train", "resume", "mine")
    assert result.code == 1 and "the run `mine` is finished" in result.err
    result = run("train", "resume")
    assert result.code == 1 and "no run that could go on" in result.err


def test_the_newest_run_that_was_stopped_goes_on_without_a_name(
    run, job, data, tiny_dir, finished
) -> None:
    job(stopped)
    assert run("train", "lora", str(data), "-m", str(tiny_dir), "--name", "cut").code == 130
    called = job()
    assert run("train", "resume", "--force").code == 0
    assert (called["run"].name, called["resume"], called["force"]) == ("cut", True, True)


def test_a_run_that_is_trained_elsewhere_is_left_alone(run, job, finished) -> None:
    job()
    other = Run.create(finished.config, finished.base, finished.data.path, "x", "other")
    with other.lock():
        result = run("train", "resume", "other")
        assert result.code == 1 and f"trained by process {os.getpid()}" in result.err
        result = run("train", "rm", "other", "-y")
        assert result.code == 1 and "is being trained" in result.err
        assert run("train", "pause").code == 0
        assert other.want() == "pause"
        assert run("train", "stop", "other").code == 0
        assert other.want() == "stop"
        other.note(TrainPaused(1))
        assert run("train", "pause", "other").err == "other will wait after the step it is in\n"
        assert run("train", "pause", "other").err == "other is paused already\n"
        result = run("train", "resume", "other")
        assert result.code == 0 and result.err == "other goes on\n"
        assert other.want() == "run"
    result = run("train", "stop", "other")
    assert result.code == 1 and "is not being trained: it is interrupted" in result.err
    result = run("train", "pause")
    assert result.code == 1 and "no runs are being trained" in result.err


def test_runs_are_listed_shown_and_removed(run, finished) -> None:
    head, line = run("train", "list").out.splitlines()
    assert head.split() == ["run", "state", "steps", "best", "last", "word"]
    assert line.split()[:6] == ["mine", "finished", "100", "of", "100", "1.5000"]
    (row,) = json.loads(run("train", "list", "--json").out)["runs"]
    assert (row["name"], row["state"], row["best_step"]) == ("mine", "finished", 50)
    shown = run("train", "show").out
    assert "3.0000 at step 1, 0.0300 at step 100; lowest 0.0300" in shown and "█" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "/" not in line)
    described = json.loads(run("train", "show", "mine", "--json").out)
    assert described["config"]["rank"] == 8 and described["base"]["sha256"]
    result = run("train", "rm", "mien")
    assert result.code == 1 and "did you mean `mine`?" in result.err
    assert run("train", "rm", "mine", stdin=b"n\n").code == 130
    assert run("train", "rm", "mine", "-y").code == 0
    result = run("train", "list")
    assert result.out == "" and "there are no runs yet" in result.err


def test_recipes_are_listed(run, shelf) -> None:
    result = run("train", "recipes")
    assert result.out == "style  lora  Short answers\nwhole  full  All of it\n"
    rows = json.loads(run("train", "recipes", "--json").out)["recipes"]
    assert rows[0]["settings"] == {"method": "lora", "rank": 4, "epochs": 2}


def test_the_doctor_is_among_the_commands() -> None:
    assert isinstance(group, click.Group) and "check" in group.commands


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([1.0, 2.0, 3.0], "▁▅█"), ([2.0, 2.0], "▁▁"), ([8.0, 8.0, 1.0, 1.0, 8.0, 8.0], "█▁█")],
)
def test_a_curve_is_drawn_in_bars(values, drawn) -> None:
    assert sparkline(values, 3) == drawn


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5990, "100 min"), (6100, "1 h 42 min"),
     (300_000, "3.5 days")],
)  # fmt: skip
def test_a_duration_has_one_or_two_units(seconds, said) -> None:
    assert format_time(seconds) == said.replace("100 min", "1 h 40 min")


def test_rows_come_at_round_steps() -> None:
    assert [_round_up(n / 40) for n in (1, 41, 81, 450, 1000, 10_000)] == [1, 2, 5, 20, 25, 250]


# ---------------------------------------------------------------- stopping, as a process

SCRIPT = """
import sys, time, types
from mobilellm_mlx.events import *
module = types.ModuleType("mobilellm_mlx.training.job")
def train(run, *, resume, force, stop):
    with run.lock():
        for event in events(run, stop):
            run.note(event)
            yield event
def events(run, stop):
    yield TrainStarted(run.name, str(run.path), "tiny", "lora", 1, 2, 3, 4, 99, 9)
    for step in range(1, 99):
        yield TrainStep(step, 0.1, 1.0, 1e-3, 1.0, 5, 6.0, 7, 8, 9.0, 10.0)
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:  # computing: no signal is heard meanwhile
            time.sleep(0.01)
        if stop.is_set():
            break
    yield CheckpointSaved(step, "/r")
    yield TrainSummary(run=run.name, status="cancelled", reason="stopped", step=step, steps=99)
module.train = train
sys.modules[module.__name__] = module
from mobilellm_mlx.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def training(data, tiny_dir) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a scripted training as a process, and waits for its first step."""
    processes = []

    def start(seconds: float, *more: str) -> subprocess.Popen[bytes]:
        code = SCRIPT.replace("SECONDS", str(seconds))
        args = ("train", "lora", str(data), "-m", str(tiny_dir), "--name", "mine", *more)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args], stdout=pipe, stderr=pipe, env=environment()
        )
        processes.append(process)
        until = time.monotonic() + 20
        while not any(status.step for status in list_runs()):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.02)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_one_signal_ends_a_training_after_its_step_with_everything_saved(
    training, number, code
) -> None:
    process = training(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert b"stopping after this step" in err and b"train resume mine" in out
    (status,) = list_runs()
    assert status.state == "stopped"


def test_a_second_ctrl_c_leaves_at_once_and_blocks_nobody(training) -> None:
    process = training(60)
    began = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert b"left at once" in err and b"Traceback" not in err
    (status,) = list_runs()
    assert (status.state, status.step) == ("interrupted", 1)
    with Run.open("mine").lock():
        pass


def test_a_reader_that_leaves_ends_a_training_with_everything_saved(training) -> None:
    process = training(0.2, "--json")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and b"Traceback" not in err
    (status,) = list_runs()
    assert status.state == "stopped"
