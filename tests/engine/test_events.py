"""Events: the same on both sides of the wire."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx import events
from mobilellm_mlx.events import (
    BenchRun,
    BenchSummary,
    CacheSummary,
    CheckpointSaved,
    ConvertSummary,
    EvalSummary,
    Event,
    ExportSummary,
    FuseSummary,
    GenerationSummary,
    Judged,
    MemoryEstimated,
    ModelLoaded,
    Notice,
    PrefillProgress,
    Progress,
    ReasoningDelta,
    RolledBack,
    Sampled,
    Summary,
    TextDelta,
    ToolAllowed,
    ToolCalled,
    ToolEnded,
    ToolsOffered,
    TrainPaused,
    TrainStarted,
    TrainStep,
    TrainSummary,
    Validated,
    from_dict,
)
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import SCRIPTED_MODEL

SAMPLES: list[Event] = [
    Progress("fetching", 12.0, 50.0),
    Progress("reading", 3, None, "tensors"),
    Notice('Grüße 😀 \u2028 " \\ \n'),
    SCRIPTED_MODEL,
    PrefillProgress(3, 9, 1),
    TextDelta("\ufffd\x00"),
    ReasoningDelta("First, \n"),
    Summary("pull"),
    Summary("pull", "error", 1.5, "no network", "try again"),
    GenerationSummary(),
    GenerationSummary(
        status="cancelled",
        elapsed_s=1.25,
        model="m",
        text="t",
        stop_reason="cancelled",
        prompt_tokens=7,
        tokens=[5, 0, 256],
        options={"seed": 2**64 - 1, "stop": ["a"], "temperature": 0.5, "max_tokens": None},
    ),
    CacheSummary("save_cache", tokens=7, bytes=1000),
    CacheSummary("restore_cache", reason="it is of another model"),
    Judged(3, [-1.5, -2.0], [True, False], [4, 5]),
    BenchRun("mobilellm", 1, prompt=32, depth=0, batch=1, ttft_s=0.1, token_s=[0.01]),
    BenchSummary(model="m", rows=[{"prompt": 32}]),
    EvalSummary(model="m", results=[{"task": "t", "metrics": {"em_intent": {"mean": 0.5}}}]),
    ConvertSummary(path="m", parameters=7, bits_per_weight=4.5, mean_kl=0.25),
    ToolsOffered(["calculator", "current_time"]),
    ToolCalled(
        "c1", "note", {"text": "a", "tags": ["b"]}, "Note: a", "builtin", False, "", 9, 5, 4, 0.5
    ),
    ToolAllowed("c1", "always", {"text": "a"}),
    ToolEnded("c1", "note", "ok", "done", 0.25),
    ExportSummary(path="m.gguf", format="gguf", type="q4_1", tensors=2, lossless=False, rounded=1),
    FuseSummary(
        path="m",
        adapter="pirate",
        adapted_tensors=1,
        share_kept=0.75,
        tensors=[{"name": "model.layers.0.mlp.up_proj", "kept": 0.75, "cosine": None}],
    ),
    MemoryEstimated(1, 2, 3, 4, 10, 9, False, ["`--batch-size 2` saves 1 GB"]),
    TrainStarted("r", "/runs/r", "m", "lora", 5, 700, 40, 0, 30, 10, start_step=20, workers=2),
    TrainStep(1, 0.1, 2.5, 1e-5, 0.75, 300, 61.5, 1000, 2000, 1.25),
    TrainStep(2, 0.2, 2.25, 2e-5, 0.5, 600, 62.5, 1000, 2000, 2.25, left_s=9.5),
    Validated(10, 2.125, True, 2.125, 10, 50, 3.5, is_overfitting=True),
    Sampled(10, "Who are you?\n", "Arr \u2028", "Arrr"),
    CheckpointSaved(10, "/runs/r/checkpoints/000010", is_best=True),
    RolledBack(12, 10, "the loss is no number", 5e-6, 2),
    TrainPaused(12),
    TrainSummary(),
    TrainSummary(
        status="error",
        error="the disk is full",
        run="r",
        reason="error",
        adapter="pirate",
        step=12,
        best_loss=2.125,
        best_step=10,
    ),
]


def subclasses(kind: type) -> set[type]:
    return {kind, *(deeper for sub in kind.__subclasses__() for deeper in subclasses(sub))}


def concrete_events() -> set[type]:
    # A dataclass with slots is made twice: only the one that the module names is real.
    return {
        kind
        for kind in subclasses(Event)
        if kind is not Event and vars(events).get(kind.__name__) is kind
    }


def test_the_samples_have_every_kind_of_event() -> None:
    assert {type(sample) for sample in SAMPLES} == concrete_events()
    assert len(concrete_events()) == 29


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_json_as_it_was(event: Event) -> None:
    back = from_dict(json.loads(event.to_json()))
    assert back == event
    assert type(back) is type(event)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_is_one_line_that_names_it(event: Event) -> None:
    line = event.to_json()
    assert "\n" not in line
    assert json.loads(line)["event"] == event.name
    assert json.loads(line).keys() == {"event", *(field.name for field in fields(event))}


def test_a_real_summary_comes_back_as_it_was(tiny_dir: Path) -> None:
    from mobilellm_mlx.decoding import Generator
    from mobilellm_mlx.loading import load_model

    generator = Generator(load_model(tiny_dir))
    options = GenerationOptions(max_tokens=2, stop=("a", "b"))
    for event in [generator.info, *generator.generate([1, 2], options)]:
        assert from_dict(json.loads(event.to_json())) == event


def test_the_job_of_a_summary_decides_its_kind() -> None:
    assert type(from_dict({"event": "summary", "job": "generate"})) is GenerationSummary
    assert type(from_dict({"event": "summary", "job": "convert"})) is ConvertSummary
    assert type(from_dict({"event": "summary", "job": "export"})) is ExportSummary
    assert type(from_dict({"event": "summary", "job": "eval"})) is EvalSummary
    assert type(from_dict({"event": "summary", "job": "fuse"})) is FuseSummary
    assert type(from_dict({"event": "summary", "job": "train"})) is TrainSummary
    for job in ("save_cache", "restore_cache"):
        assert type(from_dict({"event": "summary", "job": job})) is CacheSummary
    assert type(from_dict({"event": "summary", "job": "pull"})) is Summary


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"event": None},
        {"event": "nonsense"},
        {"event": ["summary"]},
        {"event": "text_delta"},
        {"event": "text_delta", "text": "a", "more": 1},
        {"event": "summary"},
        {"event": "summary", "job": "pull", "text": "only generation has text"},
        {"event": "prefill_progress", "done": 1},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="event"):
        from_dict(values)


def test_reading_an_event_leaves_the_mapping_alone() -> None:
    values = TextDelta("a").to_dict()
    from_dict(values)
    assert values == {"event": "text_delta", "text": "a"}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Summary("pull", elapsed_s=number).to_json()


def test_events_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TextDelta("a").text = "b"  # type: ignore[misc]


def test_letters_are_not_escaped() -> None:
    assert "ü😀" in TextDelta("ü😀").to_json()


@pytest.mark.parametrize("adapter", [None, "pirate"])
def test_a_model_is_described_by_plain_values(adapter: str | None) -> None:
    values = replace(SCRIPTED_MODEL, adapter=adapter).to_dict()
    assert type(SCRIPTED_MODEL) is ModelLoaded
    assert values.pop("adapter") == adapter
    assert all(type(value) in (int, float, str, bool) for value in values.values())
