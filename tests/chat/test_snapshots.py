"""The files of chats that the engine can go on from: bounded, the latest used ones stay."""

import os
import time
from pathlib import Path

import pytest

from mobilellm_mlx import paths
from mobilellm_mlx.chat.snapshots import Snapshots


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    (tmp_path / "kv").mkdir()
    return Snapshots(tmp_path / "kv", limit_bytes=1000)


def put(snapshots: Snapshots, chat_id: str, size: int, age_s: float) -> Path:
    """A file of a chat, last used so long ago."""
    path = snapshots.path_for(chat_id)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def names(snapshots: Snapshots) -> set[str]:
    return {path.name for path in snapshots.directory.iterdir()}


def test_they_lie_in_the_cache_directory() -> None:
    assert Snapshots().directory == paths.cache_dir() / "kv"
    assert not Snapshots().directory.exists()


def test_every_chat_has_a_file_of_its_own(snapshots: Snapshots) -> None:
    assert snapshots.path_for("0199abc") == snapshots.directory / "0199abc.safetensors"
    assert snapshots.path_for("0199abd") != snapshots.path_for("0199abc")


@pytest.mark.parametrize(
    "chat_id", ["../../etc/passwd", "/etc/passwd", "..", "", "a\0b", "a/b", "x" * 5000, "é\ud800"]
)
def test_no_id_leads_out_of_the_directory(snapshots: Snapshots, chat_id: str) -> None:
    path = snapshots.path_for(chat_id)
    assert path.parent == snapshots.directory
    assert path.name.endswith(".safetensors") and len(path.name) < 100
    snapshots.keep(chat_id)
    snapshots.forget(chat_id)


def test_those_not_used_for_longest_go_first(snapshots: Snapshots) -> None:
    for number in range(5):
        put(snapshots, f"c{number}", 300, age_s=number * 100)
    snapshots.sweep()
    assert names(snapshots) == {"c0.safetensors", "c1.safetensors", "c2.safetensors"}


def test_what_is_within_the_limit_stays(snapshots: Snapshots) -> None:
    for number in range(2):
        put(snapshots, f"c{number}", 500, age_s=10**8)
    snapshots.sweep()
    assert len(names(snapshots)) == 2


def test_a_chat_that_is_used_stays(snapshots: Snapshots) -> None:
    put(snapshots, "old", 600, age_s=1000)
    put(snapshots, "new", 600, age_s=10)
    snapshots.keep("old")
    assert names(snapshots) == {"old.safetensors"}


def test_one_that_is_larger_than_the_limit_does_not_stay(snapshots: Snapshots) -> None:
    put(snapshots, "huge", 1001, age_s=0)
    snapshots.keep("huge")
    assert names(snapshots) == set()


def test_a_forgotten_chat_leaves_nothing(snapshots: Snapshots) -> None:
    put(snapshots, "a", 10, age_s=0)
    snapshots.forget("a")
    snapshots.forget("a")
    assert names(snapshots) == set()


def test_what_a_killed_program_was_writing_is_swept(snapshots: Snapshots) -> None:
    for name, age_s in ((".a.safetensors.00ff.part", 7200), (".b.safetensors.00ff.part", 5)):
        path = snapshots.directory / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    snapshots.sweep()
    assert names(snapshots) == {".b.safetensors.00ff.part"}


def test_nothing_else_is_ever_removed(snapshots: Snapshots, tmp_path: Path) -> None:
    precious = tmp_path / "precious.safetensors"
    precious.write_bytes(bytes(5000))
    (snapshots.directory / "link.safetensors").symlink_to(precious)
    (snapshots.directory / "notes.txt").write_bytes(bytes(5000))
    (snapshots.directory / "folder.safetensors").mkdir()
    (snapshots.directory / "folder.safetensors" / "x.safetensors").write_bytes(bytes(5000))
    before = names(snapshots)
    Snapshots(snapshots.directory, limit_bytes=0).sweep()
    assert names(snapshots) == before
    assert precious.stat().st_size == 5000
    assert (snapshots.directory / "folder.safetensors" / "x.safetensors").exists()


def test_a_link_is_not_touched_through(snapshots: Snapshots, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    os.utime(precious, (5, 5))
    snapshots.path_for("a").symlink_to(precious)
    snapshots.keep("a")
    snapshots.forget("a")
    assert precious.stat().st_mtime == 5 and precious.read_bytes() == b"mine"
    assert names(snapshots) == set()


def test_a_directory_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "gone")
    snapshots.keep("a")
    snapshots.forget("a")
    snapshots.sweep()
    assert not snapshots.directory.exists()


def test_a_disk_that_refuses_is_no_matter(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(snapshots, "a", 5000, age_s=0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    snapshots.keep("a")
    snapshots.forget("a")
    assert names(snapshots) == {"a.safetensors"}
