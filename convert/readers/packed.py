"""Weights that MLX packed before: codes, scales and biases as one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import Packing, QuantizationTable, read_quantization

from .tensors import Entry, PackedTensor, Reader, Tensor


def packed_reader(reader: Reader, config: Mapping[str, Any]) -> Reader:
    """``reader``, with packed matrices as one entry each where the configuration says so."""
    table = read_quantization(config)
    return reader if table is None else PackedReader(reader, table)


def _joined(codes: Entry, parts: list[Entry], packing: Packing) -> Entry:
    """The entry of a packed matrix out of those of its parts, scales first."""
    affine = packing.mode == "affine"
    types = ("F16", "BF16", "F32") if affine else ("U8",)
    if len(codes.shape) == 2 and codes.dtype == "U32" and parts:
        columns, rest = divmod(codes.shape[1] * 32, packing.bits)
        groups = (codes.shape[0], columns // packing.group_size)
        expected = [(groups, parts[0].dtype)] * (2 if affine else 1)
        fits = [(part.shape, part.dtype) for part in parts] == expected
        if fits and parts[0].dtype in types and not (rest or columns % packing.group_size):
            nbytes = codes.nbytes + sum(part.nbytes for part in parts)
            shape = (codes.shape[0], columns)
            return Entry(codes.name, shape, parts[0].dtype, nbytes, codes.location, packing)
    raise ConvertError(
        f"`{codes.name}` is not packed in {packing.bits} bits and groups of "
        f"{packing.group_size}, as the `quantization` table of `config.json` says",
        "the directory mixes files of different models, or its `config.json` is wrong",
    )


class PackedReader(Reader):
    """Presents the parts of every packed matrix as one entry.

    Args:
        reader: of the safetensors files.
        table: the ``quantization`` table of their ``config.json``.

    Raises:
        ConvertError: when the tensors are not packed as the table says.
    """

    def __init__(self, reader: Reader, table: QuantizationTable):
        self.format, self.files, self.notices = reader.format, reader.files, reader.notices
        self.is_readable = reader.is_readable
        self._inner = reader
        self.entries = dict(reader.entries)
        for name in reader.entries:
            module = name.removesuffix(".scales")
            packing = table.packing(module)
            codes = self.entries.get(f"{module}.weight")
            if module == name or packing is None or codes is None:
                continue
            parts = [self.entries.pop(f"{module}.{p}", None) for p in ("scales", "biases")]
            self.entries[codes.name] = _joined(codes, [p for p in parts if p], packing)

    def read(self, name: str) -> Tensor:
        packing, values = self.entries[name].packing, self._inner.read(name)
        assert isinstance(values, mx.array)
        if packing is None:
            return values
        module = name.removesuffix(".weight")
        scales, biases = (
            self._inner.read(part) if part in self._inner.entries else None
            for part in (f"{module}.scales", f"{module}.biases")
        )
        assert isinstance(scales, mx.array) and not isinstance(biases, PackedTensor)
        return PackedTensor(values, scales, biases, packing)
