"""The history in one file: what goes in comes out, and what is erased is gone."""

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mobilellm_mlx.chat.records import Generation, make_id, now
from mobilellm_mlx.chat.store import DamagedStore, ForeignStore, NotFound, Store, migrations
from mobilellm_mlx.errors import StorageError
from tests.chat.stored import MADE, at, chat, fill, message, query


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def ids(store: Store, **options: bool) -> list[str]:
    return [chat.id for chat in store.chats(**options)]


def test_what_goes_in_comes_out_after_reopening(store: Store, path: Path) -> None:
    kept = chat(title="Naïve 😀", named=True, pinned=True, instructions="Be brief.", leaf_id="b")
    said = [
        message("a", "what?\n\x00\x1b[31m", pinned=True),
        message("b", "this", parent_id="a", role="assistant", reasoning="hm", made=(MADE, MADE)),
        message("x", "other", parent_id="a", role="assistant", status="stopped", deleted=True),
    ]
    store.add_chat(kept)
    store.save(*said)
    store.close()
    again = Store(path)
    assert again.messages("c") == said
    assert again.chat("c") == replace(kept, messages=2, model="tiny")
    assert again.chat("nobody") is None
    again.close()


def test_a_store_without_a_path_is_in_memory() -> None:
    store = Store()
    fill(store, chats=2)
    assert store.path is None and len(store.chats()) == 2
    store.close()


def test_file_and_directory_are_private(store: Store, path: Path) -> None:
    fill(store, 1)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"history.db": 0o600, "history.db-wal": 0o600, "history.db-shm": 0o600}


def test_a_file_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    Store(path).close()
    path.chmod(0o644)
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_chats_come_by_when_something_was_said(store: Store) -> None:
    for minutes, name in enumerate("abc"):
        store.add_chat(chat(name, minutes))
    assert ids(store) == ["c", "b", "a"]
    store.save(message("m", chat_id="a", minutes=10))
    assert ids(store) == ["a", "c", "b"]
    store.write_partial("m", "an answer that comes now", "")
    found = store.chat("a")
    assert found and now() - found.updated_at < timedelta(minutes=1)
    assert [chat.id for chat in store.chats(limit=1)] == ["a"]


def test_an_old_message_does_not_make_a_chat_older(store: Store) -> None:
    store.add_chat(chat(minutes=10))
    store.save(message("m", minutes=1))
    assert store.chats()[0].updated_at == at(10)


def test_a_chat_can_be_renamed_pinned_and_instructed(store: Store) -> None:
    store.add_chat(chat())
    store.rename("c", "Made", named=False)
    store.pin_chat("c", True)
    store.set_instructions("c", "Rhyme.")
    store.set_leaf("c", "m")
    assert store.chats() == [
        chat(title="Made", pinned=True, instructions="Rhyme.", leaf_id="m"),
    ]
    store.rename("c", "Chosen")
    store.pin_chat("c", False)
    store.set_instructions("c", None)
    store.set_leaf("c", None)
    assert store.chats() == [chat(title="Chosen", named=True)]


def test_changes_to_what_is_not_there_are_said(store: Store) -> None:
    with pytest.raises(NotFound, match="this chat is not in the history"):
        store.rename("gone", "x")
    with pytest.raises(NotFound, match="this message is not"):
        store.write_partial("gone", "x", "")
    with pytest.raises(NotFound, match="this message is not"):
        store.pin_message("gone", True)
    with pytest.raises(NotFound, match="this chat is not"):
        store.save(message("m", chat_id="gone"))
    store.set_deleted(["gone"], True)


def test_messages_are_kept_together_or_not_at_all(store: Store) -> None:
    store.add_chat(chat())
    with pytest.raises(NotFound):
        store.save(message("a"), message("b", chat_id="gone"))
    assert store.messages("c") == []


def test_saving_a_message_again_replaces_it_in_its_place(store: Store) -> None:
    store.add_chat(chat())
    begun = message("a", "", role="assistant", status="partial", made=(Generation("tiny"),))
    store.save(begun, message("b"))
    store.write_partial("a", "the beg", "so far")
    assert store.messages("c")[0] == replace(begun, content="the beg", reasoning="so far")
    ended = replace(begun, content="the end", status="complete", made=(MADE, MADE))
    store.save(ended)
    assert store.messages("c") == [ended, message("b")]
    store.save(replace(ended, made=()))
    assert store.messages("c")[0].made == ()


def test_saving_a_chat_again_keeps_its_messages(store: Store) -> None:
    store.add_chat(chat())
    store.save(message("a"))
    store.add_chat(chat(title="New"))
    assert store.messages("c") == [message("a")]
    assert [chat.title for chat in store.chats()] == ["New"]


def test_a_deleted_chat_is_out_of_sight_until_it_is_restored(store: Store) -> None:
    store.add_chat(chat())
    store.save(message("a", "walrus"))
    store.delete_chat("c", at(5))
    assert ids(store) == [] and ids(store, deleted=True) == ["c"]
    assert store.search("walrus") == [] and store.prompts() == []
    assert store.chat("c") == chat(deleted_at=at(5), messages=1)
    store.restore_chat("c")
    assert ids(store) == ["c"] and store.search("walrus") and ids(store, deleted=True) == []


def test_purging_erases_what_was_deleted_before_and_nothing_else(store: Store, path: Path) -> None:
    for name in "abc":
        store.add_chat(chat(name, title=f"title {name}"))
        store.save(message(f"m{name}", f"text of {name}", chat_id=name, made=(MADE,)))
    store.delete_chat("a", at(1))
    store.delete_chat("b", at(9))
    assert store.purge(at(5)) == ["a"]
    assert ids(store) == ["c"] and ids(store, deleted=True) == ["b"]
    assert store.messages("a") == [] and len(store.messages("b")) == 1
    assert query(path, "SELECT message_id FROM generations") == [("mb",), ("mc",)]
    assert store.purge(at(5)) == []


def test_what_a_purged_message_said_is_gone_and_its_place_stays(store: Store) -> None:
    """What follows hangs on it, here and in the memory of another window."""
    store.add_chat(chat(leaf_id="b"))
    store.save(
        message("root"),
        message("a", "secret", parent_id="root"),
        message("b", "secret", parent_id="a", made=(MADE,)),
        message("c", parent_id="b"),
    )
    store.set_deleted(["b", "a"], True)
    assert store.purge(now() - timedelta(days=1)) == []
    assert [kept.content for kept in store.messages("c")][1:3] == ["secret", "secret"]
    store.purge(now() + timedelta(seconds=1))
    kept = store.messages("c")
    assert [(m.id, m.parent_id, m.content, m.made, m.deleted) for m in kept] == [
        ("root", None, "", (), False),
        ("a", "root", "", (), True),
        ("b", "a", "", (), True),
        ("c", "b", "", (), False),
    ]
    found = store.chat("c")
    assert found is not None and found.leaf_id == "b"


def test_a_deletion_keeps_its_moment_when_the_message_is_saved_again(
    store: Store, path: Path
) -> None:
    store.add_chat(chat())
    store.save(message("a", deleted=True))
    query(path, "UPDATE messages SET deleted_at = '2020-01-01T00:00:00.000+00:00'")
    store.save(message("a", deleted=True))
    store.set_deleted(["a"], True)
    assert query(path, "SELECT deleted_at FROM messages") == [("2020-01-01T00:00:00.000+00:00",)]
    store.set_deleted(["a"], False)
    assert store.messages("c") == [message("a")]


def test_nothing_of_what_was_purged_remains_in_the_files(store: Store, path: Path) -> None:
    fill(store, chats=2)
    store.add_chat(chat(title="quixotic"))
    store.save(message("a", "abracadabra " * 400))
    store.write_partial("a", "hocuspocus " * 400, "simsalabim")
    store.delete_chat("c", at(0))
    store.purge(at(1))
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for word in (b"quixotic", b"abracadabra", b"hocuspocus", b"simsalabim"):
        assert word not in written
    assert b"lorem" in written  # the others are still there


def test_the_search_index_agrees_with_the_texts_after_all_changes(store: Store, path: Path) -> None:
    fill(store, chats=3)
    store.save(message("chat0-000", "changed", chat_id="chat0"))
    store.write_partial("chat0-001", "changed too", "")
    store.rename("chat1", "changed")
    store.delete_chat("chat2", at(0))
    store.purge(at(1))
    for index in migrations.SEARCH_INDEXES:  # raises when something differs
        query(path, f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")


def test_prompts_are_what_people_said_oldest_first_without_repeats(store: Store) -> None:
    store.add_chat(chat())
    store.add_chat(chat("d"))
    words = ["one", "two", "two", "one", "three"]
    for minutes, word in enumerate(words):
        store.save(message(f"m{minutes}", word, minutes=minutes))
    store.save(
        message("a", "an answer", role="assistant"),
        message("x", "deleted", deleted=True),
        message("d", "elsewhere", chat_id="d", minutes=-1),
    )
    assert store.prompts() == ["elsewhere", "one", "two", "one", "three"]
    assert store.prompts(limit=2) == ["one", "three"]
    assert store.prompts(chat_id="d") == ["elsewhere"]
    assert store.prompts(chat_id="nobody") == []


def test_lone_surrogates_become_question_marks(store: Store) -> None:
    bad = "a\ud800b"
    store.add_chat(chat(title=bad, instructions=bad))
    made = replace(MADE, instructions=bad, options={"stop": [bad]})
    store.save(message("m", bad, reasoning=bad, made=(made,)))
    store.write_partial("m", bad, bad)
    store.rename("c", bad)
    (found,) = store.messages("c")
    assert (found.content, found.reasoning, found.made[0].instructions) == ("a?b", "a?b", "a?b")
    assert store.chats()[0].title == "a?b"
    with pytest.raises(StorageError, match="cannot hold this"):
        store.save(message(bad))
    with pytest.raises(StorageError, match="cannot hold this"):
        store.messages(bad)


def test_several_threads_use_one_store(store: Store) -> None:
    store.add_chat(chat())
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            for number in range(25):
                made = f"{name}{number}"
                store.save(message(made, f"word {made}"))
                store.write_partial(made, f"word {made} more", "")
                assert store.search(f"more {made}")[0].message_id == made
                assert any(found.id == made for found in store.messages("c"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.messages("c")) == 100


def test_a_backup_is_a_whole_store_and_overwrites_nothing(store: Store, tmp_path: Path) -> None:
    kept = fill(store, chats=2)
    target = tmp_path / "saved" / "copy.db"
    store.backup(target)
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    copy = Store(target)
    assert copy.messages("chat0") + copy.messages("chat1") == kept
    assert copy.search("lorem")
    copy.close()
    before = target.read_bytes()
    with pytest.raises(StorageError, match="exists already"):
        store.backup(target)
    assert target.read_bytes() == before
    with pytest.raises(StorageError, match="below cannot be written"):
        store.backup(target / "below")


def test_a_store_in_memory_can_be_backed_up(tmp_path: Path) -> None:
    store = Store()
    kept = fill(store, chats=1)
    store.backup(tmp_path / "copy.db")
    store.close()
    copy = Store(tmp_path / "copy.db")
    assert copy.messages("chat0") == kept
    copy.close()


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.chats()


# the schema -----------------------------------------------------------------------------------


def test_migrations_are_noted_with_their_time(store: Store, path: Path) -> None:
    rows = query(path, "SELECT name, applied_at FROM migrations")
    assert [name for name, _ in rows] == migrations.names()
    assert all(moment.endswith("+00:00") for _, moment in rows)


def test_an_older_file_is_brought_to_todays_schema(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(path)
    kept = fill(store, chats=2)
    store.close()
    later = migrations.Migration(
        "2026-01 stars", ("ALTER TABLE chats ADD COLUMN stars INTEGER NOT NULL DEFAULT 5",)
    )
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, later))
    for _ in range(2):  # the second time there is nothing to do
        store = Store(path)
        assert store.messages("chat0") + store.messages("chat1") == kept
        store.close()
    assert query(path, "SELECT stars FROM chats") == [(5,), (5,)]
    assert query(path, "SELECT name FROM migrations ORDER BY rowid") == [
        (name,) for name in migrations.names()
    ]


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(path)
    fill(store, chats=1)
    store.close()
    broken = migrations.Migration("broken", ("CREATE TABLE half (x)", "CREATE TABLE half (x)"))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        with pytest.raises(StorageError, match="half already exists"):
            Store(path)
    assert query(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == [(0,)]
    Store(path).close()


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    query(path, "CREATE TABLE recipes (name)")
    with pytest.raises(ForeignStore, match="another program"):
        Store(path)
    query(path, "CREATE TABLE migrations (version)")
    with pytest.raises(ForeignStore, match="another program"):
        Store(path)


# a disk that refuses --------------------------------------------------------------------------


def test_a_full_disk_is_said_and_the_store_goes_on(store: Store) -> None:
    store.add_chat(chat())
    store.save(message("a", "before"))
    with store._database.alone() as connection:
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full") as refused:
        store.save(message("b", "much " * 100_000))
    assert refused.value.hint == "free some space"
    with pytest.raises(StorageError, match="disk is full"):
        store.write_partial("a", "much " * 100_000, "")
    assert store.messages("c") == [message("a", "before")]
    with store._database.alone() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    store.save(message("b", "after"))
    assert store.search("after")


def test_a_disk_that_takes_no_more_bytes_is_said(path: Path) -> None:
    """A limit on the size of files: the operating system itself refuses."""
    import resource

    store = Store(path)
    store.add_chat(chat())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be written|disk is full"):
            store.save(message("b", "much " * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.save(message("b", "after"))
    assert [found.content for found in store.messages("c")] == ["after"]
    store.close()


def test_damage_met_while_working_is_said(store: Store, path: Path) -> None:
    fill(store, chats=6, turns=20)
    with store._database.alone() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA cache_size = 0")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(DamagedStore, match="damaged"):
        for found in store.chats():
            store.messages(found.id)
    with pytest.raises(DamagedStore):
        Store(path)


def test_a_damaged_search_index_is_made_anew(store: Store, path: Path) -> None:
    fill(store)
    query(path, "DELETE FROM messages_search_data WHERE id > 10")
    assert len(store.search("lorem", limit=500)) == 80
    query(path, "DELETE FROM messages_search_data WHERE id > 10")
    store.save(message("new", "walrus", chat_id="chat0"))
    assert [hit.message_id for hit in store.search("walrus")] == ["new"]


def test_a_writer_that_never_ends_is_not_waited_for_forever(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store._database.alone() as connection:
        connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another program has held the history"):
        store.add_chat(chat())
    assert store.chats() == []  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    store.add_chat(chat())


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"tokens": 3}', '{"new_field": 1}'])
def test_details_that_make_no_sense_cost_only_the_details(
    store: Store, path: Path, text: str
) -> None:
    store.add_chat(chat())
    store.save(message("a", role="assistant", made=(MADE,)))
    query(path, "UPDATE generations SET details = ?", text)
    assert store.messages("c")[0].made == (Generation("tiny"),)


def test_values_that_make_no_sense_do_not_hide_a_chat(store: Store, path: Path) -> None:
    store.add_chat(chat())
    store.save(message("a", "text"))
    query(path, "UPDATE messages SET role = 'usfr', status = '?', created_at = 'yesterday'")
    query(path, "UPDATE chats SET updated_at = '2025-13-01'")
    query(path, "UPDATE messages SET content = CAST(x'6162ff63' AS TEXT)")
    (found,) = store.messages("c")
    assert (found.role, found.status, found.content) == ("assistant", "partial", "ab\ufffdc")
    assert len(store.chats()) == 1


def test_identifiers_made_here_are_kept(store: Store) -> None:
    name = make_id()
    store.add_chat(chat(name))
    assert ids(store) == [name]
