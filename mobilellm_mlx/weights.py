"""Reading weights: safetensors files, checked before MLX sees them, and matched to the network.

MLX's own loader trusts its input (its maintainers say so), so the header of every file is checked
against the file's real length first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.errors import ConfigError, WeightsError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors' names for types."""
_MAX_HEADER_BYTES = 100_000_000
_REMOVE_AND_PULL = "it is damaged or incomplete: fetch it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Byte of the file at which the values begin."""
    stop: int


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """The tensor table of a safetensors file, every entry checked against the file's length.

    Raises:
        WeightsError: when the file is truncated or its table is impossible.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES, size))
    except OSError as error:
        raise WeightsError(f"`{path}` cannot be read: {error.strerror}") from error
    return parse_safetensors_header(path.name, start, size)


def parse_safetensors_header(name: str, start: bytes, size: int) -> dict[str, TensorInfo]:
    """As ``read_safetensors_header``, from a file's first bytes.

    Args:
        name: of the file, for messages.
        start: its length field and the whole header.
        size: bytes of the whole file.
    """
    length = int.from_bytes(start[:8], "little")
    if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES) or len(start) < 8 + length:
        raise WeightsError(
            f"`{name}` is truncated or damaged: it has {size:,} bytes, and its header at byte 8 "
            f"claims {length:,}",
            _REMOVE_AND_PULL,
        )
    try:
        header = json.loads(start[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"`{name}` has an unreadable header at byte 8: {error}", _REMOVE_AND_PULL
        ) from error
    if not isinstance(header, dict):
        raise WeightsError(f"`{name}` has an unreadable header at byte 8", _REMOVE_AND_PULL)
    header.pop("__metadata__", None)
    tensors = {
        key: _tensor_info(name, key, entry, 8 + length, size) for key, entry in header.items()
    }
    _refuse_overlaps(name, tensors)
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name appear twice and readers differ in which one they believe."""
    table = dict(pairs)
    for name in table:
        name.encode()  # half a surrogate pair is no name: a ValueError
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"`{twice[:80]}` is listed twice")
    return table


def _tensor_info(file: str, name: str, entry: Any, begin: int, size: int) -> TensorInfo:
    """The entry, checked; ``begin`` is where the file's data begins, ``size`` its length."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        # Bounded before they are multiplied: products of huge numbers take for ever.
        whole = len(shape) <= 8 and all(
            type(n) is int and 0 <= n < 2**63 for n in (start, stop, *shape)
        )
        fits = whole and start <= stop <= size - begin
        if fits and isinstance(dtype, str) and dtype not in ITEM_BYTES:
            raise WeightsError(
                f"tensor `{name[:120]}` in `{file}` has the unsupported type {dtype[:20]}"
            )
        if fits and stop - start == prod(shape) * ITEM_BYTES[dtype]:
            return TensorInfo(dtype, tuple(shape), begin + start, begin + stop)
    except (KeyError, TypeError, ValueError):
        pass
    raise WeightsError(
        f"tensor `{name[:120]}` in `{file}` does not fit the {size:,} bytes of the file, by its "
        f"entry in the header: {json.dumps(entry, default=str)[:80]}",
        _REMOVE_AND_PULL,
    )


def _refuse_overlaps(file: str, tensors: Mapping[str, TensorInfo]) -> None:
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start < end:
            raise WeightsError(
                f"tensor `{name[:120]}` in `{file}` begins at byte {info.start:,}, inside "
                "another one"
            )
        end = info.stop


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, by its index where there is one.

    Raises:
        WeightsError: when there are none, or the index names a file that is missing or outside.
    """
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(directory.glob("model*.safetensors"))
        if not files:
            raise WeightsError(
                f"no weights in `{directory}`: expected `model.safetensors`",
                "convert the checkpoint first, or check the path",
            )
        return files
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        paths = [directory / name for name in names]
        within = all(len(os.fsencode(name)) < 256 for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"`{index}` is not a readable index of weight files") from error
    if not within:
        raise WeightsError(f"`{index}` names a file with an impossibly long name")
    for name, path in zip(names, paths, strict=True):
        if Path(name).name != name:
            raise WeightsError(f"`{index.name}` names a file outside the model directory: {name}")
        if not path.is_file():
            raise WeightsError(f"`{name}` is listed in `{index.name}` but missing")
    return paths


def load_tensors(files: Iterable[Path]) -> dict[str, mx.array]:
    """All tensors of some checked safetensors files, lazily: the data is read when evaluated.

    Raises:
        WeightsError: when a file is damaged or two files hold the same tensor.
    """
    tensors: dict[str, mx.array] = {}
    for path in files:
        expected = read_safetensors_header(path)
        try:
            loaded = mx.load(str(path))
        except (RuntimeError, ValueError) as error:  # its parser is stricter here and there
            raise WeightsError(
                f"`{path.name}` cannot be read: {error}", _REMOVE_AND_PULL
            ) from error
        if not isinstance(loaded, dict) or loaded.keys() != expected.keys():
            raise WeightsError(f"`{path.name}` could not be read as listed in its header")
        if twice := tensors.keys() & loaded.keys():
            raise WeightsError(f"tensor `{min(twice)}` is stored twice")
        tensors.update(loaded)
    return tensors


@dataclass(frozen=True, slots=True)
class Packing:
    """How one tensor is packed: MLX's groups, which share a scale."""

    group_size: int
    bits: int
    mode: str = "affine"
    """``affine`` is ``scale * code + bias``; ``mxfp4``, ``mxfp8`` and ``nvfp4`` are floats of a few
    bits times an 8-bit scale, without biases."""


MODES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
"""The bits and group sizes that MLX has for each mode."""


@dataclass(frozen=True, slots=True)
class QuantizationTable:
    """The ``quantization`` table of a ``config.json``, in mlx-lm's form."""

    default: Packing
    modules: Mapping[str, Packing | None]
    """Exceptions by module path; None is a module kept unpacked."""

    def packing(self, module: str) -> Packing | None:
        """How the weight of ``module`` is packed, if it is."""
        return self.modules.get(module, self.default)


def read_quantization(config: Mapping[str, Any]) -> QuantizationTable | None:
    """The packing that a checkpoint's configuration declares; None when it is not packed.

    Raises:
        ConfigError: for unknown modes, and impossible bits or group sizes.
    """
    table = config.get("quantization")
    if table is None:
        return None
    default = _packing(table, "quantization")
    modules: dict[str, Packing | None] = {}
    for name, entry in table.items():
        if entry is False:
            modules[name] = None
        elif isinstance(entry, Mapping):
            modules[name] = _packing({**table, **entry}, name)
    return QuantizationTable(default, modules)


def _packing(entry: Any, name: str) -> Packing:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"`{name}` is {entry!r}, expected a table")
    mode, bits, group = entry.get("mode", "affine"), entry.get("bits"), entry.get("group_size")
    if not isinstance(mode, str) or mode not in MODES:
        raise ConfigError(
            f"quantization mode of `{name}` is {mode!r}, expected one of {', '.join(MODES)}"
        )
    widths, groups = MODES[mode]
    whole = type(bits) is int and type(group) is int
    if not whole or bits not in widths or group not in groups:
        raise ConfigError(
            f"quantization of `{name}` has bits {bits!r} and group size {group!r}, "
            f"expected {_choices(widths)} bits in groups of {_choices(groups)}"
        )
    return Packing(group, bits, mode)


def _choices(values: tuple[int, ...]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def pack_modules(
    model: nn.Module, tensors: Mapping[str, mx.array], table: QuantizationTable
) -> None:
    """Give every module that the tensors hold packed its packed form, in place.

    Raises:
        WeightsError: when tensors are not packed as the table says.
    """

    def packed(path: str, module: nn.Module) -> bool | dict[str, Any]:
        packing = table.packing(path)
        if packing is None or f"{path}.scales" not in tensors:
            return False
        _check_packed(path, tensors, packing)
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % packing.group_size:
            return False  # then the tensors do not fit the network, which `assign` says
        return asdict(packing)

    nn.quantize(model, class_predicate=packed)


def _check_packed(module: str, tensors: Mapping[str, mx.array], packing: Packing) -> None:
    """MLX would raise bare ValueErrors, some of them only when the model runs."""
    codes, scales, biases = (tensors.get(f"{module}.{p}") for p in ("weight", "scales", "biases"))
    if codes is not None and scales is not None and codes.ndim == 2 and codes.dtype == mx.uint32:
        groups, rest = divmod(codes.shape[1] * 32, packing.bits * packing.group_size)
        if not rest and scales.shape == (codes.shape[0], groups):
            if packing.mode != "affine":
                fits = biases is None and scales.dtype == mx.uint8
            else:
                fits = (
                    biases is not None
                    and biases.shape == scales.shape
                    and all(
                        mx.issubdtype(numbers.dtype, mx.floating) for numbers in (scales, biases)
                    )
                )
            if fits:
                return
    raise WeightsError(
        f"`{module}` is not packed in {packing.bits} bits and groups of {packing.group_size}, as "
        "the `quantization` table of `config.json` says",
        "the model directory mixes files of different models, or its `config.json` is wrong",
    )


def unpack_tensors(
    tensors: Mapping[str, mx.array], table: QuantizationTable | None, dtype: mx.Dtype
) -> dict[str, mx.array]:
    """The same weights unpacked to ``dtype``, lazily.

    The scales are widened before the product, so that float32 holds exactly what is stored.
    """
    unpacked: dict[str, mx.array] = {}
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in ("scales", "biases") and f"{module}.weight" in tensors:
            continue
        scales = tensors.get(f"{module}.scales")
        packing = table.packing(module) if table else None
        if leaf != "weight" or scales is None or packing is None:
            unpacked[name] = array.astype(dtype)
            continue
        _check_packed(module, tensors, packing)
        unpacked[name] = unpack(array, scales, tensors.get(f"{module}.biases"), packing, dtype)
    return unpacked


def unpack(
    codes: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    """The weights that packed ones stand for.

    Affine codes of a byte or half of one go by way of bytes: MLX's own unpacking goes through
    32-bit integers, four times the traffic. On a CPU it takes a third longer, and that is most of
    the time a small model needs to start.

    Args:
        codes: packed, (rows, words).
        scales: (rows, groups); widened to ``dtype`` before the product, so that float32 holds
            exactly what is stored.
        biases: (rows, groups), or None for the modes without.
        packing: how the codes are packed.
        dtype: of the result.

    Returns:
        Weights, (rows, columns), of ``dtype``.
    """
    group, bits = packing.group_size, packing.bits
    if biases is None:
        return mx.dequantize(
            codes, scales, group_size=group, bits=bits, mode=packing.mode, dtype=dtype
        )
    scales, biases = scales.astype(dtype), biases.astype(dtype)
    if bits not in (4, 8):
        return mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
    values = codes.view(mx.uint8)
    if bits == 4:  # the low half of a byte comes first
        values = mx.stack([values & 15, values >> 4], axis=-1)
    rows, groups = scales.shape
    values = values.reshape(rows, groups, group).astype(dtype)
    return (values * scales[..., None] + biases[..., None]).reshape(rows, -1)


def assign(model: nn.Module, tensors: Mapping[str, mx.array]) -> None:
    """Put the tensors into the network; every name and shape must match.

    Raises:
        WeightsError: naming the first few tensors that are missing, unexpected or misshapen.
    """
    wanted = {name: array.shape for name, array in tree_flatten(model.parameters())}
    complaints = [
        *_named("missing", sorted(wanted.keys() - tensors.keys())),
        *_named("unexpected", sorted(tensors.keys() - wanted.keys())),
        *_named(
            "of the wrong shape",
            [
                f"{name} {tuple(tensors[name].shape)}, expected {tuple(shape)}"
                for name, shape in sorted(wanted.items())
                if name in tensors and tensors[name].shape != shape
            ],
        ),
    ]
    if complaints:
        raise WeightsError(
            f"the weights do not fit the network: {'; '.join(complaints)}",
            "the model directory mixes files of different models, or its `config.json` is wrong",
        )
    model.load_weights(list(tensors.items()), strict=True)


def _named(what: str, names: list[str], most: int = 3) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{len(names)} {what} ({', '.join(names[:most])}{more})"]
