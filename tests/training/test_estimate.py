"""What a training is said to take, beside what it takes."""

from __future__ import annotations

import gc
import random
from array import array
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM

from mobilellm_mlx.backend import mx, nn
from mobilellm_mlx.events import MemoryEstimated, TrainStep
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.lora import LoraSpec, attach, count_parameters, find_modules
from mobilellm_mlx.training import estimate
from mobilellm_mlx.training.checkpoint import Checkpoints
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.estimate import estimate_memory
from mobilellm_mlx.training.loop import Trainer

SMALL = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
}
"""Large enough that arrays count and not what surrounds them."""
CONFIG = TrainConfig(batch_size=4, steps=2, warmup=0.0)
WITHIN = 0.2


def made_up(count: int, length: int, learned: float = 1.0) -> list[Example]:
    draw = random.Random(0)
    first = max(1, int(length * (1 - learned)))
    return [
        Example(
            array("i", [draw.randrange(4096) for _ in range(length)]),
            bytes([0] * first + [1] * (length - first)),
        )
        for _ in range(count)
    ]


def prepared(
    config: TrainConfig,
    raw: dict[str, Any] = LLAMA,
    *,
    packed: bool = False,
    dtype: mx.Dtype = mx.float32,
) -> LanguageModel:
    model = LanguageModel(build_config({**raw, **SMALL}))
    model.set_dtype(dtype)
    if packed:
        nn.quantize(model, group_size=32, bits=4)
    if config.method != "full":
        paths = find_modules(model, config.modules, config.layers)
        spec = LoraSpec(
            config.method, config.rank, config.scale, paths, config.dropout, config.per_run
        )
        attach(model, spec)
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize(
    ("changed", "length", "share", "form"),
    [
        ({}, 96, 1.0, {}),
        ({}, 96, 0.25, {}),
        ({"batch_size": 2}, 256, 0.25, {}),
        ({"layers": "last 2", "rank": 32}, 96, 0.25, {}),
        ({"loss_chunk": 64}, 96, 1.0, {}),
        ({"checkpoint_layers": True, "loss_chunk": 64}, 96, 1.0, {}),
        ({"method": "dora", "loss_chunk": 64}, 96, 1.0, {}),
        ({"dropout": 0.1}, 96, 0.25, {}),
        ({"accumulate": 2, "rank": 64}, 96, 0.25, {}),
        ({"pack": True, "max_tokens": 100, "batch_size": 2}, 32, 1.0, {}),
        ({"method": "full"}, 96, 1.0, {}),
        ({"method": "full", "batch_size": 1}, 24, 1.0, {}),
        ({"batch_size": 2}, 96, 0.25, {"packed": True}),
        ({"batch_size": 2}, 64, 0.25, {"dtype": mx.bfloat16}),
        ({"per_run": True}, 96, 0.25, {"raw": MOBILELLM}),
    ],
)
def test_the_estimate_is_near_what_a_training_takes(tmp_path, changed, length, share, form):
    config = CONFIG.merged(changed)
    examples = made_up(8, length, share)
    gc.collect()
    before = mx.get_active_memory()  # of other tests
    model = prepared(config, **form)
    told = estimate_memory(model, config, examples)
    mx.reset_peak_memory()
    steps = Trainer(model, config, examples, [], Checkpoints(tmp_path)).run()
    peak = max(e.peak_memory_bytes for e in steps if isinstance(e, TrainStep)) - before
    assert told.total_bytes == pytest.approx(peak, rel=WITHIN)


@pytest.mark.parametrize("changed", [
    {}, {"method": "dora"}, {"layers": "last 1"}, {"modules": ("q_proj", "embed_tokens")},
    {"per_run": True}, {"method": "full"},
])  # fmt: skip
def test_trained_parameters_are_counted_from_the_configuration_alone(changed):
    config = CONFIG.merged(changed)
    model = prepared(config, MOBILELLM)
    told = estimate_memory(model, config, made_up(4, 16))
    assert told.gradients_bytes == 4 * count_parameters(model)
    assert told.optimizer_bytes == 2 * told.gradients_bytes
    assert told.weights_bytes == model.weight_bytes()


def total_of(told: MemoryEstimated) -> int:
    return told.weights_bytes + told.gradients_bytes + told.optimizer_bytes + told.activations_bytes


def test_the_parts_are_the_whole():
    told = estimate_memory(prepared(CONFIG), CONFIG, made_up(8, 64))
    assert told.total_bytes == total_of(told)


def test_the_longest_examples_decide():
    model = prepared(CONFIG)
    short = made_up(40, 16)
    few = estimate_memory(model, CONFIG, short).activations_bytes
    long = estimate_memory(model, CONFIG, [*short, *made_up(1, 160)]).activations_bytes
    assert long > 2 * few


def test_examples_are_never_longer_than_they_may_be():
    model = prepared(CONFIG)
    config = CONFIG.merged({"max_tokens": 64})
    assert (
        estimate_memory(model, config, made_up(8, 160)).total_bytes
        == estimate_memory(model, config, made_up(8, 64)).total_bytes
    )


def test_half_the_bits_take_less():
    config = CONFIG.merged({"modules": ("q_proj",)})
    examples = made_up(8, 64, 0.1)
    wide = estimate_memory(prepared(config), config, examples)
    narrow = estimate_memory(prepared(config, dtype=mx.float16), config, examples)
    assert narrow.weights_bytes < 0.6 * wide.weights_bytes
    assert narrow.activations_bytes < 0.8 * wide.activations_bytes


def test_remedies_say_what_they_save_most_first():
    config = CONFIG.merged({"batch_size": 8})
    model, examples = prepared(config), made_up(16, 128)
    told = estimate_memory(model, config, examples)
    options = [remedy.split("`")[1] for remedy in told.remedies]
    assert {"--batch-size 4", "--max-tokens 64", "--checkpoint-layers"} <= set(options)
    changes = {
        "--batch-size 4": {"batch_size": 4}, "--max-tokens 64": {"max_tokens": 64},
        "--checkpoint-layers": {"checkpoint_layers": True}, "--loss-chunk 64": {"loss_chunk": 64},
        '--layers "last 2"': {"layers": "last 2"}, "--rank 4": {"rank": 4},
    }  # fmt: skip
    saved = [
        told.total_bytes
        - estimate_memory(
            prepared(config.merged(changes[option])), config.merged(changes[option]), examples
        ).total_bytes
        for option in options
    ]
    assert saved == sorted(saved, reverse=True)
    assert min(saved) > 0.05 * told.total_bytes
    assert told.remedies[0].endswith(f"saves {saved[0] / 1e6:.0f} MB")


def test_what_is_done_already_is_no_remedy():
    config = CONFIG.merged({
        "batch_size": 1, "checkpoint_layers": True, "loss_chunk": 32, "rank": 1, "layers": "last 1",
    })  # fmt: skip
    assert estimate_memory(prepared(config), config, made_up(2, 40)).remedies == []


def test_a_full_training_may_be_made_a_small_one():
    config = CONFIG.merged({"method": "full"})
    told = estimate_memory(prepared(config), config, made_up(8, 32))
    assert told.remedies[0].startswith("`lora` in place of `full` saves ")


def test_what_does_not_fit_is_said_not_to(monkeypatch):
    model = prepared(CONFIG)
    held = model.weight_bytes()
    examples = made_up(8, 64)
    needed = estimate_memory(model, CONFIG, examples).total_bytes
    monkeypatch.setattr(estimate, "available_memory_bytes", lambda: needed - held)
    assert estimate_memory(model, CONFIG, examples).fits  # its weights lie there already
    monkeypatch.setattr(estimate, "available_memory_bytes", lambda: needed - held - 1)
    told = estimate_memory(model, CONFIG, examples)
    assert not told.fits
    assert told.available_bytes == needed - 1
