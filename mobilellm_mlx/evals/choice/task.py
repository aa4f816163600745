"""Choosing as a task: questions are judged in batches, answers scored from likelihoods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.evals.choice.question import Question, encode, scores
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.events import Event, Judged

if TYPE_CHECKING:
    from mobilellm_mlx.decoding.likelihood import Row
    from mobilellm_mlx.tokenizer import Tokenizer

VERSION = 1
"""Of how questions are put and scored."""
SLICE = 1024
"""Questions that are made into tokens before they are judged."""

Judge = Callable[["Sequence[Sequence[Row]]", threading.Event], Iterator[Event]]
"""Judges groups of rows: ``Engine.judge``, perhaps within a budget of memory."""


class ChoiceTask:
    """Questions of one set.

    Args:
        name: of the set.
        questions: in order.
        data_sha256: of what they were made from.
        settings: what changed them.
    """

    version = VERSION

    def __init__(
        self,
        name: str,
        questions: Sequence[Question],
        data_sha256: str,
        settings: Mapping[str, Any],
    ):
        self.name = name
        self.data_sha256 = data_sha256
        self.settings = settings
        self._questions = questions

    @property
    def available(self) -> int:
        return len(self._questions)

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        """The first of the questions, as lm-eval's ``--limit`` takes them; nothing is drawn."""
        return [
            Request(str(number), question, question.gold)
            for number, question in enumerate(self._questions[:limit])
        ]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        """See ``scores``; ``cut`` is how many tokens a question lost that did not fit."""
        question: Question = request.payload
        answer = question.pairs[question.gold][1]
        found = response.values["log_likelihoods"]
        if not isinstance(found, list) or len(found) != len(question.pairs):
            raise ValueError(f"expected {len(question.pairs)} log-likelihoods")
        known = scores([float(value) for value in found], question, len(answer.encode()))
        cut = float(response.values.get("cut", 0))
        return {**known, "cut": cut} if cut else known


class ChoiceAnswerer:
    """Has a model judge the answers to questions.

    Args:
        judge: of the engine that holds the model.
        tokenizer: of the model.
        context_limit: tokens that it sees; what does not fit is left out at the beginning.
        cancel: stops it after the present batch.
    """

    def __init__(
        self, judge: Judge, tokenizer: Tokenizer, context_limit: int, cancel: threading.Event
    ):
        self._judge = judge
        self._tokenizer = tokenizer
        self._limit = context_limit
        self._cancel = cancel

    def __call__(self, requests: Sequence[Request]) -> Iterator[Event | Response]:
        for start in range(0, len(requests), SLICE):
            part = requests[start : start + SLICE]
            whole = [encode(self._tokenizer, request.payload) for request in part]
            groups = [[row.cut(self._limit) for row in rows] for rows in whole]
            for event in self._judge(groups, self._cancel):
                if not isinstance(event, Judged):
                    yield event
                    continue
                pairs = zip(whole[event.group], groups[event.group], strict=True)
                yield Response(
                    part[event.group].id,
                    {
                        "log_likelihoods": event.log_likelihoods,
                        "greedy": event.greedy,
                        "tokens": event.tokens,
                        "cut": sum(len(row.tokens) - len(kept.tokens) for row, kept in pairs),
                    },
                )
            if self._cancel.is_set():
                return
