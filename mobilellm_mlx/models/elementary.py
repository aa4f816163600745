"""Attention and SwiGLU on Linux CPUs, where MLX's exponential is a slow loop over single numbers.

There ``mx.exp`` takes 12 ns an element on x86, a multiplication 0.15 ns; so a power of two is
put together here from additions and multiplications, in 2.3 ns. Before, three quarters of the time
of attention went into its softmax.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Literal

from mobilellm_mlx.backend import backend, mx

_SERIES = (
    1.0000000710297008,
    0.693146949161071,
    0.24022121753560538,
    0.055507426159929665,
    0.009675459745559145,
    0.0013266970389407844,
)
"""Of 2**f for f in [-1/2, 1/2], the least relative error that six float32 terms allow: 3e-7."""
_ROUNDING = 1.5 * 2**23
"""Added to a small number it leaves the nearest whole one in the last bits of the sum."""
_LOG2_E = math.log2(math.e)
FEW = 4096
"""Numbers up to which MLX's own operations are quicker, because they are fewer."""
BLOCK = 1 << 17
"""Scores that are worked on at once: 512 kB, so that they stay in a core's cache."""


def _power(x: mx.array) -> mx.array:
    shifted = x + _ROUNDING
    rest = x - (shifted - _ROUNDING)
    series = _SERIES[-1] * rest + _SERIES[-2]
    for term in _SERIES[-3::-1]:
        series = series * rest + term
    # The exponent is added to the bits of a number between 0.7 and 1.4.
    return ((shifted.view(mx.int32) << 23) + series.view(mx.int32)).view(mx.float32)


_with_gradient: Any = mx.custom_function(_power)


@_with_gradient.vjp  # type: ignore[untyped-decorator]
def _power_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * math.log(2)


def exp2(x: mx.array) -> mx.array:
    """2**x for float32 x in [-126, 127]."""
    result: mx.array = _with_gradient(x)
    return result


def is_slow(numbers: int, dtype: mx.Dtype) -> bool:
    """Whether so many exponentials had better not be left to MLX."""
    is_here = backend().name == "cpu" and sys.platform == "linux"
    return is_here and numbers > FEW and dtype == mx.float32


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    mask: mx.array | Literal["causal"] | None,
) -> mx.array:
    """As ``mx.fast.scaled_dot_product_attention``, in float32.

    Args:
        queries: (B, H, L, E).
        keys: (B, K, S, E).
        values: (B, K, S, E).
        scale: of the scores.
        mask: boolean, what may be seen, (L, S) or (B, 1, L, S); ``causal`` is aligned to the last
            key.
    """
    batch, heads, length, dim = queries.shape
    _, kv_heads, held, _ = keys.shape
    rows = max(1, BLOCK // (batch * heads * held))
    queries = queries * (scale * _LOG2_E)
    parts = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        seen = held - length + end if mask == "causal" else held
        part = queries[:, :, start:end].reshape(batch, kv_heads, -1, dim)  # (B, K, H/K * l, E)
        scores = part @ keys[:, :, :seen].swapaxes(-1, -2)
        if mask is not None and seen > 1:
            hidden = _hidden(mask, start, end, seen)
            scores = scores.reshape(batch, heads, end - start, seen) + hidden
            scores = scores.reshape((*part.shape[:-1], seen))
        weights = exp2(mx.maximum(scores - scores.max(axis=-1, keepdims=True), -126.0))
        mixed = (weights @ values[:, :, :seen]) / weights.sum(axis=-1, keepdims=True)
        parts.append(mixed.reshape(batch, heads, end - start, dim))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _hidden(mask: mx.array | Literal["causal"], start: int, end: int, seen: int) -> mx.array:
    """What is added to the scores of some queries: much less than nothing for what they miss."""
    if isinstance(mask, str):
        last = mx.arange(seen - (end - start), seen)[:, None]
        allowed = mx.arange(seen) <= last
    else:
        allowed = mask[..., start:end, :]
    return mx.where(allowed, 0.0, -1e30)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """``silu(gate) * up``, in float32; for its gradient only the two are kept."""
    result: mx.array = _swiglu_with_gradient(gate, up)
    return result


def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * _sigmoid(gate) * up


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + exp2(mx.clip(x * -_LOG2_E, -126.0, 126.0)))


_swiglu_with_gradient: Any = mx.custom_function(_swiglu)


@_swiglu_with_gradient.vjp  # type: ignore[untyped-decorator]
def _swiglu_vjp(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    gate, up = primals
    sigmoid = _sigmoid(gate)
    silu = gate * sigmoid
    return cotangent * up * (sigmoid + silu * (1 - sigmoid)), cotangent * silu
