"""Which examples come when, and how they lie in a batch."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
from counting import counting
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LLAMA

from mobilellm_mlx.backend import BACKENDS, mx
from mobilellm_mlx.models import build_config
from mobilellm_mlx.models.config import TemperatureConfig
from mobilellm_mlx.models.uncached import Uncached, make_uncached, packs
from mobilellm_mlx.training.batches import Order, in_order, make_batch
from mobilellm_mlx.training.data.example import Example


def lengths_to_examples(lengths):
    return [Example(array("i", range(n)), bytes([0] + [1] * (n - 1))) for n in lengths]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=90),
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
    pack=st.sampled_from([None, 40, 64]),
)
def test_every_example_comes_once_an_epoch(lengths, size, seed, pack):
    order = Order(lengths_to_examples(lengths), size, seed, pack)
    for epoch in (0, 1):
        batches = order.epoch(epoch)
        seen = sorted(index for batch in batches for row in batch for index in row)
        assert seen == list(range(len(lengths)))
        assert all(0 < len(batch) <= size for batch in batches)
        if pack:
            assert all(sum(lengths[i] for i in row) <= pack for b in batches for row in b)
            continue
        assert sum(len(batch) < size for batch in batches) <= 1


def test_the_order_follows_from_seed_and_epoch_alone():
    examples = counting(50, 1)
    one, other = Order(examples, 4, 7), Order(examples, 4, 7)
    other.epoch(3)
    assert one.epoch(1) == other.epoch(1)
    assert one.epoch(0) != one.epoch(1)
    assert Order(examples, 4, 8).epoch(1) != one.epoch(1)


def test_examples_of_like_length_come_together():
    examples = counting(400, 1)
    spread = [
        max(len(examples[i]) for (i,) in batch) - min(len(examples[i]) for (i,) in batch)
        for batch in Order(examples, 8, 0).epoch(0)
    ]
    assert sum(spread) / len(spread) < 4  # by chance it would be about 18


def test_packing_wastes_little():
    examples = counting(300, 1)
    batches = Order(examples, 4, 0, 128).epoch(0)
    rows = [row for batch in batches for row in batch]
    used = sum(len(examples[i]) for row in rows for i in row)
    assert used / (128 * len(rows)) > 0.85


def test_a_batch_says_what_predicts_what():
    examples = [
        Example(array("i", [5, 6, 7, 8]), bytes([0, 0, 1, 1])),
        Example(array("i", [9, 10]), bytes([0, 1])),
    ]
    batch = make_batch(examples, [(0,), (1,)])
    assert batch.tokens.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 10]
    assert (batch.learned, batch.total, batch.segments) == (3, 6, None)


def test_a_packed_row_says_whose_its_tokens_are():
    examples = [
        Example(array("i", [5, 6, 7]), bytes([0, 1, 1])),
        Example(array("i", [9, 10]), bytes([0, 1])),
    ]
    batch = make_batch(examples, [(0, 1)], packed=True)
    assert batch.tokens.tolist() == [[5, 6, 7, 9, 10]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1]]
    assert batch.positions.tolist() == [0, 1, 3]  # the 9 is predicted by nobody


def test_on_a_gpu_shapes_are_few(monkeypatch):
    monkeypatch.setattr("mobilellm_mlx.training.batches.backend", lambda: BACKENDS["metal"])
    for count in (1, 3, 8):
        batch = make_batch(counting(count, count), [(i,) for i in range(count)])
        assert batch.tokens.shape[1] == 32
        assert batch.positions.shape[0] % 64 == 0
        assert batch.weights.sum().item() == batch.learned


def test_losses_are_measured_in_one_order():
    examples = counting(21, 1)
    lengths = [len(examples[i]) for batch in in_order(examples, 4) for (i,) in batch]
    assert lengths == sorted(lengths) and len(lengths) == 21


def layer(**changed):
    [first, *_] = build_config(LLAMA).layers
    return replace(first, **changed)


@pytest.mark.parametrize("attention, window, want", [
    ("full", None, None),
    ("sliding", 3, [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0],
                    [0, 0, 1, 1, 1]]),
    ("chunked", 3, [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0],
                    [0, 0, 0, 1, 1]]),
    ("sliding", 5, None),
])  # fmt: skip
def test_windows_end_where_they_should(attention, window, want):
    kind = layer(attention=attention, window=window)
    mask = Uncached(kind).mask(5)
    assert mask == "causal" if want is None else mask.astype(mx.int32).tolist() == want


@pytest.mark.parametrize("changed, can", [
    ({}, True), ({"attention": "sliding", "window": 3}, True),
    ({"attention": "chunked", "window": 3}, False),
    ({"temperature": TemperatureConfig(0.1, 8192)}, False),
])  # fmt: skip
def test_positions_that_count_from_the_start_of_a_row_cannot_share_it(changed, can):
    config = build_config(LLAMA)
    assert packs(replace(config, layers=(layer(), layer(**changed)))) == can


def test_tokens_see_their_own_example_only():
    config = build_config(LLAMA)
    segments = mx.array([[0, 0, 0, 1, 1, -1]])
    mask = make_uncached(config, segments)[0].mask(6)
    assert mask.shape == (1, 1, 6, 6)
    assert mask[0, 0].astype(mx.int32).tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1],
    ]  # fmt: skip
