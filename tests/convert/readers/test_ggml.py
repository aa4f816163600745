"""GGML's blocks against gguf's own decoder: tests/golden/make_ggml_golden.py."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from convert.readers import ggml
from convert.readers.tensors import Entry, PackedTensor
from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import Packing

GOLDEN = Path(__file__).parents[2] / "golden" / "ggml_blocks.npz"
PACKED = tuple(ggml.PACKED_BITS)
LONG_SCALES = ("Q4_K", "Q5_K")
UNPACKED = ("Q2_K", "Q3_K", "Q6_K")


@pytest.fixture(scope="module")
def golden() -> Iterator[np.lib.npyio.NpzFile]:
    with np.load(GOLDEN) as arrays:
        yield arrays


def entry_of(kind: str, shape: tuple[int, ...], nbytes: int, packed: bool = True) -> Entry:
    bits = ggml.PACKED_BITS.get(kind) if packed else None
    return Entry("t", shape, kind, nbytes, None, Packing(32, bits) if bits else None)


def unpack(blocks: bytes, kind: str, shape: tuple[int, ...], packed: bool = True):
    return ggml.unpack(memoryview(blocks), entry_of(kind, shape, len(blocks), packed))


def floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_blocks_stand_for_the_very_same_weights(golden, kind) -> None:
    weights = golden[f"{kind}/weights"]
    packed = unpack(golden[f"{kind}/blocks"].tobytes(), kind, weights.shape)
    assert isinstance(packed, PackedTensor)
    assert packed.codes.dtype == mx.uint32 and packed.packing == Packing(32, ggml.PACKED_BITS[kind])
    dtype = mx.float32 if kind in LONG_SCALES else mx.float16
    assert packed.scales.dtype == packed.biases.dtype == dtype
    assert packed.scales.shape == packed.biases.shape == (2, weights.shape[1] // 32)
    by_mlx = mx.dequantize(  # not our own arithmetic
        packed.codes,
        packed.scales.astype(mx.float32),
        packed.biases.astype(mx.float32),
        group_size=32,
        bits=packed.packing.bits,
    )
    assert np.array_equal(floats(by_mlx), weights)


@pytest.mark.parametrize("kind", PACKED)
def test_the_golden_has_a_subnormal_scale(golden, kind) -> None:
    """Whose offset is a product that arithmetic without subnormal numbers would lose."""
    weights = golden[f"{kind}/weights"]
    packed = unpack(golden[f"{kind}/blocks"].tobytes(), kind, weights.shape)
    assert 0 < abs(floats(packed.scales)[0, 0]) < 6.1e-5


@pytest.mark.parametrize("kind", PACKED + UNPACKED)
def test_unpacked_blocks_are_the_nearest_float16(golden, kind) -> None:
    weights = golden[f"{kind}/weights"]
    array = unpack(golden[f"{kind}/blocks"].tobytes(), kind, weights.shape, packed=False)
    assert array.dtype == mx.float16
    assert np.array_equal(np.array(array), weights.astype(np.float16))


@pytest.mark.parametrize("kind", PACKED + UNPACKED)
def test_many_blocks_are_unpacked_in_steps_to_the_same(golden, kind, monkeypatch) -> None:
    blocks, shape = golden[f"{kind}/blocks"].tobytes(), golden[f"{kind}/weights"].shape
    whole = unpack(blocks, kind, shape)
    monkeypatch.setattr(ggml, "_STEP_WEIGHTS", 768)  # four K-quant blocks, or 32 others, are more
    stepped = unpack(blocks, kind, shape)
    if isinstance(whole, PackedTensor):
        for one, other in zip(whole.parts().values(), stepped.parts().values(), strict=True):
            assert one.dtype == other.dtype and mx.array_equal(one, other)
    else:
        assert mx.array_equal(whole, stepped)


@pytest.mark.parametrize("kind", PACKED + UNPACKED)
def test_blocks_in_more_than_two_dimensions_are_unpacked(golden, kind) -> None:
    weights = golden[f"{kind}/weights"]
    shape = (1, 2, weights.shape[1])
    array = unpack(golden[f"{kind}/blocks"].tobytes(), kind, shape, packed=False)
    assert array.shape == shape


def test_offsets_beyond_float16_are_kept_in_float32() -> None:
    """600 is a float16, 128 times as much is none; the other block's scale is the smallest."""
    codes = bytes([1, 255, *range(30)])
    blocks = b"".join(struct.pack("<e", scale) + codes for scale in (600.0, 2.0**-24))
    packed = unpack(blocks, "Q8_0", (1, 64))
    assert packed.scales.dtype == packed.biases.dtype == mx.float32
    assert packed.biases.tolist() == [[-128 * 600.0, -(2.0**-17)]]
    signed = [1, -1, *range(30)]
    want = [scale * code for scale in (600.0, 2.0**-24) for code in signed]
    assert packed.dense().tolist() == [want]


def test_one_step_beyond_float16_makes_the_whole_tensor_float32(monkeypatch) -> None:
    monkeypatch.setattr(ggml, "_STEP_WEIGHTS", 32)
    blocks = b"".join(struct.pack("<e", scale) + bytes(16) for scale in (1.5, 65_504.0))
    packed = unpack(blocks, "Q4_0", (2, 32))
    assert packed.biases.dtype == packed.scales.dtype == mx.float32
    assert packed.dense().tolist() == [[-12.0] * 32, [-8 * 65_504.0] * 32]


def test_k_quants_beyond_float16_become_float32() -> None:
    small, large = (bytes([255] * 208) + struct.pack("<e", scale) for scale in (0.5, 30_000.0))
    array = unpack(small + large, "Q6_K", (2, 256))
    assert array.dtype == mx.float32
    assert array.tolist() == [[-0.5 * 31] * 256, [-30_000.0 * 31] * 256]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", PACKED + UNPACKED)
def test_a_scale_that_is_no_finite_number_is_refused(golden, kind, value) -> None:
    size = ggml.BLOCKS[kind][1]
    block = bytearray(golden[f"{kind}/blocks"].tobytes()[:size])
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0,)):
        block[at : at + 2] = struct.pack("<e", value)
    with pytest.raises(ValueError, match="has a scale that is infinite or no number"):
        unpack(bytes(block), kind, (1, ggml.BLOCKS[kind][0]))


def test_the_notices_count_what_loses_something() -> None:
    kinds = ["Q4_0", "F32", "Q6_K", "Q2_K", "Q5_K", "Q4_K", "Q4_K"]
    entries = [entry_of(kind, (2, 256), 1) for kind in kinds]
    assert ggml.notices(entries) == (
        "3 tensors are Q4_K/Q5_K: where they stay packed, their scales are rounded to 16 bits "
        "(`--dtype float32` keeps them exact)",
        "2 tensors are Q2_K/Q6_K, which MLX cannot hold packed: they are unpacked, and packed "
        "again with more bits unless others are asked for",
    )
    assert ggml.notices(entries[:2]) == ()


@pytest.mark.parametrize("kind", LONG_SCALES)
def test_scales_of_scales_are_longer_than_float16_and_exact(golden, kind) -> None:
    """Which 17 bits are: 11 of a float16 and 6 of its factor."""
    blocks, weights = golden[f"{kind}/blocks"], golden[f"{kind}/weights"]
    packed = unpack(blocks.tobytes(), kind, weights.shape)
    halves = blocks.reshape(-1, ggml.BLOCKS[kind][1])[:, :4].copy().view(np.float16)
    d, dmin = (halves[:, i].astype(np.float64)[:, None] for i in (0, 1))
    for got, unit in ((packed.scales, d), (packed.biases, -dmin)):
        factors = floats(got).astype(np.float64).reshape(-1, 8) / unit
        assert np.array_equal(factors, np.round(factors))
        assert factors.min() >= 0 and 32 <= factors.max() < 64
        assert not mx.array_equal(got.astype(mx.float16), got).item()


def test_every_type_has_a_size_and_no_number_two_names() -> None:
    assert {*ggml.TYPES.values()} <= {*ggml.BLOCKS}
    assert not ggml.TYPES.keys() & ggml.OTHER_TYPES.keys()
