"""Answering as a task: nothing here knows whether an answer is good, only whether it went wrong."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.evals.chat.questions import Question, QuestionSet, by_turns
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.events import Event, GenerationSummary
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions

VERSION = 1
"""Of how questions are put and what is counted."""
MAX_TOKENS = 1024
"""Of an answer; what FastChat's own generator allows."""
TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""By category, as FastChat's generator has them: judged answers are made with these."""
ANY_TEMPERATURE = 0.7
"""Of every other category, in the same place."""

_CUT = ("length", "context")
_PIECE = re.compile(r"\w+|[^\w\s]")
_GRAM = 4


class ChatTask:
    """The questions of a set.

    Args:
        found: the set.
    """

    version = VERSION

    def __init__(self, found: QuestionSet):
        self.name = found.name
        self.data_sha256 = found.sha256
        self.settings: Mapping[str, Any] = {}
        self._questions = by_turns(found.questions)

    @property
    def available(self) -> int:
        return len(self._questions)

    def requests(self, limit: int | None, seed: int) -> list[Request]:
        return [
            Request(str(question.id), question, category=question.category)
            for question in self._questions[:limit]
        ]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        """``cut``, ``empty`` and ``overflow`` are 1 when that befell any turn of the question.

        ``tokens`` and ``repeated`` are means of its answers.
        """
        asked = [turn for turn in response.values["turns"] if not turn["overflow"]]
        scores = {"overflow": float(len(asked) < len(response.values["turns"]))}
        if not asked:
            return scores
        shares = [share for turn in asked if (share := repeated(turn["text"])) is not None]
        scores |= {
            "cut": float(any(turn["stop_reason"] in _CUT for turn in asked)),
            "empty": float(not all(turn["text"] for turn in asked)),
            "tokens": sum(turn["tokens"] for turn in asked) / len(asked),
            "seconds": sum(turn["elapsed_s"] for turn in asked),
        }
        if shares:
            scores["repeated"] = sum(shares) / len(shares)
        return scores


class ChatAnswerer:
    """Puts questions to a model as a chat would, through the model's own template.

    Every turn has the whole conversation before it, as the model saw it. Nothing but the
    temperature shapes the choice of tokens.

    Args:
        engine: with its model in memory.
        max_tokens: of an answer.
        seed: of what is drawn; a question's answers do not depend on those asked before it.
        cancel: stops it; a question that is stopped in the middle has no response.
    """

    def __init__(self, engine: ChatEngine, max_tokens: int, seed: int, cancel: threading.Event):
        self._engine = engine
        self._max_tokens = max_tokens
        self._seed = seed
        self._cancel = cancel

    def __call__(self, requests: Sequence[Request]) -> Iterator[Event | Response]:
        for request in requests:
            turns = self._converse(request.payload)
            if self._cancel.is_set():
                return
            yield Response(request.id, {"turns": turns, "tstamp": time.time()})

    def _converse(self, question: Question) -> list[dict[str, Any]]:
        """All turns of a question; what has no room in the context is not asked."""
        temperature = TEMPERATURES.get(question.category, ANY_TEMPERATURE)
        messages: list[Message] = []
        turns: list[dict[str, Any]] = []
        for number, said in enumerate(question.turns):
            messages.append(Message("user", said))
            options = GenerationOptions(
                max_tokens=self._max_tokens, temperature=temperature, seed=self._seed + number
            )
            try:
                turns.append(self._answer(messages, options))
            except ContextOverflow:
                turns += [{"text": "", "overflow": True}] * (len(question.turns) - number)
                break
            if self._cancel.is_set():
                break
            messages.append(Message("assistant", turns[-1]["text"]))
        return turns

    def _answer(self, messages: Sequence[Message], options: GenerationOptions) -> dict[str, Any]:
        events = list(self._engine.chat(messages, options, self._cancel))
        summary = events[-1]
        assert isinstance(summary, GenerationSummary)
        return {
            "text": summary.text.strip(),
            "overflow": False,
            "stop_reason": summary.stop_reason,
            "prompt_tokens": summary.prompt_tokens,
            "tokens": summary.generated_tokens,
            "reasoning_tokens": summary.reasoning_tokens,
            "elapsed_s": summary.elapsed_s,
        }


def repeated(text: str) -> float | None:
    """The share of four words in a row that stood in the text before; near 1 for one that loops.

    None for a text that is too short to tell. Punctuation counts as words, case does not.
    """
    pieces = _PIECE.findall(text.lower())
    grams = [tuple(pieces[at : at + _GRAM]) for at in range(len(pieces) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None
