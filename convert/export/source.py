"""The model directory that is exported, and its weights a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.loading import read_json
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.weights import weight_files

from ..readers.open import open_directory
from ..readers.packed import packed_reader
from ..readers.tensors import PackedTensor, Tensor
from ..source import EMBEDDING, NORM, Source, map_names
from ..transform import count_nonfinite

_FLOATS = ("F16", "BF16", "F32", "F64")
_ROWS = 4096
"""Of a matrix, held in float32 at once: a whole embedding would be most of the memory needed."""


class ModelDirectory(Source):
    """A directory that can be chatted with: safetensors files, ``config.json`` and a tokenizer.

    Args:
        path: the directory.

    Attributes:
        manifest: where it came from; empty in a directory that is not of our making.
        tokenizer_config: its ``tokenizer_config.json``.

    Raises:
        MobileLLMError: one of its kinds, when the directory is incomplete or its tensors are not
            those of the network that ``config.json`` describes.
    """

    def __init__(self, path: Path):
        raw = read_json(path / "config.json")
        names = [file.name for file in weight_files(path)]
        reader = packed_reader(open_directory(path, names), raw)
        super().__init__(path, reader, raw, *map_names(reader.entries))
        self.manifest = read_json(path / MANIFEST, missing={})
        self.tokenizer_config = read_json(path / "tokenizer_config.json", missing={})
        for entry in map(self.entry, self.shapes):
            if entry.packing is None and entry.dtype not in _FLOATS:
                raise ConvertError(
                    f"tensor `{entry.name}` holds {entry.dtype}, expected weights",
                    "check that `config.json` has the `quantization` table of these files",
                )

    @property
    def stored_dtype(self) -> str:
        """The type that the model computes in, by safetensors' name: its embedding's."""
        dtype = self.entry(EMBEDDING).dtype
        if dtype == "U8":  # scales of `mxfp4` and its like
            dtype = self.entry(NORM).dtype
        return "F32" if dtype == "F64" else dtype


def iter_rows(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor as it is, some rows at a time."""
    count = len(tensor.codes if isinstance(tensor, PackedTensor) else tensor)
    for start in range(0, count, _ROWS):
        yield map_rows(tensor, itemgetter(slice(start, start + _ROWS)))


def map_rows(tensor: Tensor, function: Callable[[mx.array], mx.array]) -> Tensor:
    """The tensor with ``function``, which moves or selects rows, applied to all its parts."""
    return tensor.map_rows(function) if isinstance(tensor, PackedTensor) else function(tensor)


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse infinities and NaNs; in the scales and biases of what is packed.

    Raises:
        ConvertError: when there are some.
    """
    if count_nonfinite(tensor):
        raise ConvertError(
            f"tensor `{name}` holds values that are not finite",
            "the checkpoint is damaged: fetch or convert it again",
        )
