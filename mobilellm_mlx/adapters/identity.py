"""Which model an adapter was made for: the SHA-256 of its files, whatever they are computed in."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from mobilellm_mlx.adapters.record import AdapterInfo
from mobilellm_mlx.errors import AdapterError, ModelNotFound
from mobilellm_mlx.paths import cache_dir

_KEPT = "tensors.json"
_MAX_HEADER_BYTES = 100_000_000
_PIECE = 1 << 20
_MOST_KEPT = 1000


def model_sha256(directory: Path) -> str:
    """The SHA-256 of a model's weights and configuration: of values, not of how they are written.

    Names, types, shapes and bytes of all tensors count, and what the configuration says beside the
    packing, which the tensors show; the order in files does not. Another conversion of the same
    checkpoint is therefore the same model when its numbers are. What has to be read is remembered,
    so that large files are read once.

    Raises:
        ModelNotFound: when there are no weights.
    """
    files = sorted(directory.glob("model*.safetensors")) or sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelNotFound(f"`{directory}` is not a model directory: it has no weights")
    kept = _read_kept()
    known = dict(kept)
    whole = hashlib.sha256()
    try:
        whole.update(_settings(directory / "config.json"))
        for path in files:
            whole.update(f"{_digest(path, kept)}\n".encode())
    except OSError as error:
        raise ModelNotFound(f"`{error.filename}` cannot be read: {error.strerror}") from error
    if kept != known:
        _write_kept(kept)
    return whole.hexdigest()


def _settings(path: Path) -> bytes:
    """A configuration without its packing, however its keys are ordered."""
    data = path.read_bytes()
    with suppress(ValueError, RecursionError):
        config = json.loads(data)
        if isinstance(config, dict):
            left_out = ("quantization", "quantization_config")
            rest = {name: value for name, value in config.items() if name not in left_out}
            return json.dumps(rest, sort_keys=True).encode()
    return data


def fits(info: AdapterInfo, directory: Path) -> bool | None:
    """Whether an adapter was made for the model in a directory; None when nothing says so."""
    return None if info.base_sha256 is None else info.base_sha256 == model_sha256(directory)


def require_fit(info: AdapterInfo, directory: Path, model: str, *, force: bool = False) -> None:
    """Refuse an adapter of another model.

    Args:
        info: of the adapter.
        directory: of the model.
        model: its name.
        force: whether it is to be used nevertheless.

    Raises:
        AdapterError: when it was made for another model, and is not forced.
    """
    if force or fits(info, directory) is not False:
        return
    made_for = info.base_name or "another model"
    another = "another version of it" if made_for == model else f"`{made_for}`"
    raise AdapterError(
        f"the adapter `{info.name}` is not for `{model}`: it was made for {another}",
        "use it with its own model, or force it with `--force-adapter`; what comes of that "
        "may be nonsense",
    )


def file_sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(path: Path) -> str:
    """Of the tensors of a safetensors file in the order of their names; of all bytes of any other.

    Nothing here is believed: tables that do not fit the file make it any other file.
    """
    with path.open("rb") as file, suppress(ValueError, KeyError, TypeError, RecursionError):
        size = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError
        table = json.loads(file.read(length))
        table.pop("__metadata__", None)
        whole = hashlib.sha256()
        for name in sorted(table):
            entry = table[name]
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= size - 8 - length:
                raise ValueError
            whole.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            file.seek(8 + length + start)
            for at in range(start, stop, _PIECE):
                whole.update(file.read(min(_PIECE, stop - at)))
        return whole.hexdigest()
    return file_sha256(path)


def _digest(path: Path, kept: dict[str, Any]) -> str:
    """Of a file; taken from ``kept`` and noted there."""
    status, name = path.stat(), os.fspath(path.resolve())
    key = [status.st_size, status.st_mtime_ns]
    entry = kept.get(name)
    if isinstance(entry, list) and entry[:2] == key and isinstance(entry[-1], str):
        return entry[-1]
    digest = tensors_sha256(path)
    kept[name] = [*key, digest]
    return digest


def _read_kept() -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        kept = json.loads((cache_dir() / _KEPT).read_bytes())
        if isinstance(kept, dict):
            return kept
    return {}


def _write_kept(kept: dict[str, Any]) -> None:
    """Note the newest; where the disk does not take them, they are made again."""
    path = cache_dir() / _KEPT
    part = path.with_name(f".{_KEPT}.{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        newest = dict(list(kept.items())[-_MOST_KEPT:])
        part.write_text(json.dumps(newest, indent=1), encoding="utf-8")
        part.replace(path)
    with suppress(OSError):
        part.unlink()
