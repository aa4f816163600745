"""Make the golden of llama.cpp's rounding: values, and the blocks that its reference makes of them.

Reference: gguf 0.19.0, `gguf.quants.quantize`. Seed 5.
Run: python make_ggml_rounding_golden.py ggml_rounding.npz

`values` is float32 (36, 64): normal numbers of four sizes, zeros, float16 weights, and multiples of
a quarter, among which codes fall in the middle and a block's two ends are equally far from 0. For
each type T, `T` holds the bytes of its rows.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize


def main(out: str) -> None:
    rng = np.random.default_rng(5)
    parts = [rng.normal(0, size, (6, 64)) for size in (1e-6, 1e-3, 0.05, 30)]
    parts += [np.zeros((1, 64)), rng.normal(0, 0.02, (5, 64)).astype(np.float16)]
    parts += [rng.integers(-8, 9, (6, 64)) / 4]
    values = np.concatenate([part.astype(np.float32) for part in parts])
    blocks = {
        name: quantize(values, GGMLQuantizationType[name]).view(np.uint8)
        for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
    }
    np.savez_compressed(out, values=values, **blocks)
    print({name: array.shape for name, array in blocks.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
