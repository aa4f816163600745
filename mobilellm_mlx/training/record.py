"""``run.json``: what a run trains, on what, and how."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import ConfigError, StorageError, TrainingError
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.files import read_bounded

VERSION = 1

_LARGEST_BYTES, _LONGEST_TEXT = 1 << 20, 4096


@dataclass(frozen=True, slots=True)
class Base:
    """The model that is trained.

    Attributes:
        name: as it was asked for.
        path: its directory.
        sha256: of its weights and configuration.
        licence: as its directory names it.
    """

    name: str
    path: Path
    sha256: str
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class DataRef:
    """What it is trained on.

    Attributes:
        path: a file or a directory.
        sha256: of the bytes.
    """

    path: Path
    sha256: str


def as_record(config: TrainConfig, base: Base, data: DataRef, created: datetime) -> str:
    """The text of the file."""
    values = {
        "version": VERSION,
        "created": created.isoformat(),
        "base": {
            "name": base.name,
            "path": str(base.path),
            "sha256": base.sha256,
            "licence": base.licence,
        },
        "data": {"path": str(data.path), "sha256": data.sha256},
        "config": config.to_dict(),
    }
    return json.dumps(values, indent=2) + "\n"


def read_record(path: Path) -> tuple[TrainConfig, Base, DataRef, datetime, int]:
    """What the file holds; it may hold anything.

    Raises:
        TrainingError: it cannot be read or is not a sound one; the message says why.
    """
    try:
        values = json.loads(read_bounded(path, _LARGEST_BYTES))
    except StorageError as error:
        raise TrainingError(error.message, error.hint) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path.name} is not JSON") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path.name} is not an object")
    version = values.get("version")
    if type(version) is not int or version < 1:
        raise TrainingError(f"{path.name} names no version")
    if version > VERSION:
        raise TrainingError("a newer version of this program made it", "update this program")
    base, data = _table(values, "base"), _table(values, "data")
    try:
        config = TrainConfig().merged(_table(values, "config"))
    except ConfigError as error:
        raise TrainingError(error.message) from error
    return (
        config,
        Base(
            _text(base, "name"),
            Path(_text(base, "path")),
            _text(base, "sha256"),
            None if base.get("licence") is None else _text(base, "licence"),
        ),
        DataRef(Path(_text(data, "path")), _text(data, "sha256")),
        _time(_text(values, "created")),
        version,
    )


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    if not isinstance(value, dict):
        raise TrainingError(f"run.json has no `{name}`, or it is not an object")
    return value


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value or len(value) > _LONGEST_TEXT or "\0" in value:
        raise TrainingError(f"run.json has no `{name}`, or it is not a text of usual length")
    return value


def _time(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise TrainingError("`created` in run.json is not a time") from error
    if value.tzinfo is None:
        raise TrainingError("`created` in run.json has no time zone")
    if not 1971 < value.year < 9999:  # near the ends of time it has no hour in other zones
        raise TrainingError("`created` in run.json is not a time of usual years")
    return value
