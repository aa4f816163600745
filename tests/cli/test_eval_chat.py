"""``mobilellm eval chat``: the answers file, what is said about it, and runs that were stopped."""

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from mobilellm_mlx.cli import eval_chat as verb
from mobilellm_mlx.cli import eval_options
from mobilellm_mlx.errors import ContextOverflow, EngineError
from mobilellm_mlx.evals import wheels
from mobilellm_mlx.evals.chat import questions
from mobilellm_mlx.evals.journal import evals_dir
from mobilellm_mlx.events import ModelLoaded
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine

ROWS = [
    {"question_id": 81, "category": "writing", "turns": ["Tell a story.", "Shorten it."]},
    {"question_id": 82, "category": "writing", "turns": ["Write a mail.", "Shorten it."]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And 2 + 2?"]},
]
ANSWER = "All four words stand here."


class Engine(ScriptedEngine):
    """A scripted engine in the place of the real one."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of the test's own to stand in, with a file of questions."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    write_questions(*ROWS)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Engine]]:
    """Lets every run of the verb ask an engine that gives these answers."""

    def script(*answers: Any, info: ModelLoaded = SCRIPTED_MODEL) -> list[Engine]:
        made: list[Engine] = []

        def engine(directory: Path, options: Any, **_: Any) -> Engine:
            made.append(Engine(answers or [ANSWER], info=info))
            return made[-1]

        monkeypatch.setattr("mobilellm_mlx.engine.Engine", engine)
        monkeypatch.setattr(eval_options, "resolve_model", lambda name: Path("/models/scripted"))
        return made

    return script


def write_questions(*rows: Any) -> None:
    text = "".join(json.dumps(one) + "\n" for one in rows)
    Path("q.jsonl").write_text(text, encoding="utf-8")


def answer(run: Any, *more: str) -> Any:
    return run("eval", "chat", "--questions", "q.jsonl", *more)


def read_as_judges_do(path: str) -> dict[int, list[str]]:
    """The turns by question: every line must be JSON with these keys, as FastChat reads it."""
    with open(path) as file:  # noqa: PTH123 (no encoding either, as they have none)
        lines = [json.loads(line) for line in file]
    return {line["question_id"]: line["choices"][0]["turns"] for line in lines}


def test_the_answers_are_in_a_file_named_after_the_model(run, scripted) -> None:
    scripted("A", "B", "C", "D", "E", "F")
    result = answer(run)
    assert result.code == 0
    # Categories are asked in turn; the file has the order of the questions.
    assert read_as_judges_do("scripted.jsonl") == {81: ["A", "B"], 82: ["E", "F"], 111: ["C", "D"]}
    assert "answers in scripted.jsonl" in result.err and "kept as " in result.err
    assert "no judge is built in" in result.err


def test_people_get_figures_of_what_went_wrong_and_none_of_quality(run, scripted) -> None:
    scripted()
    result = answer(run)
    assert "chat-q: 3 requests, scripted" in result.out
    for name in ("cut", "empty", "overflow", "tokens", "repeated", "seconds"):
        assert any(line.startswith(f"{name} (n=3)") for line in result.out.splitlines()), name
    assert "quality" not in result.out and "score" not in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_programs_get_events_and_the_place_of_the_answers(run, scripted) -> None:
    scripted()
    result = answer(run, "--json", "--output", "mine.jsonl")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["event"] for line in lines} == {"model_loaded", "progress", "summary"}
    assert (lines[-1]["job"], lines[-1]["status"]) == ("eval", "ok")
    (found,) = lines[-1]["results"]
    assert found["answers"] == "mine.jsonl" and Path("mine.jsonl").is_file()
    assert Path(found["path"]).is_file()
    assert found["settings"] == {"context": 2048, "max_tokens": 1024}
    assert set(found["categories"]) == {"writing", "math"}


def test_an_adapter_is_part_of_the_name(run, scripted) -> None:
    scripted(info=replace(SCRIPTED_MODEL, model="org/name", adapter="poet"))
    assert answer(run, "--limit", "1").code == 0
    line = json.loads(Path("org--name+poet.jsonl").read_text())
    assert line["model_id"] == "org/name+poet"


def test_mt_bench_is_read_out_of_its_wheel(run, scripted, monkeypatch) -> None:
    source = questions.MT_BENCH
    path = wheels.wheel_path(source)
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(source.member, "".join(json.dumps(one) + "\n" for one in ROWS))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(questions, "MT_BENCH", replace(source, wheel_sha256=sha256))
    scripted()
    result = run("eval", "chat")
    assert result.code == 0 and "chat-mt-bench: 3 requests" in result.out
    path.write_bytes(path.read_bytes()[:-1])
    damaged = run("eval", "chat", "--force")
    assert damaged.code == 1 and "is not the file that was pinned" in damaged.err


def test_a_file_that_is_there_is_not_replaced_and_nothing_is_asked(run, scripted) -> None:
    engines = scripted()
    Path("scripted.jsonl").write_text("precious")
    result = answer(run)
    assert result.code == 1
    assert "error: `scripted.jsonl` is there already" in result.err
    assert "hint: name another with `--output`, or pass `--force`" in result.err
    assert Path("scripted.jsonl").read_text() == "precious"
    assert engines[0].conversations == []
    assert answer(run, "--force").code == 0
    assert len(read_as_judges_do("scripted.jsonl")) == 3


def test_a_file_that_came_meanwhile_is_not_replaced_and_the_answers_are_kept(
    run, scripted, monkeypatch
) -> None:
    engines = scripted()
    chat = Engine.chat

    def late(self: Engine, *args: Any, **named: Any) -> Any:
        Path("scripted.jsonl").write_text("precious")
        return chat(self, *args, **named)

    monkeypatch.setattr(Engine, "chat", late)
    assert answer(run).code == 1
    assert Path("scripted.jsonl").read_text() == "precious"
    assert answer(run, "--output", "mine.jsonl").code == 0
    assert engines[1].conversations == [] and len(read_as_judges_do("mine.jsonl")) == 3


@pytest.mark.parametrize(
    ("output", "said"),
    [("none/a.jsonl", "there is no directory `none`"), (".", "`.` is not a file")],
)
def test_an_output_that_cannot_be_is_said_first(run, scripted, output: str, said: str) -> None:
    engines = scripted()
    result = answer(run, "--force", "--output", output)
    assert result.code == 1 and said in result.err
    assert engines[0].conversations == []


def test_a_model_without_a_template_is_refused(run, scripted) -> None:
    scripted(info=replace(SCRIPTED_MODEL, chat=False))
    result = answer(run)
    assert result.code == 1
    assert "error: `scripted` has no chat template" in result.err and "hint:" in result.err
    assert not Path("scripted.jsonl").exists()


def test_a_run_that_fails_writes_no_file_and_goes_on_question_by_question(run, scripted) -> None:
    scripted("A", "B", "C", EngineError("it fell over"))
    failed = answer(run)
    assert failed.code == 1 and "error: it fell over" in failed.err
    assert not Path("scripted.jsonl").exists()
    engines = scripted("C", "D", "E", "F")
    again = answer(run)
    assert again.code == 0
    assert "note: chat-q: 1 of 3 were answered by an earlier run" in again.err
    # The question that was left in the middle is asked from its beginning.
    assert [len(one) for one in engines[0].conversations] == [1, 3, 1, 3]
    assert read_as_judges_do("scripted.jsonl") == {81: ["A", "B"], 82: ["E", "F"], 111: ["C", "D"]}


def test_a_run_that_is_stopped_says_how_far_it_came(run, scripted, monkeypatch) -> None:
    cancel = threading.Event()
    monkeypatch.setattr(verb, "Stop", lambda: cancel)
    scripted()
    chat = Engine.chat

    def stopping(self: Engine, *args: Any, **named: Any) -> Any:
        if len(self.conversations) == 2:
            cancel.set()
        return chat(self, *args, **named)

    monkeypatch.setattr(Engine, "chat", stopping)
    result = answer(run)
    assert result.code == 130
    said = "stopped at 1 of 3 questions, no result kept; the same command goes on"
    assert said in " ".join(result.out.split())
    assert not Path("scripted.jsonl").exists()


def test_a_longer_run_goes_on_from_a_shorter_one(run, scripted) -> None:
    engines = scripted()
    assert answer(run, "--limit", "2").code == 0
    assert set(read_as_judges_do("scripted.jsonl")) == {81, 111}
    before = Path("scripted.jsonl").read_text().splitlines()
    assert answer(run, "--force").code == 0
    assert [len(one.conversations) for one in engines] == [4, 2]
    after = Path("scripted.jsonl").read_text().splitlines()
    assert [after[0], after[2]] == before


def test_other_seeds_and_lengths_are_other_runs(run, scripted) -> None:
    engines = scripted()
    for more in ((), ("--seed", "1"), ("--max-tokens", "9"), ("--fresh",), ()):
        answer(run, "--force", *more)
    assert [len(one.conversations) for one in engines] == [6, 6, 6, 6, 0]


def test_turns_without_room_are_said_and_left_empty(run, scripted) -> None:
    scripted("A", ContextOverflow(2100, 2048), "C", "D", "E", "F")
    result = answer(run)
    assert result.code == 0
    assert "note: 1 turn was not asked, having no room in the context" in result.err
    assert read_as_judges_do("scripted.jsonl")[81] == ["A", ""]


def test_a_wrong_question_is_said_before_the_model_is_loaded(run, scripted) -> None:
    engines = scripted()
    write_questions(ROWS[0], {"question_id": 82, "turns": ["Hello"]})
    result = answer(run)
    assert result.code == 1
    assert "error: `q.jsonl:2`: it has no `category`" in result.err
    assert engines == []


def test_results_of_two_models_compare(run, scripted) -> None:
    scripted()
    answer(run)
    scripted("Ha. " * 40, info=replace(SCRIPTED_MODEL, model="other", fingerprint="other"))
    answer(run)
    ids = [one.stem for one in sorted((evals_dir() / "results").glob("*.json"))]
    by_model = {json.loads(run("eval", "list", "--json").out)["results"][0]["id"], *ids}
    assert len(by_model) == 2
    compared = run("eval", "compare", *ids)
    assert compared.code == 0 and "repeated" in compared.out


def test_a_real_template_sees_the_first_answer(run, tiny_dir: Path) -> None:
    result = run(
        "eval", "chat", "--questions", "q.jsonl", "-m", str(tiny_dir),
        "--max-tokens", "4", "--limit", "1", "--output", "tiny.jsonl", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    (found,) = json.loads(result.out.splitlines()[-1])["results"]
    assert found["metrics"]["cut"]["mean"] == 1.0
    assert found["metrics"]["tokens"]["mean"] == 4.0
    (journal,) = (evals_dir() / "runs").glob("*.jsonl")
    first, second = json.loads(journal.read_text())["response"]["turns"]
    assert second["prompt_tokens"] > first["prompt_tokens"]
    assert read_as_judges_do("tiny.jsonl") == {81: [first["text"], second["text"]]}


def test_the_help_says_that_no_judge_is_here_and_where_there_is_one() -> None:
    text = " ".join(verb.chat.get_help(click.Context(verb.chat)).split())
    assert "No judge is built in" in text
    assert "gen_judgment.py --model-list MODEL" in text
