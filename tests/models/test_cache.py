"""The cache by itself."""

import numpy as np
import pytest
from tolerances import as_float64

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.models import KVCache


def entries(start: int, length: int, batch: int = 1) -> mx.array:
    """(B, 2, L, 4), every element naming its position."""
    positions = mx.arange(start, start + length).reshape(1, 1, length, 1)
    return mx.broadcast_to(positions.astype(mx.float32), (batch, 2, length, 4))


def append(cache: KVCache, start: int, length: int) -> mx.array:
    keys, values = cache.update(entries(start, length), -entries(start, length))
    assert (as_float64(values) == -as_float64(keys)).all()
    return keys


def test_a_cache_gives_back_everything_in_order() -> None:
    cache = KVCache()
    for start, length in ((0, 3), (3, 1), (4, 300), (304, 1)):
        keys = append(cache, start, length)
        assert as_float64(keys)[0, 0, :, 0].tolist() == list(range(start + length))
    assert cache.offset == 305


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (255, 1), (256, 1), (257, 2), (513, 3)])
def test_memory_is_taken_in_steps_of_256_tokens(tokens: int, steps: int) -> None:
    cache = KVCache()
    assert cache.nbytes == 0
    append(cache, 0, tokens)
    assert cache.nbytes == steps * 256 * 2 * 4 * 4 * 2  # tokens, heads, dim, bytes, keys + values


def test_memory_grows_only_at_the_end_of_a_step() -> None:
    cache, sizes = KVCache(), []
    append(cache, 0, 254)
    for position in range(254, 259):
        append(cache, position, 1)
        sizes.append(cache.nbytes)
    assert sizes == [sizes[0], sizes[0], 2 * sizes[0], 2 * sizes[0], 2 * sizes[0]]


def test_sixteen_bit_entries_stay_sixteen_bit() -> None:
    cache = KVCache()
    half = entries(0, 3).astype(mx.float16)
    keys, _ = cache.update(half, half)
    assert keys.dtype == mx.float16
    assert cache.nbytes == 256 * 2 * 4 * 2 * 2


def test_the_limit_can_be_reached_but_not_passed() -> None:
    cache = KVCache(limit=10)
    append(cache, 0, 10)
    with pytest.raises(ContextOverflow, match=r"11 tokens but the context is 10"):
        append(cache, 10, 1)
    assert cache.offset == 10


def test_an_overflow_leaves_the_cache_as_it_was() -> None:
    cache = KVCache(limit=10)
    append(cache, 0, 4)
    with pytest.raises(ContextOverflow):
        append(cache, 4, 7)
    assert as_float64(append(cache, 4, 2))[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_trimmed_entries_are_overwritten() -> None:
    cache = KVCache()
    append(cache, 0, 8)
    cache.trim(5)
    assert as_float64(append(cache, 50, 2))[0, 0, :, 0].tolist() == [0, 1, 2, 50, 51]


@pytest.mark.parametrize("count", [-1, 9])
def test_trimming_more_than_is_held_is_refused(count: int) -> None:
    cache = KVCache()
    append(cache, 0, 8)
    with pytest.raises(ValueError, match=f"cannot trim {count} of 8"):
        cache.trim(count)
    assert cache.offset == 8


def test_an_empty_cache_has_no_state() -> None:
    cache = KVCache()
    assert cache.state is None
    cache.restore(None, 0)
    assert (cache.offset, cache.nbytes) == (0, 0)


def test_the_state_is_what_was_appended_without_the_room_for_growth() -> None:
    cache = KVCache()
    append(cache, 0, 8)
    cache.trim(3)
    assert cache.state is not None
    assert [array.shape for array in cache.state] == [(1, 2, 5, 4), (1, 2, 5, 4)]


def test_a_restored_cache_goes_on_where_the_saved_one_was() -> None:
    cache, other = KVCache(), KVCache()
    append(cache, 0, 8)
    other.restore(cache.state, cache.offset)
    assert as_float64(append(other, 8, 2))[0, 0, :, 0].tolist() == list(range(10))


@pytest.mark.parametrize(("held", "offset"), [(8, 9), (8, 7), (0, 1), (21, 21)])
def test_a_state_that_a_cache_never_has_is_not_restored(held: int, offset: int) -> None:
    cache = KVCache(limit=20)
    append(cache, 0, 3)
    state = (mx.zeros((1, 2, held, 4)), mx.zeros((1, 2, held, 4)))
    with pytest.raises(ValueError, match=f"{held} tokens held of {offset}"):
        cache.restore(state, offset)
    assert cache.offset == 3


def test_going_on_in_a_restored_cache_does_not_change_the_saved_state() -> None:
    cache, other = KVCache(), KVCache()
    append(cache, 0, 8)
    saved = cache.state
    assert saved is not None
    other.restore(saved, cache.offset)
    other.trim(4)
    append(other, 90, 2)
    mx.eval(other.arrays)
    assert np.array(saved[0])[0, 0, :, 0].tolist() == list(range(8))


def test_going_on_in_the_original_does_not_change_the_saved_state() -> None:
    cache = KVCache()
    append(cache, 0, 8)
    saved = cache.state
    assert saved is not None
    cache.trim(4)
    append(cache, 90, 2)
    mx.eval(cache.arrays)
    assert np.array(saved[0])[0, 0, :, 0].tolist() == list(range(8))


def test_only_several_new_tokens_need_a_mask() -> None:
    assert (KVCache().mask(1), KVCache().mask(2)) == (None, "causal")
