"""Make the golden of ParetoQ's rounding: weights, clip values, and what torch rounds them to.

Reference: torch 2.13.0 and the formulas of ParetoQ (arXiv 2502.02631). Seed 7.
Run: python make_paretoq_golden.py paretoq.npz

For every pair of types of weights and alpha (`bfloat16/bfloat16` and so on) and every width
(`w_bits`: 0 is 1.58 bits) the array `rounded/WEIGHT/ALPHA/WIDTH` holds the rounded weights, float32
(12, 64); `weights/WEIGHT` and `alpha/ALPHA` hold what went in. Rows: ordinary ones; one whose
weights lie halfway between codes; one with zeros and values far outside; one with a negative alpha,
one with 0 and one below the least, which all count as 1e-5.
"""

import sys

import numpy as np
import torch

PAIRS = (
    ("bfloat16", "bfloat16"),
    ("float32", "float32"),
    ("bfloat16", "float32"),
    ("float16", "float16"),
    ("float32", "bfloat16"),
)


def rounded(weight: torch.Tensor, alpha: torch.Tensor, width: int) -> torch.Tensor:
    least = torch.tensor(1e-5)
    alpha = torch.where(alpha > least, alpha, least)
    if width == 1:
        return weight.sign() * alpha
    if width in (0, 2):
        levels, shift = (1.5, 0) if width == 0 else (2, 0.5)
        inside = torch.clamp(weight / alpha, -0.99, 0.99)
        return (torch.round(inside * levels - shift) + shift) / levels * alpha
    most = 2 ** (width - 1)
    return (weight / alpha).round().clamp(-most, most - 1) * alpha


def main(out: str) -> None:
    rng = torch.Generator().manual_seed(7)
    weights = torch.randn(12, 64, generator=rng) * 0.1
    alpha = 0.02 + 0.1 * torch.rand(12, 1, generator=rng)
    alpha[6] = 0.0625
    weights[6] = torch.arange(-32, 32) * 0.0625 / 4  # quarters of alpha: ties of every width
    weights[7, :32], weights[7, 32:] = 0, 100 * weights[7, 32:]
    weights[8, ::2] = -0.0
    alpha[9], alpha[10], alpha[11] = -alpha[9], 0, 4e-6
    weights[10:] *= 1e-4
    arrays = {}
    for a, b in PAIRS:
        x, y = weights.to(getattr(torch, a)), alpha.to(getattr(torch, b))
        arrays[f"weights/{a}"] = x.float().numpy()
        arrays[f"alpha/{b}"] = y.float().numpy()
        for width in (1, 0, 2, 3, 4):
            value = rounded(x, y, width)
            assert value.dtype == torch.promote_types(x.dtype, y.dtype)
            arrays[f"rounded/{a}/{b}/{width}"] = value.float().numpy()
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
