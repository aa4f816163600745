"""Attention and SwiGLU without MLX's exponential: the same as with it."""

import numpy as np
import pytest

from mobilellm_mlx.backend import mx
from mobilellm_mlx.models import elementary
from mobilellm_mlx.models.elementary import attend, exp2, is_slow, swiglu


def test_a_power_of_two_is_right_to_the_last_bits() -> None:
    x = mx.linspace(-125, 126.9, 100_001)
    exact = np.exp2(np.array(x, np.float64))
    assert np.abs(np.array(exp2(x), np.float64) / exact - 1).max() < 4e-7
    assert 0 <= exp2(mx.array(-126.0)).item() < 2e-38


@pytest.mark.parametrize("length, held", [(1, 1), (1, 9), (7, 7), (5, 12), (64, 90)])
@pytest.mark.parametrize("block", [1, 500, 1 << 18])
def test_attention_is_mlxs(length, held, block, monkeypatch) -> None:
    monkeypatch.setattr(elementary, "BLOCK", block)
    queries = mx.random.normal((2, 6, length, 8)) * 4
    keys, values = mx.random.normal((2, 2, held, 8)), mx.random.normal((2, 2, held, 8))
    window = mx.arange(held) > mx.arange(held - length, held)[:, None] - 3
    seen = mx.arange(held) <= mx.arange(held - length, held)[:, None]
    for mask in (None, "causal", window & seen):
        theirs = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
        assert mx.abs(attend(queries, keys, values, scale=0.3, mask=mask) - theirs).max() < 2e-6


def test_gradients_are_mlxs() -> None:
    queries, keys = mx.random.normal((1, 4, 5, 8)), mx.random.normal((1, 2, 9, 8))

    def loss(attention, queries, keys):
        return (attention(queries, keys, keys, scale=0.3, mask="causal") ** 2).sum()

    ours = mx.grad(lambda q, k: loss(attend, q, k), argnums=(0, 1))(queries, keys)
    theirs = mx.grad(lambda q, k: loss(mx.fast.scaled_dot_product_attention, q, k), argnums=(0, 1))
    for mine, other in zip(ours, theirs(queries, keys), strict=True):
        assert mx.abs(mine - other).max() < 1e-5


def test_swiglu_is_mlxs_however_large_its_numbers_are() -> None:
    gate = mx.array([-1e4, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 200.0, 1e4])
    up = mx.random.normal(gate.shape)
    assert mx.allclose(swiglu(gate, up), gate * mx.sigmoid(gate) * up, rtol=1e-6, atol=1e-30)


def test_numbers_of_sixteen_bits_are_left_to_mlx() -> None:
    assert not is_slow(1 << 20, mx.bfloat16)
