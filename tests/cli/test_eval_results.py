"""``mobilellm eval list``, ``show``, ``rm`` and ``compare`` as commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.evals.results import result_path, save_result
from tests.cli.test_eval_tables import eight, result

Run = Callable[..., Any]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ids of some results, by model and task."""
    monkeypatch.setenv("COLUMNS", "80")
    ids = {}
    for number, (model, share) in enumerate([("m", 0.4), ("n", 0.6)]):
        for one in eight(model, share=share)[3:5]:
            id = f"26112{number}-203605-{one.task}-f0b{number}"
            save_result(result(one.task, model, share=share, id=id))
            ids[f"{model} {one.task}"] = id
    return ids


def test_the_list_can_be_of_a_task_or_a_model(run: Run, kept: dict[str, str]) -> None:
    assert run("eval", "list").out.count("acc_norm") == 4
    shown = run("eval", "list", "--task", "piqa", "--json").out
    assert {one["model"] for one in json.loads(shown)["results"]} == {"m", "n"}
    shown = run("eval", "list", "-m", "m", "--task", "siqa").out
    assert kept["m siqa"] in shown and kept["n siqa"] not in shown and "piqa" not in shown
    nothing = run("eval", "list", "--task", "boolq")
    assert nothing.out == "" and "there are no such results" in nothing.err


def test_a_result_is_shown_with_what_it_depends_on(run: Run, kept: dict[str, str]) -> None:
    shown = run("eval", "show", kept["m piqa"])
    assert shown.code == 0
    assert "piqa   40" in shown.out and kept["m piqa"] in shown.out
    assert "asked with form lm-eval, context 8192" in shown.out and ", 1 s" in shown.out
    assert "wrong" not in shown.out
    wrong = json.loads(run("eval", "show", kept["m piqa"], "--wrong", "3", "--json").out)["wrong"]
    scores = result("piqa", "m").scores
    assert wrong == [id for id, one in scores.items() if not one["acc_norm"]][:3]
    assert ", ".join(wrong) in run("eval", "show", kept["m piqa"], "--wrong", "3").out


def test_what_has_no_right_answers_has_no_wrong_ones(run: Run) -> None:
    scores = {"0": {"bits_per_byte": 1.0}}
    save_result(result("ppl-x", "m", id="x1", scores=scores, metrics={}))
    refused = run("eval", "show", "x1", "--wrong", "1")
    assert refused.code == 1 and "no answers that are right or wrong" in refused.err


def test_results_are_removed_when_that_is_confirmed(run: Run, kept: dict[str, str]) -> None:
    path = result_path(result("piqa", "m", id=kept["m piqa"]))
    assert run("eval", "rm", kept["m piqa"], stdin=b"n\n").code == 130
    assert path.is_file()
    done = run("eval", "rm", kept["m piqa"], kept["m piqa"], "--yes")
    assert (done.code, done.out) == (0, "") and "removed 1 result" in done.err
    assert not path.exists()
    assert len(json.loads(run("eval", "list", "--json").out)["results"]) == 3


def test_nothing_is_removed_but_results_that_are_kept(run: Run, tmp_path: Path) -> None:
    victim = tmp_path / "victim.json"
    victim.write_text("{}")
    for name in (str(victim), "../victim", "", "."):
        assert run("eval", "rm", "--yes", name).code == 1, name
    assert victim.is_file()


def test_one_that_is_unknown_leaves_all_where_they_are(run: Run, kept: dict[str, str]) -> None:
    assert run("eval", "rm", "--yes", kept["m piqa"], "x").code == 1
    assert len(json.loads(run("eval", "list", "--json").out)["results"]) == 4


def test_results_and_models_are_compared_in_one_form(run: Run, kept: dict[str, str]) -> None:
    by_id = run("eval", "compare", kept["m piqa"], kept["n piqa"]).out.splitlines()
    by_name = run("eval", "compare", "m", "n").out.splitlines()
    heads = ["n", "before", "after", "change", "95", "%", "p"]
    assert heads == by_id[2].split() == by_name[2].split()
    (one,) = [line.split() for line in by_id if line.startswith("acc_norm ")]
    (other,) = [line.split() for line in by_name if line.startswith("piqa acc_norm ")]
    assert one[1:] == other[2:]
    assert not any("average" in line for line in by_name)


def test_a_thing_is_not_compared_with_itself(run: Run, kept: dict[str, str]) -> None:
    for pair in ([kept["m piqa"]] * 2, ["m", "m"]):
        refused = run("eval", "compare", *pair)
        assert refused.code == 2
        assert f"both are `{pair[0]}`, so there is nothing to compare" in refused.err


def test_a_directory_is_called_as_results_call_it(
    run: Run, kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mobilellm.json").write_text('{"name": "n"}')
    named = run("eval", "compare", "m", "n")
    assert run("eval", "compare", f"{tmp_path}/m", f"{tmp_path}/other").out == named.out
    monkeypatch.chdir(tmp_path / "m")
    assert run("eval", "compare", ".", "n").out == named.out
