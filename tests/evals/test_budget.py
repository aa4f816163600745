"""Memory that judging may take: sizes as people write them, and what fits in them."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
from tiny import LLAMA, make_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding.likelihood import Row, batches, judge, judge_all
from mobilellm_mlx.errors import InsufficientMemory, InvalidOption
from mobilellm_mlx.evals.budget import Budget, parse_memory
from mobilellm_mlx.models import build_config

SMOLLM = build_config(
    {
        **LLAMA,
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
    }
)
WEIGHTS = 538_000_000


def questions(
    count: int, shared: int, own: int, answers: int = 4, judged: int | None = None, vocab: int = 258
) -> list[list[Row]]:
    draw = random.Random(0)
    groups = []
    for _ in range(count):
        begun = draw.choices(range(vocab), k=shared)
        ends = [draw.choices(range(vocab), k=own + 1) for _ in range(answers)]
        # Different from their first token on, so that nothing else is shared.
        groups.append(
            [
                Row((*begun, number, *end[1:]), judged or max(own, 1))
                for number, end in enumerate(ends)
            ]
        )
    return groups


def budget(room: int) -> Budget:
    return Budget(WEIGHTS + room, WEIGHTS, SMOLLM, 4)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GB", 2_000_000_000),
        ("2 gb", 2_000_000_000),
        ("1.5g", 1_500_000_000),
        ("800M", 800_000_000),
        ("1GiB", 2**30),
        (" 64 MiB ", 2**26),
        ("12345", 12_345),
        ("12345B", 12_345),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "0", "0.0001k", "nan", "inf", "2 apples", "1e9", "9" * 400, "٢GB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="max-memory") as caught:
        parse_memory(text)
    assert len(caught.value.message) < 120


def test_ample_memory_changes_nothing() -> None:
    assert budget(10**10).batch_tokens(questions(50, 60, 20), 1024) == 1024


def test_less_memory_makes_batches_smaller_and_each_of_them_fits() -> None:
    groups = questions(60, 40, 15)
    before = 2048
    for room in (200_000_000, 100_000_000, 50_000_000):
        allowed = budget(room)
        tokens = allowed.batch_tokens(groups, 2048)
        assert tokens < before
        for numbers in batches(groups, tokens):
            assert allowed.batch_bytes([groups[number] for number in numbers]) <= room
        before = tokens


def test_too_little_for_the_longest_question_is_refused_with_what_is_enough() -> None:
    groups = [*questions(5, 40, 5), *questions(1, 1500, 5)]
    with pytest.raises(InsufficientMemory, match="538 MB are weights") as caught:
        budget(1_000_000).batch_tokens(groups)
    assert caught.value.hint is not None
    least = parse_memory(caught.value.hint.split("`")[1].split()[1])
    Budget(least, WEIGHTS, SMOLLM, 4).batch_tokens(groups)  # is enough
    with pytest.raises(InsufficientMemory):
        Budget(least - 1_000_000, WEIGHTS, SMOLLM, 4).batch_tokens(groups)


def test_too_little_for_the_weights_is_refused() -> None:
    with pytest.raises(InsufficientMemory):
        Budget(WEIGHTS - 1, WEIGHTS, SMOLLM, 4).batch_tokens(questions(1, 5, 1))


def test_nothing_to_judge_fits() -> None:
    assert budget(1).batch_tokens([], 512) == 512


@pytest.mark.parametrize(
    ("batch", "shared", "own", "answers", "judged", "measured_mb"),
    [
        (256, 60, 20, 4, 20, 23),
        (1024, 60, 20, 4, 20, 116),
        (2048, 60, 20, 4, 20, 166),
        (1024, 10, 500, 2, 500, 127),
        (1024, 400, 3, 4, 3, 85),
        (1024, 1020, 0, 2, 1, 135),
        (2048, 2040, 0, 2, 1, 354),
    ],
)
def test_what_the_default_model_held_is_foretold(
    batch: int, shared: int, own: int, answers: int, judged: int, measured_mb: int
) -> None:
    count = max(1, batch // (shared + answers * own))
    beside = budget(0).batch_bytes(questions(count, shared, own, answers, judged))
    measured = measured_mb * 1_000_000
    assert 0.95 * measured < beside
    assert WEIGHTS + beside < 1.25 * (WEIGHTS + measured)


@pytest.mark.parametrize("shape", [(8, 100, 10), (1, 500, 3), (10, 0, 40), (2, 200, 50)])
def test_a_network_holds_no_more_than_foretold(shape: Sequence[int]) -> None:
    model = make_model({**LLAMA, "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 384})
    groups = questions(*shape, vocab=4096)
    judge(model, groups[:1])  # what is made once
    mx.eval(model.parameters())
    mx.clear_cache()
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    judge(model, groups)
    held = mx.get_peak_memory() - weights
    foretold = Budget(0, weights, model.config, 4).batch_bytes(groups)
    assert held <= 1.1 * foretold
    assert foretold <= 4 * held


def test_batches_within_a_budget_hold_less_and_judge_the_same() -> None:
    model = make_model({**LLAMA, "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 384})
    groups = questions(24, 60, 10, vocab=4096)
    mx.eval(model.parameters())
    found, held = [], []
    for room in (10**10, 6_000_000):
        mx.clear_cache()
        weights = mx.get_active_memory()
        tokens = Budget(weights + room, weights, model.config, 4).batch_tokens(groups, 4096)
        mx.reset_peak_memory()
        events = list(judge_all(model, groups, threading.Event(), tokens))
        held.append(mx.get_peak_memory() - weights)
        by_group = sorted(events, key=lambda event: event.group)
        found.append([value for event in by_group for value in event.log_likelihoods])
    assert held[1] <= 6_000_000 < held[0]
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_a_group_that_is_read_in_parts_takes_less_than_all_of_it_at_once() -> None:
    groups = questions(1, 0, 500, answers=40, judged=1)
    allowed = budget(0)
    whole, parts = allowed.batch_bytes(groups), allowed.batch_bytes(groups, 1024)
    assert parts < whole / 5
    assert budget(parts).batch_tokens(groups, 1024) == 1024


def test_a_network_that_reads_a_group_in_parts_holds_no_more_than_foretold() -> None:
    model = make_model({**LLAMA, "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 384})
    groups = questions(1, 20, 60, answers=40, vocab=4096)
    judge(model, groups[:1], 200)
    mx.eval(model.parameters())
    for tokens in (150, 600):
        mx.clear_cache()
        weights = mx.get_active_memory()
        mx.reset_peak_memory()
        judge(model, groups, 4 * tokens // 3)
        held = mx.get_peak_memory() - weights
        foretold = Budget(0, weights, model.config, 4).batch_bytes(groups, tokens)
        assert held <= 1.1 * foretold
        assert foretold <= 4 * held
