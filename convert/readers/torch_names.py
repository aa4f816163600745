"""The names that a pickled state dict may hold, and what a call of each one makes.

Nothing of torch is imported, let alone called: a name is a key of the tables here, and what it
makes is a plain value or one of the dataclasses below. (Written from what torch 2.13's
``torch/_utils.py``, ``torch/storage.py`` and ``torch/serialization.py`` save.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mobilellm_mlx.weights import ITEM_BYTES

from .archive import SAVE_AGAIN

_MAX_RANK = 8
_MAX_DIM = 2**31 - 1  # MLX's shapes are of 32-bit integers


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the allow-list, as a value."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A record of the archive as a row of numbers."""

    key: str
    """The record is ``data/<key>``."""
    dtype: str
    size: int
    """Number of elements, as the pickle claims it."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: a window on a storage, all in elements, not yet compared with the record."""

    storage: Storage
    dtype: str
    """A safetensors name, or torch's own name where there is none (``TORCH_ITEM_BYTES``)."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class OrderedDict(dict[Any, Any]):
    """What ``collections.OrderedDict`` makes: the one kind of value that gets attributes."""


class WrongArguments(Exception):
    """A call does not fit what it calls. The interpreter turns it into a ConvertError."""

    def __init__(self, what: str, hint: str | None = None):
        super().__init__(what)
        self.hint = hint


_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
TORCH_ITEM_BYTES = ITEM_BYTES | dict.fromkeys(_FLOAT8, 1) | {
    "complex32": 4, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of one element, also of the types that are known by torch's name and cannot be read."""

_STORAGES = {
    Name("torch", name): dtype
    for name, dtype in {
        "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16",
        "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32",
        "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
        "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
        "UntypedStorage": "U8",
    }.items()
} | {Name("torch.storage", "UntypedStorage"): "U8"}  # fmt: skip
_DTYPES = {
    Name("torch", name): dtype
    for name, dtype in {
        "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
        "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "bool": "BOOL",
        "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
        **{name: name for name in ("complex32", "complex64", "complex128", *_FLOAT8)},
    }.items()
}  # fmt: skip


def find(module: str, name: str) -> Name | None:
    """The value for a name, if it is on the list."""
    found = Name(module, name)
    return found if found in _CALLS or found in _STORAGES or found in _DTYPES else None


def call(function: object, arguments: object) -> object:
    """What a call of a name of the list makes.

    Raises:
        WrongArguments: saying what does not fit.
    """
    if not isinstance(function, Name) or function not in _CALLS:
        raise WrongArguments("something that cannot be called")
    make, least, most = _CALLS[function]
    try:
        if not isinstance(arguments, tuple):
            raise WrongArguments("arguments that are no tuple")
        if not least <= len(arguments) <= most:
            raise WrongArguments(f"{len(arguments):,} arguments")
        return make(*arguments)
    except WrongArguments as error:
        raise WrongArguments(
            f"`{function.module}.{function.name}` with {error}", error.hint
        ) from error


def storage(identity: object) -> Storage:
    """The storage for a persistent id: ("storage", class, key, device, number of elements).

    Raises:
        WrongArguments: saying what does not fit.
    """
    if not isinstance(identity, tuple) or len(identity) != 5:
        raise WrongArguments("something other than the five parts of a storage")
    word, kind, key, device, size = identity
    if not all(isinstance(text, str) for text in (word, key, device)) or word != "storage":
        raise WrongArguments("something other than a storage")
    if not isinstance(kind, Name) or kind not in _STORAGES:
        raise WrongArguments("a storage of no known type")
    return Storage(key, _STORAGES[kind], _whole(size))


def hint(dotted: str) -> str:
    """What to do about a file that holds a name which is not on the list."""
    for starts, advice in _HINTS:
        if dotted.startswith(starts):
            return advice
    return _ONLY_TENSORS


def _whole(value: object) -> int:
    if type(value) is not int:
        raise WrongArguments("a number that is not whole")
    if value < 0:
        raise WrongArguments(f"the negative number {value:,}")
    return value


def _dims(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise WrongArguments("a shape that is no tuple")
    if len(value) > _MAX_RANK:
        raise WrongArguments(f"{len(value):,} dimensions, at most {_MAX_RANK} are read")
    return tuple(_whole(item) for item in value)


def _window(source: object, offset: object, shape: object, strides: object, dtype: object) -> View:
    """A view, of the storage's own type where ``dtype`` is None."""
    if not isinstance(source, Storage):
        raise WrongArguments("something that is no storage")
    if dtype is not None and not (isinstance(dtype, Name) and dtype in _DTYPES):
        raise WrongArguments("a type that is none")
    sizes, steps = _dims(shape), _dims(strides)
    if len(sizes) != len(steps):
        raise WrongArguments(f"{len(sizes)} dimensions but {len(steps)} strides")
    if sizes and max(sizes) > _MAX_DIM:
        raise WrongArguments(f"a dimension of {max(sizes):,}, at most {_MAX_DIM:,} are read")
    return View(
        source, source.dtype if dtype is None else _DTYPES[dtype], _whole(offset), sizes, steps
    )


def _check_extras(requires_grad: object, hooks: object, metadata: object = None) -> None:
    if type(requires_grad) is not bool:
        raise WrongArguments("a `requires_grad` that is neither true nor false")
    if hooks is not None and (not isinstance(hooks, dict) or hooks):
        raise WrongArguments("hooks")
    if metadata is not None and (not isinstance(metadata, dict) or metadata):
        raise WrongArguments("a view that is negated or conjugated when read", _PLAIN_COPIES)


def _tensor(source: object, offset: object, shape: object, strides: object) -> View:
    return _window(source, offset, shape, strides, None)


def _tensor_v2(
    source: object, offset: object, shape: object, strides: object, *extras: object
) -> View:
    _check_extras(*extras)
    return _window(source, offset, shape, strides, None)


def _tensor_v3(
    source: object, offset: object, shape: object, strides: object, *extras: object
) -> View:
    """For types without a storage class of their own: these lie in untyped bytes."""
    requires_grad, hooks, dtype, *metadata = extras
    _check_extras(requires_grad, hooks, *metadata)
    if dtype is None:
        raise WrongArguments("a type that is none")
    return _window(source, offset, shape, strides, dtype)


def _parameter(data: object, requires_grad: object, hooks: object, _state: object = None) -> View:
    """A parameter is its tensor; Python attributes that someone gave it are left out."""
    _check_extras(requires_grad, hooks)
    if not isinstance(data, View):
        raise WrongArguments("something that is no tensor")
    return data


_CALLS: dict[Name, tuple[Callable[..., object], int, int]] = {
    Name("collections", "OrderedDict"): (OrderedDict, 0, 0),
    Name("torch", "Size"): (_dims, 1, 1),
    Name("torch._utils", "_rebuild_tensor"): (_tensor, 4, 4),
    Name("torch._utils", "_rebuild_tensor_v2"): (_tensor_v2, 6, 7),
    Name("torch._utils", "_rebuild_tensor_v3"): (_tensor_v3, 7, 8),
    Name("torch._utils", "_rebuild_parameter"): (_parameter, 3, 3),
    Name("torch._utils", "_rebuild_parameter_with_state"): (_parameter, 4, 4),
}
"""What to call, with the least and the most arguments."""

_ONLY_TENSORS = (
    "a safe weight file holds tensors and nothing else: ask for safetensors, or let someone who "
    "trusts the file save the bare `state_dict()` again"
)
_WITHOUT_THE_REST = (
    "the file holds more than weights, such as training settings: save only the `state_dict()` "
    "again, or use safetensors"
)
_PLAIN_COPIES = (
    "save plain copies, `{name: tensor.detach().cpu().clone() for name, tensor in state.items()}`"
)
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("torch._utils._rebuild_qtensor", "torch.Q", "torch.q", "torch.per_"),
        "the weights are quantized by torch: use the checkpoint from before quantization",
    ),
    (
        ("torch._utils._rebuild_sparse", "torch.sparse", "torch._utils._rebuild_nested"),
        "save the weights as ordinary tensors, `tensor.to_dense()`",
    ),
    (
        ("torch._utils._rebuild_meta",),
        "the tensors are on the device `meta`, which has no values: save the loaded model",
    ),
    (
        ("torch._tensor._rebuild_from_type", "torch._utils._rebuild", "torch.distributed"),
        _PLAIN_COPIES,
    ),
    (
        ("torch.nn.", "transformers.", "torch.jit.", "torch.fx.", "__torch__"),
        f"a whole model was pickled, code included: {SAVE_AGAIN}",
    ),
    (
        (
            "argparse.", "numpy.", "_codecs.", "omegaconf.", "pathlib.", "types.SimpleNamespace",
            "torch.device", "torch.optim.", "collections.", "copyreg.", "builtins.set",
            "__builtin__.set", "datetime.",
        ),
        _WITHOUT_THE_REST,
    ),
)  # fmt: skip
