"""Every tolerance of the test suite, and the one way to compare arrays with them.

Absolute differences of logits whose spread (standard deviation) is about 1 to 5.
"""

from typing import Any

import numpy as np

FP32 = 1e-5
"""The same operations in the same order."""
FP32_REORDERED = 1e-4
"""float32 sums in another order: another library, another batch shape, cached or not."""
FP32_DEEP = 1e-3
"""The same through the thirty blocks of a real model."""
FP16 = 1e-2
BF16 = 2e-2


def as_float64(values: Any) -> np.ndarray:
    """Any array (MLX's 16-bit ones too) as NumPy float64."""
    if type(values).__module__.startswith("mlx"):
        from mobilellm_mlx.backend import mx

        if mx.issubdtype(values.dtype, mx.floating):
            values = values.astype(mx.float32)
    return np.asarray(values, dtype=np.float64)


def assert_close(got: Any, want: Any, atol: float, what: str) -> None:
    """Fail, saying by how much and where, unless all of ``got`` is within ``atol`` of ``want``."""
    ours, theirs = as_float64(got), as_float64(want)
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, expected {theirs.shape}"
    assert ours.size, f"{what}: nothing to compare"
    difference = np.abs(ours - theirs)
    assert np.isfinite(difference).all(), f"{what}: holds values that are not finite"
    worst = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    assert difference.max() <= atol, (
        f"{what}: differs by at most {difference.max():.2e} (mean {difference.mean():.2e}), "
        f"allowed {atol:.0e}; worst at {worst}: {ours[worst]:.6f}, expected {theirs[worst]:.6f}"
    )
