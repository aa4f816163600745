"""The file of a run: what was answered once is not lost."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.evals.journal import Journal, RunIsTaken
from mobilellm_mlx.evals.task import Response


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run.jsonl"


def write(path: Path, *ids: str) -> None:
    with Journal(path) as journal:
        for id in ids:
            journal.add(Response(id, {"said": "Grüße\n\ud83d"}))


def test_responses_come_back_as_they_were(path: Path) -> None:
    write(path, "a", "b")
    with Journal(path) as journal:
        assert journal.known["a"] == Response("a", {"said": "Grüße\n\ud83d"})
        assert set(journal.of(["a", "c"])) == {"a"}


def test_a_response_is_on_its_way_to_the_disk_at_once(path: Path) -> None:
    with Journal(path) as journal:
        journal.add(Response("a", {}))
        assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_is_dropped_and_the_next_is_whole(path: Path, cut: int) -> None:
    write(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert (set(journal.known), journal.dropped) == ({"a"}, 1)
        journal.add(Response("c", {}))
    with Journal(path) as journal:
        assert (set(journal.known), journal.dropped) == ({"a", "c"}, 0)


@pytest.mark.parametrize(
    "line",
    [b"null", b"[1]", b'{"id": 3, "response": {}}', b'{"id": "x"}', b"\xff\xfe", b"[" * 100_000],
    ids=lambda line: repr(line[:12]),
)
def test_a_line_that_is_none_is_dropped(path: Path, line: bytes) -> None:
    write(path, "a")
    path.write_bytes(line + b"\n" + path.read_bytes())
    with Journal(path) as journal:
        assert (set(journal.known), journal.dropped) == ({"a"}, 1)


def test_a_fresh_run_forgets(path: Path) -> None:
    write(path, "a")
    with Journal(path, fresh=True) as journal:
        assert not journal.known
    assert path.read_bytes() == b""


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        Journal(tmp_path / "file" / "run.jsonl")


def test_two_programs_do_not_write_one_run(tmp_path):
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        journal.add(Response("a", {"x": 1}))
        with pytest.raises(StorageError, match="another program is at this run"):
            Journal(path)
        journal.add(Response("b", {"x": 2}))
    with Journal(path) as journal:
        assert set(journal.known) == {"a", "b"} and journal.dropped == 0


def test_a_damaged_line_is_told_of_once_and_is_gone(path: Path) -> None:
    write(path, "a", "b")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\xffhalf\n" + second)
    with Journal(path) as journal:
        assert (set(journal.known), journal.dropped) == ({"a", "b"}, 1)
        with pytest.raises(RunIsTaken):
            Journal(path)  # what was written again is locked, too
        journal.add(Response("c", {}))
    assert path.read_bytes().startswith(first + second)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    with Journal(path) as journal:
        assert (set(journal.known), journal.dropped) == ({"a", "b", "c"}, 0)


def test_a_file_that_was_written_again_meanwhile_is_not_written_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, "a")
    real = fcntl.flock

    def late(file: Any, how: int) -> None:
        other = path.with_suffix(".part")
        other.write_bytes(path.read_bytes())
        other.replace(path)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RunIsTaken):
        Journal(path)


def test_time_is_added_up_over_runs(path: Path) -> None:
    with Journal(path) as journal:
        journal.add(Response("a", {}), 1.5)
    with Journal(path) as journal:
        journal.add(Response("b", {}), 2.0)
        assert journal.spent_s(["a", "b"]) == 3.5
        assert journal.spent_s(["b"]) == 2.0


@pytest.mark.parametrize(
    "spent", ["", ', "spent_s": null', ', "spent_s": -1', ', "spent_s": 1e999']
)
def test_time_that_was_not_kept_is_unknown(path: Path, spent: str) -> None:
    path.parent.mkdir()
    path.write_text(f'{{"id": "a", "response": {{}}{spent}}}\n')
    with Journal(path) as journal:
        journal.add(Response("b", {}), 2.0)
        assert journal.spent_s(["a", "b"]) is None
        assert journal.dropped == 0
