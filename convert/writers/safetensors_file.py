"""Writing safetensors one tensor at a time.

MLX's own writer wants every array of a file at once; here the layout is known beforehand, so the
header is written first and memory holds one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import ITEM_BYTES

from .ordered import OrderedWriter

DTYPES: dict[str, mx.Dtype] = {
    "F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32, "U8": mx.uint8,
}  # fmt: skip
"""Types that are written, by safetensors' names."""
TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""What PyTorch, configurations and people call those that weights have."""
STORED = {name: stored for stored, name in TORCH_NAMES.items()}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name to type and shape, in the order of writing."""


def layout_bytes(layout: Layout) -> int:
    """Bytes of all the values."""
    return sum(ITEM_BYTES[dtype] * prod(shape) for dtype, shape in layout.values())


class SafetensorsWriter(OrderedWriter):
    """One file: the header at once, then the tensors in the layout's order.

    Args:
        path: made or overwritten.
        layout: every tensor that will be written.
        metadata: strings for the header's ``__metadata__``.

    Raises:
        OSError: when the disk is full or the path cannot be written.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Mapping[str, str] | None = None):
        self._layout = dict(layout)
        super().__init__(path, self._layout, lambda: _header(self._layout, metadata or {}))

    def write(self, name: str, array: mx.array) -> None:
        """Append the next tensor; evaluates it.

        Raises:
            ValueError: when it is not the tensor that the layout has next.
        """
        due = self._due()
        expected = self._layout.get(name)
        if name != due or expected != (NAMES.get(array.dtype), tuple(array.shape)):
            raise ValueError(
                f"`{name}` {array.dtype} {array.shape} does not fit the layout: "
                f"`{due}` {expected} is due"
            )
        if array.size:
            # Bytes, because no buffer format names bfloat16. A scalar has no last axis to view.
            flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
            self._write(memoryview(flat))  # type: ignore[arg-type]  # it has the buffer protocol


def _header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, (dtype, shape) in layout.items():
        stop = start + ITEM_BYTES[dtype] * prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight
    return len(text).to_bytes(8, "little") + text
