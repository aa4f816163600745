"""From a path to the reader that understands it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mobilellm_mlx.errors import ConvertError

from .gguf import open_gguf
from .safetensors_file import SafetensorsReader
from .tensors import MergedReader, Reader
from .torch_file import open_torch

_KINDS: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    ("model.safetensors.index.json", ("model*.safetensors", "*.safetensors")),
    ("pytorch_model.bin.index.json", ("pytorch_model*.bin",)),
    (None, ("*.gguf",)),
    (None, ("*.pth", "*.pt")),
)
"""Weight files, the kind that is preferred first: an index of them, and their names."""
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.[a-z]+")
_MAX_INDEX_BYTES = 50_000_000


def open_weights(path: Path) -> Reader:
    """A reader for one file, chosen by its first bytes.

    Raises:
        ConvertError, WeightsError: when the file is none that can be read, or is damaged.
    """
    return _opener(path)(path)


def open_directory(directory: Path, names: Sequence[str] = ()) -> Reader:
    """A reader for the weights of a Hugging Face style directory, all shards as one.

    Args:
        directory: where they lie.
        names: of the files, when it is known which ones; else they are looked for.

    Raises:
        ConvertError, WeightsError: when there are none, shards are missing, or one is damaged.
    """
    paths = [directory / name for name in names] or weight_files(directory)
    readers = [open_weights(path) for path in paths]
    return readers[0] if len(readers) == 1 else MergedReader(readers)


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a directory: the first kind that is there, by its index or its names."""
    for index, patterns in _KINDS:
        found = next(filter(None, (_seen(directory, pattern) for pattern in patterns)), [])
        if index and (directory / index).is_file():
            return _indexed(directory / index)
        if found:
            return _one_checkpoint(directory, found)
    raise ConvertError(
        f"no weights in `{directory}`: expected *.safetensors, pytorch_model.bin or *.gguf",
        "name the directory that holds the checkpoint, or the weight file itself",
    )


def _seen(directory: Path, pattern: str) -> list[Path]:
    """Files but no shadows of them: macOS puts ``._name`` beside each on foreign disks."""
    paths = directory.glob(pattern)
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def _one_checkpoint(directory: Path, found: list[Path]) -> list[Path]:
    """Several files are one checkpoint only where their names say so."""
    parts = [_PART.fullmatch(path.name) for path in found]
    whole = [part for part in parts if part is not None]
    if len(whole) == len(found):
        return _complete(directory, found, whole)
    if len(found) == 1:
        return found
    raise ConvertError(
        f"`{directory}` holds {len(found)} weight files: {', '.join(p.name for p in found[:4])}",
        "name the one that is meant",
    )


def _complete(directory: Path, found: list[Path], parts: list[re.Match[str]]) -> list[Path]:
    """All parts of one checkpoint, none missing: a model without its last part looks whole."""
    names, counts = {part[1] for part in parts}, {part[3] for part in parts}
    numbers = {int(part[2]) for part in parts}
    if len(names) == len(counts) == 1:
        count = int(counts.pop())
        if numbers in (set(range(1, count + 1)), set(range(count))) or found[0].suffix == ".gguf":
            return found
        raise ConvertError(
            f"`{directory}` holds {len(found)} of {count} parts of the weights",
            "download the checkpoint again, completely",
        )
    raise ConvertError(
        f"`{directory}` holds parts of {max(len(names), len(counts))} checkpoints",
        "name the one that is meant",
    )


def _indexed(index: Path) -> list[Path]:
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ConvertError(f"`{index.name}` is larger than any index of weight files")
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        paths = [index.parent / name for name in names]
    except OSError as error:
        raise ConvertError(f"`{index}` cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConvertError(f"`{index.name}` is not a readable index of weight files") from error
    for name, path in zip(names, paths, strict=True):
        if Path(name).name != name or len(name.encode("utf-8", "replace")) > 255:
            raise ConvertError(f"`{index.name}` names a file outside its directory: {name[:80]}")
        if not path.is_file():
            raise ConvertError(
                f"`{name}` is listed in `{index.name}` but missing",
                "download the checkpoint again, completely",
            )
    if not paths:
        raise ConvertError(f"`{index.name}` lists no files")
    return paths


def _opener(path: Path) -> Callable[[Path], Reader]:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error.strerror}") from error
    if start.startswith(b"GGUF"):
        return open_gguf
    # A header's length, then its JSON: no file of torch has a brace there.
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and not start.startswith(b"PK")):
        return SafetensorsReader
    if path.suffix == ".gguf":
        return open_gguf
    return open_torch
