"""Files of questions of one's own: what they say, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.evals.choice import local
from mobilellm_mlx.evals.choice.local import LocalSet, read_question
from mobilellm_mlx.evals.choice.question import Question

ICE = {"question": "What is ice?", "choices": ["frozen water", "cold fire"], "answer": 0}


def asked(path: Path) -> list[Question]:
    return [request.payload for request in LocalSet(path).task().requests(None, 0)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    return path


def test_a_question_is_put_as_question_and_answer(tmp_path: Path) -> None:
    (question,) = asked(write(tmp_path / "a.jsonl", {**ICE, "id": 7}))
    context = "Question: What is ice?\nAnswer:"
    assert question.pairs == ((context, " frozen water"), (context, " cold fire"))
    assert (question.gold, question.lengths) == (0, (12, 9))


@pytest.mark.parametrize(
    ("context", "choice", "continuation"),
    [
        ("It is", "ice", " ice"),
        ("It is", " ice", " ice"),
        ("It is", "\nice", "\nice"),
        ("It is ", "ice", "ice"),
        ("It is\n", "ice ", "ice "),
        ("  Ça fait", "ß水🧊", " ß水🧊"),
    ],
)
def test_a_context_stays_and_a_space_stands_before_choices(
    context: str, choice: str, continuation: str
) -> None:
    question = read_question({"context": context, "choices": [choice, "no"], "answer": 1})
    assert question.pairs[0] == (context, continuation)
    assert question.lengths == (len(choice.lstrip()), 2)


@pytest.mark.parametrize(
    ("answer", "choices", "gold"),
    [
        (2, ["x", "y", "z"], 2),
        ("C", ["x", "y", "z"], 2),
        ("c", ["x", "y", "z"], 2),
        ("z", ["x", "y", "z"], 2),
        ("A", ["B", "A"], 1),  # the text goes before the letter
        ("no", ["yes", "no"], 1),
        (1, ["0", "1"], 1),
        ("1", ["1", "2"], 0),
    ],
)
def test_the_right_choice_is_a_number_a_letter_or_a_text(
    answer: Any, choices: list[str], gold: int
) -> None:
    assert read_question({"question": "?", "choices": choices, "answer": answer}).gold == gold


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"question": None}, "`question` is null, expected text", ""),
        ({"question": " \n"}, "`question` is empty", ""),
        ({"context": "x"}, "both `question` and `context`", "into `context`"),
        ({"choices": "ab"}, "`choices` is a text, expected a list of texts", ""),
        ({"choices": ["a"]}, "`choices` is a list of 1, expected 2 to 100 texts", ""),
        ({"choices": []}, "a list of 0", ""),
        ({"choices": ["a"] * 101}, "a list of 101", ""),
        ({"choices": ["a", 1]}, "choice 1 is a number, expected a text", ""),
        ({"choices": ["a", {"text": "b", "label": "B"}]}, "choice 1 is an object", "texts alone"),
        ({"choices": {"text": ["a", "b"]}}, "`choices` is an object", "texts alone"),
        ({"choices": ["a", "b", " a"]}, "choices 0 and 2 are the same, `a`", "take one out"),
        ({"choices": ["1", "2"], "answer": 1}, "choice 1 and also the text of choice 0", "letter"),
        ({"answer": "1"}, "`answer` is `1`, which is no choice", "a number from 0 to 1"),
        ({"choices": ["a", " "]}, "choice 1 is empty", ""),
        ({"answer": 2}, "`answer` is 2, expected 0 to 1", "counted from 0"),
        ({"answer": -1}, "`answer` is -1", "counted from 0"),
        ({"answer": 10**4000}, "`answer` is 1000", "counted from 0"),
        ({"answer": True}, "expected a number, a letter or a text", ""),
        ({"answer": 0.0}, "expected a number, a letter or a text", ""),
        ({"answer": "C"}, "`answer` is `C`, which is no choice", "A to B"),
        ({"answer": ""}, "which is no choice", ""),
        ({"answer": "ı"}, "which is no choice", ""),
        ({"answer": "x" * 9999}, "which is no choice", ""),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(
    tmp_path: Path, changes: dict[str, Any], said: str, hint: str
) -> None:
    path = write(tmp_path / "mine.jsonl", ICE, {**ICE, **changes})
    with pytest.raises(DataError) as caught:
        LocalSet(path).task()
    assert caught.value.message.startswith("`mine.jsonl:2`: ")
    assert said in caught.value.message and len(caught.value.message) < 200
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("key", ["question", "choices", "answer"])
def test_a_missing_key_is_named_and_a_misspelt_one_found(tmp_path: Path, key: str) -> None:
    row = {name: value for name, value in ICE.items() if name != key}
    with pytest.raises(DataError, match=f"expected `{key}`") as caught:
        LocalSet(write(tmp_path / "a.jsonl", row)).task()
    assert "a line is like" in str(caught.value.hint)
    row[f"{key}s"] = ICE[key]
    with pytest.raises(DataError, match=f"expected `{key}`") as caught:
        LocalSet(write(tmp_path / "a.jsonl", row)).task()
    assert caught.value.hint == f"did you mean `{key}`?"


@pytest.mark.parametrize(("key", "name"), [("gold", "answer"), ("query", "question")])
def test_what_others_call_a_key_is_known(tmp_path: Path, key: str, name: str) -> None:
    row = {key if known == name else known: value for known, value in ICE.items()}
    with pytest.raises(DataError) as caught:
        LocalSet(write(tmp_path / "a.jsonl", row)).task()
    assert caught.value.hint == f"did you mean `{name}` for `{key}`?"


def test_hints_about_lines_show_a_question(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("3\n")
    with pytest.raises(DataError) as caught:
        LocalSet(path).task()
    assert '{"question": "...", "choices"' in str(caught.value.hint)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "JSON"),
        (b"[1]", "object"),
        (b"{}", "no key at all"),
        (b'{"question": "\xff"}', "UTF-8"),
        (b'{"question": "\\ud800", "choices": ["a", "b"], "answer": 0}', "lone surrogate"),
        (b'{"a":' * 50_000, "nested"),
        (b" " * 4_000_001, "longer than"),
    ],
)
def test_a_line_that_cannot_be_read_is_said(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ICE).encode() + b"\n" + line)
    with pytest.raises(DataError, match=r"`a\.jsonl:2`") as caught:
        LocalSet(path).task()
    assert said.lower() in caught.value.message.lower()


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = json.dumps(ICE).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row)
    assert len(asked(path)) == 2


def test_lines_that_say_the_same_are_questions_of_their_own(tmp_path: Path) -> None:
    requests = LocalSet(write(tmp_path / "a.jsonl", ICE, ICE)).task().requests(None, 0)
    assert [one.id for one in requests] == ["0", "1"]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_questions_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match="has no question in it"):
        LocalSet(path).task()


def test_what_is_no_file_is_said_and_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in [
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
        (Path("/dev/zero"), "is not a file"),
        (tmp_path / "none.jsonl", "cannot be read: No such file"),
    ]:
        with pytest.raises(DataError, match=said):
            LocalSet(path).task()


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", ICE)
    monkeypatch.setattr(local, "MAX_FILE_BYTES", path.stat().st_size)
    assert len(asked(path)) == 1
    monkeypatch.setattr(local, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="at most") as caught:
        LocalSet(path).task()
    assert "several files" in str(caught.value.hint)


def test_results_belong_to_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ICE)
    task = LocalSet(path).task()
    assert task.data_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert task.settings == {}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("piqa.jsonl", "file-piqa"),
        ("my questions (2).jsonl", "file-my-questions-2"),
        ("問.jsonl", "file-questions"),
        ("..jsonl", "file-questions"),
        ("x" * 200 + ".jsonl", "file-" + "x" * 55),
    ],
)
def test_a_task_is_called_so_that_it_can_name_a_file(file: str, name: str) -> None:
    assert LocalSet(Path("/any") / file).name == name


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    math.nan,
    10**30,
    "",
    "a",
    "A",
    [],
    ["a"],
    ["a", "b"],
    [[], {}],
    {},
]


def test_an_object_is_a_question_or_a_known_error() -> None:
    read = 0
    for context, choices, answer in product(ODD, repeat=3):
        try:
            question = read_question({"context": context, "choices": choices, "answer": answer})
        except DataError:
            continue
        read += 1
        assert question.lengths and len(question.pairs) == len(question.lengths) == 2
    assert read == 2 * 3  # the contexts "a" and "A" with the answers 0, "a" and "A"
