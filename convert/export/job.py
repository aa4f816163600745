"""A model directory of ours as files for other programs: Hugging Face's layout, or GGUF.

What is written is read back and compared before it gets its name: an export is either right or not
there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mobilellm_mlx import __version__
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, InvalidOption, StorageError
from mobilellm_mlx.events import Event, ExportSummary, Notice, Progress
from mobilellm_mlx.weights import weight_files

from ..files import is_own
from ..readers.safetensors_file import SafetensorsReader
from ..readers.tensors import MergedReader, PackedTensor, Reader, Tensor, read_bytes
from ..target import target_config
from ..transform import count_nonfinite, dense
from ..writers import directory as writer
from ..writers.gguf_file import TYPES
from ..writers.safetensors_file import DTYPES, Layout, SafetensorsWriter, layout_bytes
from .gguf import write_gguf
from .source import ModelDirectory, iter_rows, require_finite

Format = Literal["safetensors", "gguf"]
FLOAT_TYPES = ("f16", "bf16", "f32")

_KEPT = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
    "generation_config.json",
)  # fmt: skip
"""Files of a model directory that go with its weights, beside its licence."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write.

    Raises:
        InvalidOption: when the format has no such type.
    """

    format: Format
    type: str = "auto"
    """``auto`` changes no value where the format allows that; else ``f16``, ``bf16``, ``f32`` and,
    for GGUF, ``q8_0``, ``q4_0``, ``q4_1``."""
    force: bool = False
    """Replace what is at the target: a file, or a directory with a model."""
    shard_bytes: int = 5_000_000_000
    """Most bytes of one safetensors file, unless a single tensor is larger."""

    def __post_init__(self) -> None:
        allowed = ("auto", *(TYPES if self.format == "gguf" else FLOAT_TYPES))
        if self.type not in allowed:
            raise InvalidOption(
                f"`type` is {self.type!r}, expected one of {', '.join(allowed)} for {self.format}"
            )


def export(directory: Path, target: Path, options: ExportOptions) -> Iterator[Event]:
    """Write a model directory in another program's format.

    The target appears in one step at the very end, after everything in it was read back and
    compared; whatever ends the job before leaves nothing.

    Args:
        directory: a complete model directory of ours.
        target: the directory (safetensors) or file (GGUF) to make.
        options: format and type.

    Yields:
        ``Progress`` in bytes, ``Notice``, and an ``ExportSummary`` at the end.

    Raises:
        MobileLLMError: one of its kinds: a target that is there already, a damaged directory, a
            model or tokenizer that the format cannot hold, a disk that is full.
    """
    started = time.perf_counter()
    target = target.resolve()
    if options.format == "gguf":
        _require_free(target, options.force)
    else:
        writer.require_absent(target, options.force, [directory])
    source = ModelDirectory(directory)
    yield from map(Notice, source.notices)
    with writer.staging(target) as scratch:
        done = scratch / (target.name or "model")
        if options.format == "gguf":
            summary = yield from write_gguf(source, done, options.type)
            with done.open("rb") as file:  # on the disk before the name is
                os.fsync(file.fileno())
            _require_free(target, options.force)  # minutes may have passed
            done.replace(target)
        else:
            done.mkdir()
            summary = yield from _write_directory(source, done, options)
            writer.require_absent(target, options.force, [directory])  # minutes may have passed
            writer.publish(done, target, _manifest(source))
    files = target.iterdir() if target.is_dir() else [target]
    yield replace(
        summary,
        path=str(target),
        bytes=sum(file.stat().st_size for file in files),
        elapsed_s=time.perf_counter() - started,
    )


def _require_free(target: Path, force: bool) -> None:
    """Say early that a file cannot be written; only GGUF files are ever replaced.

    Raises:
        StorageError: when something is in the way.
    """
    if not target.exists():
        return
    if not target.is_file() or not _is_gguf(target):
        raise StorageError(
            f"`{target}` is there already and is no GGUF file, so it is not replaced",
            "name another file for the result",
        )
    if not force:
        raise StorageError(
            f"`{target}` is there already", "replace it with `--force`, or name another"
        )


def _is_gguf(path: Path) -> bool:
    return bytes(read_bytes(path, 0, min(4, path.stat().st_size))) == b"GGUF"


def _manifest(source: ModelDirectory) -> dict[str, Any]:
    """Where the directory came from."""
    kept = {name: value for name, value in source.manifest.items() if name != "files"}
    kept.setdefault("name", source.path.resolve().name)
    return {"format": 1, **kept, "made_by": f"mobilellm-mlx {__version__}"}


def _write_directory(
    source: ModelDirectory, directory: Path, options: ExportOptions
) -> Generator[Event, None, ExportSummary]:
    """A Hugging Face directory: weights, configuration, and what belongs to them."""
    default = source.stored_dtype if options.type == "auto" else options.type.upper()
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (_dtype(source, name, default, options), shape)
        for name, shape in source.shapes.items()
    }
    kept = [source.path / name for name in _KEPT if is_own(source.path, source.path / name)]
    for path in {*kept, *source.licence().files}:
        shutil.copyfile(path, directory / path.name)
    config = target_config(source.config, source.raw, default, None)
    writer.write_json(directory / "config.json", config)
    yield from _write_shards(source, directory, layout, options.shard_bytes)
    rounded = yield from _check_shards(source, directory, layout)
    return ExportSummary(
        format="safetensors",
        type=default.lower(),
        tensors=len(layout),
        rounded=rounded,
        lossless=not rounded,
    )


def _dtype(source: ModelDirectory, name: str, default: str, options: ExportOptions) -> str:
    """The type of one tensor: with ``auto`` what is not packed keeps its own, bit for bit."""
    entry = source.entry(name)
    keeps = options.type == "auto" and entry.packing is None and entry.dtype in DTYPES
    return entry.dtype if keeps else default


def _write_shards(
    source: ModelDirectory, directory: Path, layout: Layout, most_bytes: int
) -> Iterator[Event]:
    shards = _cut(layout, most_bytes)
    total, done = layout_bytes(layout), 0
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        path = directory / (name if len(shards) > 1 else "model.safetensors")
        places |= dict.fromkeys(shard, path.name)
        with SafetensorsWriter(path, shard, {"format": "pt"}) as file:
            for tensor, (dtype, shape) in shard.items():
                yield Progress("writing", done, total)
                file.write(tensor, _cast(tensor, source.read(tensor), dtype))
                done += layout_bytes({tensor: (dtype, shape)})
    yield Progress("writing", total, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        writer.write_json(directory / "model.safetensors.index.json", index)


def _cut(layout: Layout, most_bytes: int) -> list[Layout]:
    """The layout in pieces of at most ``most_bytes``, a larger tensor by itself."""
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    filled = 0
    for name, entry in layout.items():
        size = layout_bytes({name: entry})
        if shards[-1] and filled + size > most_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = entry
        filled += size
    return list(shards)


def _cast(name: str, tensor: Tensor, dtype: str) -> mx.array:
    """One tensor as it is written.

    Raises:
        ConvertError: when a value is not finite, or too large for the type.
    """
    values = tensor.dense() if isinstance(tensor, PackedTensor) else tensor
    cast = values.astype(DTYPES[dtype])
    if any(count_nonfinite(rows) for rows in iter_rows(cast)):
        require_finite(name, values)
        raise ConvertError(
            f"tensor `{name}` holds values too large for {str(cast.dtype).rpartition('.')[2]}",
            "export with `--type bf16` or `--type f32`",
        )
    return cast


def _check_shards(
    source: ModelDirectory, directory: Path, layout: Layout
) -> Generator[Event, None, int]:
    """Read the files again and compare every tensor; gives how many were rounded.

    Raises:
        ConvertError: when a tensor is missing or is not what was meant.
    """
    reader = MergedReader(SafetensorsReader(path) for path in weight_files(directory))
    if reader.entries.keys() != layout.keys():
        raise ConvertError("the weights read back with other tensors than were written")
    total, done, rounded = layout_bytes(layout), 0, 0
    for name, (dtype, shape) in layout.items():
        yield Progress("checking", done, total)
        rounded += _is_rounded(name, reader, source, dtype)
        done += layout_bytes({name: (dtype, shape)})
    yield Progress("checking", total, total)
    if rounded:
        yield Notice(
            f"{rounded} of {len(layout)} tensors are rounded to 16 bits, `--type f32` keeps every "
            "value"
        )
    return rounded


def _is_rounded(name: str, reader: Reader, source: ModelDirectory, dtype: str) -> bool:
    """Whether a tensor that was written differs from the source's.

    Raises:
        ConvertError: when it differs by more than rounding to its type.
    """
    entry, rounded = reader.entries[name], False
    right = (entry.dtype, entry.shape) == (dtype, source.shapes[name])
    if right:
        for rows in zip(iter_rows(reader.read(name)), iter_rows(source.read(name)), strict=True):
            got, exact = map(dense, rows)
            want = dense(exact.astype(DTYPES[dtype]))
            right = right and mx.array_equal(got, want).item() is True
            rounded = rounded or not mx.array_equal(got, exact).item()
    if not right:
        raise ConvertError(f"tensor `{name}` reads back differently from what was meant")
    return rounded
