"""Make the GGML golden: random blocks of every quantised type, and the weights they stand for.

Reference: gguf 0.19.0, `gguf.quants.dequantize`. Seed 4.
Run: python make_ggml_golden.py ggml_blocks.npz

For each type T, `T/blocks` are bytes (2, bytes of a row) and `T/weights` float32 (2, weights of a
row). All bits are random but the float16 scales, which are finite; one of each type is subnormal.
"""

import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
"""Where in a block the float16 numbers are."""


def main(out: str) -> None:
    rng = np.random.default_rng(4)
    arrays = {}
    for name, places in HALVES.items():
        kind = GGMLQuantizationType[name]
        weights, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (2, 512 // weights, size), dtype=np.uint8)
        for place in places:
            halves = rng.normal(0, 0.02, blocks.shape[:2]).astype(np.float16)
            halves[0, 0] = 5e-7
            blocks[..., place : place + 2] = halves[..., None].view(np.uint8)
        arrays[f"{name}/blocks"] = blocks.reshape(2, -1)
        arrays[f"{name}/weights"] = dequantize(blocks.reshape(2, -1), kind)
    np.savez_compressed(out, **arrays)
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
