"""safetensors files."""

from __future__ import annotations

from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import read_safetensors_header

from .tensors import Entry, Reader, read_bytes, to_array


class SafetensorsReader(Reader):
    """One safetensors file.

    Raises:
        WeightsError: when its header does not fit the file.
    """

    format = "safetensors"

    def __init__(self, path: Path):
        self.files = (path,)
        self._infos = read_safetensors_header(path)
        self.entries = {
            name: Entry(name, info.shape, info.dtype, info.stop - info.start, (path, info.start))
            for name, info in self._infos.items()
        }

    def read(self, name: str) -> mx.array:
        info = self._infos[name]
        data = read_bytes(self.files[0], info.start, info.stop - info.start)
        return to_array(data, info.dtype, info.shape)
