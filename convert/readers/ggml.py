"""GGML's block types: to MLX's packed form where it holds them exactly, else to floats.

Blocks of 32 weights (Q4_0 to Q8_0) are MLX's affine groups of 32 in another order of bits, so they
are packed again code by code. Q4_K and Q5_K are eight such groups with scales of scales: multiplied
out those take 17 bits, so they are given in float32. The other K-quants have groups of 16, which
MLX's affine form cannot say. (Layouts: ggml/src/ggml-common.h of llama.cpp.)

Everything runs on the CPU, where float arithmetic keeps subnormal numbers on every machine.

Notation: B blocks of the tensor, G groups of 32 weights; arrays of bytes are uint8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import Packing

from .tensors import ITEM_BYTES, Entry, PackedTensor, Tensor, to_array

GROUP_SIZE = 32

TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 30: "BF16",
}  # fmt: skip
"""The types that can be read, by their numbers in a file."""

OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M",
    31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
"""The types that cannot, for messages."""

BLOCKS = {
    **{name: (1, size) for name, size in ITEM_BYTES.items()},
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}  # fmt: skip
"""Weights of a block, and its bytes."""

PACKED_BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q4_K": 4, "Q5_K": 5}
"""Bits of a code, for the types that MLX can hold packed."""

_LONG_SCALES = ("Q4_K", "Q5_K")
"""The types among them whose scales 16 bits do not hold."""

_CENTRE = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}
"""The code that stands for zero, for the types whose blocks have no offset of their own."""

_HALF_MAX = 65_504.0
_STEP_WEIGHTS = 1 << 22
"""Unpacked at a time: what is made of blocks on the way is bulky."""


def notices(entries: Iterable[Entry]) -> tuple[str, ...]:
    """What a person should know about the types of a file."""
    blocks = [entry for entry in entries if BLOCKS[entry.dtype][0] > 1]
    long = Counter(e.dtype for e in blocks if e.packing and e.dtype in _LONG_SCALES)
    unpacked = Counter(e.dtype for e in blocks if e.packing is None)
    said = []
    if long:
        said.append(
            f"{_count(long)}: where they stay packed, their scales are rounded to 16 bits "
            "(`--dtype float32` keeps them exact)"
        )
    if unpacked:
        said.append(
            f"{_count(unpacked)}, which MLX cannot hold packed: they are unpacked, and packed "
            "again with more bits unless others are asked for"
        )
    return tuple(said)


def _count(kinds: Counter[str]) -> str:
    return f"{sum(kinds.values())} tensors are {'/'.join(sorted(kinds))}"


def unpack(data: memoryview, entry: Entry) -> Tensor:
    """The values of a tensor.

    Args:
        data: all its bytes.
        entry: what its file says about it.

    Returns:
        A plain array; a packed matrix where ``entry.packing`` says so; other blocks as float16, or
        as float32 when a value is too large for it.

    Raises:
        ValueError: when a block's scale is infinite or no number.
    """
    if entry.dtype in ITEM_BYTES:
        return to_array(data, entry.dtype, entry.shape)
    with mx.stream(mx.cpu):
        blocks = mx.array(data).reshape(-1, BLOCKS[entry.dtype][1])  # type: ignore[arg-type]
        if entry.packing is not None:
            return _packed(blocks, entry, entry.packing)
        return _floating(blocks, entry.dtype, mx.float16).reshape(entry.shape)


def _packed(blocks: mx.array, entry: Entry, packing: Packing) -> PackedTensor:
    """MLX's packed form: codes one after the other, the first in the lowest bits."""
    steps: list[tuple[mx.array, mx.array, mx.array]] = []
    for some in _steps(blocks, entry.dtype):
        codes, scales, offsets = _affine(some, entry.dtype)
        steps.append((_words(codes, packing.bits), scales, offsets))
        mx.eval(steps)
    # Joined to float32 where one step needed it, which changes no value of the others.
    rows = entry.shape[0]
    parts = (mx.concatenate(list(part)) for part in zip(*steps, strict=True))
    words, scales, offsets = (part.reshape(rows, -1) for part in parts)
    mx.eval(words, scales, offsets)
    return PackedTensor(words, scales, offsets, packing)


def _floating(blocks: mx.array, kind: str, dtype: mx.Dtype) -> mx.array:
    """All weights of the blocks as ``dtype``, or as float32 when one is too large for it."""
    parts = []
    for some in _steps(blocks, kind):
        part = _DECODERS[kind](some)
        _require_finite(part)
        if dtype == mx.float16 and not _fits_half(part):
            return _floating(blocks, kind, mx.float32)
        parts.append(part.astype(dtype))
        mx.eval(parts)
    weights = mx.concatenate(parts)
    mx.eval(weights)
    return weights


def _steps(blocks: mx.array, kind: str) -> Iterator[mx.array]:
    step = _STEP_WEIGHTS // BLOCKS[kind][0]
    for start in range(0, blocks.shape[0], step):
        yield blocks[start : start + step]


def _affine(blocks: mx.array, kind: str) -> tuple[mx.array, mx.array, mx.array]:
    """Codes (G, 32), uint8, with scales and offsets (G, 1): a weight is scale * code + offset.

    The offsets are float16 as the scales are, unless that is too small for one of them: then both
    are float32. (A power of two times a float16 is exact, however small it is.)
    """
    if kind in _LONG_SCALES:
        return _affine_eights(blocks, kind)
    scales = _halves(blocks, 0)
    centre = _CENTRE.get(kind)
    body = blocks[:, 2:] if centre else blocks[:, 4:]
    if kind == "Q8_0":
        codes = body ^ 128  # two's complement, counted from -128
    else:
        codes = _split(body[:, -16:], 4)  # (B, 2, 16): weights 0 to 15, then 16 to 31
        if kind in ("Q5_0", "Q5_1"):
            high = (body[:, :4, None] >> mx.arange(8, dtype=mx.uint8)) & 1  # (B, 4, 8)
            codes = codes | high.reshape(codes.shape) << 4
        codes = codes.reshape(-1, GROUP_SIZE)
    if centre is None:
        offsets = _halves(blocks, 2)
    else:
        scales = scales.astype(mx.float32)
        offsets = scales * -centre
        if _fits_half(offsets):
            scales, offsets = scales.astype(mx.float16), offsets.astype(mx.float16)
    _require_finite(scales, offsets)
    return codes, scales, offsets


def _affine_eights(blocks: mx.array, kind: str) -> tuple[mx.array, mx.array, mx.array]:
    """The same of Q4_K and Q5_K: d, dmin, 8 scales and minima of 6 bits, and the codes.

    Float32 holds d times a scale exactly; Q5_K's fifth bits lie before the lower four.
    """
    codes = _split(blocks[:, -128:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    if kind == "Q5_K":
        codes = codes | _split(blocks[:, 16:48], 1) << 4
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = mx.concatenate([low & 63, (high & 15) | low >> 6 << 4], axis=1)  # (B, 8)
    minima = mx.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=1)
    steps, offsets = _floats(blocks, 0) * scales, -_floats(blocks, 2) * minima
    _require_finite(steps, offsets)
    return codes.reshape(-1, GROUP_SIZE), steps.reshape(-1, 1), offsets.reshape(-1, 1)


def _affine_weights(kind: str) -> Callable[[mx.array], mx.array]:
    def decode(blocks: mx.array) -> mx.array:
        codes, scales, offsets = _affine(blocks, kind)
        return codes * scales.astype(mx.float32) + offsets.astype(mx.float32)

    return decode


def _words(codes: mx.array, bits: int) -> mx.array:
    """Codes (G, 32) as a stream of bits, in 32-bit words (G, bits)."""
    if bits == 8:
        return codes.view(mx.uint32)
    if bits == 4:
        return (codes[:, 0::2] | codes[:, 1::2] << 4).view(mx.uint32)
    eights = codes.reshape(-1, 8).astype(mx.uint64)  # eight codes of 5 bits fill five bytes
    stream = mx.sum(eights << (mx.arange(8, dtype=mx.uint64) * bits), axis=1, keepdims=True)
    return stream.view(mx.uint8)[:, :bits].reshape(codes.shape[0], -1).view(mx.uint32)


def _q2_k(blocks: mx.array) -> mx.array:
    """16 scales and minima of 4 bits, 256 codes of 2 bits, d, dmin."""
    d, least = _floats(blocks, 80), _floats(blocks, 82)
    scales = blocks[:, :16]
    codes = _split(blocks[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    steps, minima = d * (scales & 15), least * (scales >> 4)  # (B, 16)
    return steps[..., None] * codes - minima[..., None]


def _q3_k(blocks: mx.array) -> mx.array:
    """The third bits of 256 codes, their lower two, 16 signed scales of 6 bits, d."""
    low = _split(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 8, 32)
    high = _split(blocks[:, :32], 1)  # (B, 8, 32)
    codes = (low | high << 2).reshape(-1, 16, 16).astype(mx.float32) - 4
    packed = blocks[:, 96:108]
    scales = _split(packed[:, :8], 4) | _split(packed[:, 8:], 2).reshape(-1, 2, 8) << 4
    steps = _floats(blocks, 108) * (scales.reshape(-1, 16).astype(mx.float32) - 32)
    return steps[..., None] * codes


def _q6_k(blocks: mx.array) -> mx.array:
    """The lower four bits of 256 codes, their upper two, 16 signed scales of 8 bits, d."""
    low = _split(blocks[:, :128].reshape(-1, 2, 64), 4)  # (B, 2, 2, 64)
    high = _split(blocks[:, 128:192].reshape(-1, 2, 32), 2)  # (B, 2, 4, 32)
    codes = low.reshape(-1, 16, 16) | high.reshape(-1, 16, 16) << 4
    scales = blocks[:, 192:208].view(mx.int8)
    steps = _floats(blocks, 208) * scales
    return steps[..., None] * (codes.astype(mx.float32) - 32)


_DECODERS: dict[str, Callable[[mx.array], mx.array]] = {
    **{kind: _affine_weights(kind) for kind in PACKED_BITS},
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q6_K": _q6_k,
}
"""Blocks (B, bytes) to float32 weights, in their order."""


def _split(data: mx.array, bits: int) -> mx.array:
    """Bytes (..., n) as fields of some bits, (..., 8 / bits, n): the lowest of every byte first."""
    shifts = mx.arange(0, 8, bits, dtype=mx.uint8)[:, None]
    return (data[..., None, :] >> shifts) & ((1 << bits) - 1)


def _halves(blocks: mx.array, at: int) -> mx.array:
    """The float16 at byte ``at`` of every block, (B, 1)."""
    return mx.contiguous(blocks[:, at : at + 2]).view(mx.float16)


def _floats(blocks: mx.array, at: int) -> mx.array:
    return _halves(blocks, at).astype(mx.float32)


def _fits_half(array: mx.array) -> bool:
    return bool(mx.all(mx.abs(array) <= _HALF_MAX).item())


def _require_finite(*arrays: mx.array) -> None:
    if not all(mx.all(mx.isfinite(array)).item() for array in arrays):
        raise ValueError("has a scale that is infinite or no number")
