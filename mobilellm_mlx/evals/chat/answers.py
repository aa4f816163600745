"""The file of answers that MT-Bench's judges read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mobilellm_mlx.evals.chat.questions import Question
from mobilellm_mlx.evals.task import Response, digest


def answer_lines(
    questions: Sequence[Question], responses: Mapping[str, Response], model: str
) -> str:
    """The answers, one JSON object a line, in the order of the questions.

    The same responses give the same bytes. A turn that had no room in the context is an empty
    answer: judges expect as many as there are questions.

    Args:
        questions: all of the set; those without a response are left out.
        responses: by id.
        model: whose answers they are.
    """
    lines = [
        json.dumps(_answer(one, responses[str(one.id)], model))
        for one in questions
        if str(one.id) in responses
    ]
    return "".join(f"{line}\n" for line in lines)


def _answer(question: Question, response: Response, model: str) -> dict[str, Any]:
    turns = [turn["text"] for turn in response.values["turns"]]
    tstamp = response.values["tstamp"]
    return {
        "question_id": question.id,
        "answer_id": digest([question.id, model, turns, tstamp])[:22],
        "model_id": model,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": tstamp,
    }
