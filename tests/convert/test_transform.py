"""One tensor from its stored form to its planned one."""

from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from tolerances import FP32, assert_close

from convert.plan import TensorPlan
from convert.readers.tensors import PackedTensor
from convert.transform import Error, count_nonfinite, dense, measure, transform
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import Packing
from tests.convert.checkpoints import same_bits

WEIGHTS = mx.random.normal((6, 128), key=mx.random.key(7))
PLAN = TensorPlan("m.weight", (6, 128), "F32", 0, "F16", None, "cast")
TYPES = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}


def packed(bits: int = 4, dtype: mx.Dtype = mx.float16, mode: str = "affine") -> PackedTensor:
    group = 16 if mode == "nvfp4" else 32
    codes, scales, *biases = mx.quantize(
        WEIGHTS.astype(dtype), group_size=group, bits=bits, mode=mode
    )
    return PackedTensor(codes, scales, biases[0] if biases else None, Packing(group, bits, mode))


@pytest.mark.parametrize("dtype", TYPES)
def test_packing_rounds_to_the_stored_type_first(dtype) -> None:
    packing = Packing(64, 6)
    got = transform(replace(PLAN, dtype=dtype, packing=packing, action="pack"), WEIGHTS)
    wanted = mx.quantize(WEIGHTS.astype(TYPES[dtype]), group_size=64, bits=6)
    assert isinstance(got, PackedTensor) and got.packing == packing
    assert all(same_bits(a, b) for a, b in zip(got.parts().values(), wanted, strict=True))
    assert got.scales.dtype == TYPES[dtype]


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_float_modes_have_scales_of_a_byte_and_no_biases(mode) -> None:
    group, bits = (16 if mode == "nvfp4" else 32), (8 if mode == "mxfp8" else 4)
    plan = replace(PLAN, packing=Packing(group, bits, mode), action="pack")
    got = transform(plan, WEIGHTS.astype(mx.float16))
    assert isinstance(got, PackedTensor)
    assert got.biases is None and got.scales.dtype == mx.uint8
    assert measure(WEIGHTS, got).relative < 0.15


def test_a_copy_gives_the_very_codes() -> None:
    before = packed()
    after = transform(replace(PLAN, packing=before.packing, action="copy"), before)
    assert after is before


def test_a_copy_to_another_type_changes_the_scales_alone() -> None:
    before = packed()
    after = transform(replace(PLAN, dtype="BF16", packing=before.packing, action="copy"), before)
    assert isinstance(after, PackedTensor) and same_bits(after.codes, before.codes)
    assert same_bits(after.scales, before.scales.astype(mx.bfloat16))
    assert after.biases is not None and after.biases.dtype == mx.bfloat16


def test_scales_of_a_byte_are_no_type_to_cast() -> None:
    before = packed(mode="mxfp4")
    assert transform(replace(PLAN, packing=before.packing, action="copy"), before) is before


def test_unpacking_gives_the_packed_values() -> None:
    before = packed()
    after = transform(replace(PLAN, dtype="F32", action="unpack"), before)
    assert_close(after, before.dense(), FP32 / 100, "unpacked")


def test_repacking_to_more_bits_moves_little() -> None:
    before = packed()
    plan = replace(PLAN, packing=Packing(32, 8), action="repack")
    assert measure(before, transform(plan, before)).relative < 0.005


@pytest.mark.parametrize(("value", "dtype"), [(65520.0, "F16"), (1e38, "F16"), (-7e4, "F16")])
def test_a_value_too_large_for_float16_is_refused(value, dtype) -> None:
    weights = mx.array([[1.0, value]])
    with pytest.raises(ConvertError, match=r"`m\.weight` holds values too large") as caught:
        transform(replace(PLAN, dtype=dtype), weights)
    assert "--dtype bfloat16" in str(caught.value.hint)
    transform(replace(PLAN, dtype="BF16"), weights)


def test_a_value_too_large_for_bfloat16_is_said_to_be_so() -> None:
    with pytest.raises(ConvertError, match="too large for bfloat16"):
        transform(replace(PLAN, dtype="BF16"), mx.array([[3.4e38]]))


def test_what_is_not_finite_already_is_no_reason_to_refuse() -> None:
    weights = mx.array([[nan, inf, -inf, 1.0]])
    got = transform(PLAN, weights)
    assert count_nonfinite(weights) == count_nonfinite(got) == 3


@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
def test_nans_and_infinities_are_counted_and_nothing_else_is(dtype) -> None:
    largest = mx.finfo(dtype).max
    fine = mx.array([0.0, -0.0, largest, -largest, 1e-7, -1.0]).astype(dtype)
    assert count_nonfinite(fine) == 0
    assert count_nonfinite(mx.array([nan, -nan, inf, -inf, 1.0]).astype(dtype)) == 4
    assert count_nonfinite(mx.zeros((0, 3), dtype)) == 0
    assert count_nonfinite(mx.full((3, 5), nan, dtype)) == 15


def test_of_packed_weights_scales_and_biases_are_counted() -> None:
    before = packed()
    assert count_nonfinite(before) == 0
    scales = mx.where(mx.arange(4) == 0, nan, before.scales)
    assert count_nonfinite(replace(before, scales=scales)) == 6
    assert count_nonfinite(packed(mode="mxfp4")) == 0


def test_the_error_is_the_norm_of_the_difference_over_the_norm() -> None:
    before, after = mx.array([[3.0, 4.0]]), mx.array([[3.0, 5.0]])
    assert measure(before, after).relative == pytest.approx(1 / 5)
    assert measure(before, before) == Error(0, 25)
    assert measure(mx.zeros((2, 2)), mx.ones((2, 2))).relative == 0
    assert not isfinite(measure(mx.array([[nan]]), mx.array([[1.0]])).relative)


def test_the_error_of_16_bit_weights_is_summed_in_float32() -> None:
    weights = mx.full((4, 4096), 300, mx.float16)  # in float16 the squares would be infinite
    assert measure(weights, weights).original == pytest.approx(4 * 4096 * 90_000)


def test_dense_is_float32_whatever_it_was() -> None:
    for value in (WEIGHTS.astype(mx.bfloat16), packed(), packed(mode="nvfp4")):
        assert dense(value).dtype == mx.float32 and dense(value).shape == (6, 128)
