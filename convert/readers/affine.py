"""What readers share that write MLX's affine form themselves: the order of its bits."""

from __future__ import annotations

from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import MODES


def pack_codes(codes: mx.array, bits: int) -> mx.array:
    """Codes as MLX stores them: a stream of bits, the first code lowest.

    Args:
        codes: whole numbers below ``2**bits``, (rows, columns) with columns a multiple of 32.
        bits: at most 4.

    Returns:
        uint32, (rows, columns * bits / 32).
    """
    # Eight codes fill as many bytes as one has bits, which is at most one word.
    eights = codes.astype(mx.uint32).reshape(-1, 8)
    words = mx.sum(eights << (mx.arange(8, dtype=mx.uint32) * bits), axis=1, keepdims=True)
    stream = mx.contiguous(words.view(mx.uint8)[:, :bits])
    return stream.reshape(codes.shape[0], -1).view(mx.uint32)


def widest_group(columns: int) -> int | None:
    """The largest group that rows of ``columns`` weights divide into; None when none does."""
    return next((group for group in sorted(MODES["affine"][1])[::-1] if columns % group == 0), None)
