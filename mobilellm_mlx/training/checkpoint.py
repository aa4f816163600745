"""Everything that a training needs to go on from a step, on the disk, whole or not at all.

A checkpoint is a directory named by its step. It is written under a hidden name and renamed, so one
that can be seen is complete; the newest is gone on from, the best is kept beside it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import StorageError, TrainingError, WeightsError
from mobilellm_mlx.training.files import read_bounded
from mobilellm_mlx.weights import read_safetensors_header

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
SETTINGS = "settings.json"
_BEST = "best"
_STEP = re.compile(r"0[0-9]{7}|[1-9][0-9]{7,17}")
"""A checkpoint's name. What else lies there, such as a folder for a year, is not ours to remove."""
_COUNTS = ("step", "epoch", "batch", "tokens", "best_step", "worse", "tries_left", "high")
_LARGEST = 2**62
_MOST_BYTES = 100_000
_LITTLE_BYTES = 16_000_000
"""Free space below which a disk is called full."""
_KEPT = 2
"""Newest checkpoints that are kept: should the disk damage one, there is one before it."""
_NEW = {"smooth", "lowest", "high"}
"""What a state may lack: earlier versions did not write it."""


@dataclass(slots=True)
class TrainState:
    """Where a training is, beside its weights.

    Attributes:
        step: steps done.
        epoch: the epoch that comes next, or is under way.
        batch: batches of it that are done.
        tokens: learned from so far.
        elapsed_s: spent so far, pauses left out.
        first_loss: on the validation examples before the first step.
        last_loss: the newest of these losses.
        best_loss: the lowest.
        best_step: at which that was.
        worse: validations since then.
        rate_factor: what the learning rate is multiplied by; halved after every accident.
        tries_left: accidents that may still happen.
        smooth: a running mean of the losses of steps.
        lowest: the lowest that it was.
        high: steps in a row that it has been far above that.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    rate_factor: float = 1.0
    tries_left: int = 3
    smooth: float | None = None
    lowest: float | None = None
    high: int = 0


class Checkpoints:
    """Those of one run.

    Args:
        directory: of the run's checkpoints; made when it is first written to.
        settings: of the run, as JSON can say them; they are kept in every checkpoint.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None):
        self._directory = directory
        self._settings = dict(settings or {})

    def save(
        self, state: TrainState, weights: Mapping[str, mx.array], optimizer: Any, *, is_best: bool
    ) -> Path:
        """Write one for ``state.step``, and let go of those that are no longer needed.

        Raises:
            StorageError: when it cannot be written; the ones before stay as they are.
        """
        target = self._path(state.step)
        aside = self._directory / f".{target.name}.{os.getpid()}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write_arrays(aside / WEIGHTS, dict(weights))
            _write_arrays(aside / OPTIMIZER, dict(tree_flatten(optimizer)))
            _write_text(aside / SETTINGS, json.dumps(self._settings, indent=1))
            _write_text(aside / STATE, json.dumps(asdict(state), indent=1))
            if target.exists():  # one that is not whole
                stale = aside.with_name(f"{aside.name}.old")
                target.rename(stale)
                aside.rename(target)
                shutil.rmtree(stale, ignore_errors=True)
            else:
                aside.rename(target)
            _sync(self._directory)
            if is_best:
                self._point(target.name)
        except (OSError, RuntimeError) as error:
            refused = self._refused(state.step, error)  # before there is room again
            shutil.rmtree(aside, ignore_errors=True)
            raise refused from error
        self._sweep()
        return target

    def amend(self, path: Path, state: TrainState) -> None:
        """Change the state in a checkpoint, whose weights stay.

        Raises:
            StorageError: when it cannot be written; it stays as it is.
        """
        aside = path / f".{STATE}"
        try:
            _write_text(aside, json.dumps(asdict(state), indent=1))
            aside.replace(path / STATE)
            _sync(path)
        except OSError as error:
            raise self._refused(state.step, error) from error

    def call_best(self, path: Path) -> None:
        """Say which one has the lowest loss.

        Raises:
            StorageError: when that cannot be written.
        """
        try:
            self._point(path.name)
        except OSError as error:
            raise self._refused(int(path.name), error) from error

    def changed_settings(self) -> list[str]:
        """Names of settings that are not those that the newest checkpoint was made with."""
        path = self.latest()
        if path is None or not self._settings:
            return []
        try:
            made_with = json.loads(read_bounded(path / SETTINGS, _MOST_BYTES))
        except (StorageError, ValueError, RecursionError):
            return []
        if not isinstance(made_with, dict):
            return []
        # A setting that is younger than the checkpoint cannot have changed.
        return sorted(n for n in self._settings.keys() & made_with.keys()
                      if self._settings[n] != made_with[n])  # fmt: skip

    def latest(self) -> Path | None:
        """The newest one that is whole; None where there is none."""
        return next((path for path in self._newest_first() if _is_whole(path)), None)

    def best(self) -> Path | None:
        """The one with the lowest loss; None where there is none."""
        try:
            name = read_bounded(self._directory / _BEST, 100).decode().strip()
        except (StorageError, ValueError):
            return None
        path = self._directory / name
        return path if _STEP.fullmatch(name) and _is_whole(path) else None

    def forget_after(self, step: int) -> None:
        """Remove what is newer than a step: an accident made it worthless."""
        for path in self._newest_first():
            if int(path.name) > step:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self._directory / f"{step:08d}"

    def _newest_first(self) -> list[Path]:
        with suppress(OSError):
            named = (p for p in self._directory.iterdir() if _STEP.fullmatch(p.name))
            found = [path for path in named if (path / STATE).is_file()]
            return sorted(found, key=lambda path: -int(path.name))
        return []

    def _refused(self, step: int, error: Exception) -> StorageError:
        reason = getattr(error, "strerror", None) or str(error)
        if _is_full(self._directory, error):
            reason = "the disk is full"
        return StorageError(
            f"the checkpoint of step {step} could not be written to `{self._directory}`: {reason}",
            "make room on the disk; the run goes on from the checkpoint before with "
            "`mobilellm train resume`",
        )

    def _point(self, name: str) -> None:
        aside = self._directory / f".{_BEST}.{os.getpid()}"
        _write_text(aside, name + "\n")
        aside.replace(self._directory / _BEST)

    def _sweep(self) -> None:
        """Remove old ones, and what a killed run left half-written."""
        kept = {path.name for path in self._newest_first()[:_KEPT]}
        if (best := self.best()) is not None:
            kept.add(best.name)
        for path in self._newest_first():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            for path in self._directory.glob(".[0-9]*"):
                shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> TrainState:
    """The state in a checkpoint.

    Raises:
        TrainingError: when it is damaged.
    """
    try:
        values = json.loads(read_bounded(path / STATE, _MOST_BYTES))
        known = {field.name for field in fields(TrainState)}
        if not isinstance(values, dict) or (set(values) ^ known) - _NEW:
            raise ValueError("it has other fields than this program writes")
        _check_numbers(values)
        if values["step"] != int(path.name):
            raise ValueError("it is of another step than its name says")
        return TrainState(**values)
    except (StorageError, ValueError, RecursionError) as error:
        raise TrainingError(
            f"the checkpoint `{path}` cannot be read: {error}", "remove it to use the one before"
        ) from error


def read_arrays(path: Path) -> dict[str, mx.array]:
    """The arrays of a checkpoint's file, by name.

    Raises:
        WeightsError: when the file is damaged.
    """
    expected = read_safetensors_header(path)
    if not expected:
        return {}
    try:
        loaded = mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"`{path}` cannot be read: {error}") from error
    assert isinstance(loaded, dict)
    return loaded


def _check_numbers(values: Mapping[str, Any]) -> None:
    optional = {"first_loss", "last_loss", "best_loss", "best_step", "smooth", "lowest"}
    for name, value in values.items():
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"`{name}` is no number")
        if not abs(value) < _LARGEST:  # which NaN is not
            raise ValueError(f"`{name}` is {str(value)[:40]}")
        if name in _COUNTS and (not isinstance(value, int) or value < 0):
            raise ValueError(f"`{name}` is no count")
    if not 0 < values["rate_factor"] <= 1:
        raise ValueError("`rate_factor` is not between 0 and 1")


def _is_whole(path: Path) -> bool:
    return all((path / name).is_file() for name in (WEIGHTS, OPTIMIZER, STATE))


def _is_full(directory: Path, error: Exception) -> bool:
    """Whether that is why nothing could be written; MLX does not say why."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    with suppress(OSError):
        return shutil.disk_usage(directory).free < _LITTLE_BYTES
    return False


def _write_arrays(path: Path, arrays: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(path), arrays)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make renames in a directory last through a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
