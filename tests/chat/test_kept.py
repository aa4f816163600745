"""A conversation and its store: what is on the disk, and what happens when the disk fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from tiny import write_model

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.records import ChatRecord, StoredMessage, make_id, now
from mobilellm_mlx.chat.snapshots import Snapshots
from mobilellm_mlx.chat.store import Store, open_history
from mobilellm_mlx.chat.store.database import damage_mark
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import ContextOverflow, InvalidInput, StorageError
from mobilellm_mlx.events import Event, GenerationSummary, Notice, TextDelta
from mobilellm_mlx.testing import ScriptedEngine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "history.db")
    yield opened
    opened.close()


def run(events: Iterator[Event]) -> GenerationSummary:
    *_, summary = events
    assert isinstance(summary, GenerationSummary)
    return summary


def kept(store: Store, session: Session) -> list[str]:
    return [m.content for m in store.messages(session.chat.id) if not m.deleted]


def test_a_conversation_comes_back_as_it_was(store: Store) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO", "THREE"]), store=store, instructions="Brief.")
    run(session.send("one"))
    run(session.send("two"))
    run(session.retry())
    again = Session(ScriptedEngine(["FOUR"]), store=store)
    again.open(session.chat.id)
    assert again.branch == session.branch
    assert again.chat.title == session.chat.title
    assert again.instructions == "Brief."
    assert again.siblings(again.branch[-1].id) == session.siblings(session.branch[-1].id)
    run(again.send("three"))
    assert [m.content for m in again.branch] == ["one", "ONE", "two", "THREE", "three", "FOUR"]


def test_the_question_is_on_the_disk_before_the_model_is_loaded(store: Store) -> None:
    seen: list[list[str]] = []

    class Watching(ScriptedEngine):
        def load(self, directory: Path | None = None) -> Iterator[Event]:
            seen.append(kept(store, session))
            yield from super().load(directory)

    session = Session(Watching(), store=store)
    run(session.send("Hi"))
    assert seen == [["Hi", ""]]


def test_an_answer_that_waits_for_its_next_word_is_on_the_disk(store: Store) -> None:
    """The clock writes, not the next token: what is on the screen is on the disk in a second."""
    session = Session(ScriptedEngine(["A long answer"]), store=store)
    events = session.send("Hi")
    while not isinstance(next(events), TextDelta):
        pass
    deadline = time.monotonic() + 5
    while kept(store, session) != ["Hi", "A lo"]:
        assert time.monotonic() < deadline, kept(store, session)
        time.sleep(0.02)
    run(events)


def test_an_empty_chat_is_not_kept(store: Store) -> None:
    Session(ScriptedEngine(), store=store)
    assert store.chats() == []


def test_a_first_turn_that_came_to_nothing_leaves_no_chat(store: Store) -> None:
    session = Session(ScriptedEngine([ContextOverflow(9, 8), "Fine."]), store=store)
    with pytest.raises(ContextOverflow):
        run(session.send("too long"))
    assert store.chats() == []
    run(session.send("short"))
    assert [chat.messages for chat in store.chats()] == [2]


def test_a_chat_that_is_gone_cannot_be_opened(store: Store) -> None:
    with pytest.raises(InvalidInput, match="not in the history"):
        Session(ScriptedEngine(), store=store).open("nonesuch")


def test_two_programs_may_talk_in_one_chat_and_both_are_kept(store: Store, tmp_path: Path) -> None:
    first = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(first.send("one"))
    other = Store(tmp_path / "history.db")
    second = Session(ScriptedEngine(["ELSE"]), store=other)
    second.open(first.chat.id)
    run(first.send("two"))
    run(second.send("else"))
    other.close()
    assert kept(store, first) == ["one", "ONE", "two", "TWO", "else", "ELSE"]


def test_what_another_program_erases_leaves_the_branch_whole(store: Store, tmp_path: Path) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO", "THREE"]), store=store)
    for text in ("one", "two"):
        run(session.send(text))
    session.delete_turn(session.branch[-1].id)
    other = Store(tmp_path / "history.db")
    other.purge(now() + timedelta(days=2))
    other.close()
    run(session.send("three"))
    again = Session(ScriptedEngine(), store=store)
    again.open(session.chat.id)
    assert [m.content for m in again.branch] == ["one", "ONE", "three", "THREE"]
    assert kept(store, session) == ["one", "ONE", "three", "THREE"]


def test_an_erased_turn_that_this_program_remembers_can_be_put_back(store: Store) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    for text in ("one", "two"):
        run(session.send(text))
    gone = session.delete_turn(session.branch[-1].id)
    store.purge(now() + timedelta(days=2))
    session.restore(gone)
    assert kept(store, session) == ["one", "ONE", "two", "TWO"]


def test_a_chat_that_another_program_deleted_lives_on_where_somebody_goes_on(
    store: Store, tmp_path: Path
) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(session.send("one"))
    other = Store(tmp_path / "history.db")
    other.delete_chat(session.chat.id, now() - timedelta(hours=1))
    run(session.send("two"))
    assert [chat.id for chat in other.chats()] == [session.chat.id]
    assert other.purge(now() - timedelta(minutes=30)) == []
    other.close()
    assert kept(store, session) == ["one", "ONE", "two", "TWO"]


def test_a_chat_that_another_program_erased_is_written_anew(store: Store, tmp_path: Path) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(session.send("one"))
    store.delete_chat(session.chat.id, now() - timedelta(hours=1))
    store.purge(now())
    run(session.send("two"))
    assert kept(store, session) == ["one", "ONE", "two", "TWO"]


def test_a_deleted_chat_cannot_be_opened(store: Store) -> None:
    session = Session(ScriptedEngine(), store=store)
    run(session.send("one"))
    store.delete_chat(session.chat.id, now())
    with pytest.raises(InvalidInput, match="not in the history"):
        Session(ScriptedEngine(), store=store).open(session.chat.id)


def test_a_history_that_was_replaced_is_noticed_and_said(tmp_path: Path) -> None:
    """Another window has met damage and begun a new file: what is said here would go nowhere."""
    path = tmp_path / "history.db"
    store = Store(path)
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(session.send("one"))
    damage_mark(path).touch()
    other, _ = open_history(path)
    notices = [e.text for e in session.send("two") if isinstance(e, Notice)]
    assert len(notices) == 1 and "moved or replaced" in notices[0]
    assert kept(other, session) == ["one", "ONE"]
    other.close()
    store.close()


def refuse(*_: object) -> None:
    raise StorageError("the history is busy")


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("set_leaf", lambda session: None),
        ("rename", lambda session: session.rename("Mine")),
        ("set_instructions", lambda session: session.instruct("Be brief.")),
        ("pin_message", lambda session: session.pin(session.branch[0].id, True)),
        ("set_deleted", lambda session: session.delete_turn(session.branch[0].id)),
    ],
)
def test_what_the_disk_refused_comes_along_with_the_next_message(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    change: Callable[[Session], object],
) -> None:
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(session.send("one"))
    monkeypatch.setattr(store, method, refuse)
    change(session)
    run(session.send("two"))
    again = Session(ScriptedEngine(), store=store)
    again.open(session.chat.id)
    assert again.branch == session.branch
    assert (again.chat.title, again.instructions) == (session.chat.title, session.instructions)


def test_a_chat_is_kept_with_its_messages_or_not_at_all(store: Store) -> None:
    chat = ChatRecord(make_id(), now(), now())
    good = StoredMessage("m", chat.id, None, "user", "Hi", now())
    with pytest.raises(StorageError):
        store.add(chat, [good, StoredMessage("n", "no chat", None, "user", "Hi", now())])
    assert store.chat(chat.id) is None and store.messages(chat.id) == []
    store.add(chat, [good])
    assert store.messages(chat.id) == [good]


class FailingStore(Store):
    """A disk that fills up."""

    full = False

    def save(self, *messages: object) -> None:
        if self.full:
            raise StorageError("the disk is full", "free some space")
        super().save(*messages)  # type: ignore[arg-type]

    def add(self, chat: ChatRecord, messages: Sequence[StoredMessage]) -> None:
        if self.full:
            raise StorageError("the disk is full", "free some space")
        super().add(chat, messages)

    def write_partial(self, message_id: str, content: str, reasoning: str) -> None:
        self.save()


def test_a_full_disk_is_said_once_and_the_chat_goes_on(tmp_path: Path) -> None:
    store = FailingStore(tmp_path / "history.db")
    session = Session(ScriptedEngine(["ONE", "TWO", "THREE"]), store=store)
    run(session.send("one"))
    store.full = True
    events = [*session.send("two"), *session.send("three")]
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert notices == ["this chat is not being saved: the disk is full"]
    everything = ["one", "ONE", "two", "TWO", "three", "THREE"]
    assert [m.content for m in session.branch] == everything
    store.full = False
    run(session.send("four"))
    assert kept(store, session) == [*everything, "four", "THREE"]  # what was missing came along
    store.close()


def test_a_chat_that_began_on_a_full_disk_is_kept_when_there_is_room(tmp_path: Path) -> None:
    store = FailingStore(tmp_path / "history.db")
    store.full = True
    session = Session(ScriptedEngine(["ONE", "TWO"]), store=store)
    run(session.send("one"))
    store.full = False
    run(session.send("two"))
    assert kept(store, session) == ["one", "ONE", "two", "TWO"]
    store.close()


def test_a_cache_is_kept_for_a_long_chat_and_read_back(store: Store, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "kv")
    engine = ScriptedEngine(["word " * 2000])
    session = Session(engine, store=store, snapshots=snapshots)
    run(session.send("long " * 300))
    job = session.keep_cache()
    assert job is not None
    chat = session.chat.id
    session.reset()  # the job is about the chat that was open when it was made
    list(job)
    assert snapshots.path_for(chat).is_file()
    assert session.restore_cache() is None
    session.open(chat)
    job = session.restore_cache()
    assert job is not None
    list(job)
    assert run(session.send("more")).cached_tokens > 0


def test_a_cache_is_written_once_and_only_for_what_is_worth_it(
    store: Store, tmp_path: Path
) -> None:
    session = Session(ScriptedEngine(), store=store, snapshots=Snapshots(tmp_path / "kv"))
    assert session.keep_cache() is None
    run(session.send("short"))
    assert session.keep_cache() is None
    run(session.send("long " * 400))
    assert session.keep_cache() is not None
    assert session.keep_cache() is None


@pytest.fixture
def long(store: Store, tmp_path: Path) -> Session:
    """A chat whose cache is worth keeping."""
    session = Session(
        ScriptedEngine(["word " * 600]), store=store, snapshots=Snapshots(tmp_path / "kv")
    )
    for _ in range(2):
        run(session.send("long " * 300))
    return session


def test_a_deleted_turn_is_in_no_cache(long: Session, tmp_path: Path) -> None:
    list(long.keep_cache() or ())
    assert len(list((tmp_path / "kv").iterdir())) == 1
    long.delete_turn(long.branch[0].id)
    assert list((tmp_path / "kv").iterdir()) == []
    assert long.keep_cache() is None  # the engine still holds it


@pytest.mark.parametrize("erased", [False, True])
def test_a_chat_that_is_gone_leaves_no_cache(
    long: Session, store: Store, tmp_path: Path, erased: bool
) -> None:
    store.delete_chat(long.chat.id, now() - timedelta(hours=1))
    if erased:
        store.purge(now())
    path = Snapshots(tmp_path / "kv").path_for(long.chat.id)
    path.parent.mkdir()
    path.touch()
    assert long.keep_cache() is None
    assert not path.exists()


def test_a_question_without_an_answer_is_not_asked_when_an_answer_is_made_again() -> None:
    engine = ScriptedEngine(["ONE", "TWO"])
    session = Session(engine)
    run(session.send("one"))
    crashed = [
        StoredMessage("q", session.chat.id, session.chat.leaf_id, "user", "crashed", now()),
        StoredMessage("a", session.chat.id, "q", "assistant", "", now(), status="partial"),
    ]
    session._put(*crashed)
    session._move("a")
    run(session.send("two"))
    list(session.reproduce(session.branch[-1].id))
    assert engine.conversations[-1] == engine.conversations[-2]
    assert [m.content for m in engine.conversations[-1]] == ["one", "ONE", "two"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def test_an_answer_is_made_again_token_for_token_from_a_cold_cache(
    store: Store, directory: Path
) -> None:
    with Engine(directory) as engine:
        overrides = {"temperature": 0.9, "max_tokens": 12}
        session = Session(engine, store=store, overrides=overrides, instructions="Be brief.")
        run(session.send("one"))
        run(session.send("two"))
        session.instructions = "Be long."
        session.overrides["top_k"] = 3
        run(session.send("three"))
    with Engine(directory) as engine:
        again = Session(engine, store=store)
        again.open(session.chat.id)
        for answer in again.branch[5::-2]:
            (summary,) = again.reproduce(answer.id)
            assert tuple(summary.tokens) == answer.made[0].tokens
            assert summary.text == answer.content


def test_an_answer_in_two_stretches_is_made_again_in_two(store: Store, directory: Path) -> None:
    cancel = threading.Event()
    with Engine(directory) as engine:
        session = Session(engine, store=store, overrides={"temperature": 0.9, "max_tokens": 20})
        for count, event in enumerate(session.send("one", cancel)):
            if count > 4 and isinstance(event, TextDelta):
                cancel.set()
        run(session.proceed())
    with Engine(directory) as engine:
        again = Session(engine, store=store)
        again.open(session.chat.id)
        answer = again.branch[-1]
        made = [tuple(summary.tokens) for summary in again.reproduce(answer.id)]
        assert made == [stretch.tokens for stretch in answer.made]
        assert len(made) == 2


def test_a_long_chat_goes_on_without_being_read_again(
    store: Store, directory: Path, tmp_path: Path
) -> None:
    snapshots = Snapshots(tmp_path / "kv")
    with Engine(directory) as engine:
        options = {"max_tokens": 8}
        session = Session(engine, store=store, snapshots=snapshots, overrides=options)
        first = run(session.send("word " * 80))
        job = session.keep_cache()
        assert job is not None, first.context_used
        list(job)
    with Engine(directory) as engine:
        again = Session(engine, store=store, snapshots=snapshots, overrides=options)
        again.open(session.chat.id)
        job = again.restore_cache()
        assert job is not None
        list(job)
        second = run(again.send("x"))
        assert second.cached_tokens >= first.prompt_tokens
