"""A history that is damaged, newer, foreign or read-only: the program always gets a store."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellm_mlx import paths
from mobilellm_mlx.chat.records import StoredMessage
from mobilellm_mlx.chat.store import Store, history_path, migrations, open_history
from tests.chat.stored import chat, everything_in, fill, message, query


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


def made(path: Path, chats: int = 6, turns: int = 12) -> list[StoredMessage]:
    store = Store(path)
    messages = fill(store, chats, turns)
    store.close()
    return messages


def aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob("history-damaged-*"))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def works(store: Store) -> None:
    """The store takes and gives."""
    store.add_chat(chat("new"))
    store.save(message("new", "walrus", chat_id="new"))
    assert store.search("walrus")[0].message_id == "new"


def test_the_history_lies_in_the_data_directory() -> None:
    assert history_path() == paths.data_dir() / "history.db"
    store, told = open_history()
    assert (store.path, told) == (history_path(), None)
    store.close()


def test_an_empty_file_is_a_new_history(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    store, told = open_history(path)
    assert (store.path, told) == (path, None)
    works(store)
    store.close()
    assert aside(path) == []


def test_a_file_that_was_never_a_database_is_moved_aside(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    store, told = open_history(path)
    (kept,) = aside(path)
    assert told == (
        "The history file is damaged: nothing in it could be read, and a new one was begun; "
        f"it is kept as {kept.name}."
    )
    assert kept.read_bytes() == b"no database at all" * 1000
    assert store.path == path
    works(store)
    store.close()
    store, told = open_history(path)
    assert told is None and len(store.chats()) == 1
    store.close()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a garbage header": lambda path: overwrite(path, 0, b"\xa5" * 100),
    "a header of zeros": lambda path: overwrite(path, 0, bytes(100)),
    "a first page of zeros": lambda path: overwrite(path, 0, bytes(4096)),
    "a page size of nonsense": lambda path: overwrite(path, 16, b"\x12\x34"),
    "cut at two thirds": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "cut in the middle of a page": lambda path: os.truncate(path, path.stat().st_size - 6000),
    "zeros in the middle": lambda path: overwrite(path, path.stat().st_size // 2, bytes(9000)),
    "noise in the middle": lambda path: overwrite(
        path, path.stat().st_size // 2, random.Random(1).randbytes(9000)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_be_read_of_a_damaged_file_is_carried_over(path: Path, damage: str) -> None:
    everything = made(path)
    DAMAGES[damage](path)
    before = path.read_bytes()
    store, told = open_history(path)
    carried = everything_in(store)
    assert told and told.startswith("The history file is damaged: 6 chats with ")
    assert told.endswith(
        f" could be read and were carried over; it is kept as {aside(path)[0].name}."
    )
    assert f"with {len(carried)} messages" in told
    assert len(carried) >= len(everything) * (1 if "header" in damage or "size" in damage else 0.3)
    originals = {kept.id: kept for kept in everything}
    for kept in carried:
        original = originals[kept.id]
        assert (kept.chat_id, kept.role) == (original.chat_id, original.role)
    same = [kept for kept in carried if kept.content == originals[kept.id].content]
    assert len(same) >= len(carried) - 3
    assert aside(path)[0].read_bytes() == before
    works(store)
    store.close()
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_keep_the_program_from_opening(path: Path, seed: int) -> None:
    everything = made(path, chats=3, turns=8)
    numbers = random.Random(seed)
    size = path.stat().st_size
    for _ in range(numbers.choice([1, 10, 200, 2000])):
        overwrite(path, numbers.randrange(size), bytes([numbers.randrange(256)]))
    store, told = open_history(path)
    assert store.path == path
    assert bool(told) == bool(aside(path))
    assert len(everything_in(store)) <= len(everything)
    store.close()


@pytest.mark.parametrize("damage", ["a garbage header", "zeros in the middle", "cut to nothing"])
def test_the_log_of_a_crashed_program_is_read_too(path: Path, damage: str) -> None:
    store = Store(path)
    fill(store)
    store.save(message("late", "said last", chat_id="chat0"))
    log = path.with_name("history.db-wal")
    kept_file, kept_log = path.read_bytes(), log.read_bytes()
    store.close()
    path.write_bytes(kept_file)
    log.write_bytes(kept_log)
    if damage == "cut to nothing":
        os.truncate(path, 0)
    else:
        DAMAGES[damage](path)
    store, told = open_history(path)
    assert store.path == path
    assert "said last" in [kept.content for kept in everything_in(store)]
    store.close()
    if damage == "cut to nothing":  # the others SQLite itself repairs by the log
        assert told and "4 chats with 81 messages" in told
        assert [file.suffix for file in aside(path)] == [".db", ".db-wal"]
        assert aside(path)[1].read_bytes() == kept_log


def test_trees_hang_together_after_a_loss(path: Path) -> None:
    store = Store(path)
    store.add_chat(chat(leaf_id="c"))
    store.save(message("a"), message("b", parent_id="a"), message("c", parent_id="b"))
    store.save(message("d", parent_id="a"))
    store.close()
    query(path, "DELETE FROM messages WHERE id IN ('b', 'd')")
    query(path, "UPDATE chats SET leaf_id = 'd'")
    overwrite(path, 0, bytes(100))
    store, told = open_history(path)
    assert told
    assert [(kept.id, kept.parent_id) for kept in store.messages("c")] == [("a", None), ("c", "a")]
    assert store.chats()[0].leaf_id == "c"
    store.close()


def test_messages_without_their_chat_get_one(path: Path) -> None:
    made(path, chats=1, turns=1)
    query(path, "DELETE FROM chats")
    overwrite(path, 0, bytes(100))
    store, _ = open_history(path)
    (found,) = store.chats()
    assert (found.id, found.title, found.messages) == ("chat0", "Rescued chat", 2)
    assert found.leaf_id == store.messages("chat0")[-1].id
    store.close()


def test_a_search_index_that_cannot_be_opened_costs_no_message(path: Path) -> None:
    everything = made(path)
    query(path, "DELETE FROM messages_search_data")
    # Some versions of SQLite see it at once, some when words are looked for.
    store, _ = open_history(path)
    assert sorted(kept.id for kept in everything_in(store)) == [kept.id for kept in everything]
    assert store.search("lorem")
    store.close()


def test_damage_that_was_met_while_working_is_repaired_at_the_next_start(path: Path) -> None:
    made(path)
    path.with_name("history.db-damaged").touch()
    store, told = open_history(path)
    assert told and "6 chats with 144 messages" in told
    store.close()
    store, told = open_history(path)
    assert told is None
    store.close()


def test_a_directory_in_its_place_is_moved_aside(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "note.txt").write_text("keep me")
    store, told = open_history(path)
    assert told and told.startswith("There is a directory in the place of the history: nothing")
    assert (aside(path)[0] / "note.txt").read_text() == "keep me"
    works(store)
    store.close()


def test_two_damages_in_one_second_overwrite_nothing(path: Path) -> None:
    path.parent.mkdir()
    for content in (b"one" * 99, b"two" * 99, b"six" * 99):
        path.write_bytes(content)
        store, _ = open_history(path)
        store.close()
    assert sorted(file.read_bytes()[:3] for file in aside(path)) == [b"one", b"six", b"two"]


def test_a_newer_file_is_left_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = migrations.Migration("2031-01 holograms", ("DROP TABLE generations",))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))
        Store(path).close()
    before = path.read_bytes()
    store, told = open_history(path)
    assert told == (
        "The history was written by a newer MobileLLM: it knows `2031-01 holograms`; "
        "it was left as it is, and what is said now is not kept."
    )
    assert store.path is None
    works(store)
    store.close()
    assert path.read_bytes() == before and aside(path) == []


def test_a_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    query(path, "CREATE TABLE recipes (name)")
    before = path.read_bytes()
    store, told = open_history(path)
    assert store.path is None and told and "another program" in told
    store.close()
    assert path.read_bytes() == before


def test_something_that_is_no_file_is_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    store, told = open_history(path)
    assert store.path is None and told and "is not a file" in told
    store.close()
    assert path.is_fifo()


@pytest.mark.parametrize("place", ["/proc/nobody/history.db", "/dev/null/history.db", "a\0b"])
def test_a_place_that_cannot_be_gives_a_store_in_memory(place: str) -> None:
    store, told = open_history(Path(place))
    assert store.path is None and told and told.endswith("what is said now is not kept.")
    works(store)
    store.close()


READ_ONLY = """
import os, sys
os.environ["MOBILELLM_HOME"] = "/nowhere"
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mobilellm_mlx.chat.store import open_history
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # what root may write is no test
store, told = open_history(Path(sys.argv[1]))
print(store.path, len(store.chats()), len(store.search("lorem")), told, sep="|")
"""


@pytest.mark.parametrize("damaged", [False, True], ids=["healthy", "damaged"])
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_may_only_be_read_is_shown_and_left_as_it_is(
    path: Path, what: str, damaged: bool
) -> None:
    made(path)
    if damaged:
        overwrite(path, path.stat().st_size // 2, bytes(9000))
    for parent in (path.parent, *path.parent.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(0o755)
    path.chmod(0o444 if what == "file" else 0o666)
    path.parent.chmod(0o555 if what == "directory" else 0o777)
    before = path.read_bytes()
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path), str(Path(__file__).parents[2])],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        path.parent.chmod(0o755)
    assert done.returncode == 0, done.stderr
    where, chats, hits, told = done.stdout.strip().split("|")
    assert (where, int(chats) > 0, int(hits) > 0) == ("None", True, True), told
    assert told.endswith("could be read, but what is said now is not kept.")
    assert path.read_bytes() == before and aside(path) == []


def test_a_disk_without_room_for_the_rescue_leaves_the_file_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilellm_mlx.chat.store import rescue
    from mobilellm_mlx.errors import StorageError

    made(path)
    overwrite(path, 0, bytes(100))
    before = path.read_bytes()
    carry_over = rescue._carry_over

    def refuse(found: rescue._Found, store: Store) -> None:
        if store.path is not None:
            raise StorageError("the disk is full: nothing was written", "free some space")
        carry_over(found, store)

    monkeypatch.setattr(rescue, "_carry_over", refuse)
    store, told = open_history(path)
    assert store.path is None and len(store.chats()) == 6
    assert told and "6 chats with 144 messages could be read, but" in told
    store.close()
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["history.db"]
