"""Several processes train one model: real ones, which talk over the loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.adapters.identity import model_sha256
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import TrainingError
from mobilellm_mlx.events import TrainStarted, TrainStep, TrainSummary, Validated
from mobilellm_mlx.training.checkpoint import Checkpoints, read_state
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import data_sha256
from mobilellm_mlx.training.helping import hear, tell
from mobilellm_mlx.training.job import train
from mobilellm_mlx.training.runs import Base, Run, list_runs
from mobilellm_mlx.training.workers import Workers, join_workers
from tests.cli.processes import command, environment

START = """
import sys, time
from mobilellm_mlx.backend import mx
from mobilellm_mlx.training.workers import *
from mobilellm_mlx.training.workers import _open_sockets
"""
SETTINGS = {"batch_size": 5, "accumulate": 2, "dropout": 0.0, "learning_rate": 1e-2, "samples": 0,
            "valid_share": 0.2, "epochs": 2.0}  # fmt: skip
OPTIONS = [
    word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[str]]]]:
    """Starts processes as ``mlx.launch`` does, one for each changed environment."""
    started: list[subprocess.Popen[str]] = []

    def start(
        line: list[str], *changes: dict[str, str], size: int = 2
    ) -> list[subprocess.Popen[str]]:
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
        hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in listening]
        for each in listening:
            each.close()
        (tmp_path / "hosts.json").write_text(json.dumps(hosts))
        found = []
        for rank in range(size):
            launched = {"MLX_HOSTFILE": str(tmp_path / "hosts.json"), "MLX_RANK": str(rank)}
            launched |= changes[rank] if rank < len(changes) else {}
            found.append(
                subprocess.Popen(
                    line, env=environment(**launched), text=True, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
        started.extend(found)
        return found

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data.jsonl")


def write_data(path: Path, count: int = 29) -> Path:
    rows = [{"prompt": f"say {n}", "completion": f"{n * 7 % 13} is it"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def figures(run: Run) -> list[tuple[Any, ...]]:
    told = []
    for event in run.events():
        if isinstance(event, TrainStep):
            told.append((event.step, event.loss, event.gradient_norm, event.tokens))
        elif isinstance(event, Validated):
            told.append((event.step, event.loss, event.best_loss, event.tokens))
    return told


def wait_for_step(name: str, step: int) -> Run:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for status in list_runs():
            if status.name == name and status.step >= step:
                return Run.open(name)
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come")


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    said = [each.communicate(timeout=60) for each in processes]
    return [(each.returncode, out, err) for each, (out, err) in zip(processes, said, strict=True)]


def test_two_processes_learn_what_one_learns(launch, model, data) -> None:
    base = Base("tiny", model, model_sha256(model))
    config = TrainConfig().merged(SETTINGS)
    alone = Run.create(config, base, data, data_sha256(data), "alone")
    list(train(alone))
    line = command("train", "lora", str(data), "-m", str(model), "--name", "both", *OPTIONS)
    first, second = ends(launch(line))
    assert first[0] == 0, first
    assert second == (0, "", "")  # who helps says nothing
    both = Run.open("both")
    (started,) = [event for event in both.events() if isinstance(event, TrainStarted)]
    assert started.workers == 2
    wanted = figures(alone)
    assert len(wanted) > 10
    for ours, theirs in zip(figures(both), wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    assert wanted[-1][1] < wanted[0][1] / 1.5  # it did learn
    assert [each.name for each in list_runs()] == ["both", "alone"]
    mine, one = (mx.load(str(Registry().find(name).path / "adapters.safetensors"))
                 for name in ("both", "alone"))  # fmt: skip
    assert isinstance(mine, dict) and isinstance(one, dict) and mine.keys() == one.keys()
    assert all(mx.allclose(mine[name], one[name], rtol=1e-2, atol=1e-4) for name in one)
    assert sum(each.name.startswith(("both", "alone")) for each in Registry().list()) == 2


def test_a_process_that_dies_ends_the_training_saved_and_all_go_on_from_there(
    launch, model, data
) -> None:
    options = [*OPTIONS, "--steps", "3000", "--validate-every", "3000"]
    line = command("train", "lora", str(data), "-m", str(model), "--name", "mine", *options)
    first, second = launch(line)
    run = wait_for_step("mine", 3)
    second.kill()
    (code, _, said), _ = ends([first, second])
    assert code == 1
    assert "another process of this training has ended or does not answer" in said
    assert "Traceback" not in said
    (summary,) = [event for event in run.events() if isinstance(event, TrainSummary)]
    assert summary.status == "error"
    saved = Checkpoints(run.checkpoints).latest()
    assert saved is not None and read_state(saved).step == summary.step >= 3

    processes = launch(command("train", "resume", "mine"))
    wait_for_step("mine", summary.step + 3).ask("stop")
    first_end, second_end = ends(processes)
    assert "stopped" in first_end[1] + first_end[2] and second_end == (0, "", "")
    begun = [event.start_step for event in run.events() if isinstance(event, TrainStarted)]
    assert begun == [0, summary.step]
    steps = [event.step for event in run.events() if isinstance(event, TrainStep)]
    assert steps == list(range(1, len(steps) + 1))


def test_other_data_on_another_machine_are_refused(launch, tmp_path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write_model(here / "model")
    write_data(here / "data.jsonl")
    shutil.copytree(here, there)
    write_data(there / "data.jsonl", 28)
    line = command("train", "lora", str(here / "data.jsonl"), "-m", str(here / "model"))
    homes = [{"HOME": str(path)} for path in (here, there)]
    first, second = ends(launch(line, *homes))
    assert (first[0], second) == (1, (1, "", ""))
    assert "process 2 of 2, on `" in first[2]
    assert "the data differ from those of the first process" in first[2]
    assert list_runs() == []


# ---------------------------------------------------------------- what they say to each other


def script(text: str) -> list[str]:
    return [sys.executable, "-c", START + textwrap.dedent(text)]


def test_what_is_said_and_summed_is_the_same_everywhere(launch) -> None:
    each = launch(
        script("""
            together = join_workers()
            rank = together.rank
            print(together.gather("" if rank == 1 else "é" * (rank + 1)))
            parts = [mx.full((2, 3), float(rank)), {"c": mx.ones(4, mx.int32)}]
            tree = {"b": parts, "a": mx.array(0.5)}
            summed = together.sum(tree)
            print(summed["b"][0].tolist(), summed["b"][1]["c"].tolist(), summed["a"].item())
            print(together.of_first({"x": mx.array([rank + 0.5]), "y": mx.array([rank])}))
            print(together.sum_numbers(1.5, rank), together.share(range(7)))
            try:
                with together.together():
                    if rank:
                        raise TrainingError(f"no room on {rank}", "make some")
            except TrainingError as error:
                print(type(error).__name__, error.message.split(", on")[0], error.hint)
            """),
        size=3,
    )
    said = [out.splitlines() for code, out, err in ends(each)]
    assert [lines[:3] for lines in said[1:]] == [said[0][:3]] * 2
    assert said[0][0] == "['é', '', 'ééé']"
    assert said[0][1] == "[[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]] [3, 3, 3, 3] 1.5"
    assert "0.5" in said[0][2]
    assert [lines[3] for lines in said] == [
        f"(4.5, 3.0) {list(range(7))[rank::3]}" for rank in range(3)
    ]
    assert said[0][4].startswith("TrainingError process 2 of 3") and "make some" in said[0][4]
    assert [lines[4].split()[0] for lines in said[1:]] == ["WorkerLost"] * 2


def test_one_that_does_not_answer_is_not_waited_for_for_ever(launch) -> None:
    first, second = launch(
        script("""
            before = _open_sockets()
            group = mx.distributed.init()
            few = Workers(group, _open_sockets() - before, patience_s=0.5)
            few.sum_numbers(1.0)
            print("joined", flush=True)
            if few.rank == 1:
                time.sleep(60)
            try:
                few.sum_numbers(1.0)
            except WorkerLost as error:
                print(error.message)
            """)
    )
    ((code, said, _),) = ends([first])
    assert code == 0 and said.splitlines() == [
        "joined",
        "another process of this training has ended or does not answer",
    ]
    assert second.poll() is None


def test_a_single_process_sends_nothing() -> None:
    alone = Workers()
    tree = {"a": mx.ones(2)}
    assert alone.leads and alone.sum(tree) is tree and alone.of_first(tree) is tree
    assert alone.gather("x") == ["x"] and alone.share([1, 2, 3]) == [1, 2, 3]
    with pytest.raises(TrainingError, match="too bad"), alone.together():
        raise TrainingError("too bad")
    alone.require_alike({"the data": "1"})


def test_a_launch_of_one_process_is_an_ordinary_training(tmp_path, monkeypatch) -> None:
    (tmp_path / "hosts").write_text("\n")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    monkeypatch.setenv("MLX_RANK", "0")
    join_workers.cache_clear()
    assert join_workers().size == 1


def test_places_under_home_are_told_as_such(tmp_path, monkeypatch) -> None:
    here, there = tmp_path / "anna", tmp_path / "ben"
    monkeypatch.setenv("HOME", str(here))
    base = Base("m", here / "models" / "m", "0" * 64)
    here.mkdir()
    (here / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    config = TrainConfig(rank=3, template=str(here / "chat.jinja"))
    run = Run.create(config, base, tmp_path / "data.jsonl", "1" * 64, "mine")
    text = tell(run, resume=True, force=False)
    monkeypatch.setenv("HOME", str(there))
    heard, manner = hear(text)
    assert heard.base.path == there / "models" / "m" and heard.base.sha256 == "0" * 64
    assert heard.data.path == tmp_path / "data.jsonl"
    # The other machine has no such file: the text comes along.
    assert Path(heard.config.template).read_text(encoding="utf-8") == "{{ messages }}"
    assert here not in Path(heard.config.template).parents
    assert (heard.name, heard.config.rank) == ("mine", 3)
    assert manner == {"resume": True, "force": False}
