"""Chips and files: what a message takes along."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.errors import InvalidInput
from tui import attachments
from tui.attachments import (
    AttachedFile,
    Pastes,
    expand,
    is_large,
    list_folder,
    mention,
    read_mentions,
    unfinished_mention,
)

plain = st.text(st.characters(exclude_characters="[]@", exclude_categories=["Cs"]))
anything = st.text(st.characters(exclude_categories=["Cs"]))
tempting = anything | st.sampled_from(["[pasted 1: 2 lines]", "@notes.txt", "```", "[pasted 2: "])
file_names = st.text(
    st.characters(exclude_characters='"/', exclude_categories=["C", "Z"]) | st.just(" "), min_size=1
).filter(lambda name: name.strip(".") and name == name.strip())


# ---------------------------------------------------------------- pastes


def test_a_paste_is_large_from_two_thousand_characters_or_forty_lines_on():
    assert not is_large("x" * 2000)
    assert is_large("x" * 2001)
    assert not is_large("x\n" * 39)
    assert is_large("x\n" * 40)


def test_a_chip_says_how_much_it_stands_for():
    pastes = Pastes()
    assert pastes.fold("line\n" * 1204) == "[pasted 1: 1,204 lines]"
    assert pastes.fold("x" * 5000) == "[pasted 2: 5,000 characters]"
    assert pastes.fold("x" * 5000) == "[pasted 3: 5,000 characters]"


@given(st.lists(st.tuples(plain, tempting)))
def test_every_chip_becomes_what_was_pasted_and_nothing_else_changes(parts):
    pastes = Pastes()
    written = "".join(text + pastes.fold(content) for text, content in parts)
    assert expand(written, pastes.contents) == "".join(t + content for t, content in parts)


@given(anything)
def test_a_text_without_chips_and_files_goes_out_as_it_is(text):
    assert expand(text, {}) == text


@given(tempting, st.data())
def test_an_edited_chip_is_ordinary_text(content, data):
    pastes = Pastes()
    chip = pastes.fold(content)
    at = data.draw(st.integers(0, len(chip) - 1))
    edited = chip[:at] + chip[at + 1 :]
    assert expand(edited, pastes.contents) == edited


def test_small_pastes_come_back_as_text_and_large_ones_as_chips():
    pastes = Pastes()
    small, large = pastes.fold("a\n" * 50), pastes.fold("b\n" * 10_000)
    assert pastes.recall(f"see {small} and {large}") == f"see {'a' + chr(10)}" + "a\n" * 49 + (
        f" and {large}"
    )
    assert expand(pastes.recall("c" * 50_000), pastes.contents) == "c" * 50_000
    assert len(pastes.recall("c" * 50_000)) < 50


def test_only_chips_that_stand_for_something_are_set_off():
    pastes = Pastes()
    chip = pastes.fold("x" * 3000)
    assert pastes.spans(f"a {chip} [pasted 9: 3 lines]") == [(2, 2 + len(chip))]


# ---------------------------------------------------------------- files


def read(text, root, **options):
    return expand(text, {}, read_mentions(text, root, **options))


def test_a_file_follows_the_text_fenced_and_named(tmp_path):
    (tmp_path / "notes.txt").write_text("one\ntwo")
    (tmp_path / "a b.py").write_text("print()\n")
    assert read('Compare @notes.txt and (@"a b.py"). @notes.txt!', tmp_path) == (
        "Compare notes.txt and (a b.py). notes.txt!\n\n"
        "notes.txt:\n```txt\none\ntwo\n```\n\n"
        "a b.py:\n```py\nprint()\n```"
    )


@given(anything)
def test_a_fence_holds_whatever_a_file_holds(content):
    lines = AttachedFile("a.md", content).fenced().split("\n")
    fence = lines[1].removesuffix("md")
    assert lines[-1] == fence
    assert fence not in re.findall("`+", content)
    assert "\n".join(lines[2:-1]) == content.removesuffix("\n") or content == ""


@pytest.mark.parametrize(
    "text", ["@property", "mail a@b.org", "@docs", "@nobody.", "@babel/core", "@", "@ notes.txt"]
)
def test_a_sign_that_names_no_file_is_text(text, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "b.org").write_text("x")
    assert read(text, tmp_path) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("@docs/none.md", "There is no file docs/none.md."),
        ('@"no such.md"', "There is no file no such.md."),
        ("@./none", "There is no file ./none."),
        ("@docs/", "docs/ is a folder. Name a file in it."),
        ("@docs/binary", "docs/binary is not text in UTF-8."),
        ("@docs/latin", "docs/latin is not text in UTF-8."),
        ("@docs/pipe", "docs/pipe is not an ordinary file."),
        ("@/dev/zero", "/dev/zero is not an ordinary file."),
        ("@docs/loop", "docs/loop cannot be read: Too many levels of symbolic links."),
        (f"@docs/{'x' * 300}", "cannot be read: File name too long."),
        ("@docs/large", "docs/large is too large: the files of a message may have 100 B together."),
    ],
)
def test_a_file_that_cannot_go_along_is_refused_with_the_reason(text, reason, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "binary").write_bytes(b"ELF\0\0")
    (docs / "latin").write_bytes("café".encode("latin-1"))
    (docs / "large").write_bytes(b"x" * 101)
    (docs / "loop").symlink_to("loop")
    os.mkfifo(docs / "pipe")
    with pytest.raises(InvalidInput) as caught:
        read_mentions(text, tmp_path, limit_bytes=100)
    assert caught.value.message.endswith(reason)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only where there is /proc")
def test_what_is_no_file_on_disk_is_not_read():
    with pytest.raises(InvalidInput, match="not an ordinary file"):
        read_mentions("@/proc/self/stat", Path())
    assert list_folder(Path("/proc")) == []


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"x" * 101)
    stand = (tmp_path / "log").stat()
    small = os.stat_result((*stand[:6], 10, *stand[7:]))
    monkeypatch.setattr(type(tmp_path), "stat", lambda *_, **__: small)
    with pytest.raises(InvalidInput, match="too large"):
        read_mentions("@log", tmp_path, limit_bytes=100)


def test_the_limit_is_for_all_files_of_a_message(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * 60)
    assert set(read_mentions("@a @a", tmp_path, limit_bytes=100)) == {"@a"}
    with pytest.raises(InvalidInput, match="b is too large"):
        read_mentions("@a @b", tmp_path, limit_bytes=100)


def test_a_file_cannot_steer_the_terminal(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfred\x1b[31m\r\n")
    assert read_mentions("@a", tmp_path)["@a"].text == "red[31m\n"


def test_the_home_folder_has_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "x").write_text("here")
    assert read_mentions("@~/x", tmp_path)["@~/x"].text == "here"


def test_neither_files_nor_pastes_bring_in_more_files(tmp_path):
    (tmp_path / "a").write_text("see @b and [pasted 1: 3,000 characters]")
    (tmp_path / "b").write_text("secret")
    pastes = Pastes()
    chip = pastes.fold("x" * 2990 + " @b [pasted")
    text = f"{chip} @a"
    assert "secret" not in expand(text, pastes.contents, read_mentions(text, tmp_path))


@given(file_names)
def test_every_mention_is_read_as_it_was_meant(name):
    written = mention(name)
    assert unfinished_mention(mention(name, finished=False)) == (0, name)
    files = {written: AttachedFile(name, "content")}
    assert expand(f"see {written}, please", {}, files).startswith(f"see {name}, please\n\n{name}:")


@given(anything)
def test_a_message_of_any_kind_is_read_or_refused_in_words(text):
    try:
        read_mentions(text, Path("/nowhere"))
    except InvalidInput as problem:
        assert problem.message


# ---------------------------------------------------------------- folders


def test_a_folder_lists_files_and_folders_by_name(tmp_path):
    for name in ("b.txt", "A.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "link").symlink_to("docs")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "esc\x1b[31m").touch()
    (tmp_path / 'quo"te').touch()
    (tmp_path / "two\nlines").touch()
    found = [(entry.name, entry.is_folder) for entry in list_folder(tmp_path)]
    assert found == [
        (".hidden", False),
        ("A.txt", False),
        ("b.txt", False),
        ("docs", True),
        ("link", True),
    ]


def test_a_folder_that_is_none_lists_nothing(tmp_path):
    assert list_folder(tmp_path / "none") == []
    (tmp_path / "file").touch()
    assert list_folder(tmp_path / "file") == []


def test_a_huge_folder_is_cut(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / str(number)).touch()
    assert len(list_folder(tmp_path, most=10)) == 10
    assert list_folder(tmp_path, patience_s=-1) == []
    assert attachments.MOST_ENTRIES <= 20_000
