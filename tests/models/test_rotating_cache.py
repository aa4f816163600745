"""The cache of a window, and the chunks of the other one, by themselves."""

from typing import Any

import numpy as np
import pytest
from tolerances import as_float64

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.models import KVCache, RotatingKVCache

WINDOW = 8


def entries(start: int, length: int) -> mx.array:
    """(1, 2, L, 4), every element naming its position."""
    positions = mx.arange(start, start + length).reshape(1, 1, length, 1)
    return mx.broadcast_to(positions.astype(mx.float32), (1, 2, length, 4))


def append(cache: KVCache | RotatingKVCache, length: int, start: int | None = None) -> list[Any]:
    """Append tokens that name their positions; which ones each of them then sees."""
    start = cache.offset if start is None else start
    keys, values = cache.update(entries(start, length), -entries(start, length))
    assert (as_float64(values) == -as_float64(keys)).all()
    positions = as_float64(keys)[0, 0, :, 0]
    mask = cache.mask(length)
    if mask is None:
        seen = np.ones((length, len(positions)), bool)
    elif isinstance(mask, str):  # aligned to the last key
        seen = np.tri(length, len(positions), len(positions) - length, dtype=bool)
    else:
        seen = np.array(mask)
    return [positions[row].astype(int).tolist() for row in seen]


def wanted(first: int, last: int, window: int) -> list[list[int]]:
    return [list(range(max(0, i - window + 1), i + 1)) for i in range(first, last)]


@pytest.mark.parametrize("window", [1, 2, 8, 255, 256, 257])
@pytest.mark.parametrize("piece", [1, 3, 8, 11, 255, 300])
def test_each_token_sees_exactly_its_window_whatever_the_pieces(window: int, piece: int) -> None:
    cache = RotatingKVCache(window)
    for start in range(0, 40 * piece if piece < 20 else 3 * piece, piece):
        assert append(cache, piece) == wanted(start, start + piece, window)


def test_a_long_prompt_then_single_tokens_see_exactly_their_windows() -> None:
    cache = RotatingKVCache(WINDOW)
    assert append(cache, 700) == wanted(0, 700, WINDOW)
    for position in range(700, 1300):
        assert append(cache, 1) == wanted(position, position + 1, WINDOW)


def token_bytes(cache: KVCache | RotatingKVCache) -> int:
    """Room that is taken, in tokens of ``entries``: heads, dim, bytes, keys and values."""
    return cache.nbytes // (2 * 4 * 4 * 2)


@pytest.mark.parametrize("piece", [256, 512, 1024])
def test_the_window_of_pro_takes_room_for_itself_and_one_piece_of_the_prompt(piece: int) -> None:
    cache, most = RotatingKVCache(512), 0
    for _ in range(8192 // piece):
        append_only(cache, piece)
        most = max(most, token_bytes(cache))
    assert 512 <= most <= 512 + piece
    for _ in range(1300):
        append_only(cache, 1)
    assert token_bytes(cache) < 512 + RotatingKVCache.step


@pytest.mark.parametrize("piece", [1, 3, 11, 255, 700])
def test_any_window_takes_less_than_itself_a_piece_and_a_step(piece: int) -> None:
    cache = RotatingKVCache(WINDOW)
    for _ in range(max(3, 600 // piece)):
        append_only(cache, piece)
        assert token_bytes(cache) < WINDOW + piece + RotatingKVCache.step


def append_only(cache: RotatingKVCache, length: int) -> None:
    cache.update(entries(cache.offset, length), -entries(cache.offset, length))
    mx.eval(cache.arrays)


@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_a_window_that_has_not_moved_can_be_trimmed(count: int) -> None:
    cache = RotatingKVCache(WINDOW)
    append(cache, 7)
    assert cache.can_trim(count)
    cache.trim(count)
    assert cache.offset == 7 - count
    assert append(cache, 9) == wanted(7 - count, 16 - count, WINDOW)


def test_a_window_that_has_moved_refuses_to_be_trimmed_and_stays_as_it_was() -> None:
    cache = RotatingKVCache(WINDOW)
    append(cache, 250)
    for _ in range(20):  # over the step: tokens before the window are let go
        append(cache, 1)
    assert not cache.can_trim(200)
    with pytest.raises(ValueError, match="cannot trim 200 of 270"):
        cache.trim(200)
    assert cache.offset == 270
    assert append(cache, 2) == wanted(270, 272, WINDOW)


def test_a_window_that_has_moved_can_give_back_its_latest_tokens() -> None:
    cache = RotatingKVCache(WINDOW)
    append(cache, 250)
    for _ in range(20):
        append(cache, 1)
    cache.trim(3)  # a rejected guess, say
    assert append(cache, 2) == wanted(267, 269, WINDOW)


@pytest.mark.parametrize("count", [-1, 8])
def test_trimming_less_than_nothing_or_more_than_everything_is_refused(count: int) -> None:
    cache = RotatingKVCache(WINDOW)
    append(cache, 7)
    assert not cache.can_trim(count)
    with pytest.raises(ValueError, match=f"cannot trim {count} of 7"):
        cache.trim(count)


@pytest.mark.parametrize("window", [1, 2, 8, 300])
@pytest.mark.parametrize("pieces", [[5], [8, 1], [240] + [1] * 40, [300, 1, 1], [3] * 100])
def test_whatever_can_be_trimmed_goes_on_as_if_never_seen(window: int, pieces: list[int]) -> None:
    def filled() -> RotatingKVCache:
        cache = RotatingKVCache(window)
        for piece in pieces:
            append_only(cache, piece)
        return cache

    seen, full = sum(pieces), filled()
    possible = [count for count in range(seen + 1) if full.can_trim(count)]
    assert possible == list(range(len(possible)))
    for count in {0, 1, possible[-1] - 1, possible[-1]} & set(possible):
        cache = filled()
        cache.trim(count)
        left = seen - count
        assert append(cache, 3) == wanted(left, left + 3, window), count


def test_a_window_counts_all_tokens_against_the_limit_and_survives_an_overflow() -> None:
    cache = RotatingKVCache(WINDOW, limit=20)
    append(cache, 19)
    with pytest.raises(ContextOverflow) as caught:
        append(cache, 2)
    assert (caught.value.tokens, caught.value.limit) == (21, 20)
    assert append(cache, 1) == wanted(19, 20, WINDOW)


def test_a_saved_window_goes_on_in_a_fresh_cache_and_is_not_changed_by_it() -> None:
    cache, other = RotatingKVCache(WINDOW), RotatingKVCache(WINDOW)
    append(cache, 250)
    append(cache, 30)
    saved = cache.state
    assert saved is not None
    before = np.array(saved[0])
    other.restore(saved, cache.offset)
    assert append(other, 3) == wanted(280, 283, WINDOW)
    mx.eval(other.arrays)
    assert (np.array(saved[0]) == before).all()
    assert append(cache, 3) == wanted(280, 283, WINDOW)


@pytest.mark.parametrize("lack", [1, WINDOW - 1])
def test_a_window_with_a_gap_is_not_restored(lack: int) -> None:
    held = WINDOW - 1 - lack
    state = (mx.zeros((1, 1, held, 2)), mx.zeros((1, 1, held, 2)))
    with pytest.raises(ValueError, match=f"{held} tokens held of 100"):
        RotatingKVCache(WINDOW).restore(state, 100)


def test_an_empty_window_has_no_state() -> None:
    cache = RotatingKVCache(WINDOW)
    assert (cache.state, cache.offset, cache.nbytes) == (None, 0, 0)


@pytest.mark.parametrize("piece", [1, 3, 5, 11])
def test_each_token_sees_exactly_its_chunk_whatever_the_pieces(piece: int) -> None:
    cache = KVCache(chunk=5)
    for start in range(0, 10 * piece, piece):
        want = [list(range(i - i % 5, i + 1)) for i in range(start, start + piece)]
        assert append(cache, piece) == want
