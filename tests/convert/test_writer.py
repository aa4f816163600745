"""A model directory is whole or it is not there."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert.writers import directory as writer
from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.hub import sha256
from mobilellm_mlx.paths import MANIFEST


@pytest.fixture
def finished(tmp_path) -> Path:
    """A finished directory, not yet published."""
    directory = tmp_path / "finished"
    directory.mkdir(mode=0o700)
    (directory / "a.txt").write_text("alpha")
    (directory / "b.bin").write_bytes(b"\0\1")
    return directory


def test_publishing_moves_every_file_and_adds_the_manifest(finished, tmp_path) -> None:
    target = tmp_path / "target"
    writer.publish(finished, target, {"name": "x"})
    assert not finished.exists()
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["name"] == "x"
    assert manifest["files"] == {
        name: {"bytes": size, "sha256": sha256(target / name)}
        for name, size in (("a.txt", 5), ("b.bin", 2))
    }
    assert {path.name for path in target.iterdir()} == {"a.txt", "b.bin", MANIFEST}


def test_a_published_directory_can_be_read_by_others(finished, tmp_path) -> None:
    writer.publish(finished, tmp_path / "target", {})
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o755


def test_publishing_replaces_what_was_there(finished, tmp_path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    writer.publish(finished, target, {})
    assert {path.name for path in target.iterdir()} == {"a.txt", "b.bin", MANIFEST}


def test_every_file_is_on_the_disk_before_the_name_appears(finished, tmp_path, monkeypatch) -> None:
    synced, real = [], os.fsync

    def watch(descriptor: int) -> None:
        assert not (tmp_path / "target").exists()
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(writer.os, "fsync", watch)
    writer.publish(finished, tmp_path / "target", {})
    assert {path.stat().st_ino for path in (tmp_path / "target").iterdir()} <= set(synced)


def test_a_manifest_that_cannot_be_written_leaves_the_target_alone(
    finished, tmp_path, monkeypatch
) -> None:
    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(writer, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        writer.publish(finished, tmp_path / "target", {})
    assert not (tmp_path / "target").exists()


def test_what_killed_runs_left_is_swept_up_and_nothing_else(tmp_path) -> None:
    (tmp_path / ".partial-abc" / "source").mkdir(parents=True)
    (tmp_path / ".partial-abc" / "source" / "half.whl").write_bytes(b"x")
    (tmp_path / "model").mkdir()
    with writer.exclusive(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "model"}


def test_only_one_process_at_a_time_may_write(tmp_path) -> None:
    attempt = (
        "import fcntl, sys\n"
        f"with open({str(tmp_path / '.lock')!r}, 'w') as lock:\n"
        "    try:\n"
        "        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError:\n"
        "        sys.exit(7)\n"
    )

    def attempt_here() -> int:
        return subprocess.run([sys.executable, "-c", attempt], timeout=30).returncode

    with writer.exclusive(tmp_path):
        assert attempt_here() == 7
    assert attempt_here() == 0


def test_the_lock_is_given_back_after_a_failure(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), writer.exclusive(tmp_path):
        raise ZeroDivisionError
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("failing", [False, True])
def test_the_working_directory_is_beside_the_target_and_always_removed(tmp_path, failing) -> None:
    try:
        with writer.working_directory(tmp_path) as scratch:
            assert scratch.parent == tmp_path  # the same disk: a rename moves it
            (scratch / "deep").mkdir()
            (scratch / "deep" / "file").write_text("x")
            if failing:
                raise RuntimeError
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full at"),
        (errno.EDQUOT, "the disk is full at"),
        (errno.EROFS, "cannot be written: Read-only"),
        (errno.EACCES, "cannot be written: Permission denied"),
    ],
    ids=["full", "quota", "read-only", "denied"],
)
def test_a_disk_that_refuses_is_explained(tmp_path, number, said) -> None:
    with pytest.raises(StorageError, match=said) as caught, writer.working_directory(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    assert "MOBILELLM_HOME" in str(caught.value.hint)


@pytest.mark.parametrize("place", ["models", "models/deeper"])
def test_a_file_in_the_place_of_the_cache_is_explained(tmp_path, place) -> None:
    (tmp_path / "models").write_text("a file")
    with (
        pytest.raises(StorageError, match="cannot be written"),
        writer.exclusive(tmp_path / place),
    ):
        pytest.fail("it was let in")


def test_json_is_written_for_people(tmp_path) -> None:
    writer.write_json(tmp_path / "x.json", {"name": "Grüße", "list": [1]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "Grüße" in text and text.count("\n") > 3 and text.endswith("}\n")
