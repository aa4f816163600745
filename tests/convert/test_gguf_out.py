"""GGUF out: the file is what the specification says, blocks are what llama.cpp would make."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import GOLDEN

from convert.readers import ggml
from convert.readers.tensors import Entry, PackedTensor
from convert.writers import gguf_file as gguf_out
from convert.writers.gguf_file import (
    F16,
    F32,
    Q4_0,
    Q4_1,
    Q8_0,
    BlockType,
    GgufWriter,
    find_lossless,
)
from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import Packing, unpack
from tests.convert.gguf_parser import Tensor, parse

KINDS = {
    kind.name: kind for kind in (F16, gguf_out.BF16, Q8_0, Q4_0, Q4_1, gguf_out.Q5_0, gguf_out.Q5_1)
}


def packed(bits: int, group: int, *, seed: int = 0, middle: bool = False) -> PackedTensor:
    """Random packed weights (4, 128) with float16 scales."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**32, (4, 128 * bits // 32), dtype=np.uint32)
    scales = mx.array(rng.uniform(0.001, 0.01, (4, 128 // group)).astype(np.float16))
    offsets = mx.array(rng.uniform(-0.1, 0.1, scales.shape).astype(np.float16))
    biases = scales * -(2 ** (bits - 1)) if middle else offsets
    return PackedTensor(mx.array(words), scales, biases, Packing(group, bits))


def values_of(tensor: PackedTensor) -> list[list[float]]:
    return unpack(tensor.codes, tensor.scales, tensor.biases, tensor.packing).tolist()


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_rounding_gives_the_bytes_of_the_reference(name) -> None:
    golden = np.load(GOLDEN / "ggml_rounding.npz")
    got = gguf_out.to_blocks(mx.array(golden["values"]), KINDS[name])
    assert np.array_equal(np.array(got), golden[name])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_blocks_that_were_read_are_written_again_bit_for_bit(name) -> None:
    blocks = np.load(GOLDEN / "ggml_blocks.npz")[f"{name}/blocks"]
    bits = {"4": 4, "5": 5, "8": 8}[name[1]]
    entry = Entry(name, (2, 512), name, blocks.size, packing=Packing(32, bits))
    read = ggml.unpack(memoryview(blocks.tobytes()), entry)
    assert isinstance(read, PackedTensor)
    assert find_lossless(read) is KINDS[name]
    assert np.array_equal(np.array(gguf_out.packed_blocks(read, KINDS[name])), blocks)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("middle", [False, True])
def test_packed_codes_arrive_with_their_exact_values(bits, group, middle) -> None:
    tensor = packed(bits, group, middle=middle)
    kind = find_lossless(tensor)
    assert isinstance(kind, BlockType)
    stored = Tensor(kind.name, (4, 128), bytes(memoryview(gguf_out.packed_blocks(tensor, kind))))
    assert stored.values() == values_of(tensor)


def test_eight_bits_around_the_middle_arrive_with_their_exact_values() -> None:
    tensor = packed(8, 64, middle=True)
    assert find_lossless(tensor) is Q8_0
    stored = Tensor("Q8_0", (4, 128), bytes(memoryview(gguf_out.packed_blocks(tensor, Q8_0))))
    assert stored.values() == values_of(tensor)


def test_the_type_with_offsets_holds_what_needs_none() -> None:
    tensor = packed(4, 32, middle=True)
    assert find_lossless(tensor) is Q4_0
    stored = Tensor("Q4_1", (4, 128), bytes(memoryview(gguf_out.packed_blocks(tensor, Q4_1))))
    assert stored.values() == values_of(tensor)


def test_one_group_off_the_middle_makes_it_the_type_with_offsets() -> None:
    tensor = packed(4, 32, middle=True)
    biases = np.array(tensor.biases)
    biases[3, 3] += np.float16(0.01)
    moved = PackedTensor(tensor.codes, tensor.scales, mx.array(biases), tensor.packing)
    assert find_lossless(moved) is Q4_1


def test_what_no_block_can_hold_is_explained() -> None:
    tensor = packed(4, 32)
    fine = PackedTensor(
        tensor.codes, tensor.scales.astype(mx.float32) * 1.0001, tensor.biases, tensor.packing
    )
    assert "float16" in str(find_lossless(fine))
    far = PackedTensor(
        tensor.codes, tensor.scales, tensor.biases.astype(mx.float32) * 1e7, tensor.packing
    )
    assert "float16" in str(find_lossless(far))
    assert "8 bits" in str(find_lossless(packed(8, 32)))
    assert "6 bits" in str(find_lossless(packed(6, 32)))
    other = PackedTensor(tensor.codes, tensor.scales, None, Packing(32, 4, "mxfp4"))
    assert "mxfp4" in str(find_lossless(other))


def test_bfloat16_scales_are_no_obstacle_where_float16_holds_them() -> None:
    tensor = packed(4, 32)
    scales, biases = tensor.scales.astype(mx.bfloat16), tensor.biases.astype(mx.bfloat16)
    coarse = PackedTensor(tensor.codes, scales, biases, tensor.packing)
    assert find_lossless(coarse) is Q4_1
    stored = Tensor("Q4_1", (4, 128), bytes(memoryview(gguf_out.packed_blocks(coarse, Q4_1))))
    assert stored.values() == values_of(coarse)


METADATA = {
    "general.architecture": "llama",
    "a.flag": True,
    "a.count": 7,
    "a.number": 0.5,
    "a.words": ["", "Grüße", "x" * 100],
    "a.types": [3, 1, -1],
    "a.scores": [-1.5, 0.0],
    "a.nothing": [],
}


def test_the_file_is_what_the_specification_says(tmp_path) -> None:
    matrix = mx.arange(2 * 64, dtype=mx.float32).reshape(2, 64)
    vector = mx.array([1.0, 2.0, 3.0])
    layout = {"v": (F32, (3,)), "m": (Q8_0, (2, 64)), "h": (F16, (2, 64))}
    with GgufWriter(tmp_path / "x.gguf", METADATA, layout) as file:
        file.write("v", [gguf_out.to_blocks(vector, F32)])
        file.write("m", [gguf_out.to_blocks(row, Q8_0) for row in (matrix[:1], matrix[1:])])
        file.write("h", [gguf_out.to_blocks(matrix, F16)])
    parsed = parse(tmp_path / "x.gguf")
    assert parsed.version == 3 and parsed.metadata == METADATA
    assert parsed.kinds == {
        "general.architecture": 8, "a.flag": 7, "a.count": 4, "a.number": 6, "a.words": 8,
        "a.types": 5, "a.scores": 6, "a.nothing": 8,
    }  # fmt: skip
    assert {name: (t.kind, t.shape) for name, t in parsed.tensors.items()} == {
        "v": ("F32", (3,)),
        "m": ("Q8_0", (2, 64)),
        "h": ("F16", (2, 64)),
    }
    assert parsed.tensors["v"].values() == [[1.0, 2.0, 3.0]]
    assert parsed.tensors["h"].values() == matrix.tolist()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("second", mx.zeros(8, mx.uint8)),
        ("first", mx.zeros(7, mx.uint8)),
        ("first", mx.zeros(2, mx.float32)),
    ],
    ids=["another name", "another size", "no bytes"],
)
def test_a_tensor_that_is_not_due_is_refused(tmp_path, name, data) -> None:
    layout = {"first": (F32, (2,)), "second": (F32, (2,))}
    with (
        pytest.raises(ValueError, match=r"first|second"),
        GgufWriter(tmp_path / "x.gguf", {}, layout) as file,
    ):
        file.write(name, [data])


def test_a_file_with_a_missing_tensor_is_not_closed_in_silence(tmp_path) -> None:
    file = GgufWriter(tmp_path / "x.gguf", {}, {"first": (F32, (2,))})
    with pytest.raises(ValueError, match="`first` was never written"):
        file.close()
