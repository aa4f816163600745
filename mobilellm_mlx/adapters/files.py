"""An adapter's tensors, from its file and to it, in mlx-lm's form.

A file may come from anywhere: names, shapes, types and sizes are checked against the network before
MLX sees it, values when they are in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path

from mobilellm_mlx import __version__, weights
from mobilellm_mlx.adapters.identity import file_sha256
from mobilellm_mlx.adapters.record import (
    CONFIG,
    TEMPLATE,
    TENSORS,
    AdapterInfo,
    config_table,
    manifest_table,
    read_info,
)
from mobilellm_mlx.adapters.registry import on_disk
from mobilellm_mlx.backend import allocation_errors, available_memory_bytes, backend, mx, nn
from mobilellm_mlx.errors import AdapterError, InsufficientMemory, WeightsError, format_bytes
from mobilellm_mlx.models import LanguageModel, ModelConfig
from mobilellm_mlx.models.lora import BLOCKS, LoraSpec, weight_shape
from mobilellm_mlx.paths import MANIFEST

_MOST_HEADER_BYTES = 10_000_000
_INCOMPLETE = "the adapter is damaged or incomplete"
_FLOATS = ("F32", "F16", "BF16")
_MATRICES = (nn.Linear, nn.QuantizedLinear)
_TABLES = (nn.Embedding, nn.QuantizedEmbedding)
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in memory, checked against a network."""

    info: AdapterInfo
    spec: LoraSpec | None
    """None where it has whole weights."""
    tensors: dict[str, mx.array]
    sha256: str
    """Of all that makes it what it is, its name not among that."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(array.nbytes for array in self.tensors.values())


def load_adapter(directory: Path, model: LanguageModel) -> Adapter:
    """Read the adapter in a directory.

    Args:
        directory: with ``adapter_config.json`` and ``adapters.safetensors``.
        model: the network that it is for, without an adapter on it.

    Raises:
        AdapterError: when it is damaged, or of a network of another shape.
        InsufficientMemory: when there is no room for it.
    """
    info = read_info(directory)
    path = directory / TENSORS
    found = _read_header(path)
    spec = None if info.method == "full" else _spec(info, model, found)
    wanted = _whole_shapes(model) if spec is None else _shapes(spec, model)
    _check_names(info, found, wanted)
    needed = sum(prod(entry.shape) for entry in found.values()) * 4
    if needed > (free := available_memory_bytes()):
        raise InsufficientMemory(
            f"the adapter `{info.name}` needs {format_bytes(needed)} but there is "
            f"{format_bytes(free)}"
        )
    tensors = _read_tensors(path, found, model.dtype if spec is None else None)
    return Adapter(info, spec, tensors, _sha256(info))


def write_adapter(
    directory: Path,
    info: AdapterInfo,
    tensors: Mapping[str, mx.array],
    config: ModelConfig,
    template: str | None = None,
) -> AdapterInfo:
    """Write an adapter that mlx-lm reads as well: the whole directory, or nothing.

    Args:
        directory: that is not there yet, or is empty.
        info: what it is and where it comes from; its keys may be the modules' full paths, and
            without a time it was made now.
        tensors: by name, as ``models.lora.adapter_parameters`` gives them; of the types they have.
        config: of the network.
        template: a chat template that goes with it.

    Raises:
        StorageError: when the disk refuses; nothing is left behind.
    """
    info = replace(
        info,
        created=info.created or datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=info.made_by or f"mobilellm-mlx {__version__}",
        num_layers=info.num_layers or len(config.layers),
    )
    if info.keys is not None and any(key.startswith(BLOCKS) for key in info.keys):
        keys, layers = name_modules(info.keys, len(config.layers))
        info = replace(info, keys=keys, num_layers=layers)
    with on_disk("written", directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.part")
        try:
            part.mkdir()
            _save_tensors(part / TENSORS, tensors)
            if template is not None:
                _write(part / TEMPLATE, template)
            _write(part / CONFIG, json.dumps(config_table(info), indent=2))
            _write(part / MANIFEST, json.dumps(manifest_table(info), indent=2, ensure_ascii=False))
            part.replace(directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return read_info(directory)


def name_modules(paths: Sequence[str], blocks: int) -> tuple[tuple[str, ...], int]:
    """Adapted modules as mlx-lm's configuration names them: ``keys`` and ``num_layers``.

    Where all of the last blocks have the same ones, their names inside a block are enough; else
    each is named in full, which mlx-lm understands too.

    Args:
        paths: in full.
        blocks: how many there are.
    """
    inside: dict[int, set[str]] = {}
    others = []
    for path in paths:
        number, _, name = path.removeprefix(BLOCKS).partition(".")
        if path.startswith(BLOCKS) and number.isdecimal():
            inside.setdefault(int(number), set()).add(name)
        else:
            others.append(path)
    names = list(inside.values())
    last = sorted(inside) == list(range(blocks - len(inside), blocks))
    if not inside or not last or any(each != names[0] for each in names):
        return tuple(paths), blocks
    return (*sorted(names[0]), *others), len(inside)


def _save_tensors(path: Path, tensors: Mapping[str, mx.array]) -> None:
    try:
        mx.save_safetensors(str(path), dict(tensors), {"format": "mlx"})
    except RuntimeError as error:  # so MLX words what the disk refuses
        raise OSError(None, str(error)) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


# -------------------------------------------------------------------- what is expected


def _spec(info: AdapterInfo, model: LanguageModel, found: Mapping[str, object]) -> LoraSpec:
    """What has to be attached for the tensors: of all that could be, the modules that have any."""
    modules = {name.rpartition(".")[0] for name in found}
    paths = tuple(sorted(path for path in _adaptable(info, model) if path in modules))
    # Without dropout: that is for training.
    return LoraSpec(
        "dora" if info.method == "dora" else "lora",
        info.rank,
        info.scale,
        paths,
        per_run=info.per_run,
    )


def _adaptable(info: AdapterInfo, model: LanguageModel) -> list[str]:
    """Paths of the modules that a configuration speaks of, as mlx-lm understands it."""
    count = len(model.model.layers)
    first = count - info.num_layers if 0 < info.num_layers < count else 0
    chosen = []
    for path, module in model.named_modules():
        if not isinstance(module, _MATRICES + _TABLES):
            continue
        number, _, name = path.removeprefix(BLOCKS).partition(".")
        inside = path.startswith(BLOCKS) and int(number) >= first
        if info.keys is None:
            named = inside
        else:
            named = path in info.keys or (inside and name in info.keys)
        if named:
            chosen.append(path)
    return chosen


def _shapes(spec: LoraSpec, model: LanguageModel) -> dict[str, Shape]:
    """Name and shape of every tensor of an adapter.

    Raises:
        AdapterError: when it has what we cannot compute.
    """
    modules, shapes = dict(model.named_modules()), dict[str, Shape]()
    for path in spec.paths:
        rows, columns = weight_shape(modules[path])
        is_table = isinstance(modules[path], _TABLES)
        if is_table and spec.method == "dora":
            raise AdapterError(f"`{path}` is an embedding with DoRA, which is not supported")
        runs = _runs(path, model) if spec.per_run and not is_table else ()
        inputs, outputs = (rows, columns) if is_table else (columns, rows)
        shapes[f"{path}.lora_a"] = (*runs, inputs, spec.rank)
        shapes[f"{path}.lora_b"] = (*runs, spec.rank, outputs)
        if spec.method == "dora":
            shapes[f"{path}.m"] = (*runs, outputs)
    return shapes


def _runs(path: str, model: LanguageModel) -> tuple[int, ...]:
    """How often a module's block runs, where that is more than once."""
    if not path.startswith(BLOCKS):
        return ()
    runs = model.config.layers[int(path.removeprefix(BLOCKS).partition(".")[0])].runs
    return (runs,) if runs > 1 else ()


def _whole_shapes(model: LanguageModel) -> dict[str, Shape]:
    """Name and shape of every weight of the network, as if nothing was packed."""
    shapes: dict[str, Shape] = {}
    for path, module in model.named_modules():
        if isinstance(module, _MATRICES + _TABLES):
            shapes[f"{path}.weight"] = weight_shape(module)
        elif isinstance(module, nn.RMSNorm):
            shapes[f"{path}.weight"] = tuple(module.weight.shape)
    return shapes


# -------------------------------------------------------------------- what is there


def _read_header(path: Path) -> dict[str, weights.TensorInfo]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MOST_HEADER_BYTES:  # seconds and gigabytes before a name is looked at
            raise AdapterError(f"`{path}` has a header of {format_bytes(length)}", _INCOMPLETE)
        found = weights.read_safetensors_header(path)
    except OSError as error:
        raise AdapterError(f"`{path}` cannot be read: {error.strerror}") from error
    except WeightsError as error:
        raise AdapterError(error.message, "the adapter is damaged or incomplete") from error
    if not found:
        raise AdapterError(f"`{path}` holds no tensors", "the adapter is damaged or incomplete")
    return found


def _check_names(
    info: AdapterInfo, found: Mapping[str, weights.TensorInfo], wanted: Mapping[str, Shape]
) -> None:
    """Refuse what the network has no place for, and halves of adapters.

    Raises:
        AdapterError: naming the first tensor that is wrong.
    """
    for name, entry in found.items():
        shape = wanted.get(name)
        if shape is None:
            raise AdapterError(
                f"the adapter `{info.name}` has `{name[:120]}`, which its configuration or this "
                "model has no place for",
                "it is damaged, for another kind of model, or was trained on packed weights as a "
                "whole",
            )
        if entry.shape != shape:
            raise AdapterError(
                f"`{name}` of the adapter `{info.name}` is {entry.shape}, but this model wants "
                f"{shape}",
                "it was made for a model of another size, or with another rank",
            )
        if entry.dtype not in _FLOATS:
            raise AdapterError(
                f"`{name}` of the adapter `{info.name}` has the type {entry.dtype}, expected one "
                f"of {', '.join(_FLOATS)}"
            )
    missing = sorted(wanted.keys() - found.keys()) if info.method != "full" else []
    if missing:
        raise AdapterError(
            f"the adapter `{info.name}` lacks `{missing[0]}`",
            "it is damaged or incomplete",
        )


def _read_tensors(
    path: Path, expected: Mapping[str, weights.TensorInfo], dtype: mx.Dtype | None
) -> dict[str, mx.array]:
    """The tensors, evaluated.

    Args:
        path: of the file.
        expected: what its header said when it was checked.
        dtype: to give them; None keeps theirs where the machine is quick with it.

    Raises:
        AdapterError: when the file has changed, or a value is no number.
    """
    with allocation_errors("loading an adapter"):
        try:
            tensors = weights.load_tensors([path])
        except WeightsError as error:
            raise AdapterError(error.message, "the adapter is damaged") from error
        same = {name: entry.shape for name, entry in expected.items()}
        if {name: tuple(array.shape) for name, array in tensors.items()} != same:
            raise AdapterError(f"`{path}` changed while it was read", "try again")
        if dtype is None and not backend().half_precision:
            dtype = mx.float32
        if dtype is not None:
            tensors = {name: array.astype(dtype) for name, array in tensors.items()}
        whole = {name: mx.isfinite(array).all() for name, array in tensors.items()}
        try:
            mx.eval(tensors, whole)
        except RuntimeError as error:
            if path.is_file():  # memory is the caller's to word
                raise
            raise AdapterError(f"`{path}` went away while it was read") from error
    for name, is_whole in whole.items():
        if not is_whole.item():
            raise AdapterError(
                f"`{name}` of the adapter in `{path.parent}` has values that are no numbers",
                "it is damaged, or its training diverged",
            )
    return tensors


def _sha256(info: AdapterInfo) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, TENSORS, TEMPLATE):
        path = info.path / name
        digest.update(f"{name} {file_sha256(path) if path.is_file() else ''}\n".encode())
    digest.update(f"{info.per_run} {info.stop_token}".encode())
    return digest.hexdigest()
