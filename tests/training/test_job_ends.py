"""A training as a whole: what it refuses, what it leaves behind, and what it says at the end."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.adapters.files import load_adapter
from mobilellm_mlx.adapters.identity import model_sha256
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import TrainingError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Notice,
    Sampled,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.training.checkpoint import WEIGHTS, Checkpoints, read_arrays
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import data_sha256
from mobilellm_mlx.training.job import train
from mobilellm_mlx.training.loop import Trainer
from mobilellm_mlx.training.runs import Base, Run

SETTINGS = {"batch_size": 4, "learning_rate": 1e-2, "samples": 0, "steps": 6, "validate_every": 2,
            "save_every": 1, "valid_share": 0.2}  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    model = write_model(tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.jsonl", range(17))
    write(data / "valid.jsonl", range(17, 22))

    def make(name: str, **changed: Any) -> Run:
        config = TrainConfig().merged({**SETTINGS, **changed})
        base = Base("tiny", model, model_sha256(model), "mit")
        return Run.create(config, base, data, data_sha256(data), name)

    return make


def write(path: Path, numbers: Any) -> None:
    rows = [{"prompt": f"say {n}", "completion": f"{n * 7 % 13} is it"} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tensors(path: Path) -> dict[str, mx.array]:
    found = mx.load(str(path))
    assert isinstance(found, dict)
    return found


def same(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    return one.keys() == other.keys() and all(mx.array_equal(one[n], other[n]) for n in one)


def test_the_best_is_published_and_not_the_last(make_run, monkeypatch) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.7])
    monkeypatch.setattr(Trainer, "measure", lambda self, examples: (next(losses), 5))
    run = make_run("mine")
    summary = list(train(run))[-1]
    assert isinstance(summary, TrainSummary)
    assert (summary.status, summary.reason, summary.best_step) == ("ok", "finished", 2)
    assert (summary.first_loss, summary.best_loss, summary.last_loss) == (3.0, 2.0, 2.7)
    info = Registry().find(summary.adapter)
    published = tensors(info.path / "adapters.safetensors")
    assert same(published, read_arrays(run.checkpoints / "00000002" / WEIGHTS))
    assert not same(published, read_arrays(run.checkpoints / "00000006" / WEIGHTS))
    assert (info.base_sha256, info.data_sha256) == (run.base.sha256, run.data.sha256)
    assert (info.licence, info.scores["best_step"]) == ("mit", 2)
    adapter = load_adapter(info.path, load_model(run.base.path).model)
    assert adapter.spec is not None and adapter.spec.scale == run.config.scale


def test_what_was_never_seen_is_measured_with_the_best_weights(make_run, monkeypatch) -> None:
    run = make_run("mine")
    write(run.data.path / "test.jsonl", range(30, 34))
    run = make_run("tested")
    measured, losses = [], iter([5.0, 1.0, 2.0, 3.0])
    measure = Trainer.measure

    def spy(self: Trainer, examples: Any) -> tuple[float, int]:
        loss, count = measure(self, examples)
        held = dict(self._model.trainable_parameters())
        measured.append((loss, mx.array(held["model"]["layers"][0]["mlp"]["up_proj"]["lora_b"])))
        return next(losses, loss), count

    monkeypatch.setattr(Trainer, "measure", spy)
    summary = list(train(run))[-1]
    assert len(measured) == 5
    assert summary.test_loss == measured[-1][0]
    assert summary.best_step == 2
    assert mx.array_equal(measured[-1][1], measured[1][1])
    assert not mx.array_equal(measured[-2][1], measured[1][1])


def test_without_validation_the_last_is_the_best(make_run) -> None:
    run = make_run("mine")
    (run.data.path / "valid.jsonl").unlink()
    run = make_run("alone", valid_share=0.0, steps=5, save_every=2, validate_every=3)
    events = list(train(run))
    assert not [e for e in events if isinstance(e, Validated)]
    assert all(e.is_best for e in events if isinstance(e, CheckpointSaved))
    published = tensors(Registry().find(events[-1].adapter).path / "adapters.safetensors")
    assert same(published, read_arrays(run.checkpoints / "00000005" / WEIGHTS))


def test_a_resumed_run_says_what_an_uninterrupted_one_says(make_run) -> None:
    def figures(run: Run) -> list[Any]:
        return [(e.step, e.loss) for e in run.events() if isinstance(e, TrainStep | Validated)]

    list(train(make_run("whole")))
    run = make_run("cut")
    training = train(run)
    for event in training:
        if isinstance(event, TrainStep) and event.step == 4:
            break  # noted, not saved
    training.close()
    events = list(train(run, resume=True))
    started = next(e for e in events if isinstance(e, TrainStarted))
    assert started.start_step == 3
    assert figures(run) == figures(Run.open("whole"))
    assert events[-1].adapter == "cut"
    one, other = (
        tensors(Registry().find(n).path / "adapters.safetensors") for n in ("cut", "whole")
    )
    assert same(one, other)


def test_two_runs_of_one_seed_are_the_same(make_run) -> None:
    first, again, other = (make_run("a"), make_run("b"), make_run("c", seed=1))
    ends = [list(train(run))[-1].last_loss for run in (first, again, other)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("what", ["data", "model"])
def test_what_has_changed_is_named_and_refused_unless_forced(make_run, what) -> None:
    run = make_run("mine", steps=2)
    if what == "data":
        write(run.data.path / "train.jsonl", range(16))
    else:
        shutil.rmtree(run.base.path)
        write_model(run.base.path, seed=1)
    with pytest.raises(TrainingError, match=f"the {what} .* has changed") as caught:
        list(train(run))
    assert "--force" in caught.value.hint
    assert not list(run.events())  # a refusal is no end of the run
    events = list(train(run, force=True))
    assert isinstance(events[0], Notice) and events[-1].status == "ok"


def test_a_stop_saves_and_publishes_nothing(make_run) -> None:
    stop, run = threading.Event(), make_run("mine", samples=2, sample_tokens=4)
    events = []
    for event in train(run, stop=stop):
        events.append(event)
        if isinstance(event, TrainStep):
            stop.set()
    assert [e.step for e in events if isinstance(e, TrainStep)] == [1]
    assert (events[-1].status, events[-1].reason, events[-1].adapter) == (
        "cancelled", "stopped", None,
    )  # fmt: skip
    assert Checkpoints(run.checkpoints).latest().name == "00000001"
    assert run.status().state == "stopped"
    assert not [each for each in Registry().list() if not each.shipped]


def test_samples_are_answers_to_what_was_set_aside(make_run) -> None:
    run = make_run("mine", samples=2, sample_tokens=4, steps=2)
    samples = [e for e in train(run) if isinstance(e, Sampled)]
    assert [each.step for each in samples] == [0, 0, 2, 2]
    assert {each.prompt for each in samples} <= {f"say {n}" for n in range(17, 22)}


def test_a_training_that_keeps_going_wrong_is_a_failure_and_publishes_nothing(
    make_run, monkeypatch
) -> None:
    monkeypatch.setattr(Trainer, "_summed_gradients", _broken(Trainer._summed_gradients))
    run = make_run("mine")
    summary = list(train(run))[-1]
    assert (summary.status, summary.reason, summary.adapter) == ("error", "diverged", None)
    assert "four times" in summary.error
    assert run.status().state == "failed"


def _broken(function: Any) -> Any:
    def call(self: Trainer, group: Any) -> Any:
        gradients, _, learned, total = function(self, group)
        return gradients, float("nan"), learned, total

    return call
