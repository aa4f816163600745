"""Files of ``torch.save`` (``pytorch_model.bin``, ``.pt``, ``.pth``), read without torch.

The zip gives records (``archive``), the pickle in it a table of views on them (``unpickle``); here
the views are compared with the records, before a value is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError

from .archive import Record, check_crc, read_archive, shown
from .tensors import ITEM_BYTES, Entry, Reader, read_bytes, to_array
from .torch_names import TORCH_ITEM_BYTES, View
from .unpickle import MAX_BYTES, unpickle

_NESTS = ("model", "state_dict", "model_state_dict")
"""Where training programs put the weights, beside their own state."""
_WRAPPER = "module."
"""Data-parallel training wraps the model, which prefixes every name."""
_MAX_NAME = 512
_MAX_REPEAT = 64
_FREE_REPEAT = 65_536
"""Elements that a view may always have, however little of the file it repeats."""
_NOT_THE_FILE = "the file is damaged or not what it claims: download it again, or use safetensors"
_STATE_DICT = "save the weights alone, `torch.save(model.state_dict(), path)`"


@dataclass(frozen=True, slots=True)
class _Window:
    """A view that fits its record. Strides of dimensions without a second element are 0."""

    record: Record
    dtype: str
    offset: int
    """In elements, as ``span`` and ``strides``."""
    span: int
    """From the first element to the last."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def start(self) -> int:
        """Byte of the file at which the first element lies."""
        return self.record.offset + self.offset * self.item_bytes

    @property
    def item_bytes(self) -> int:
        return TORCH_ITEM_BYTES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != step:
                return False
            step *= size
        return True


def open_torch(path: Path) -> Reader:
    """A reader for a file that ``torch.save`` wrote (zip format, torch 1.6 and later).

    The state dict is the file's value, or stands in it as ``model``, ``state_dict`` or
    ``model_state_dict``. The prefix ``module.`` is taken off names. Tensors of types that MLX's
    weights cannot have (complex, float8) are listed under torch's name for the type and refused
    when read.

    Raises:
        ConvertError: when the file holds anything but plain values and tensors, is damaged, or was
            not written by torch.
    """
    return TorchReader(path)


class TorchReader(Reader):
    """One file of ``torch.save``; see ``open_torch``."""

    format = "pytorch"

    def __init__(self, path: Path):
        self.files = (path,)
        records = read_archive(path)
        value = _read_pickle(path, records["data.pkl"])
        table = _find_state_dict(path, value)
        beside = [] if value is table or not isinstance(value, dict) else _beside(value, table)
        self._windows: dict[str, _Window] = {}
        for name, view in _named_views(path, table):
            self._windows[name] = _check_view(path, name, view, records)
        self.entries = {
            name: Entry(
                name,
                window.shape,
                window.dtype,
                window.span * window.item_bytes,
                (path, window.start, window.dtype, window.shape, window.strides),
            )
            for name, window in self._windows.items()
        }
        self.notices = tuple(_notices(table, self.entries, beside))

    def read(self, name: str) -> mx.array:
        window = self._windows[name]
        path = self.files[0]
        if window.dtype not in ITEM_BYTES:
            raise ConvertError(
                f"tensor `{name}` in `{path.name}` has the unsupported type {window.dtype}",
                "save it as float32, float16 or bfloat16",
            )
        size = prod(window.shape)
        if size > max(_FREE_REPEAT, _MAX_REPEAT * window.span):
            raise ConvertError(
                f"tensor `{name}` in `{path.name}` repeats {window.span:,} values at byte "
                f"{window.start:,} to {size:,}",
                "save it contiguous, `tensor.contiguous()`",
            )
        data = read_bytes(path, window.start, window.span * window.item_bytes)
        if len(data) == window.record.size:
            check_crc(path, window.record, data)
        if size == 0 or window.is_contiguous:
            array = to_array(data, window.dtype, window.shape)
        else:
            row = to_array(data, window.dtype, (window.span,))
            array = mx.contiguous(mx.as_strided(row, window.shape, window.strides, 0))
        mx.eval(array)
        return array


def _read_pickle(path: Path, record: Record) -> object:
    if record.size > MAX_BYTES:
        raise ConvertError(
            f"record `{record.name}` of `{path.name}` at byte {record.offset:,} has "
            f"{record.size:,} bytes, at most {MAX_BYTES:,} are read",
            _STATE_DICT,
        )
    data = read_bytes(path, record.offset, record.size)
    check_crc(path, record, data)
    return unpickle(bytes(data), record.offset, path.name)


def _find_state_dict(path: Path, value: object) -> Mapping[object, object]:
    """The table of tensors by name: the file's value, or one of its entries."""
    if isinstance(value, dict):
        inner = {key: value[key] for key in _NESTS if _has_tensors(value.get(key))}
        tables = {id(table): table for table in inner.values()}
        if len(tables) > 1:
            raise ConvertError(
                f"`{path.name}` holds weights twice, as `{'` and `'.join(inner)}`", _STATE_DICT
            )
        for table in (*tables.values(), value):
            if _has_tensors(table):
                return table  # type: ignore[no-any-return]
    raise ConvertError(
        f"`{path.name}` holds no tensors by name: expected a state dict, alone or as "
        f"`{'`, `'.join(_NESTS)}`",
        _STATE_DICT,
    )


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, View) for item in value.values())


def _named_views(path: Path, table: Mapping[object, object]) -> Iterator[tuple[str, View]]:
    seen: set[str] = set()
    for key, value in table.items():
        if not isinstance(value, View):
            continue
        if not isinstance(key, str) or len(key) > _MAX_NAME or not key.isprintable() or not key:
            raise ConvertError(
                f"`{path.name}` names a tensor `{shown(str(key))}`, which is no name of a weight",
                _NOT_THE_FILE,
            )
        name = key.removeprefix(_WRAPPER)
        if name in seen:
            raise ConvertError(
                f"`{path.name}` holds the tensor `{name}` twice, with and without `{_WRAPPER}`",
                _STATE_DICT,
            )
        seen.add(name)
        yield name, value


def _check_view(path: Path, name: str, view: View, records: Mapping[str, Record]) -> _Window:
    """A view beside the record it looks at: every element must lie in it."""
    what = f"tensor `{name}` in `{path.name}`"
    record = records.get(f"data/{view.storage.key}")
    if record is None:
        raise ConvertError(
            f"{what} lies in the record `data/{shown(view.storage.key)}`, which is missing",
            _NOT_THE_FILE,
        )
    where = f"record `{record.name}` at byte {record.offset:,}"
    claimed = view.storage.size * TORCH_ITEM_BYTES[view.storage.dtype]
    if claimed != record.size:
        raise ConvertError(
            f"{what} expects {claimed:,} bytes in {where}, which has {record.size:,}",
            _NOT_THE_FILE,
        )
    steps = tuple(
        stride if size > 1 else 0 for size, stride in zip(view.shape, view.strides, strict=True)
    )
    span = offset = 0  # torch leaves views of nothing with any offset
    if all(view.shape):
        span = 1 + sum((size - 1) * step for size, step in zip(view.shape, steps, strict=True))
        offset = view.offset
    end = (offset + span) * TORCH_ITEM_BYTES[view.dtype]
    if end > record.size:
        raise ConvertError(
            f"{what} reaches to byte {end:,} of {where}, which has {record.size:,}",
            _NOT_THE_FILE,
        )
    return _Window(record, view.dtype, offset, span, view.shape, steps)


def _beside(value: Mapping[object, object], table: object) -> list[str]:
    """What a training program saved beside the weights."""
    return [shown(str(key), 40) for key, item in value.items() if item is not table]


def _notices(
    table: Mapping[object, object], entries: Mapping[str, Entry], beside: list[str]
) -> Iterator[str]:
    if beside:
        yield f"left out, because it is no weights: {', '.join(beside[:5])}"
    wide = sum(entry.dtype == "F64" for entry in entries.values())
    if wide:
        yield f"float64 is read as float32 ({wide:,} of {len(entries):,} tensors)"
    if others := len(table) - len(entries):
        yield f"values that are no tensors are left out ({others:,} of {len(table):,})"
