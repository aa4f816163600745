"""Questions of one's own: a file of JSON lines, one question a line.

::

    {"question": "What is ice?", "choices": ["frozen water", "cold fire"], "answer": "A"}
    {"context": "She put the kettle on to make", "choices": ["tea", "shoes"], "answer": "tea"}

``question`` is put as ``Question: …`` and ``Answer:`` on the next line; ``context`` is what stands
before the answers as it is. ``answer`` is the number of the right choice counted from 0, its letter
(the first is A), or its text, which goes before a letter. No two choices are the same. A choice
follows after a space, unless it begins with white space itself or the context ends with it. Other
keys are left alone; two lines that say the same are two questions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import DataError, format_bytes
from mobilellm_mlx.evals.choice.question import Question
from mobilellm_mlx.evals.choice.task import ChoiceTask
from mobilellm_mlx.training.data.reading import kind, place, read_lines

MAX_FILE_BYTES = 100_000_000
"""Of a file of questions; all of them are held at once. HellaSwag's ten thousand have 12 MB."""
MAX_CHOICES = 100
"""Answers of a question."""

_KEYS = ("question", "context", "choices", "answer")
_LINE = '{"question": "...", "choices": ["...", "..."], "answer": 0}'
_EXAMPLE = f"a line is like {_LINE}"
_ELSEWHERE = {
    "query": "question",
    "prompt": "context",
    "ctx": "context",
    "endings": "choices",
    "options": "choices",
    "gold": "answer",
    "answerkey": "answer",
    "label": "answer",
}
"""What keys are called in files that others made."""
_TEXTS_ALONE = (
    "put the texts alone into the list, and the number of the right one, counted from 0, into "
    "`answer`"
)
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class LocalSet:
    """A file of questions.

    Attributes:
        path: of the file.
    """

    path: Path

    @property
    def name(self) -> str:
        """What the task is called: that of the file, as far as it can be part of another's.

        It begins so that it is never taken for a set that everybody has.
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.stem).strip("-.")
        return f"file-{stem or 'questions'}"[:_MAX_NAME]

    def task(self) -> ChoiceTask:
        """The questions, in the file's order.

        Raises:
            DataError: when they cannot be read or used; it names file and line.
        """
        self._check_size()
        digest, questions = hashlib.sha256(), []
        for line in read_lines(self.path, seen=digest.update, example=_LINE):
            try:
                questions.append(read_question(line.value))
            except DataError as error:
                raise place(error, line.source) from None
        if not questions:
            raise DataError(f"`{self.path}` has no question in it", _EXAMPLE)
        return ChoiceTask(self.name, questions, digest.hexdigest(), {})

    def _check_size(self) -> None:
        try:
            # Neither a pipe nor a device: they would be read for ever.
            is_file, size = self.path.is_file(), self.path.stat().st_size
        except OSError as error:
            raise DataError(f"`{self.path}` cannot be read: {error.strerror}") from error
        if not is_file:
            raise DataError(f"`{self.path}` is not a file", "name a file of JSON lines")
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"`{self.path}` has {format_bytes(size)}, at most {format_bytes(MAX_FILE_BYTES)} "
                "are read",
                "make several files of it, and name them with commas between",
            )


def read_question(value: Mapping[str, Any]) -> Question:
    """The question that a line's object is.

    Raises:
        DataError: when it is none.
    """
    context, choices = _context(value), _choices(value)
    gap = "" if context[-1].isspace() else " "
    pairs = [(context, one if one[0].isspace() else gap + one) for one in choices]
    lengths = tuple(len(one.lstrip()) for one in choices)
    return Question(tuple(pairs), _answer(value, choices), lengths)


def _context(value: Mapping[str, Any]) -> str:
    found = [key for key in ("question", "context") if key in value]
    if not found:
        raise _missing(value, "`question` or `context`")
    if len(found) == 2:
        raise DataError(
            "it has both `question` and `context`, expected one of them",
            "put all that stands before the answers into `context`",
        )
    text = value[found[0]]
    if not isinstance(text, str):
        raise DataError(f"`{found[0]}` is {kind(text)}, expected text")
    if not text.strip():
        raise DataError(f"`{found[0]}` is empty")
    return f"Question: {text.strip()}\nAnswer:" if found == ["question"] else text


def _choices(value: Mapping[str, Any]) -> list[str]:
    if "choices" not in value:
        raise _missing(value, "`choices`")
    choices = value["choices"]
    if not isinstance(choices, list):
        raise DataError(f"`choices` is {kind(choices)}, expected a list of texts", _TEXTS_ALONE)
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise DataError(
            f"`choices` is a list of {len(choices):,}, expected 2 to {MAX_CHOICES} texts"
        )
    seen: dict[str, int] = {}
    for number, one in enumerate(choices):
        if not isinstance(one, str):
            hint = _TEXTS_ALONE if isinstance(one, dict) else None
            raise DataError(f"choice {number} is {kind(one)}, expected a text", hint)
        if not one.strip():
            raise DataError(f"choice {number} is empty, expected a text")
        if (other := seen.setdefault(one.strip(), number)) != number:
            raise DataError(
                f"choices {other} and {number} are the same, `{one.strip()[:40]}`",
                "of equal ones neither can be the right answer; take one out",
            )
    return choices


def _answer(value: Mapping[str, Any], choices: list[str]) -> int:
    """The number of the right choice."""
    if "answer" not in value:
        raise _missing(value, "`answer`")
    answer = value["answer"]
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return _number(answer, choices)
        raise DataError(
            f"`answer` is {str(answer)[:20]}, expected 0 to {len(choices) - 1}",
            "choices are counted from 0",
        )
    if not isinstance(answer, str):
        raise DataError(f"`answer` is {kind(answer)}, expected a number, a letter or a text")
    if answer in choices:
        return choices.index(answer)
    letter = ord(answer.upper()) - ord("A") if re.fullmatch("[A-Za-z]", answer) else -1
    if 0 <= letter < len(choices):
        return letter
    last = chr(ord("A") + min(len(choices), 26) - 1)
    raise DataError(
        f"`answer` is `{answer[:40]}`, which is no choice",
        f"expected the text of a choice, A to {last}, or a number from 0 to {len(choices) - 1}",
    )


def _number(answer: int, choices: list[str]) -> int:
    """A number that cannot be taken for the text of another choice."""
    if str(answer) in choices and choices[answer] != str(answer):
        raise DataError(
            f"`answer` is the number {answer}, which is choice {answer} and also the text of "
            f"choice {choices.index(str(answer))}",
            f'write "{answer}" for the text, or the letter of the choice for its number',
        )
    return answer


def _missing(value: Mapping[str, Any], wanted: str) -> DataError:
    keys = [key[:40] for key in islice(value, 6)]
    close = next(_meant(keys, value), None)
    has = ", ".join(f"`{key}`" for key in keys) or "no key at all"
    hint = f"did you mean `{close}`?" if close else _EXAMPLE
    return DataError(f"it has {has}, expected {wanted}", hint)


def _meant(keys: list[str], value: Mapping[str, Any]) -> Iterator[str]:
    """Keys that are missing, of which others are spellings."""
    absent = [key for key in _KEYS if key not in value]
    for key in keys:
        known = _ELSEWHERE.get(key.lower())
        if known in absent:
            yield f"{known}` for `{key}"
        elif key not in _KEYS:
            yield from get_close_matches(key, absent, 1)
