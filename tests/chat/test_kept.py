"""A conversation and its store: what is on the disk, and what happens when the disk fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import write_model

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.snapshots import Snapshots
from mobilellm_mlx.chat.store import Store
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


class FailingStore(Store):
    """A disk that fills up."""

    full = False

    def save(self, *messages: object) -> None:
        if self.full:
            raise StorageError("the disk is full", "free some space")
        super().save(*messages)  # type: ignore[arg-type]

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
