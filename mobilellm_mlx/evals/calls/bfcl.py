"""Berkeley's function-calling cases: one function, a choice of functions, and none that fits."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.evals.calls.case import Case, Gold
from mobilellm_mlx.evals.calls.checker import AstChecker
from mobilellm_mlx.evals.calls.scoring import score_calls
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.evals.wheels import Wheel
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call, Tool

BFCL = PackageFile(
    package="bfcl-eval",
    version="2026.3.23",
    wheel_bytes=1_925_664,
    wheel_sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    member="bfcl_eval/eval_checker/ast_eval/ast_checker.py",
    member_bytes=25_032,
    member_sha256="2aae7a68461a8f76c0be3894c8901b66b56967a1989d3ab066051e3fb97f1538",
    licence_member="bfcl_eval-2026.3.23.dist-info/METADATA",
)
"""Apache-2.0, as its metadata says."""

CATEGORIES = ("simple_python", "multiple", "irrelevance")
_DATA = "bfcl_eval/data"

_KINDS = {
    "dict": "object",
    "float": "number",
    "double": "number",
    "tuple": "array",
    "list": "array",
    "any": "string",
    "bool": "boolean",
}
"""Names of types that the data has and JSON Schema has not; ``any`` is text to the checker."""
MAX_TEXT = 80
"""Characters of a text; the longest in a right answer has 54. A small model that is bound to end a
text somewhere is not cut in the middle of it."""
MAX_ITEMS = 8
"""Items of a list; the longest in a right answer has 7."""
_KEPT = ("description", "enum", "minimum", "maximum", "minItems", "maxItems", "required")


class BfclTask:
    """The cases, the three categories in turn.

    Args:
        wheel: that holds them and their checker.
    """

    name = "calls-bfcl"
    version = 1

    def __init__(self, wheel: Wheel):
        self._wheel = wheel
        self._checker = AstChecker(wheel)

    @property
    def data_sha256(self) -> str:
        return BFCL.wheel_sha256

    @property
    def settings(self) -> dict[str, Any]:
        return {"categories": list(CATEGORIES)}

    def requests(self, limit: int | None, seed: int) -> list[Request]:
        columns = []
        for category in CATEGORIES:
            rows = self._read(category)
            random.Random(f"{seed} {category}").shuffle(rows)
            columns.append(rows)
        found = [one for one in chain(*zip_longest(*columns)) if one is not None]
        return found[:limit]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        category = request.category

        def check(case: Case, gold: Gold, calls: Sequence[Call]) -> bool:
            functions, answer = gold.answer
            return self._checker.is_right(functions, calls, answer, category)

        return score_calls(request.payload, request.gold, response, check)

    def _read(self, category: str) -> list[Request]:
        answers: dict[str, list[dict[str, Any]]] = {}
        if category != "irrelevance":  # nothing is right there, and there is no file of answers
            rows = self._wheel.rows(f"{_DATA}/possible_answer/BFCL_v4_{category}.json")
            answers = {row["id"]: row["ground_truth"] for row in rows}
        return [
            _request(row, category, answers.get(row["id"], []))
            for row in self._wheel.rows(f"{_DATA}/BFCL_v4_{category}.json")
        ]


def _request(row: Mapping[str, Any], category: str, answer: Sequence[Mapping[str, Any]]) -> Request:
    said = [message["content"] for message in row["question"][0] if message["role"] == "user"]
    calls = tuple(Call(name, dict(arguments)) for one in answer for name, arguments in one.items())
    return Request(
        row["id"],
        Case("\n".join(said), tuple(map(as_offered, row["function"]))),
        Gold(calls, (row["function"], answer)),
        category,
    )


def as_offered(function: Mapping[str, Any]) -> Offered:
    """A function of the data as a tool."""
    parameters = {**as_schema(function["parameters"]), "additionalProperties": False}
    tool = Tool(
        name=function["name"],
        description=function.get("description", ""),
        parameters=parameters,
        run=_never,
        source="bfcl-eval",
    )
    return Offered(tool, parameters)


def as_schema(described: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter as JSON Schema says it."""
    kind = described.get("type", "string")
    schema: dict[str, Any] = {"type": _KINDS.get(kind, kind)}
    schema |= {key: described[key] for key in _KEPT if key in described}
    if schema["type"] == "string" and "enum" not in schema:
        schema["maxLength"] = MAX_TEXT
    if schema["type"] == "array":
        schema.setdefault("maxItems", MAX_ITEMS)
    if isinstance(items := described.get("items"), Mapping):
        schema["items"] = as_schema(items)
    if isinstance(named := described.get("properties"), Mapping):
        schema["properties"] = {name: as_schema(one) for name, one in named.items()}
    return schema


def _never(arguments: Mapping[str, Any], cancel: threading.Event) -> str:
    raise ToolError("a tool of a data set is never run")
