"""Token by token equals all at once, for every shape of network."""

from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, make_model
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.models import LanguageModel

SHAPES: dict[str, dict[str, Any]] = {
    "tied": LLAMA,
    "untied": {**LLAMA, "tie_word_embeddings": False},
    "shared-tied": MOBILELLM,
    "shared-untied": {**MOBILELLM, "share_embedding": False},
}


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(SHAPES[request.param])


def tokens(length: int, batch: int = 1) -> mx.array:
    return mx.random.randint(0, 258, (batch, length), key=mx.random.key(7))


def feed(model: LanguageModel, ids: mx.array, pieces: list[int], caches: Any = None) -> mx.array:
    """Logits of all positions, the tokens given in pieces of these lengths."""
    caches = model.make_cache() if caches is None else caches
    parts, start = [], 0
    for length in pieces:
        parts.append(model(ids[:, start : start + length], caches))
        mx.eval(parts[-1])
        start += length
    assert start == ids.shape[1]
    return mx.concatenate(parts, axis=1)


def test_one_token_at_a_time_equals_all_at_once(model: LanguageModel) -> None:
    ids = tokens(24)
    assert_close(feed(model, ids, [1] * 24), model(ids), FP32_REORDERED, "one at a time")


@pytest.mark.parametrize("pieces", [[24], [1, 23], [23, 1], [5, 1, 7, 2, 9], [8, 8, 8]])
def test_uneven_pieces_equal_all_at_once(model: LanguageModel, pieces: list[int]) -> None:
    ids = tokens(24)
    assert_close(feed(model, ids, pieces), model(ids), FP32_REORDERED, f"pieces {pieces}")


def test_two_rows_of_a_batch_equal_each_row_alone(model: LanguageModel) -> None:
    ids = tokens(17, batch=2)
    together = feed(model, ids, [5, 1, 11])
    for row in range(2):
        alone = model(ids[row : row + 1])
        assert_close(together[row : row + 1], alone, FP32_REORDERED, f"row {row}")


@pytest.mark.parametrize("prefill", [254, 255, 256, 257])
@pytest.mark.parametrize("shape", ["tied", "shared-tied"])
def test_decoding_across_a_step_of_the_cache_equals_all_at_once(shape: str, prefill: int) -> None:
    model, ids = make_model(SHAPES[shape]), tokens(260)
    got = feed(model, ids, [prefill] + [1] * (260 - prefill))
    assert_close(got, model(ids), FP32_REORDERED, f"across the step from {prefill}")


def test_no_position_sees_a_later_token(model: LanguageModel) -> None:
    ids = tokens(12)
    changed = mx.concatenate([ids[:, :8], (ids[:, 8:] + 1) % 258], axis=1)
    assert_close(model(changed)[:, :8], model(ids)[:, :8], FP32_REORDERED, "causality")


def test_every_earlier_token_matters(model: LanguageModel) -> None:
    ids = tokens(12)
    changed = mx.concatenate([(ids[:, :1] + 1) % 258, ids[:, 1:]], axis=1)
    assert mx.abs(model(changed)[:, -1] - model(ids)[:, -1]).max().item() > 1e-2


@pytest.mark.parametrize("kept", [0, 1, 9, 19])
def test_trimming_and_going_on_equals_a_fresh_start(model: LanguageModel, kept: int) -> None:
    first, second = tokens(20), (tokens(26) + 3) % 258
    caches = model.make_cache()
    feed(model, first, [20], caches)
    for cache in caches:
        cache.trim(20 - kept)
    wanted = mx.concatenate([first[:, :kept], second[:, kept:]], axis=1)
    got = feed(model, second[:, kept:], [3, 26 - kept - 3], caches)
    assert_close(got, model(wanted)[:, kept:], FP32_REORDERED, f"{kept} kept")


def test_trimming_over_a_step_of_the_cache_equals_a_fresh_start(model: LanguageModel) -> None:
    ids, caches = tokens(260), model.make_cache()
    feed(model, ids, [260], caches)
    for cache in caches:
        cache.trim(10)
    got = feed(model, ids[:, 250:], [10], caches)
    assert_close(got, model(ids)[:, 250:], FP32_REORDERED, "trimmed over the step")


def test_saved_caches_go_on_in_fresh_ones(model: LanguageModel) -> None:
    ids, caches = tokens(20), model.make_cache()
    feed(model, ids[:, :13], [13], caches)
    restored = model.make_cache()
    for old, new in zip(caches, restored, strict=True):
        new.restore(old.state, old.offset)
    assert [cache.offset for cache in restored] == [13] * len(caches)
    got = feed(model, ids[:, 13:], [1, 6], restored)
    assert_close(got, model(ids)[:, 13:], FP32_REORDERED, "restored")


def test_each_run_of_a_shared_block_keeps_keys_of_its_own() -> None:
    model, ids = make_model(MOBILELLM), tokens(9)
    caches = model.make_cache()
    feed(model, ids, [9], caches)
    assert [cache.offset for cache in caches] == [9, 9, 9, 9]
    first, second = caches[0].state, caches[1].state
    assert first is not None and second is not None
    assert mx.abs(first[0] - second[0]).max().item() > 0.1


def test_a_network_refuses_the_wrong_number_of_caches() -> None:
    model = make_model(MOBILELLM)
    with pytest.raises(ValueError, match="2 caches given, expected 4"):
        model(tokens(3), model.make_cache()[:2])


def test_a_full_context_is_an_error_that_names_the_limit(model: LanguageModel) -> None:
    caches = model.make_cache(16)
    feed(model, tokens(16), [10, 6], caches)
    with pytest.raises(ContextOverflow, match="16") as caught:
        model(tokens(1), caches)
    assert (caught.value.tokens, caught.value.limit) == (17, 16)
    assert caught.value.hint


def test_the_trained_context_is_the_limit_when_none_is_given() -> None:
    model = make_model({**LLAMA, "max_position_embeddings": 20})
    feed(model, tokens(20), [20])
    with pytest.raises(ContextOverflow) as caught:
        model(tokens(21))
    assert caught.value.limit == 20


def test_the_bytes_of_a_token_are_what_the_cache_really_takes(model: LanguageModel) -> None:
    caches = model.make_cache()
    feed(model, tokens(256), [256], caches)  # a whole step: no room left over
    assert sum(cache.nbytes for cache in caches) == 256 * model.kv_bytes_per_token()
