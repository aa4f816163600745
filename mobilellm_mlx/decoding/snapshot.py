"""What a model has read of a conversation, kept in a file: keys and values with their tokens.

A safetensors file. Its metadata says whose they are; that must be the very same model, computed in
the same form, or nothing of it is used. Like every file it is checked before MLX sees it.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import WeightsError
from mobilellm_mlx.models import Cache, LanguageModel
from mobilellm_mlx.weights import TensorInfo, parse_safetensors_header

FORMAT = "mobilellm-cache-1"
"""Name and version: another one is not read."""
PART = ".part"
"""How the names of files end that are being written."""
_DAMAGED = "is damaged"
_MAX_HEADER_BYTES = 16_000_000
_TYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


class Unusable(Exception):
    """Why nothing was written or read, as one sentence."""


def write_snapshot(
    path: Path, fingerprint: str, tokens: Sequence[int], caches: Sequence[Cache]
) -> int:
    """Write caches to a file that is whole or not there; its size.

    Args:
        path: of the file; an older one is replaced.
        fingerprint: of the model.
        tokens: whose keys and values the caches hold.
        caches: one for each attention run.

    Raises:
        Unusable: when they are empty or the disk does not take them.
    """
    states = [cache.state for cache in caches]
    if not tokens or None in states:
        raise Unusable("the model has read nothing yet")
    arrays = dict(_named(state for state in states if state is not None))
    metadata = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "tokens": json.dumps(list(tokens)),
        "caches": json.dumps(_kinds(caches)),
        "checksum": f"{_checksum(arrays.values()):08x}",
    }
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What was said can be read off it: nobody else may.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            mx.save_safetensors(file, arrays, metadata)
        part.replace(path)
        return path.stat().st_size
    except (OSError, RuntimeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise Unusable(f"`{path.name}` cannot be written: {said}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def read_snapshot(
    path: Path, fingerprint: str, model: LanguageModel, limit: int
) -> tuple[list[int], list[Cache], int]:
    """Caches from a file, the tokens they hold, and the file's size.

    Args:
        path: what ``write_snapshot`` wrote, or anything else.
        fingerprint: of the model.
        model: says what its keys and values look like.
        limit: most tokens that the caches may hold.

    Raises:
        Unusable: when the file is missing, damaged, or of another model.
    """
    start, size = _read_start(path)
    try:
        table = parse_safetensors_header(path.name, start, size)
    except WeightsError as error:
        raise Unusable(error.message) from error
    metadata = _metadata(start)
    _require(metadata.get("format") == FORMAT, "is of another kind or version")
    _require(metadata.get("fingerprint") == fingerprint, "is of another model or another form")
    tokens = _whole_numbers(metadata.get("tokens"))
    vocab = model.config.vocab_size
    _require(bool(tokens) and all(0 <= t < vocab for t in tokens), _DAMAGED)
    _require(len(tokens) <= limit, "is longer than the context")
    caches = model.make_cache(limit)
    _require(metadata.get("caches") == json.dumps(_kinds(caches, len(tokens))), _DAMAGED)
    wanted = _shapes(model, len(caches), len(tokens), table)
    found = {name: (info.dtype, info.shape) for name, info in table.items()}
    _require(found == wanted, "holds keys and values of another shape")
    try:
        arrays = mx.load(str(path), format="safetensors")
        mx.eval(arrays)
    except (RuntimeError, ValueError) as error:  # replaced or cut off since then
        raise Unusable(f"the file of this chat cannot be read: {error}") from error
    _restore(arrays, wanted, metadata, caches, len(tokens))
    return tokens, caches, size


def _restore(
    arrays: Any,
    wanted: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    caches: Sequence[Cache],
    offset: int,
) -> None:
    """Hand loaded arrays to the caches once they are what the header has promised."""
    _require(isinstance(arrays, dict) and arrays.keys() == wanted.keys(), _DAMAGED)
    loaded = {name: (_TYPES.get(a.dtype), a.shape) for name, a in arrays.items()}
    _require(loaded == wanted, _DAMAGED)
    # In the order of the caches; a header may list them in any.
    ordered = [arrays[name] for name in wanted]
    _require(metadata.get("checksum") == f"{_checksum(ordered):08x}", _DAMAGED)
    for cache, keys, values in zip(caches, ordered[::2], ordered[1::2], strict=True):
        try:
            cache.restore((keys, values), offset)
        except ValueError as error:
            raise Unusable(f"the file of this chat {_DAMAGED}: {error}") from error


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unusable(f"the file of this chat {otherwise}")


def _named(states: Iterable[tuple[mx.array, mx.array]]) -> Iterable[tuple[str, mx.array]]:
    for number, (keys, values) in enumerate(states):
        yield f"{number}.keys", keys
        yield f"{number}.values", values


def _kinds(caches: Sequence[Cache], offset: int | None = None) -> list[list[Any]]:
    """What each cache keeps and how many tokens it has seen."""
    return [[cache.kind, cache.offset if offset is None else offset] for cache in caches]


def _shapes(
    model: LanguageModel, caches: int, offset: int, table: Mapping[str, TensorInfo]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor; how many of the tokens are still held, the file says."""
    config, dtype = model.config, _TYPES.get(model.dtype, "")
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number in range(caches):
        keys = table.get(f"{number}.keys")
        held = min(offset, keys.shape[2]) if keys is not None and len(keys.shape) == 4 else 0
        for name in (f"{number}.keys", f"{number}.values"):
            wanted[name] = (dtype, (1, config.num_key_value_heads, held, config.head_dim))
    return wanted


def _read_start(path: Path) -> tuple[bytes, int]:
    """A file's first bytes, its header among them, and its size."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(f"`{path.name}` is no plain file")
        with path.open("rb") as file:
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES))
    except FileNotFoundError as error:
        raise Unusable("nothing was kept of this chat") from error
    except OSError as error:
        raise Unusable(f"`{path.name}` cannot be read: {error.strerror}") from error
    return start, status.st_size


def _metadata(start: bytes) -> dict[str, str]:
    """What a header that has been checked says beside its table."""
    header = json.loads(start[8 : 8 + int.from_bytes(start[:8], "little")])
    metadata = header.get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _whole_numbers(text: Any) -> list[int]:
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    whole = isinstance(values, list) and all(type(value) is int for value in values)
    return values if whole else []


def _checksum(arrays: Iterable[mx.array]) -> int:
    """Of the values of all arrays, one after another: a disk can lie about them."""
    total = 0
    for array in arrays:
        values = mx.contiguous(array).view(mx.uint8)
        total = zlib.crc32(memoryview(values), total)  # type: ignore[arg-type]
    return total
