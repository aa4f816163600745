"""The file of a run: what was answered once is not lost."""

from pathlib import Path

import pytest

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.evals.journal import Journal
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
