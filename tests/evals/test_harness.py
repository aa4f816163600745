"""A model of ours in lm-eval's eyes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import START, write_byte_tokenizer, write_model

from mobilellm_mlx.decoding.likelihood import Row
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.harness import (
    Asked,
    HarnessJob,
    HarnessModel,
    HarnessTask,
    as_lm,
    first_tokens,
    lm_eval,
)
from mobilellm_mlx.evals.results import find_result
from mobilellm_mlx.events import EvalSummary, Event, GenerationSummary, Judged, Notice, Progress
from mobilellm_mlx.loading import load_words
from mobilellm_mlx.testing import SCRIPTED_MODEL, ByteTokenizer
from tests.evals import fake_lm_eval
from tests.evals.fake_lm_eval import Evaluator, Instance

Groups = Sequence[Sequence[Row]]


class Asker:
    """An engine that notes what it is asked; likely is what is short, greedy what ends on ``!``."""

    def __init__(self, limit: int = 100) -> None:
        self.info = replace(SCRIPTED_MODEL, context_limit=limit, path="")
        self.groups: Groups = ()
        self.completed: list[tuple[str, Any]] = []
        self.stops_after: int | None = None
        self.nat = -1.0
        """Log-likelihood of a token."""

    def judge(self, groups: Groups, cancel: threading.Event) -> Iterator[Event]:
        self.groups = groups
        for number in reversed(range(len(groups))):  # whatever order suits it
            if self.stops_after == number:
                return
            rows = groups[number]
            yield Judged(
                number,
                [self.nat * row.judged for row in rows],
                [row.tokens[-1] == ord("!") for row in rows],
                [row.judged for row in rows],
            )

    def complete(self, text: str, options: Any, cancel: threading.Event) -> Iterator[Event]:
        self.completed.append((text, options))
        yield GenerationSummary(text=f"after {text}")


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    return fake_lm_eval.install(monkeypatch)


def model_of(engine: Asker, first: tuple[int, ...] = (7,), **values: Any) -> Any:
    return as_lm(engine, ByteTokenizer(), first, values.get("tell", lambda event: None))


def texts(rows: Sequence[Row]) -> list[str]:
    return [bytes(row.tokens).decode() for row in rows]


def test_continuations_of_one_context_are_one_group_and_answers_come_in_order(
    evaluator: Evaluator,
) -> None:
    engine = Asker()
    pairs = [("A:", " yes"), ("B:", " no"), ("A:", " maybe!")]
    model = model_of(engine)
    found = model.loglikelihood([Instance(pair) for pair in pairs])
    assert found == [(-4.0, False), (-3.0, False), (-7.0, True)]
    assert [texts(rows) for rows in engine.groups] == [["A: yes", "A: maybe!"], ["B: no"]]
    kept = {args: answer for _, args, answer in model.cache_hook.kept}
    assert kept == dict(zip(pairs, found, strict=True))


def test_thousands_of_continuations_of_one_context_are_several_groups(
    evaluator: Evaluator,
) -> None:
    engine = Asker()
    told: list[Event] = []
    model = model_of(engine, tell=told.append)
    pairs = [("", "a" * (1 + number % 7)) for number in range(1000)]
    assert model.loglikelihood([Instance(pair) for pair in pairs]) == [
        (-float(len(text)), False) for _, text in pairs
    ]
    assert max(map(len, engine.groups)) <= 32
    assert len([one for one in told if isinstance(one, Progress)]) > 30


def test_a_continuation_without_a_context_stands_after_the_first_token(
    evaluator: Evaluator,
) -> None:
    engine = Asker()
    assert model_of(engine).loglikelihood([Instance(("", "dog"))]) == [(-3.0, False)]
    assert engine.groups == [[Row((7, *b"dog"), 3)]]


def test_a_context_that_is_too_long_loses_its_beginning(evaluator: Evaluator) -> None:
    engine = Asker(limit=4)
    model_of(engine).loglikelihood([Instance(("abcdefgh", "ij"))])
    assert [texts(rows) for rows in engine.groups] == [["fghij"]]


def test_what_was_too_long_is_counted(evaluator: Evaluator) -> None:
    told: list[Event] = []
    model = model_of(Asker(limit=4), tell=told.append)
    model.loglikelihood([Instance(("abcdefgh", "ij")), Instance(("a", "b"))])
    assert Notice("1 request was longer than the context and lost the beginning") in told
    told.clear()
    model.loglikelihood([Instance(("a", "b"))])
    assert not any(isinstance(one, Notice) for one in told)
    model.generate_until([Instance(("abcdefgh", {"max_gen_toks": 2}))] * 2)
    assert Notice("2 requests were longer than the context and lost the beginning") in told


@pytest.mark.parametrize(("wish", "found", "most"), [(0, "", []), (None, "after Q", [50])])
def test_a_task_may_ask_for_no_tokens_or_not_say(
    evaluator: Evaluator, wish: int | None, found: str, most: list[int]
) -> None:
    engine = Asker()
    assert model_of(engine).generate_until([Instance(("Q", {"max_gen_toks": wish}))]) == [found]
    assert [options.max_tokens for _, options in engine.completed] == most


def test_nothing_to_judge_is_an_error_of_the_task(evaluator: Evaluator) -> None:
    with pytest.raises(InvalidInput, match="cannot be judged"):
        model_of(Asker()).loglikelihood([Instance(("A:", ""))])


def test_a_text_is_judged_in_the_windows_that_lm_eval_describes(evaluator: Evaluator) -> None:
    """The example in the description of lm-eval's ``loglikelihood_rolling``."""
    engine = Asker(limit=4)
    found = model_of(engine).loglikelihood_rolling([Instance(("0123456789",)), Instance(("",))])
    assert [rows for (rows,) in engine.groups] == [
        Row((7, *b"0123"), 4),
        Row(tuple(b"34567"), 4),
        Row(tuple(b"56789"), 2),
    ]
    assert found == [-10.0, 0.0]


def test_text_is_written_greedily_up_to_what_ends_it(evaluator: Evaluator) -> None:
    engine = Asker()
    wishes = {"until": ["\n", ""], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    said: list[Event] = []
    model = model_of(engine, tell=said.append)
    found = model.generate_until([Instance(("Q", wishes)), Instance(("R", {"until": "."}))])
    assert found == ["after Q", "after R"]
    (_, first), (_, second) = engine.completed
    assert (first.max_tokens, first.stop, first.temperature) == (9, ("\n",), 0)
    assert (second.max_tokens, second.stop) == (50, (".",))  # half of what the context holds
    assert said[-1] == Progress("texts to write", 2, 2, "items")


def test_a_prompt_leaves_room_for_the_answer(evaluator: Evaluator) -> None:
    engine = Asker(limit=10)
    model_of(engine).generate_until([Instance(("0123456789", {"max_gen_toks": 4}))])
    assert engine.completed[0][0] == "456789"


def test_random_answers_are_refused(evaluator: Evaluator) -> None:
    wishes = {"do_sample": True, "temperature": 0.8}
    with pytest.raises(InvalidInput, match="random"):
        model_of(Asker()).generate_until([Instance(("Q", wishes))])


def test_likelihoods_that_are_no_numbers_are_named(evaluator: Evaluator) -> None:
    engine = Asker()
    engine.nat = float("nan")
    said: list[Event] = []
    model_of(engine, tell=said.append).loglikelihood([Instance(("A:", " b"))] * 2)
    assert [one.text for one in said if isinstance(one, Notice)] == [
        "2 log-likelihoods are NaN or infinite: scores mean nothing"
    ]


def test_the_first_token_is_the_one_that_begins_a_text_or_else_ends_it(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    assert first_tokens(directory, load_words(directory)) == (START + 1,)
    write_byte_tokenizer(directory, bos_token="<|im_start|>")
    assert first_tokens(directory, load_words(directory)) == (START,)


def test_without_lm_eval_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InvalidInput) as refused:
        lm_eval()
    assert "lm-eval>=0.4.9" in str(refused.value.hint)


def run(engine: Any, asked: Asked, cancel: threading.Event | None = None) -> list[Event]:
    job = HarnessJob(engine, asked, cancel or threading.Event())
    events = list(job.events())
    assert isinstance(events[-1], EvalSummary)
    assert ("pets" in job.table) == (events[-1].status == "ok")
    return events


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> Iterator[Engine]:
    with Engine(tiny_dir) as engine:
        list(engine.load())
        yield engine


def test_a_run_tells_of_its_progress_and_keeps_a_result_of_each_task(
    engine: Engine, evaluator: Evaluator
) -> None:
    *progress, summary = run(engine, Asked(["pets"], Path("own"), few_shot=1, limit=2))
    assert [one.done for one in progress if isinstance(one, Progress)] == [0, 1]
    (wishes,) = evaluator.calls
    assert (wishes["num_fewshot"], wishes["limit"]) == (1, 2)
    assert wishes["task_manager"].include_path == "own"
    assert isinstance(summary, EvalSummary) and summary.status == "ok"
    (brief,) = summary.results
    result = find_result(brief["path"])
    assert result.id == brief["id"] and result.task == "harness-pets"
    assert result.task_settings == {"version": "1.0", "few_shot": 1}
    # One document for each id; another filter is another metric, and a pair is none.
    assert {id: set(scores) for id, scores in result.scores.items()} == {
        "0": {"acc", "acc,strict"},
        "1": {"acc", "acc,strict"},
    }
    assert brief["harness"]["acc,none"] == result.metrics["acc"].mean
    assert brief["harness"]["acc_stderr,none"] == "nan"
    assert summary.to_json()  # JSON has no NaN


def test_a_real_engine_judges_and_writes(engine: Engine, evaluator: Evaluator) -> None:
    assert engine.info is not None
    words = load_words(Path(engine.info.path))
    model = as_lm(engine, words.tokenizer, first_tokens(Path(engine.info.path), words))
    ((whole, _),) = model.loglikelihood([Instance(("", "good dog"))])
    ((front, _),) = model.loglikelihood([Instance(("", "good"))])
    ((rest, _),) = model.loglikelihood([Instance(("good", " dog"))])
    (rolled,) = model.loglikelihood_rolling([Instance(("good dog",))])
    assert rolled == pytest.approx(whole, abs=1e-3)
    assert whole < front < 0 and rest < 0
    (text,) = model.generate_until([Instance(("good", {"max_gen_toks": 5}))])
    (again,) = model.generate_until([Instance(("good", {"max_gen_toks": 5, "until": [text[2:]]}))])
    assert len(text) >= 3 and again == text[:2]


def test_other_documents_are_other_data(engine: Engine, evaluator: Evaluator) -> None:
    digests = set()
    for limit in (1, 2, 2):
        summary = run(engine, Asked(["pets"], limit=limit))[-1]
        assert isinstance(summary, EvalSummary)
        digests.add(summary.results[0]["data_sha256"])
    assert len(digests) == 2


def test_what_lm_eval_raises_is_said_in_one_line(engine: Engine, evaluator: Evaluator) -> None:
    with pytest.raises(InvalidInput) as refused:
        run(engine, Asked(["plants"]))
    assert "no such task: plants" in refused.value.message
    assert "much more" not in refused.value.message
    assert isinstance(refused.value.__cause__, KeyError)


def test_our_own_errors_come_through_as_they_are(engine: Engine, evaluator: Evaluator) -> None:
    def ask(model: HarnessModel, **_: Any) -> None:
        model.generate_until([Instance(("Q", {"do_sample": True}))])

    lm_eval(".evaluator").simple_evaluate = ask
    with pytest.raises(InvalidInput, match="random"):
        run(engine, Asked(["pets"]))


def test_a_cancelled_run_ends_without_a_result(evaluator: Evaluator, tiny_dir: Path) -> None:
    engine = Asker()
    engine.info = replace(engine.info, path=str(tiny_dir))
    engine.stops_after = 0
    *_, summary = run(engine, Asked(["pets"]))
    assert isinstance(summary, EvalSummary)
    assert (summary.status, summary.results) == ("cancelled", [])


def test_a_result_of_a_task_with_an_odd_name_has_a_name_for_a_file() -> None:
    odd = "../own/\x1b[31mpets and dogs"
    task = HarnessTask(odd, {"samples": {odd: []}})
    assert task.name == "harness-..-own-31mpets-and-dogs"
