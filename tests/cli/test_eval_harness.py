"""``mobilellm eval harness``, with a stand-in for lm-eval."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evals import fake_lm_eval
from tests.evals.fake_lm_eval import Evaluator

SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    return fake_lm_eval.install(monkeypatch)


def test_without_lm_eval_it_says_how_to_get_it(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = run("eval", "harness", "--tasks", "pets", "-m", "no-such-model")
    assert result.code == 1
    assert "pip install 'lm-eval>=0.4.9'" in result.err
    assert "Traceback" not in result.err


def test_it_says_that_data_is_fetched_and_prints_the_table_of_lm_eval(
    run: Callable[..., Any], tiny_dir: Path, evaluator: Evaluator
) -> None:
    result = run("eval", "harness", "--tasks", " pets,", "-m", str(tiny_dir), "--limit", "1")
    assert result.code == 0
    assert result.out == "|Tasks|\n|pets|\n"
    assert "fetches the data of its tasks from the Hugging Face Hub" in result.err
    assert "kept as " in result.err
    assert evaluator.calls[0]["tasks"] == ["pets"] and evaluator.calls[0]["limit"] == 1
    assert "HF_HUB_OFFLINE" not in os.environ


def test_offline_no_network_is_used(
    run: Callable[..., Any], tiny_dir: Path, evaluator: Evaluator
) -> None:
    result = run("eval", "harness", "--tasks", "pets", "-m", str(tiny_dir), "--offline")
    assert result.code == 0
    assert "fetches" not in result.err
    assert [os.environ[name] for name in SWITCHES] == ["1", "1", "1"]


def test_as_json_every_line_is_an_event_and_the_last_one_the_summary(
    run: Callable[..., Any], tiny_dir: Path, evaluator: Evaluator
) -> None:
    result = run("eval", "harness", "--tasks", "pets", "-m", str(tiny_dir), "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["event"] for line in lines} >= {"notice", "progress", "summary"}
    assert (lines[-1]["job"], lines[-1]["status"]) == ("eval", "ok")
    assert lines[-1]["results"][0]["task"] == "harness-pets"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", " , "], "names no task"),
        (["--tasks", "pets", "--include", "/no/such"], "is not a directory"),
        (["--tasks", "plants"], "no such task: plants"),
    ],
)
def test_a_mistake_is_one_sentence(
    run: Callable[..., Any],
    tiny_dir: Path,
    evaluator: Evaluator,
    options: list[str],
    said: str,
) -> None:
    result = run("eval", "harness", "-m", str(tiny_dir), *options)
    assert result.code == 1
    assert said in result.err and "Traceback" not in result.err
