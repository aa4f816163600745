"""The default model's log-likelihoods against transformers', dense and packed.

The first two questions of the five tasks whose tokens may be kept here, and one of them packed,
which takes a CPU long. ``benchmarks/crosscheck_likelihoods.py`` compares all 200 requests.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import GOLDEN
from tolerances import FP32_DEEP

from mobilellm_mlx.backend import backend
from mobilellm_mlx.decoding.likelihood import Likelihood, Row, judge
from mobilellm_mlx.evals.choice.question import encode_pair
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.options import LoadOptions

pytestmark = pytest.mark.real

Request = dict[str, Any]
QUESTIONS = 2
CLEAR = 20 * FP32_DEEP
"""A judged logit this far from the best other one is greedy or not, whatever the rounding."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((GOLDEN / "likelihoods.json").read_text())
    return values


@pytest.fixture(scope="module")
def questions(golden: dict[str, Any]) -> list[list[Request]]:
    """Requests of the same question together."""
    found: dict[tuple[str, int], list[Request]] = {}
    for one in golden["requests"]:
        if "ids" in one and one["document"] < QUESTIONS:
            found.setdefault((one["task"], one["document"]), []).append(one)
    return list(found.values())


def judged(loaded: LoadedModel, questions: list[list[Request]]) -> list[tuple[Request, Likelihood]]:
    groups = [[Row(tuple(one["ids"]), one["judged"]) for one in some] for some in questions]
    pairs = zip(questions, judge(loaded.model, groups), strict=True)
    return [pair for some, found in pairs for pair in zip(some, found, strict=True)]


def check(found: list[tuple[Request, Likelihood]], atol: float) -> None:
    for request, likelihood in found:
        name = f"{request['task']} {request['document']}, answer {request['choice']}"
        wanted = pytest.approx(request["log_likelihood"], rel=0, abs=atol)
        assert likelihood.log_likelihood == wanted, name
        assert likelihood.tokens == request["judged"], name
        if abs(request["margin"]) > CLEAR:
            assert likelihood.is_greedy == request["is_greedy"], name


def test_the_log_likelihoods_are_those_of_transformers(
    real_loaded: LoadedModel, questions: list[list[Request]]
) -> None:
    found = judged(real_loaded, questions)
    assert {request["task"] for request, _ in found} == {
        "piqa",
        "siqa",
        "hellaswag",
        "obqa",
        "winogrande",
    }
    check(found, FP32_DEEP)


def test_those_of_the_packed_form_are_as_well(
    real_model: Path, questions: list[list[Request]]
) -> None:
    packed = load_model(real_model, LoadOptions(compute="packed"))
    brief = [some for some in questions if (some[0]["task"], some[0]["document"]) == ("obqa", 1)]
    # On a GPU packed weights are multiplied in 16 bits.
    found = judged(packed, brief)
    assert len(found) == 4
    check(found, FP32_DEEP if backend().name == "cpu" else 1.0)


def test_texts_become_the_tokens_that_transformers_makes_of_them(
    real_loaded: LoadedModel, golden: dict[str, Any]
) -> None:
    assert len(golden["texts"]) == 12
    for text in golden["texts"]:
        request = golden["requests"][text["request"]]
        row = encode_pair(real_loaded.tokenizer, text["context"], text["continuation"])
        assert row == Row(tuple(request["ids"]), request["judged"])
