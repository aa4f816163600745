"""The product of packed weights: MLX's numbers, for every shape, on every path."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx

many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(rows: int, columns: int, group: int, bits: int) -> tuple[mx.array, mx.array, mx.array]:
    weight = mx.random.normal((rows, columns), scale=columns**-0.5)
    return tuple(mx.quantize(weight, group_size=group, bits=bits))  # type: ignore[return-value]


def reference(x: mx.array, matrix: Any, group: int, bits: int) -> mx.array:
    return mx.quantized_matmul(x, *matrix, transpose=True, group_size=group, bits=bits)


@many
@given(
    rows=some.integers(1, 130),
    groups=some.integers(1, 9),
    group=some.sampled_from([32, 64]),
    bits=some.sampled_from([4, 8]),
    tokens=some.integers(1, 40),
    path=some.integers(0, 3),
    threads=some.integers(1, 3),
)
def test_any_shape_gives_what_mlx_gives(
    module: Any,
    rows: int,
    groups: int,
    group: int,
    bits: int,
    tokens: int,
    path: int,
    threads: int,
) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    module.set_threads(threads)
    matrix = packed(rows, groups * group, group, bits)
    x = mx.random.normal((tokens, groups * group))
    got = module.quantized_matmul(x, *matrix, group, bits)
    assert_close(got, reference(x, matrix, group, bits), FP32_REORDERED, "product")


@pytest.mark.parametrize("bits", [4, 8])
def test_views_and_slices_are_read_where_they_lie(module: Any, bits: int) -> None:
    whole = packed(96, 128, 32, bits)
    matrix = [part[5:70] for part in whole]
    wide = mx.random.normal((3, 7, 130))
    for x in (
        wide[:, :, 1:129],  # misaligned, with gaps
        wide[:, ::2, 1:129],
        mx.random.normal((7, 3, 128)).transpose(1, 0, 2),
        mx.broadcast_to(mx.random.normal((128,)), (4, 128)),
        mx.random.normal((128, 6)).T,
        mx.random.normal((128,)),
    ):
        got = module.quantized_matmul(x, *matrix, 32, bits)
        assert_close(got, reference(x, matrix, 32, bits), FP32_REORDERED, str(x.shape))


def test_nothing_times_a_matrix_is_nothing(module: Any) -> None:
    matrix = packed(48, 64, 32, 4)
    assert module.quantized_matmul(mx.zeros((0, 64)), *matrix, 32, 4).shape == (0, 48)
    assert module.quantized_matmul(mx.zeros((2, 0, 64)), *matrix, 32, 4).tolist() == [[], []]


def test_what_does_not_fit_is_refused(module: Any) -> None:
    codes, scales, biases = packed(48, 64, 32, 4)
    x = mx.zeros((1, 64))
    for wrong in (
        (mx.zeros((1, 32)), codes, scales, biases, 32, 4),
        (mx.zeros((1, 64), mx.float16), codes, scales, biases, 32, 4),
        (x, codes, scales.astype(mx.float16), biases, 32, 4),
        (x, codes, scales[:, :1], biases, 32, 4),
        (x, codes, scales, biases[1:], 32, 4),
        (x, codes, scales, biases, 64, 4),
        (x, codes, scales, biases, 32, 3),
        (x, codes.astype(mx.int32), scales, biases, 32, 4),
        (x, codes[0], scales, biases, 32, 4),
    ):
        with pytest.raises(ValueError, match=r"must|no kernel|float32"):
            module.quantized_matmul(*wrong)


def test_gradients_of_activations_are_those_of_mlx(module: Any) -> None:
    matrix = packed(48, 64, 32, 4)
    x, y = mx.random.normal((3, 64)), mx.random.normal((3, 48))
    ours = mx.grad(lambda x: (module.quantized_matmul(x, *matrix, 32, 4) * y).sum())(x)
    theirs = mx.grad(lambda x: (reference(x, matrix, 32, 4) * y).sum())(x)
    assert_close(ours, theirs, FP32_REORDERED, "gradient")
    _, (moved,) = mx.jvp(lambda x: module.quantized_matmul(x, *matrix, 32, 4), [x], [x])
    assert_close(moved, reference(x, matrix, 32, 4), FP32_REORDERED, "derivative along x")


def plain_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


@pytest.mark.parametrize("path", range(4))
def test_swiglu_is_what_its_formula_says(module: Any, path: int) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    gate = mx.concatenate([mx.linspace(-120, 120, 997), mx.array([0.0, -1e4, 1e4])])
    got = module.swiglu(gate, mx.ones_like(gate))
    scale = mx.maximum(mx.abs(gate), 1)
    assert_close(got / scale, plain_swiglu(gate, mx.ones_like(gate)) / scale, 1e-6, "swiglu")
    gate, up = mx.random.normal((3, 5, 33)), mx.random.normal((5, 3, 33)).transpose(1, 0, 2)
    assert_close(module.swiglu(gate, up), plain_swiglu(gate, up), 1e-5, "views")
    assert module.swiglu(mx.zeros((0, 4)), mx.zeros((0, 4))).shape == (0, 4)
    for argument in (0, 1):
        ours = mx.grad(lambda g, u: module.swiglu(g, u).square().sum(), argnums=argument)(gate, up)
        theirs = mx.grad(lambda g, u: plain_swiglu(g, u).square().sum(), argnums=argument)(gate, up)
        assert_close(ours, theirs, FP32_REORDERED, f"gradient {argument}")
    with pytest.raises(ValueError, match="shape"):
        module.swiglu(gate, up[:, :1])


def test_paths_have_names_and_threads_a_number(module: Any) -> None:
    assert module.paths()[-1] == "plain" and module.path() in module.paths()
    with pytest.raises(ValueError, match="no path"):
        module.choose("sse9")
    module.set_threads(0)
    assert module.threads() == 1


@pytest.mark.parametrize("path", range(4))
@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_a_number_far_greater_than_the_others_does_not_drown_them(
    module: Any, path: int, tokens: int
) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    codes, scales, biases = packed(40, 192, 32, 4)
    x = mx.random.normal((tokens, 192))
    x[:, 7] *= 3000  # as the first token of a text has it
    got = module.quantized_matmul(x, codes, scales, biases, 32, 4)
    whole = mx.dequantize(codes, mx.ones_like(scales), mx.zeros_like(biases), 32, 4)
    with mx.stream(mx.cpu):
        wide, parts = x.astype(mx.float64), []
        for numbers, factors in ((whole, scales), (mx.ones_like(whole), biases)):
            every = mx.repeat(factors, 32, axis=1).astype(mx.float64)
            parts.append(numbers.astype(mx.float64) * every)
        want = wide @ (parts[0] + parts[1]).T
        size = mx.abs(wide) @ (mx.abs(parts[0]) + mx.abs(parts[1])).T
        assert (mx.abs(got.astype(mx.float64) - want) / size).max().item() < 1e-6


@pytest.mark.parametrize("path", range(4))
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_what_is_no_number_is_not_hidden(module: Any, path: int, bits: int, tokens: int) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    matrix = packed(40, 64, 32, bits)
    for wrong in (math.nan, math.inf, -math.inf):
        x = mx.ones((tokens, 64))
        x[0, 5] = wrong
        got = module.quantized_matmul(x, *matrix, 32, bits)
        assert not mx.isfinite(got[0]).any().item()
        assert mx.isfinite(got[1:]).all().item()


@pytest.mark.parametrize("path", range(4))
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-37, 1e-30, 1e30])
def test_small_and_great_numbers_are_multiplied_too(module: Any, path: int, size: float) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    matrix = packed(40, 64, 32, 4)
    x = mx.random.normal((1, 64)) * size
    got = module.quantized_matmul(x, *matrix, 32, 4)
    assert_close(got, reference(x, matrix, 32, 4), max(1e-5 * size, 1e-34), "product")


def test_arrays_in_large_pages_are_the_same_arrays(module: Any) -> None:
    arrays = [
        *packed(48, 64, 32, 4),
        mx.arange(7, dtype=mx.uint8),
        mx.ones((3, 2)).T,
        mx.zeros((0, 4)),
    ]
    pages = module.Pages(sum(array.nbytes for array in arrays), len(arrays))
    taken = [pages.take(array) for array in arrays]
    del pages
    for old, new in zip(arrays, taken, strict=True):
        assert new.shape == old.shape and new.dtype == old.dtype
        assert mx.array_equal(new, old).item()
    assert mx.array_equal(
        taken[0][5:9] + 1, arrays[0][5:9] + 1
    ).item()  # it is an array like others
    with pytest.raises(ValueError, match="announced"):
        module.Pages(8, 1).take(mx.zeros((100,)))


def test_large_pages_hold_more_than_32_bits_can_count(module: Any) -> None:
    array = mx.arange(1000)
    taken = module.Pages(4 << 30, 1).take(array)  # what is not written takes no memory
    assert mx.array_equal(taken, array).item()


def test_pages_that_nothing_can_hold_are_an_error(module: Any) -> None:
    before = mx.get_active_memory()
    with pytest.raises(MemoryError):
        module.Pages(1 << 62, 1)
    # MLX would work one operation at a time from then on, for it holds more than there is.
    assert mx.get_active_memory() == before


def test_others_go_on_while_an_array_is_read_into_pages(module: Any) -> None:
    """Weights come from a disk, and an interface must not stand still meanwhile."""
    array = mx.ones((1 << 20,))
    for _ in range(10):
        array = mx.sin(array)
    done, seen = threading.Event(), 0

    def count() -> None:
        nonlocal seen
        while not done.wait(0.001):
            seen += 1

    other = threading.Thread(target=count)
    other.start()
    module.Pages(array.nbytes, 1).take(array)
    done.set()
    other.join()
    assert seen > 20
