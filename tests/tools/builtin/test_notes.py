"""Notes, and the file they are in."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, notes
from mobilellm_mlx.tools.builtin.notes import MAX_TITLE, Notes
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.toolbox import Toolbox


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings(data_dir=tmp_path / "data")


@pytest.fixture
def kept(around: Surroundings) -> Notes:
    return Notes(around)


def call(around: Surroundings, name: str, **arguments: str) -> str:
    tool = Toolbox(notes.tools(around)).find(name)
    return tool.run(check_arguments(tool, arguments), threading.Event())


def test_a_note_is_kept_found_read_and_deleted(around: Surroundings) -> None:
    assert call(around, "list_notes") == "There are no notes."
    assert call(around, "add_note", text="buy milk\nand bread") == "Noted: buy milk and bread."
    assert call(around, "add_note", text="the dentist is at 5") == "Noted: the dentist is at 5."
    assert call(around, "list_notes") == "2 notes:\nthe dentist is at 5\nbuy milk"
    assert call(around, "find_notes", words="Milk") == "Notes about Milk: buy milk and bread."
    assert (
        call(around, "find_notes", words="dentist") == "Notes about dentist: the dentist is at 5."
    )
    assert call(around, "find_notes", words="cheese") == "There are no notes about cheese."
    assert call(around, "read_note", title="Buy Milk") == "buy milk\nand bread"
    assert call(around, "delete_note", title="buy milk") == "The note “buy milk” is deleted."
    assert call(around, "list_notes") == "There is 1 note: the dentist is at 5."


def test_titles_are_short_and_each_there_once(kept: Notes) -> None:
    assert [kept.add("milk"), kept.add("Milk"), kept.add("milk")] == [
        "milk",
        "Milk (2)",
        "milk (3)",
    ]
    assert len(kept.add("a word " * 100)) <= MAX_TITLE
    assert kept.add("x" * 500) == "x" * (MAX_TITLE - 1) + "…"
    assert kept.add("x" * 501).endswith("… (2)")
    assert len(set(kept.titles())) == 6


def test_the_best_and_newest_notes_come_first(kept: Notes) -> None:
    for text in ("red car", "blue car", "red bike", "Grüne Äpfel"):
        kept.add(text)
    assert [title for title, _ in kept.find("a red car")] == ["red car"]
    assert [title for title, _ in kept.find("car")] == ["blue car", "red car"]
    assert [title for title, _ in kept.find("ÄPFEL")] == ["Grüne Äpfel"]
    assert kept.find(" . ") == []


def test_only_some_of_many_notes_are_shown(around: Surroundings, kept: Notes) -> None:
    for number in range(8):
        kept.add(f"milk {number}")
    lines = call(around, "find_notes", words="milk").splitlines()
    notes_found = [f"milk {number}" for number in (7, 6, 5, 4, 3)]
    assert lines == ["Notes about milk:", *notes_found, "and 3 more"]


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE note; --", "%_\\", "<b>[red]x[/red]</b>", "\ud800key"]
)
def test_hostile_texts_are_only_texts(kept: Notes, text: str) -> None:
    title = kept.add(text)
    assert kept.read(title) == kept.titles()[0] == text.replace("\ud800", "?")
    assert len(kept.find(text)) == 1
    kept.delete(title)
    assert kept.titles() == []


def test_control_characters_are_not_kept(kept: Notes) -> None:
    assert kept.read(kept.add("a\x1b[31m\x00b\u202e")) == "a[31mb"
    with pytest.raises(ToolError, match="empty"):
        kept.add("\x00 \n")


def test_a_note_that_is_not_there_is_named(kept: Notes) -> None:
    for action in (kept.read, kept.delete):
        with pytest.raises(ToolError, match="there is no note 'x'"):
            action("x")


def test_only_what_exists_can_be_named(around: Surroundings, kept: Notes) -> None:
    box = Toolbox(notes.tools(around))
    with pytest.raises(ToolError, match="nothing"):
        box.live_schema(box.find("read_note"))
    kept.add("milk")
    schema = box.live_schema(box.find("delete_note"))
    assert schema["properties"]["title"]["enum"] == ["milk"]


def test_looking_makes_no_file_and_the_file_is_private(around: Surroundings, kept: Notes) -> None:
    assert kept.titles() == kept.find("x") == []
    assert not around.data_dir.exists()
    kept.add("milk")
    assert stat.S_IMODE((around.data_dir / "notes.db").stat().st_mode) == 0o600
    assert [path.name for path in around.data_dir.iterdir()] == ["notes.db"]


@pytest.mark.parametrize("damage", ["text", "header", "page", "directory"])
def test_a_damaged_file_is_named_and_left_alone(
    around: Surroundings, kept: Notes, damage: str
) -> None:
    path = around.data_dir / "notes.db"
    for number in range(50):
        kept.add(f"{number} " * 100)
    if damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        whole = path.read_bytes()
        broken = {
            "text": b"these are no notes " * 100,
            "header": bytes(100) + whole[100:],
            "page": whole[:4096] + b"\xff" * (len(whole) - 4096),
        }[damage]
        path.write_bytes(broken)
    for action in (
        lambda: kept.add("x"),
        kept.titles,
        lambda: kept.find("x"),
        lambda: kept.read("x"),
    ):
        with pytest.raises(ToolError, match="damaged") as refused:
            action()
        assert "move it away" in str(refused.value.hint)
    if damage != "directory":
        assert path.read_bytes() == broken


def test_another_programs_file_is_left_alone(around: Surroundings, kept: Notes) -> None:
    around.data_dir.mkdir()
    with sqlite3.connect(around.data_dir / "notes.db") as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(ToolError, match="another program"):
        kept.add("milk")


def test_a_newer_file_is_left_alone(around: Surroundings, kept: Notes) -> None:
    kept.add("milk")
    with sqlite3.connect(around.data_dir / "notes.db") as newer:
        newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(ToolError, match="newer MobileLLM"):
        kept.titles()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ToolError, match="cannot be used"):
        Notes(Surroundings(data_dir=tmp_path / "data")).add("milk")


def test_a_full_disk_is_named_and_costs_nothing(
    around: Surroundings, kept: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add("milk")
    connect = sqlite3.connect

    def small(*args: object, **options: object) -> sqlite3.Connection:
        connection = connect(*args, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    monkeypatch.setattr("mobilellm_mlx.tools.builtin.shelf.sqlite3.connect", small)
    with pytest.raises(ToolError, match="the disk is full"):
        kept.add("x" * 100_000)
    assert kept.titles() == ["milk"]


def test_threads_may_write_at_once(kept: Notes) -> None:
    with ThreadPoolExecutor(8) as pool:
        titles = list(pool.map(kept.add, ["milk"] * 24))
    assert len(set(titles)) == 24
    assert sorted(kept.titles()) == sorted(titles)


def test_processes_may_write_at_once(around: Surroundings, kept: Notes) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mobilellm_mlx.tools.builtin import Surroundings\n"
        "from mobilellm_mlx.tools.builtin.notes import Notes\n"
        "notes = Notes(Surroundings(data_dir=Path(sys.argv[1])))\n"
        "for _ in range(10): notes.add('milk')\n"
    )
    command = [sys.executable, "-c", code, str(around.data_dir)]
    started = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    assert len(kept.titles()) == 20


def test_tools_understand_their_own_examples(around: Surroundings, kept: Notes) -> None:
    for title in ("Buy milk", "Packing list"):
        kept.add(title)
    for tool in notes.tools(around):
        assert tool.reads_only == (tool.name in ("find_notes", "list_notes", "read_note"))
        for example in tool.examples:
            schema = Toolbox([tool]).schema_for(tool, example.said)
            assert tool.run(check_arguments(tool, example.arguments, schema), threading.Event())
            assert tool.name not in tool.words(example.arguments)
            for spoken in tool.spoken:
                assert example.arguments[spoken] in example.said


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Make a note: buy oat milk", "buy oat milk"),
        ("note that the spare key is at Anna's.", "the spare key is at Anna's"),
        ("please jot down: call mum on Sunday", "call mum on Sunday"),
        ("remember the milk is in the fridge", "the milk is in the fridge"),
        ("add a note about the dentist", "the dentist"),
        ("I would like a note", None),
        ("notes are useful", None),
        ("note", None),
    ],
)
def test_what_is_to_be_noted_stands_behind_the_words_that_ask(
    around: Surroundings, said: str, text: str | None
) -> None:
    box = Toolbox(notes.tools(around))
    bound = box.schema_for(box.find("add_note"), said)["properties"]["text"]
    assert bound.get("enum") == ([text] if text else None)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Find my note about the dentist", ["dentist"]),
        ("what did I write down about the garage last week?", ["garage"]),
        ("search my notes for oat milk", ["oat milk"]),
        ("find something", []),
    ],
)
def test_what_notes_are_searched_for_is_heard(
    around: Surroundings, said: str, words: list[str]
) -> None:
    assert Toolbox(notes.tools(around)).find("find_notes").heard["words"](said) == words
