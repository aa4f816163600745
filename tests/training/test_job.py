"""A training from its first line to the adapter in the registry."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from tiny import LLAMA, write_model

from mobilellm_mlx.adapters import Registry, model_sha256
from mobilellm_mlx.errors import MobileLLMError, TrainingError
from mobilellm_mlx.events import (
    MemoryEstimated,
    Notice,
    Sampled,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
)
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import data_sha256
from mobilellm_mlx.training.job import train
from mobilellm_mlx.training.runs import Base, Run

CONFIG = TrainConfig(
    rank=2, epochs=1.0, batch_size=4, samples=1, sample_tokens=4, max_tokens=96, learning_rate=1e-2
)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    directory = write_model(tmp_path / "model", LLAMA)
    return Base("tiny", directory, model_sha256(directory), "MIT")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count, first in (("train", 20, 0), ("valid", 4, 50), ("test", 3, 80)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"Say {n}."},
                    {"role": "assistant", "content": f"{n}, {n}."},
                ]
            }
            for n in range(first, first + count)
        ]
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def make_run(base: Base, data: Path, config: TrainConfig = CONFIG, name: str = "first") -> Run:
    return Run.create(config, base, data, data_sha256(data), name)


def test_a_run_ends_with_an_adapter_that_knows_where_it_comes_from(base, data):
    run = make_run(base, data)
    events = list(train(run))
    kinds = [type(e) for e in events]
    assert kinds.index(MemoryEstimated) < kinds.index(TrainStarted) < kinds.index(TrainStep)
    summary = events[-1]
    assert isinstance(summary, TrainSummary) and summary.status == "ok"
    assert summary.reason == "finished" and summary.step == summary.steps == 5
    assert summary.best_loss < summary.first_loss
    assert summary.test_loss is not None
    assert summary.peak_memory_bytes >= max(
        e.memory_bytes for e in events if isinstance(e, TrainStep)
    )
    [sampled, *_] = [e for e in events if isinstance(e, Sampled)]
    assert sampled.prompt.startswith("Say 5") and sampled.expected.endswith(".")
    info = Registry().find("first")
    assert (info.base_sha256, info.data_sha256, info.licence) == (
        base.sha256, data_sha256(data), "MIT",
    )  # fmt: skip
    assert info.config == CONFIG.to_dict()
    assert info.scores["best_loss"] == summary.best_loss
    assert info.tools is None
    assert run.status().state == "finished" and run.status().adapter == "first"
    assert list(run.events()) == [e for e in events if type(e).__name__ != "Progress"]


def test_an_adapter_for_calls_says_how_it_is_to_be_asked(base, data):
    config = CONFIG.merged({"tool_format": "paper", "only_calls": True, "learning_rate": 0.0})
    list(train(make_run(base, data, config)))
    info = Registry().find("first")
    assert info.tools == {"style": "paper", "only_calls": True}
    assert info.config == {**config.to_dict(), "learning_rate": 5e-4}  # what 0 stands for


def test_the_best_is_kept_and_not_the_last(base, data, monkeypatch):
    from mobilellm_mlx.training import loop

    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7])
    monkeypatch.setattr(loop.Trainer, "measure", lambda self, examples: (next(losses, 9.0), 1))
    run = make_run(base, data, CONFIG.merged({"validate_every": 1}))
    summary = list(train(run))[-1]
    assert (summary.best_loss, summary.best_step) == (1.0, 1)
    assert Registry().find("first").scores["best_step"] == 1
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["00000001", "00000004",
                                                                 "00000005", "best"]  # fmt: skip


def test_a_run_that_was_stopped_gives_what_it_has_and_goes_on(base, data):
    run, stop = make_run(base, data, CONFIG.merged({"epochs": 2.0})), threading.Event()
    seen = []
    for event in train(run, stop=stop):
        seen.append(event)
        if isinstance(event, TrainStep) and event.step == 3:
            stop.set()
    assert seen[-1].reason == "stopped" and seen[-1].status == "cancelled"
    assert seen[-1].adapter == "first"
    half = Registry().find("first").scores["step"]
    rest = list(train(run, resume=True))
    started = next(e for e in rest if isinstance(e, TrainStarted))
    assert started.start_step == half == 3
    assert rest[-1].step == 10
    # A later state of one run takes the place of the earlier one.
    assert rest[-1].adapter == "first"
    assert [one.name for one in Registry().list() if not one.shipped] == ["first"]
    steps = [e.step for e in run.events() if isinstance(e, TrainStep)]
    assert steps == list(range(1, 11))


def test_another_run_of_that_name_does_not_take_the_adapters_place(base, data):
    list(train(make_run(base, data)))
    Run.open("first").remove()
    summary = list(train(make_run(base, data)))[-1]
    assert summary.adapter == "first-2"


@pytest.mark.parametrize("what", ["model", "data"])
def test_what_has_changed_is_named_and_refused_unless_forced(base, data, what):
    run, stop = make_run(base, data), threading.Event()
    for event in train(run, stop=stop):
        if isinstance(event, TrainStep):
            stop.set()
    if what == "data":
        (data / "train.jsonl").write_text(
            (data / "train.jsonl").read_text().replace("Say", "Tell"), encoding="utf-8"
        )
    else:
        write_model(base.path, LLAMA, seed=1)
    with pytest.raises(TrainingError, match=f"the {what} .* has changed") as caught:
        list(train(run, resume=True))
    assert "--force" in caught.value.hint
    assert run.status().state == "stopped"  # a refusal is no end of the run
    events = list(train(run, resume=True, force=True))
    assert any(isinstance(e, Notice) and "has changed" in e.text for e in events)
    assert events[-1].status == "ok"


def test_settings_that_were_changed_are_named_and_refused_unless_forced(base, data):
    run, stop = make_run(base, data), threading.Event()
    for event in train(run, stop=stop):
        if isinstance(event, TrainStep):
            stop.set()
    record = json.loads((run.path / "run.json").read_text())
    record["config"] |= {"learning_rate": 1e-3, "clip": 0.5}
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match="`clip` and the setting `learning_rate` have changed"):
        list(train(Run.open("first"), resume=True))
    events = list(train(Run.open("first"), resume=True, force=True))
    assert any(isinstance(e, Notice) and "`clip`" in e.text for e in events)
    assert events[-1].status == "ok"


def test_an_error_on_the_way_ends_the_run_with_a_sentence(base, data, monkeypatch):
    run = make_run(base, data, CONFIG.merged({"modules": ["nothing"]}))
    events = []
    with pytest.raises(MobileLLMError, match="no module is named"):
        for event in train(run):
            events.append(event)
    assert events[-1].status == "error" and "no module" in events[-1].error
    assert run.status().state == "failed"


def test_what_does_not_fit_is_refused_with_remedies(base, data, monkeypatch):
    estimate = MemoryEstimated(1, 1, 1, 97, 100, 50, False, ["`--batch-size 2` saves 40 B"])
    monkeypatch.setattr("mobilellm_mlx.training.job.estimate_memory", lambda *a: estimate)
    run = make_run(base, data)
    with pytest.raises(TrainingError, match="needs about 100 B") as caught:
        list(train(run))
    assert "--batch-size 2" in caught.value.hint
    assert list(train(run, force=True))[-1].status == "ok"


def test_without_validation_examples_the_last_is_the_best(base, data):
    (data / "valid.jsonl").unlink()
    run = make_run(base, data, CONFIG.merged({"valid_share": 0.0}))
    events = list(train(run))
    assert not [e for e in events if isinstance(e, Validated)]
    assert events[-1].adapter == "first" and events[-1].best_loss is None
    assert Registry().find("first").scores["step"] == 5


@pytest.mark.parametrize("method", ["dora", "full"])
def test_the_other_methods_give_adapters_too(base, data, method):
    config = CONFIG.merged({"method": method, "learning_rate": 1e-3})
    summary = list(train(make_run(base, data, config)))[-1]
    assert summary.status == "ok"
    assert Registry().find("first").method == method
