"""Checkpoints whose weights were rounded to 4 bits and stored as bfloat16 again.

MobileLLM-Pro's int4 checkpoints are of this kind: every weight is ``scale * q``, q from -8 to 7,
rounded to bfloat16. For CPUs 32 weights of a row share a scale, which is stored nowhere; for
accelerators a row has one, in ``weight_fake_quantizer.scale``. Here the scales are found again, and
a matrix whose every weight they give back to the bit is presented packed. Packing such a matrix by
rounding would choose other scales and lose what it was trained for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.weights import Packing

from ..writers.safetensors_file import DTYPES
from .affine import pack_codes, widest_group
from .tensors import Entry, PackedTensor, Reader, Tensor

SCHEMES = ("int4",)

_BITS, _CENTRE = 4, 8
_GROUP = 32
_SCALE = "weight_fake_quantizer.scale"
_STEP_WEIGHTS = 1 << 22
"""Looked at at a time: what is made of them on the way is bulky."""


def fake_quant_reader(reader: Reader, scheme: str | None) -> Reader:
    """``reader``, with the matrices that are ``scale * q`` packed; itself when nothing was asked.

    Raises:
        ConvertError: when no matrix is of that kind; when nothing was asked of a checkpoint that
            stores scales.
    """
    if scheme is not None:
        return FakeQuantReader(reader)
    if stored := [name for name in reader.entries if name.endswith(f".{_SCALE}")]:
        raise ConvertError(
            f"the weights were rounded in training, with scales such as `{stored[0]}`",
            f"keep them as they are with `--fake-quant {SCHEMES[0]}`",
        )
    return reader


class FakeQuantReader(Reader):
    """Presents matrices that hold 4-bit weights as packed ones.

    Every matrix is read once to find its scales, which are kept: at most a 16th of its bytes.

    Args:
        reader: of the weight files.

    Raises:
        ConvertError: when no matrix holds such weights, or stored scales do not fit.
    """

    def __init__(self, reader: Reader):
        self.format, self.files = reader.format, reader.files
        self.is_readable = reader.is_readable
        self._inner = reader
        self._scales: dict[str, mx.array] = {}
        self.misfits: dict[str, tuple[int, int]] = {}
        """Matrices that stay as they are: groups that do not fit, of how many."""
        entries, hidden = dict(reader.entries), []
        for entry in reader.entries.values():
            group = self._group(entry)
            if group is not None:
                entries[entry.name] = self._look(entry, group)
                if entries.pop(_scale_name(entry.name), None):
                    hidden.append(entry.name)
        self.entries = entries
        packed = [entry for entry in entries.values() if entry.exact]
        if not packed and not hidden:
            raise ConvertError(
                "no matrix of the checkpoint holds 4-bit weights", "leave out `--fake-quant`"
            )
        self.notices = (*reader.notices, *self._said(len(packed), len(hidden)))

    def _group(self, entry: Entry) -> int | None:
        """The groups that an entry would be packed in; None when it is no candidate."""
        if len(entry.shape) != 2 or entry.dtype != "BF16" or entry.packing or not entry.size:
            return None
        if _scale_name(entry.name) in self._inner.entries:
            return widest_group(entry.shape[1])
        return _GROUP if entry.shape[1] % _GROUP == 0 else None

    def _look(self, entry: Entry, group: int) -> Entry:
        """Find a matrix's scales; its packed entry when they fit."""
        dtype, extra = "BF16", self._inner.entries.get(_scale_name(entry.name))
        if self.is_readable:
            with mx.stream(mx.cpu):
                scales = self._find_scales(entry)
                if misfits := _count(mx.isnan(scales)):
                    if extra is not None:
                        raise ConvertError(
                            f"`{entry.name}` does not hold the values that its stored scales give "
                            f"({misfits:,} of {scales.size:,} rows do not fit)",
                            "convert without `--fake-quant`, or ask for the rounded weights",
                        )
                    self.misfits[entry.name] = misfits, scales.size
                    return entry
                dtype = _smallest_type(scales)
                self._scales[entry.name] = scales.astype(DTYPES[dtype])
                mx.eval(self._scales[entry.name])
        nbytes = entry.nbytes + (extra.nbytes if extra else 0)
        packing = Packing(group, _BITS)
        return replace(entry, dtype=dtype, nbytes=nbytes, packing=packing, exact=True)

    def _find_scales(self, entry: Entry) -> mx.array:
        """Scales of a matrix's groups or rows, (rows, n), float32: NaN where none fits."""
        weights, name = self._inner.read(entry.name), _scale_name(entry.name)
        assert isinstance(weights, mx.array)
        if name not in self._inner.entries:
            parts = [find_scales(some.reshape(-1, _GROUP)) for some in _steps(weights)]
            return mx.concatenate(parts).reshape(entry.shape[0], -1)
        stored = self._inner.read(name)
        assert isinstance(stored, mx.array)
        if stored.size != entry.shape[0]:
            raise ConvertError(f"`{name}` has {stored.size:,} values, expected {entry.shape[0]:,}")
        scales = stored.reshape(-1, 1).astype(mx.float32)
        steps = zip(_steps(weights), _steps(weights, scales), strict=True)
        fits = mx.concatenate([_fits(some, mine) for some, mine in steps])
        return mx.where(fits[:, None], scales, mx.nan)

    def _said(self, packed: int, stored: int) -> Iterator[str]:
        if not self.is_readable:
            yield "that the weights are 4-bit ones is looked at when they are converted"
            return
        if packed:
            where = f" (the scales of {stored} are stored beside them)" if stored else ""
            yield f"{packed} matrices hold 4-bit weights{where}, kept exactly for float32"
        if self.misfits:
            some = [f"`{n}` ({a:,} of {b:,})" for n, (a, b) in list(self.misfits.items())[:3]]
            yield (
                f"{len(self.misfits)} matrices with groups that are not 4-bit are as any others: "
                f"{', '.join(some)}{' and others' if len(self.misfits) > 3 else ''}"
            )

    def read(self, name: str) -> Tensor:
        weights, packing = self._inner.read(name), self.entries[name].packing
        if name not in self._scales:
            return weights
        assert isinstance(weights, mx.array) and packing
        scales, words = self._scales[name], []
        with mx.stream(mx.cpu):
            for some, mine in zip(_steps(weights), _steps(weights, scales), strict=True):
                groups = some.reshape(*mine.shape, -1)
                codes = _codes(groups, mine[..., None].astype(mx.float32)) + _CENTRE
                words.append(pack_codes(codes.reshape(some.shape), _BITS))
                mx.eval(words)
            repeats = weights.shape[1] // packing.group_size // scales.shape[1]
            scales = mx.repeat(scales, repeats, axis=1)
            offsets = (scales.astype(mx.float32) * -_CENTRE).astype(scales.dtype)
            codes = mx.concatenate(words)
            mx.eval(codes, scales, offsets)
        return PackedTensor(codes, scales, offsets, packing)


def _scale_name(name: str) -> str:
    return f"{name.removesuffix('.weight')}.{_SCALE}"


def _steps(weights: mx.array, of: mx.array | None = None) -> Iterator[mx.array]:
    """Rows of ``of``, or of the weights, as many at a time as make a step of weights."""
    rows = max(1, _STEP_WEIGHTS // weights.shape[1])
    for start in range(0, weights.shape[0], rows):
        yield (weights if of is None else of)[start : start + rows]


def _smallest_type(scales: mx.array) -> str:
    """The first type that holds the scales, and eight times as much, exactly."""
    for dtype in ("BF16", "F16"):
        eights = (scales * _CENTRE).astype(DTYPES[dtype]).astype(mx.float32)
        short = scales.astype(DTYPES[dtype]).astype(mx.float32)
        if mx.all((short == scales) & (eights == scales * _CENTRE)).item():
            return dtype
    return "F32"


def find_scales(groups: mx.array) -> mx.array:
    """The scale of every group of fake-quantised weights.

    The largest weight of a group is 8, 7, ... or 1 times the scale. Each is tried: it gives the
    codes of all others, and what every weight was before it was rounded to bfloat16, so also the
    interval in which the scale must lie. Any scale in it gives the very same weights; one that 16
    bits hold is preferred, because the one that was used often is.

    Args:
        groups: bfloat16, (G, group size).

    Returns:
        float32, (G,): NaN for a group that is not of this kind, 0 for one of zeros.
    """
    peak = mx.max(mx.abs(groups), axis=1).astype(mx.float32)
    scales = mx.where(peak == 0, 0.0, mx.nan)
    for most in range(_CENTRE, 0, -1):
        left = mx.isnan(scales)
        if not (count := _count(left)):
            break
        rest = mx.argsort(~left)[:count]  # the groups without a scale yet
        scales[rest] = _scales_for(groups[rest], peak[rest], most)
        mx.eval(scales)
    return scales


def _scales_for(groups: mx.array, peak: mx.array, most: int) -> mx.array:
    """The scales if the largest code is ``most``, (G,); NaN where it is not."""
    values = mx.abs(groups).astype(mx.float32)
    codes = mx.abs(_codes(groups, (peak / most)[:, None]))
    # Half a step of bfloat16 down and up is bit 15 of a float32.
    bits = values.view(mx.uint32)
    low, high = ((bits - 0x8000).view(mx.float32), (bits + 0x8000).view(mx.float32))
    least = mx.max(mx.where(codes > 0, low / codes, 0.0), axis=1)
    largest = mx.min(mx.where(codes > 0, high / codes, mx.inf), axis=1)
    middle = (least + largest) / 2
    found = mx.full(peak.shape, mx.nan)
    short = [x.astype(mx.bfloat16).astype(mx.float32) for x in (least, largest, middle)]
    for scales in (middle, *short):  # the last that fits
        found = mx.where(_fits(groups, scales[:, None]), scales, found)
    return found


def _codes(weights: mx.array, scales: mx.array) -> mx.array:
    """Weights over scales as whole numbers, float32; 0 where the scale is."""
    return mx.where(scales == 0, 0.0, mx.round(weights.astype(mx.float32) / scales))


def _fits(weights: mx.array, scales: mx.array) -> mx.array:
    """Whether a scale, (n, 1), gives all weights of its row, (n, columns), to the bit: (n,)."""
    codes = _codes(weights, scales)
    same = (codes * scales).astype(mx.bfloat16) == weights
    known = (codes >= -_CENTRE) & (codes < _CENTRE)
    return mx.all(same & known, axis=1) & mx.isfinite(scales[:, 0] * _CENTRE)


def _count(flags: mx.array) -> int:
    count = mx.sum(flags).item()
    assert isinstance(count, int)
    return count
