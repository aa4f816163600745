"""One tensor at a time from its stored form to its planned one, and what that costs in accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError

from .plan import TensorPlan
from .readers.tensors import PackedTensor, Tensor
from .writers.safetensors_file import DTYPES, TORCH_NAMES

_INFINITE = {
    mx.float16: (mx.uint16, 0x7FFF, 0x7C00),
    mx.bfloat16: (mx.uint16, 0x7FFF, 0x7F80),
    mx.float32: (mx.uint32, 0x7FFFFFFF, 0x7F800000),
}
"""Bits without the sign, and where infinities and NaNs begin among them: comparing whole numbers is
ten times faster on a CPU than asking whether floats are finite."""

_ROWS = 4096
"""Of a matrix, measured at once."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far a tensor moved: squares of the difference and of the original, summed."""

    difference: float
    original: float

    @property
    def relative(self) -> float:
        """The norm of the difference over the norm."""
        return (self.difference / self.original) ** 0.5 if self.original else 0.0


def transform(plan: TensorPlan, value: Tensor) -> Tensor:
    """The tensor as planned, evaluated.

    Packing starts from the 16-bit weights, as MLX's own does, so scales and codes are the same.

    Raises:
        ConvertError: when a finite value does not fit the planned type.
    """
    dtype = DTYPES[plan.dtype]
    if plan.action == "copy":
        assert isinstance(value, PackedTensor)
        return _cast_scales(plan, value, dtype)
    dense = value.dense(mx.float32) if isinstance(value, PackedTensor) else value
    narrow = cast(plan, dense, dtype)
    if plan.packing is None:
        mx.eval(narrow)
        return narrow
    return pack(narrow, plan)


def pack(weights: mx.array, plan: TensorPlan) -> PackedTensor:
    """Round a matrix, (rows, columns), to its planned packing."""
    assert plan.packing is not None
    group, bits, mode = plan.packing.group_size, plan.packing.bits, plan.packing.mode
    codes, scales, *biases = mx.quantize(weights, group_size=group, bits=bits, mode=mode)
    mx.eval(codes, scales, *biases)
    return PackedTensor(codes, scales, biases[0] if biases else None, plan.packing)


def _cast_scales(plan: TensorPlan, value: PackedTensor, dtype: mx.Dtype) -> PackedTensor:
    if value.packing.mode != "affine" or value.scales.dtype == dtype:
        return value
    assert value.biases is not None
    scales, biases = cast(plan, value.scales, dtype), cast(plan, value.biases, dtype)
    mx.eval(scales, biases)
    return PackedTensor(value.codes, scales, biases, value.packing)


def cast(plan: TensorPlan, array: mx.array, dtype: mx.Dtype) -> mx.array:
    """``array`` in another type.

    Raises:
        ConvertError: when a finite value does not fit.
    """
    if array.dtype == dtype:
        return array
    narrow = array.astype(dtype)
    if count_nonfinite(narrow) > count_nonfinite(array):
        raise ConvertError(
            f"tensor `{plan.name}` holds values too large for {TORCH_NAMES[plan.dtype]}",
            f"convert with `--dtype {'bfloat16' if plan.dtype == 'F16' else 'float32'}`",
        )
    return narrow


def count_nonfinite(value: Tensor) -> int:
    """How many NaNs and infinities there are; in scales and biases when it is packed."""
    if isinstance(value, PackedTensor):
        return sum(map(count_nonfinite, list(value.parts().values())[1:]))
    if value.dtype not in _INFINITE or not value.size:
        return 0
    kind, mask, bound = _INFINITE[value.dtype]
    magnitudes = value.view(kind) & mask
    if number(mx.max(magnitudes)) < bound:
        return 0
    return int(number(mx.sum(magnitudes >= bound)))


def measure(before: Tensor, after: Tensor) -> Error:
    """How far ``after`` is from ``before``; NaNs and infinities come out as they are.

    A piece at a time: a large embedding in float32 several times over would be what a conversion
    needs most memory for.
    """
    rows = len(after.codes if isinstance(after, PackedTensor) else after)
    difference = original = 0.0
    for start in range(0, rows, _ROWS):
        was, now = (dense(_rows(value, start)) for value in (before, after))
        flat, moved = was.reshape(-1), (now - was).reshape(-1)
        difference += number(mx.inner(moved, moved))
        original += number(mx.inner(flat, flat))
    return Error(difference, original)


def _rows(value: Tensor, start: int) -> Tensor:
    """``_ROWS`` of the value's rows."""
    if isinstance(value, PackedTensor):
        return value.map_rows(lambda part: part[start : start + _ROWS])
    return value[start : start + _ROWS]


def number(array: mx.array) -> float:
    """The one number in an array."""
    value = array.item()
    assert isinstance(value, int | float)
    return value


def dense(value: Tensor) -> mx.array:
    """The values as float32."""
    return value.dense() if isinstance(value, PackedTensor) else value.astype(mx.float32)
