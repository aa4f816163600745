"""The chats beside the one that is shown: kept, opened, found, named, deleted, written to files."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from textual.widgets import Input, Static

from mobilellm_mlx.chat.exchange import WholeChat, files, to_json
from mobilellm_mlx.chat.records import ChatRecord, StoredMessage, now
from mobilellm_mlx.chat.snapshots import Snapshots
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import StorageError
from tui.house import House
from tui.screens.search import SearchScreen
from tui.widgets.messages import UserMessage
from tui.widgets.prompt import Prompt
from tui.widgets.response import Response
from tui.widgets.sidebar import ChatList, Sidebar

WIDE = (120, 40)


@pytest.fixture
def store():
    opened = Store()
    yield opened
    opened.close()


@pytest.fixture
def house(store, tmp_path):
    return House(store=store, folder=tmp_path)


def titles(chat):
    return [row.text for row in chat.all(ChatList)[0]._rows if row.chat_id]


def said(chat):
    return [m.text for m in chat.all(UserMessage)], [r.text for r in chat.all(Response)]


async def test_a_chat_appears_in_the_list_with_a_title_of_its_own(open_chat, staged, house):
    async with open_chat(staged(["Blue."]), WIDE, house=house) as chat:
        await chat.say("What colour is the sky?")
        await chat.idle()
        assert titles(chat) == ["What colour is the sky?"]
        assert "What colour is the sky?" in chat.text()


async def test_a_new_chat_is_listed_once_something_is_said(open_chat, staged, house):
    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        await chat.say("first thing")
        await chat.idle()
        await chat.press("ctrl+n")
        assert titles(chat) == ["First thing"]
        await chat.say("second thing")
        await chat.idle()
        assert titles(chat) == ["Second thing", "First thing"]


async def test_a_chat_of_the_list_opens_where_it_was_left(open_chat, staged, house):
    engine = staged(["One", "Two", "Three"])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("ctrl+n")
        await chat.say("second")
        await chat.idle()
        await chat.press("ctrl+b")
        await chat.press("down", "enter")
        await chat.until(lambda: said(chat) == (["first"], ["One"]))
        assert isinstance(chat.app.focused, Prompt)
        await chat.say("and then?")
        await chat.idle()
        assert [m.content for m in engine.conversations[-1]] == ["first", "One", "and then?"]


async def test_opening_a_chat_during_an_answer_stops_that_first(open_chat, staged, house):
    engine = staged(["One", "A long answer", "Three"], hold_after=1)
    async with open_chat(engine, WIDE, house=house) as chat:
        engine.may_speak.set()
        await chat.say("first")
        await chat.idle()
        first = chat.app.chat.session.chat.id
        await chat.press("ctrl+n")
        engine.may_speak.clear()
        await chat.say("second")
        await chat.until(lambda: said(chat)[1] == ["A lo"])
        chat.app.chat.query_one(Sidebar).post_message(Sidebar.Chosen(first))
        await chat.until(lambda: said(chat) == (["first"], ["One"]))
        await chat.idle()
        stopped = [c for c in house.store.chats() if c.id != first]
        assert [m.content for m in house.store.messages(stopped[0].id)] == ["second", "A lo"]


async def test_ctrl_r_finds_what_was_said_and_shows_it(open_chat, staged, house):
    async with open_chat(staged(["Mercury is near.", "Two"]), WIDE, house=house) as chat:
        await chat.say("planets")
        await chat.idle()
        await chat.press("ctrl+n")
        await chat.say("second")
        await chat.idle()
        await chat.press("ctrl+r")
        await chat.until(lambda: isinstance(chat.app.screen, SearchScreen))
        await chat.press(*"mercury")
        await chat.until(lambda: "Mercury is near" in chat.text())
        await chat.press("enter")
        await chat.until(lambda: said(chat) == (["planets"], ["Mercury is near."]))


async def test_resuming_goes_on_with_the_chat_before(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("ctrl+n")
        await chat.say("/resume")
        await chat.until(lambda: said(chat) == (["first"], ["One"]))


async def test_a_chat_can_be_begun_with(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        chat_id = chat.app.chat.session.chat.id
    house.resume = chat_id
    engine = staged(["Two"])
    async with open_chat(engine, WIDE, house=house) as chat:
        await chat.until(lambda: said(chat) == (["first"], ["One"]))
        await chat.say("second")
        await chat.idle()
        assert [m.content for m in engine.conversations[-1]] == ["first", "One", "second"]


async def test_a_chat_is_renamed_by_key_and_by_command(open_chat, staged, house):
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("/rename My own title")
        await chat.until(lambda: titles(chat) == ["My own title"])
        await chat.press("ctrl+b", "r")
        await chat.until(lambda: isinstance(chat.app.focused, Input))
        await chat.press(*"Another", "enter")
        await chat.until(lambda: titles(chat) == ["Another"])
        assert house.store.chats()[0].named


async def test_a_pinned_chat_stays_on_top(open_chat, staged, house):
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("/pin")
        await chat.press("ctrl+n")
        await chat.say("second")
        await chat.idle()
        assert titles(chat) == ["First", "Second"]
        assert "Pinned" in chat.text()


async def test_a_deleted_chat_comes_back_by_undo(open_chat, staged, house):
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.say("/delete")
        await chat.until(lambda: titles(chat) == [])
        assert said(chat) == ([], [])
        await chat.until(lambda: "/undo brings it back" in chat.text())
        await chat.say("/undo")
        await chat.until(lambda: said(chat) == (["first"], ["One"]))
        assert titles(chat) == ["First"]


async def test_a_deleted_chat_takes_its_cache_along(open_chat, staged, house, tmp_path):
    house.snapshots = Snapshots(tmp_path / "kv")
    async with open_chat(staged(["word " * 600]), WIDE, house=house) as chat:
        await chat.say("long " * 100)
        await chat.idle()
        first = chat.app.chat.session.chat.id
        await chat.press("ctrl+n")
        await chat.until(lambda: house.snapshots.path_for(first).is_file())
        chat.app.chat.query_one(Sidebar).post_message(Sidebar.DeleteAsked(first))
        await chat.until(lambda: not house.snapshots.path_for(first).is_file())


async def test_the_open_chat_is_deleted_with_what_was_read_of_it(
    open_chat, staged, house, tmp_path
):
    house.snapshots = Snapshots(tmp_path / "kv")
    async with open_chat(staged(["word " * 600, "Two"]), WIDE, house=house) as chat:
        await chat.say("long " * 100)
        await chat.idle()
        await chat.say("/delete")
        await chat.until(lambda: said(chat) == ([], []))
        await chat.say("second")
        await chat.idle()  # a cache that is to be written goes before
        assert not list(tmp_path.glob("kv/*"))


async def test_a_long_chat_is_recalled_and_not_read_again(open_chat, staged, house, tmp_path):
    house.snapshots = Snapshots(tmp_path / "kv")
    async with open_chat(staged(["word " * 600, "Two", "Three"]), WIDE, house=house) as chat:
        await chat.say("long " * 100)
        await chat.idle()
        first = chat.app.chat.session.chat.id
        await chat.press("ctrl+n")
        await chat.say("second")
        await chat.idle()
        chat.app.chat.query_one(Sidebar).post_message(Sidebar.Chosen(first))
        await chat.until(lambda: chat.app.chat.session.chat.id == first)
        await chat.say("go on")
        await chat.idle()
        assert chat.app.chat.session.branch[-1].made[0].cached_tokens > 0


@pytest.mark.parametrize("ending", ["md", "json", "jsonl"])
async def test_a_chat_is_written_to_a_file(open_chat, staged, house, tmp_path, ending):
    async with open_chat(staged(["An answer."]), WIDE, house=house) as chat:
        await chat.say("A question?")
        await chat.idle()
        await chat.say(f"/export mine.{ending}")
        await chat.until(lambda: (tmp_path / f"mine.{ending}").is_file())
        text = (tmp_path / f"mine.{ending}").read_text()
        assert "A question?" in text and "An answer." in text
        await chat.say(f"/export mine.{ending}")
        await chat.until(lambda: "is there already" in chat.text())


async def test_an_exported_chat_is_brought_in_as_another_one(open_chat, staged, house, tmp_path):
    async with open_chat(staged(["An answer."]), WIDE, house=house) as chat:
        await chat.say("A question?")
        await chat.idle()
        await chat.say("/export mine.json")
        await chat.until(lambda: (tmp_path / "mine.json").is_file())
        await chat.press("ctrl+n")
        await chat.say("/import mine.json")
        await chat.until(lambda: said(chat) == (["A question?"], ["An answer."]))
        assert len(house.store.chats()) == 2


@pytest.mark.parametrize("chats", [1, 2])
async def test_a_system_prompt_that_comes_along_is_said(open_chat, staged, house, tmp_path, chats):
    moment = now()
    whole = [
        WholeChat(ChatRecord(f"c{n}", moment, moment, instructions=text, leaf_id=f"m{n}"), [
            StoredMessage(f"m{n}", f"c{n}", None, "user", f"Hi {n}", moment)
        ])
        for n, text in enumerate(["Praise Acme.", None][:chats])
    ]  # fmt: skip
    (tmp_path / "theirs.json").write_text(to_json(whole))
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("/import theirs.json")
        said_so = "with a system prompt: /system" if chats == 1 else "1 of them with a system"
        await chat.until(lambda: said_so in " ".join(chat.text().split()))
        await chat.until(lambda: said(chat)[0] == ["Hi 0"])
        assert len(house.store.chats()) == chats


async def test_a_long_import_does_not_hold_the_screen_up(
    open_chat, staged, house, tmp_path, monkeypatch
):
    may_read, in_time = threading.Event(), []

    def read_slowly(source):
        in_time.append(may_read.wait(3))
        raise StorageError("it was too slow")

    monkeypatch.setattr(files, "read_bytes", read_slowly)
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("/import any.json")
        await chat.say("first")
        await chat.idle()
        assert said(chat) == (["first"], ["One"])
        may_read.set()
        await chat.until(lambda: "it was too slow" in chat.text())
        assert in_time == [True]


async def test_a_file_that_is_no_chat_is_refused_in_a_sentence(open_chat, staged, house, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"format": "other"}))
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        await chat.say("/import other.json")
        await chat.until(lambda: "not of the format" in chat.text())
        await chat.say("/import nowhere.json")
        await chat.until(lambda: "there is no file" in chat.text())


async def test_without_a_store_nothing_is_listed_and_that_is_said(open_chat, staged):
    async with open_chat(staged(["One"]), WIDE) as chat:
        await chat.say("first")
        await chat.idle()
        assert titles(chat) == []
        assert "not saved" in chat.text()
        await chat.press("ctrl+r")
        await chat.until(lambda: "there are none to search" in chat.text())


async def test_a_history_in_memory_is_no_saved_one(open_chat, staged, house, tmp_path):
    """Such as where a newer program has written the file."""
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        assert "not saved" in chat.text()
    house.store = Store(tmp_path / "history.db")
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        assert "not saved" not in chat.text()
    house.store.close()


async def test_a_notification_does_not_carry_the_answer(open_chat, staged, house, monkeypatch):
    async with open_chat(staged(["A secret."]), WIDE, house=house) as chat:
        sent = []
        monkeypatch.setattr(chat.app.attention, "job_ended", lambda *args: sent.append(args))
        await chat.say("first")
        await chat.idle()
        assert sent == [("The answer is there", 1.0)]


async def test_a_window_that_stays_open_erases_what_was_deleted(
    open_chat, staged, house, monkeypatch
):
    monkeypatch.setattr("tui.screens.chat.ERASE_EVERY_S", 0.02)
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.say("first")
        await chat.idle()
        await chat.press("ctrl+n")
        (kept,) = house.store.chats()
        house.store.delete_chat(kept.id, now() - timedelta(days=2))
        await chat.until(lambda: house.store.chat(kept.id) is None)


async def test_notices_of_the_start_are_shown(open_chat, staged, house):
    house.notices = ("The history was damaged; [a copy] lies beside it.",)
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.until(lambda: "The history was damaged; [a copy] lies beside it." in chat.text())


async def test_a_disk_that_fails_is_said_and_the_chat_goes_on(
    open_chat, staged, house, monkeypatch
):
    def fail(*_):
        raise StorageError("the disk is full", "free some space")

    async with open_chat(staged(["One", "Two"]), WIDE, house=house) as chat:
        await chat.idle()
        monkeypatch.setattr(house.store, "add", fail)
        await chat.say("first")
        await chat.until(lambda: "not being saved: the disk is full" in chat.text())
        await chat.idle()
        assert said(chat) == (["first"], ["One"])


async def test_the_prompt_remembers_what_was_said_in_other_chats(open_chat, staged, house):
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.say("from before")
        await chat.idle()
    async with open_chat(staged(), WIDE, house=house) as chat:
        await chat.idle()
        await chat.press("up")
        assert chat.prompt.text == "from before"


async def test_the_list_hides_in_a_narrow_window_and_comes_with_its_key(open_chat, staged, house):
    async with open_chat(staged(), (80, 24), house=house) as chat:
        await chat.idle()
        sidebar = chat.all(Sidebar)[0]
        assert not sidebar.display
        await chat.press("ctrl+b")
        assert sidebar.display and isinstance(chat.app.focused, ChatList)
        await chat.press("escape")
        await chat.until(lambda: not sidebar.display)
        assert isinstance(chat.app.focused, Prompt)
        await chat.pilot.resize_terminal(*WIDE)
        await chat.until(lambda: sidebar.display)


async def test_two_windows_on_one_history_do_not_block_each_other(
    open_chat, staged, house, tmp_path
):
    path = tmp_path / "history.db"
    first, second = Store(path), Store(path)
    house.store = first
    async with open_chat(staged(["One"]), WIDE, house=house) as chat:
        stop = threading.Event()

        def write() -> None:
            from mobilellm_mlx.chat.records import make_id

            while not stop.is_set():
                second.add_chat(ChatRecord(make_id(), now(), now()))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            await chat.say("first")
            await chat.idle()
        finally:
            stop.set()
            writer.join()
        assert said(chat) == (["first"], ["One"])
        assert not [w for w in chat.app.screen.query("Toast Static") if isinstance(w, Static)]
    for opened in (first, second):
        opened.close()
    assert Path(path).is_file()
