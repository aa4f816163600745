"""Checkpoints that somebody else wrote: they are refused before they are used, and no folder but
a checkpoint is ever removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counting import make_trainer
from training.test_hostile_runs import promptly

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import StorageError, TrainingError
from mobilellm_mlx.events import TrainStep
from mobilellm_mlx.training.checkpoint import (
    OPTIMIZER,
    SETTINGS,
    STATE,
    WEIGHTS,
    Checkpoints,
    TrainState,
    read_arrays,
    read_state,
)
from mobilellm_mlx.training.config import TrainConfig

CONFIG = TrainConfig(rank=2, epochs=1.0, batch_size=8, learning_rate=1e-3, save_every=1)
Arrays = dict[str, mx.array]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run that was killed after its second step."""
    directory = tmp_path_factory.mktemp("stopped") / "checkpoints"
    for event in make_trainer(CONFIG, directory).run():
        if isinstance(event, TrainStep) and event.step == 3:
            break
    return directory


@pytest.fixture
def checkpoint(stopped: Path, tmp_path: Path) -> Path:
    """The newest of a copy of them."""
    shutil.copytree(stopped, tmp_path / "checkpoints")
    found = Checkpoints(tmp_path / "checkpoints").latest()
    assert found is not None and found.name == "00000002"
    return found


def rewrite(path: Path, change: Callable[[Arrays], Arrays]) -> None:
    arrays = read_arrays(path)
    mx.eval(arrays)
    mx.save_safetensors(str(path), change(arrays))


def resume(checkpoint: Path) -> Any:
    trainer = make_trainer(CONFIG, checkpoint.parent)
    assert trainer.resume()
    return trainer


def test_a_sound_one_is_gone_on_from(checkpoint: Path) -> None:
    trainer = resume(checkpoint)
    steps = [event.step for event in trainer.run() if isinstance(event, TrainStep)]
    assert steps[0] == 3


# ---------------------------------------------------------------- weights and optimiser

MOMENTS = (".m", ".v")


def moments(change: Callable[[mx.array], mx.array]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {
        name: change(array) if name.endswith(MOMENTS) else array for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: {"x": mx.zeros((1,))},
        lambda arrays: {f"{at}.x": mx.zeros((1,)) for at in range(3)},
        lambda arrays: {**arrays, "step": mx.zeros((5, 5, 5))},
        lambda arrays: {name: array for name, array in arrays.items() if name != "step"},
        moments(lambda array: mx.ones((1,))),
        moments(lambda array: mx.ones((7, 5))),
        moments(lambda array: mx.ones((3, *array.shape))),
        moments(lambda array: array.astype(mx.int32)),
    ],
    ids=["nonsense", "a list", "step", "no step", "spread", "shape", "ranks", "whole numbers"],
)
def test_the_state_of_another_optimiser_is_refused(
    checkpoint: Path, change: Callable[[Arrays], Arrays]
) -> None:
    rewrite(checkpoint / OPTIMIZER, change)
    with pytest.raises(TrainingError, match="of another optimiser"):
        resume(checkpoint)


def test_weights_that_are_whole_numbers_are_refused(checkpoint: Path) -> None:
    rewrite(checkpoint / WEIGHTS, lambda arrays: {n: a.astype(mx.int32) for n, a in arrays.items()})
    with pytest.raises(TrainingError, match="other trained parameters"):
        resume(checkpoint)


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER])
@pytest.mark.parametrize("kept", [-8, 7, 0])
def test_a_file_that_ends_early_is_said_with_what_to_do(
    checkpoint: Path, name: str, kept: int
) -> None:
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[:kept])
    with pytest.raises(TrainingError, match="is damaged") as caught:
        resume(checkpoint)
    assert caught.value.hint == "remove it to use the one before"


# ---------------------------------------------------------------- state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_loss", float("nan")),
        ("elapsed_s", float("inf")),
        ("elapsed_s", 10**400),
        ("rate_factor", float("nan")),
        ("rate_factor", 1e300),
        ("rate_factor", 2.0),
        ("rate_factor", 0),
        ("rate_factor", -0.5),
        ("best_step", 1.5),
        ("worse", 0.5),
        ("tokens", 2**62),
        ("step", 10**30),
        ("step", 7),
    ],
)
def test_a_state_with_other_figures_than_a_training_writes_is_refused(
    checkpoint: Path, name: str, value: Any
) -> None:
    path = checkpoint / STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(TrainingError, match="cannot be read") as caught:
        read_state(checkpoint)
    assert name in caught.value.message
    assert len(caught.value.message) < 200 + len(str(checkpoint))
    with pytest.raises(TrainingError, match="cannot be read"):
        resume(checkpoint)


def test_a_place_behind_the_end_of_an_epoch_is_of_other_data(checkpoint: Path) -> None:
    path = checkpoint / STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), "batch": 10**9}))
    with pytest.raises(TrainingError, match="of other data"):
        resume(checkpoint)


def test_a_state_without_end_is_not_read_whole(checkpoint: Path) -> None:
    with (checkpoint / STATE).open("a") as file:
        file.write(" " * 200_000)
    with pytest.raises(TrainingError, match="larger than any file of its kind"):
        read_state(checkpoint)


# ---------------------------------------------------------------- what else lies there


def save(directory: Path, step: int) -> None:
    arrays = {"a": mx.zeros((1,))}
    Checkpoints(directory).save(TrainState(step=step), arrays, arrays, is_best=True)


@pytest.mark.parametrize("linked", [False, True], ids=["there", "behind a link"])
def test_folders_that_have_a_number_for_a_name_are_not_swept_away(
    tmp_path: Path, linked: bool
) -> None:
    photos = tmp_path / "photos"
    names = [*map(str, range(2017, 2024)), "20170101", "20180101", "20190101", "٢٠١٧"]
    for name in names:
        (photos / name).mkdir(parents=True)
        (photos / name / "a.jpg").write_text("x")
    directory = photos
    if linked:
        directory = tmp_path / "checkpoints"
        directory.symlink_to(photos)
    for step in (1, 2, 3):
        save(directory, step)
    Checkpoints(directory).forget_after(2)
    left = {path.name for path in photos.iterdir()}
    assert left == {*names, "00000002", "best"} | ({"00000003"} & left)
    assert all((photos / name / "a.jpg").exists() for name in names)


def test_a_folder_that_is_called_like_a_year_is_no_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    save(directory, 5)
    shutil.copytree(directory / "00000005", directory / "2017")
    (directory / "best").write_text("2017\n")
    found = Checkpoints(directory)
    assert found.best() is None
    assert found.latest() == directory / "00000005"


@pytest.mark.parametrize(
    ("free", "said"), [(4_096, "the disk is full"), (10**12, "[write] Unable to write")]
)
def test_a_full_disk_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    def refuse(path: Path, arrays: Arrays) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[write] Unable to write 64 bytes to file.")

    def usage(path: Path) -> Any:
        left = free if list(path.glob(f".*/{WEIGHTS}")) else 10**12  # it is freed by tidying up
        return shutil._ntuple_diskusage(10**12, 0, left)  # type: ignore[attr-defined]

    monkeypatch.setattr("mobilellm_mlx.training.checkpoint._write_arrays", refuse)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(StorageError) as caught:
        save(tmp_path, 5)
    assert said in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_for_a_pipe_among_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = Checkpoints(tmp_path, {"rank": 8})
    for path in (tmp_path / "best", tmp_path / "00000005" / SETTINGS):
        path.unlink()
        os.mkfifo(path)
    with promptly():
        assert found.best() is None
        assert found.changed_settings() == []
