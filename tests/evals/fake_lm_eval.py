"""A small stand-in for lm-eval: what our adapter uses of it, with one task in it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

PETS = (("Question: what barks?\nAnswer:", (" a cat", " a dog")),) * 3


class Hook:
    """Remembers what it was given to keep."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, Any]] = []

    def add_partial(self, attribute: str, request: Any, result: Any) -> None:
        self.kept.append((attribute, request, result))


class LM:
    """lm-eval's own class; it is not ready before its ``__init__`` ran."""

    def __init__(self) -> None:
        self.cache_hook = Hook()


@dataclass
class Instance:
    args: tuple[Any, ...]


@dataclass
class TaskManager:
    include_path: str | None = None


@dataclass
class Evaluator:
    """``lm_eval.evaluator``: asks its questions, or does what a test puts in its place."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def simple_evaluate(self, model: Any, **wishes: Any) -> dict[str, Any]:
        self.calls.append(wishes)
        if not isinstance(model, LM):
            raise TypeError("not a model of lm-eval's")
        if unknown := set(wishes["tasks"]) - {"pets"}:
            raise KeyError(f"no such task: {unknown.pop()}\nand much more to read")
        asked = PETS[: wishes["limit"]]
        requests = [Instance((context, one)) for context, answers in asked for one in answers]
        found = model.loglikelihood(requests)
        samples = []
        for number in range(len(asked)):
            cat, dog = (one[0] for one in found[2 * number : 2 * number + 2])
            for name in ("none", "strict"):
                samples.append(
                    {
                        "doc_id": number,
                        "doc_hash": f"d{number}",
                        "prompt_hash": f"p{number}",
                        "filter": name,
                        "metrics": ["acc", "pair"],
                        "acc": float(dog > cat),
                        "pair": (cat, dog),
                    }
                )
        mean = sum(one["acc"] for one in samples) / len(samples)
        figures = {"alias": "pets", "acc,none": mean, "acc_stderr,none": float("nan")}
        return {
            "results": {"pets": figures},
            "samples": {"pets": samples},
            "versions": {"pets": 1.0},
            "n-shot": {"pets": wishes["num_fewshot"]},
        }


def install(monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """Put it where lm-eval would be."""
    evaluator = Evaluator()
    modules: dict[str, dict[str, Any]] = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": LM},
        "lm_eval.evaluator": {"simple_evaluate": evaluator.simple_evaluate},
        "lm_eval.tasks": {"TaskManager": TaskManager},
        "lm_eval.utils": {"make_table": lambda found: f"|Tasks|\n|{next(iter(found['results']))}|"},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return evaluator
