"""``mobilellm eval``: measuring, listing and comparing, for people and for programs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.cli import eval_options
from mobilellm_mlx.errors import EngineError
from mobilellm_mlx.evals.journal import evals_dir
from mobilellm_mlx.testing import ScriptedEngine

NOTHING = "<tool_call>[]</tool_call>"


class Engine(ScriptedEngine):
    """A scripted engine in the place of the real one."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Engine]]:
    """Lets every run of the verb ask an engine that gives these answers."""

    def script(*answers: Any) -> list[Engine]:
        made: list[Engine] = []

        def engine(directory: Path, options: Any, **_: Any) -> Engine:
            made.append(Engine(answers))
            return made[-1]

        monkeypatch.setattr("mobilellm_mlx.engine.Engine", engine)
        monkeypatch.setattr(eval_options, "resolve_model", lambda name: Path("/models/scripted"))
        return made

    return script


def measure(run: Any, *more: str) -> Any:
    return run("eval", "calls", "--data", "home", "--limit", "7", *more)


def test_people_get_a_table_and_the_names_of_what_was_kept(run, scripted) -> None:
    scripted(NOTHING)
    result = measure(run, "--mode", "free", "--mode", "one-step")
    assert result.code == 0
    assert "calls-home: 7 requests, scripted" in result.out
    assert "free" in result.out and "one-step" in result.out and "two-step" not in result.out
    (intent,) = [line for line in result.out.splitlines() if line.startswith("em_intent")]
    # One of seven wants no tool, and the engine never calls any.
    assert "(n=7)" in intent and intent.count("14% (3-51)") == 2
    assert result.err.count("kept as ") == 1 and result.err.count("-calls-home-") == 2
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_programs_get_events_and_one_summary(run, scripted) -> None:
    scripted(NOTHING)
    result = measure(run, "--mode", "free", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "model_loaded",
        "summary",
    ]
    summary = lines[-1]
    assert (summary["job"], summary["status"], summary["model"]) == ("eval", "ok", "scripted")
    (found,) = summary["results"]
    assert found["metrics"]["restraint"] == {
        "n": 1,
        "mean": 1.0,
        "low": pytest.approx(0.2065, abs=1e-4),
        "high": 1.0,
        "interval": "wilson",
        "nonfinite": 0,
        "stderr": None,
    }
    assert found["task_settings"] == {"side": "test", "offer": 5, "choice": "drawn"}
    assert Path(found["path"]).is_file()


def test_a_second_run_asks_only_what_is_new(run, scripted) -> None:
    engines = scripted(NOTHING)
    measure(run, "--mode", "free")
    again = run("eval", "calls", "--data", "home", "--limit", "9", "--mode", "free")
    assert [len(engine.conversations) for engine in engines] == [7, 2]
    assert "note: calls-home, free: 7 of 9 were answered by an earlier run" in again.err
    measure(run, "--mode", "free", "--fresh")
    assert len(engines[-1].conversations) == 7


def test_a_run_that_fails_is_said_and_goes_on_later(run, scripted) -> None:
    scripted(NOTHING, NOTHING, EngineError("the engine fell over"))
    failed = measure(run, "--mode", "free")
    assert failed.code == 1
    assert "error: the engine fell over" in failed.err
    engines = scripted(NOTHING)
    assert measure(run, "--mode", "free").code == 0
    assert len(engines[0].conversations) == 5


def test_a_failure_is_a_summary_for_programs(run, scripted) -> None:
    scripted(EngineError("the engine fell over"))
    result = measure(run, "--mode", "free", "--json")
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, last["job"], last["status"]) == (1, "eval", "error")
    assert last["error"] == "the engine fell over"


def test_results_are_listed_and_compared(run, scripted) -> None:
    scripted(NOTHING)
    measure(run, "--mode", "free", "--mode", "one-step")
    listed = json.loads(run("eval", "list", "--json").out)["results"]
    assert [one["settings"]["mode"] for one in listed] != []
    assert {one["settings"]["mode"] for one in listed} == {"free", "one-step"}
    shown = run("eval", "list")
    assert "calls-home" in shown.out and shown.code == 0
    ids = [one["id"] for one in listed]
    compared = run("eval", "compare", *ids)
    assert compared.code == 0
    assert "em_intent" in compared.out and "+0.0 to +0.0" in compared.out
    rows = json.loads(run("eval", "compare", *ids, "--json").out)["metrics"]
    assert rows[0]["metric"] == "em_intent" and rows[0]["p"] == 1.0


def test_results_of_other_requests_are_not_compared(run, scripted) -> None:
    scripted(NOTHING)
    measure(run, "--mode", "free")
    measure(run, "--mode", "free", "--offer", "3")
    ids = [one["id"] for one in json.loads(run("eval", "list", "--json").out)["results"]]
    result = run("eval", "compare", *ids)
    assert result.code == 1
    assert result.err.startswith("error: the results are of different settings of the task")
    assert "hint:" in result.err


def test_no_results_are_said(run) -> None:
    result = run("eval", "list")
    assert (result.code, result.out) == (0, "")
    assert "no results yet" in result.err


def test_a_damaged_result_is_named_and_the_rest_listed(run, scripted) -> None:
    scripted(NOTHING)
    measure(run, "--mode", "free")
    (evals_dir() / "results" / "0.json").write_text("\x1b[31m")
    result = run("eval", "list")
    assert "is not JSON" in result.err and "\x1b" not in result.err
    assert "calls-home" in result.out


def test_an_unknown_result_is_said_with_a_hint(run) -> None:
    result = run("eval", "compare", "x", "y")
    assert (result.code, result.err.splitlines()[0]) == (1, "error: there is no result `x`")
    assert "mobilellm eval list" in result.err


@pytest.mark.parametrize(
    "options",
    [("--mode", "three-step"), ("--offer", "0"), ("--limit", "-1"), ("--data", "other")],
)
def test_impossible_options_are_wrong_usage(run, options: tuple[str, ...]) -> None:
    assert run("eval", "calls", *options).code == 2


def test_an_unknown_format_is_said_with_the_nearest(run, scripted) -> None:
    scripted(NOTHING)
    result = measure(run, "--mode", "free", "--format", "smolm2")
    assert result.code == 1
    assert "did you mean `smollm2`" in result.err


def test_missing_data_is_said_before_a_model_is_loaded(run, scripted, monkeypatch) -> None:
    engines = scripted(NOTHING)
    monkeypatch.setitem(sys.modules, "home_assistant_intents", None)
    result = measure(run)
    assert result.code == 1 and not engines
    assert "pip install home-assistant-intents==" in result.err


def test_a_real_model_is_measured_in_every_mode(run, tiny_dir) -> None:
    result = run("eval", "calls", "-m", str(tiny_dir), "--data", "home", "--limit", "1", "--json")
    summary = json.loads(result.out.splitlines()[-1])
    assert (result.code, summary["status"]) == (0, "ok")
    modes = [one["settings"]["mode"] for one in summary["results"]]
    assert modes == ["free", "one-step", "two-step"]
    assert all(one["fingerprint"] for one in summary["results"])


def test_a_stopped_run_gives_what_it_has_and_leaves_with_130(run, scripted, monkeypatch) -> None:
    from mobilellm_mlx.evals.calls.asking import CallAnswerer

    real = CallAnswerer._ask

    def interrupted(self: CallAnswerer, case: Any) -> dict[str, Any]:
        if len(self._engine.conversations) == 3:
            self._cancel.set()
        return real(self, case)

    scripted(NOTHING)
    monkeypatch.setattr(CallAnswerer, "_ask", interrupted)
    result = measure(run)
    assert result.code == 130
    assert result.out.startswith("calls-home, free: stopped at 3 of 7 requests, no result kept;")
    assert "kept as" not in result.err
    assert json.loads(run("eval", "list", "--json").out or '{"results": []}')["results"] == []


def test_conversations_to_train_with_are_json_lines(run) -> None:
    result = run("eval", "training", "--count", "8", "--format", "hermes")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0 and len(rows) >= 6
    assert all(set(row) == {"messages"} for row in rows)
    assert run("eval", "training", "--side", "test").code == 2
