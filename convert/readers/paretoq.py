"""ParetoQ checkpoints: weights trained to be rounded, packed without rounding them a second time.

Their files hold every matrix in full precision beside one learned clip value alpha for each row
(``weight_clip_val``); the network rounds on the fly. What it rounds to are up to 16 evenly spaced
levels, which is MLX's affine form:

| bits | levels over alpha | codes | scale | offset |
|------|-------------------|-------|-------|--------|
| 1    | -1, 0, 1          | 2 bit | alpha | -alpha |
| 1.58 | -2/3, 0, 2/3      | 2 bit | 2/3 alpha | -2/3 alpha |
| 2    | -3/4, -1/4, 1/4, 3/4 | 2 bit | 1/2 alpha | -3/4 alpha |
| 3    | -4 to 3           | 3 bit | alpha | -4 alpha |
| 4    | -8 to 7           | 4 bit | alpha | -8 alpha |

(With one bit a weight of exactly 0 stays 0: the sign of 0 is 0.) Two bits need ten binary digits
where a bfloat16 alpha has eight, so their scales and offsets are float32 in the file.

Which weight gets which code depends on the type it is computed in: a quotient in bfloat16 lies on
the other side of one half now and then. It is computed in the type of the files, step by step as
the reference does. (Source: ParetoQ, arXiv 2502.02631, and ``models/utils_quant.py`` of its
repository.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import Packing

from ..writers.safetensors_file import DTYPES
from .affine import pack_codes, widest_group
from .tensors import Entry, PackedTensor, Reader, Tensor

WIDTHS = {"1": 1, "1.58": 0, "2": 2, "3": 3, "4": 4}
"""Bits by their names to ``w_bits`` in a ``config.json``."""

_NAMES = {number: name for name, number in WIDTHS.items()}
_CODE_BITS = {1: 2, 0: 2, 2: 2, 3: 3, 4: 4}
_CLIP = "weight_clip_val"
_LINEAR = re.compile(r"(?:.*\.)?layers\.\d+\..*_proj\.weight")
_LEAST = 1e-5
"""Below it, and so below 0 as well, an alpha counts as this much."""
_BOUND = 0.99
"""Of a quotient, for 1.58 and 2 bits: it keeps what is clipped off the next level."""
_FLOATS = ("F16", "BF16", "F32", "F64")


def paretoq_reader(
    reader: Reader, config: Mapping[str, Any], weight_bits: str | None = None
) -> Reader:
    """``reader``, with every matrix that has clip values as one packed entry.

    Args:
        reader: of the weight files.
        config: their ``config.json``; ``w_bits`` says how many bits the weights have.
        weight_bits: the same from a person, a key of ``WIDTHS``; None when nothing was said.

    Raises:
        ConvertError: when the bits are not known, or the clip values do not fit the matrices.
    """
    clips = [name for name in reader.entries if name.endswith(f".{_CLIP}")]
    if clips:
        return ParetoQReader(reader, _width(config.get("w_bits"), weight_bits))
    if weight_bits is not None and reader.is_readable:
        raise ConvertError(
            f"the checkpoint has no `{_CLIP}`, so its weights are not of {weight_bits} bits",
            "leave out `--weight-bits`; `--bits` says how to pack ordinary weights",
        )
    return reader


def _width(theirs: object, weight_bits: str | None) -> int:
    known = theirs if type(theirs) is int and theirs in _NAMES else None
    if weight_bits is None:
        if known is None:
            said = "" if theirs is None else f" (`w_bits` is {str(theirs)[:20]})"
            raise ConvertError(
                f"the weights have clip values (`{_CLIP}`), but `config.json` does not say for "
                f"how many bits{said}",
                f"say it with `--weight-bits`, one of {', '.join(WIDTHS)}: the model's name has it",
            )
        return known
    width = WIDTHS[weight_bits]
    if known is not None and known != width:
        raise ConvertError(
            f"`--weight-bits` is {weight_bits}, but `w_bits` of `config.json` says {_NAMES[known]}",
            "leave out `--weight-bits`, or correct `config.json`",
        )
    return width


class ParetoQReader(Reader):
    """Presents a matrix and its clip values as one packed entry.

    Args:
        reader: of the weight files.
        width: ``w_bits``: 0 for three levels, else 1 to 4.

    Raises:
        ConvertError: when the clip values do not fit the matrices.
    """

    def __init__(self, reader: Reader, width: int):
        self.format, self.files = reader.format, reader.files
        self.is_readable = reader.is_readable
        self._inner, self._width = reader, width
        self._clips: dict[str, str] = {}
        self.entries = dict(reader.entries)
        for name in reader.entries:
            module, _, leaf = name.rpartition(".")
            if leaf == _CLIP:
                clip = self.entries.pop(name)
                weight = f"{module}.weight"
                self.entries[weight] = _joined(self.entries.get(weight), clip, width)
                self._clips[weight] = name
        for name in self.entries:
            if name not in self._clips and _LINEAR.fullmatch(name):
                raise ConvertError(
                    f"`{name}` has no clip values, which {len(self._clips)} other matrices have",
                    "the checkpoint is incomplete, or mixes files of different models",
                )
        self.notices = (*reader.notices, _notice(len(self._clips), width))

    def read(self, name: str) -> Tensor:
        values = self._inner.read(name)
        if name not in self._clips:
            return values
        alpha, entry = self._inner.read(self._clips[name]), self.entries[name]
        assert isinstance(values, mx.array) and isinstance(alpha, mx.array) and entry.packing
        # On the CPU, whose division is exact on every machine.
        with mx.stream(mx.cpu):
            if mx.any(mx.isnan(values)).item():
                raise ConvertError(f"`{name}` holds NaN, which no code stands for")
            if not mx.all(mx.isfinite(alpha)).item():
                raise ConvertError(f"`{self._clips[name]}` holds NaN or infinite values")
            codes, scales, offsets = affine(values, alpha, self._width)
            scales, offsets = (part.astype(DTYPES[entry.dtype]) for part in (scales, offsets))
            if not mx.all(mx.isfinite(offsets)).item():
                raise ConvertError(f"`{self._clips[name]}` is too large for float16")
            groups = entry.shape[1] // entry.packing.group_size
            scales, offsets = (mx.repeat(part, groups, axis=1) for part in (scales, offsets))
            words = pack_codes(codes, entry.packing.bits)
            mx.eval(words, scales, offsets)
        return PackedTensor(words, scales, offsets, entry.packing)


def _joined(weight: Entry | None, clip: Entry, width: int) -> Entry:
    """The entry of a matrix with its clip values."""
    if weight is None:
        raise ConvertError(f"`{clip.name}` belongs to no matrix of the checkpoint")
    is_matrix = len(weight.shape) == 2 and weight.size > 0
    if weight.packing or not is_matrix or weight.dtype not in _FLOATS:
        raise ConvertError(f"`{weight.name}` has clip values, but is no matrix of floats")
    rows, columns = weight.shape
    if clip.shape != (rows, 1) or clip.dtype not in _FLOATS:
        shape = " x ".join(map(str, clip.shape)) or "a single number"
        raise ConvertError(
            f"`{clip.name}` is {shape} of {clip.dtype}, expected a float for each row, {rows} x 1"
        )
    group = widest_group(columns)
    if group is None:
        raise ConvertError(f"`{weight.name}` has {columns} columns, which 32 does not divide")
    dtype = _scale_dtype(weight.dtype, clip.dtype, width)
    packing, nbytes = Packing(group, _CODE_BITS[width]), weight.nbytes + clip.nbytes
    return Entry(weight.name, weight.shape, dtype, nbytes, weight.location, packing, exact=True)


def _scale_dtype(weight: str, clip: str, width: int) -> str:
    """The smallest type that holds scales and offsets exactly."""
    if width == 2:
        return "F32"
    if width == 0:  # two thirds of alpha, rounded in the type that it is computed in
        return weight if weight == clip and weight != "F64" else "F32"
    return "F32" if clip == "F64" else clip


def _notice(count: int, width: int) -> str:
    text = f"{count} matrices hold {_NAMES[width]}-bit weights of ParetoQ: they need no rounding"
    if width == 2:
        text += "; their scales are exact in float32, and GPUs round them to the type they use"
    return text


def affine(weights: mx.array, alpha: mx.array, width: int) -> tuple[mx.array, mx.array, mx.array]:
    """The levels that the weights are rounded to, as codes, scales and offsets.

    Args:
        weights: (rows, columns).
        alpha: clip values, (rows, 1).
        width: ``w_bits``.

    Returns:
        Codes, (rows, columns), uint8; scales and offsets, (rows, 1), float32. A weight is
        ``scale * code + offset``.
    """
    least = mx.array(_LEAST, alpha.dtype)
    alpha = mx.where(alpha > least, alpha, least)
    dtype = alpha.dtype if alpha.dtype == weights.dtype else mx.float32
    weights, narrow, alpha = weights.astype(dtype), alpha.astype(dtype), alpha.astype(mx.float32)
    centre = {1: 1, 0: 1, 2: 2, 3: 4, 4: 8}[width]
    if width == 1:
        codes, scales, offsets = mx.sign(weights), alpha, -alpha
    elif width == 0:
        codes = mx.round(mx.clip(weights / narrow, -_BOUND, _BOUND) * 1.5)
        scales = (mx.array(1 / 1.5, dtype) * narrow).astype(mx.float32)
        offsets = -scales
    elif width == 2:
        codes = mx.round(mx.clip(weights / narrow, -_BOUND, _BOUND) * 2 - 0.5)
        scales, offsets = 0.5 * alpha, -0.75 * alpha
    else:
        codes = mx.clip(mx.round(weights / narrow), -centre, centre - 1)
        scales, offsets = alpha, -centre * alpha
    return (codes + centre).astype(mx.uint8), scales, offsets
