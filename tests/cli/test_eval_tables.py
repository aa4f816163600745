"""Tables of choice: tasks in order, averages, published rows beside them, and two models."""

import random
from dataclasses import replace
from typing import Any

import pytest

from mobilellm_mlx.cli.eval_comparisons import print_model_differences
from mobilellm_mlx.cli.eval_results import print_list
from mobilellm_mlx.cli.eval_tables import print_choices, print_results, tell_kept
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE
from mobilellm_mlx.evals.results import EvalResult
from mobilellm_mlx.evals.statistics import summarise
from mobilellm_mlx.evals.suites import compare_models


def result(
    task: str,
    model: str,
    n: int = 40,
    share: float = 0.4,
    *,
    is_normed: bool = True,
    **changes: Any,
) -> EvalResult:
    """A result with drawn scores; questions that are right for a share stay so for a larger one."""
    draw = random.Random(task)
    scores = {}
    for at in range(n):
        values = [draw.random(), draw.random(), 1 + draw.random()]
        scores[str(at)] = {"acc": float(values[0] < share), "bits_per_byte": values[2]}
        if is_normed:
            scores[str(at)]["acc_norm"] = float(values[1] < share)
    values = {
        "id": f"261122-203605-{task}-f0b2",
        "created": "2026-11-22T20:36:05+00:00",
        "program": "0.1.0",
        "task": task,
        "task_version": 1,
        "data_sha256": "d" * 64,
        "task_settings": {"form": "lm-eval"},
        "seed": 0,
        "model": model,
        "fingerprint": "fp",
        "adapter": None,
        "settings": {"context": 8192},
        "elapsed_s": 1.0,
        "metrics": summarise(scores),
        "scores": scores,
        "available": len(changes.get("scores", scores)),
    }
    return EvalResult(**{**values, **changes})


def eight(model: str, **changes: Any) -> list[EvalResult]:
    return [result(one.name, model, is_normed=one.is_normed, **changes) for one in COMMONSENSE]


Lines = list[str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a call prints at 80 columns, as lines without spaces at their ends."""
    monkeypatch.setenv("COLUMNS", "80")

    def shown(call: Any, *values: Any) -> Lines:
        call(*values)
        said: str = capsys.readouterr().out
        lines = [line.rstrip() for line in said.splitlines()]
        assert all(len(line) <= 80 for line in lines), "wider than the terminal"
        return lines

    return shown


def row(lines: Lines, name: str) -> list[str]:
    """The cells of the one line that begins with a name."""
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return line.removeprefix(name).replace(" ±", "±").split()


def briefs(results: list[EvalResult]) -> list[dict[str, Any]]:
    return [one.brief() for one in results]


def test_tasks_come_in_the_paper_s_order_with_their_standard_errors(shown) -> None:
    lines = shown(print_results, briefs(eight("nobody")[::-1]))
    names = [line.split()[0] for line in lines[3:11]]
    assert names == [one.name for one in COMMONSENSE]
    n, acc, normed, bits = row(lines, "arc_easy")
    metrics = eight("nobody")[0].metrics
    assert n == "40" and bits == f"{metrics['bits_per_byte'].mean:.2f}"
    assert acc == f"{100 * metrics['acc'].mean:.1f}±{100 * metrics['acc'].stderr:.1f}"
    assert normed == f"{100 * metrics['acc_norm'].mean:.1f}±{100 * metrics['acc_norm'].stderr:.1f}"
    assert row(lines, "boolq")[2] == "-"


def test_the_average_is_the_last_row(shown) -> None:
    results = eight("nobody")
    lines = shown(print_choices, briefs(results))
    acc, normed = row(lines, "average of 8")
    means = [one.metrics["acc"].mean for one in results]
    assert acc.startswith(f"{100 * sum(means) / 8:.1f}±")
    means = [one.metrics.get("acc_norm", one.metrics["acc"]).mean for one in results]
    assert normed.startswith(f"{100 * sum(means) / 8:.1f}±")
    assert any(line.startswith("The average of acc_norm takes acc") for line in lines)


def test_published_figures_stand_beside_each_task(shown) -> None:
    lines = shown(print_choices, briefs(eight("mobilellm-125m-4bit")))
    assert row(lines, "arc_easy")[-1] == "43.9"
    assert row(lines, "winogrande")[-1] == "53.1"
    assert row(lines, "average of 8")[-1] == "46.3"
    text = " ".join(" ".join(lines).split())
    assert "published: MobileLLM-125M, a base model. MobileLLM's README" in text
    assert "arXiv 2402.14905, table 3." in text
    assert "which tasks divide likelihoods by length" in text
    assert "What differs" not in text


def test_what_differs_from_the_published_model_is_said(shown) -> None:
    lines = shown(print_choices, briefs(eight("smollm2-135m", adapter="tools")))
    assert lines[0].startswith("smollm2-135m+tools: ")
    assert row(lines, "average of 8")[-1] == "50.7"
    text = " ".join(" ".join(lines).split())
    assert "published: SmolLM2-135M, a base model. MobileLLM-R1's README" in text
    assert "smollm2-135m is tuned to follow instructions" in text
    assert "4-bit blocks" in text and "it has the adapter tools on" in text


def test_a_published_average_stands_beside_the_same_average_only(shown) -> None:
    lines = shown(print_choices, briefs(eight("smollm2-135m")[1:]))
    assert not any("published" in line or "50.7" in line for line in lines)
    assert len(row(lines, "average of 7")) == 2
    assert shown(print_choices, briefs(eight("nobody"))) != lines


def test_a_part_of_the_questions_is_said_to_be_one(shown) -> None:
    own = result("file-mine", "nobody", available=1000)
    older = result("sciq", "nobody", available=None)
    lines = shown(print_choices, briefs([own, older, result("obqa", "nobody", 500)]))
    assert row(lines, "file-mine")[:3] == ["40", "of", "1,000"]
    assert row(lines, "sciq")[:3] == ["40", "of", "1,000"]
    assert row(lines, "obqa")[1:2] != ["of"]


def test_published_figures_stand_beside_whole_tasks_only(shown) -> None:
    kept = eight("mobilellm-125m-4bit")
    kept[0] = replace(kept[0], available=2376)
    lines = shown(print_choices, briefs(kept))
    assert row(lines, "boolq")[-1] == "60.2" and row(lines, "arc_easy")[-1] != "43.9"
    assert row(lines, "average of 8")[-1] != "46.3"
    cut = [replace(one, available=2000) for one in kept]
    assert not any("published" in line for line in shown(print_choices, briefs(cut)))


def test_how_far_published_figures_are_is_said(shown) -> None:
    lines = shown(print_choices, briefs(eight("mobilellm-125m-4bit")))
    normed = eight("mobilellm-125m-4bit")[0].metrics["acc_norm"].mean
    text = " ".join(" ".join(lines).split())
    assert f"less published, in points: arc_easy {100 * normed - 43.9:+.1f}," in text


def test_nothing_right_has_an_error_as_wide_as_wilson_s_interval(shown) -> None:
    lines = shown(print_choices, briefs([result("piqa", "m", 3, 0.0), result("obqa", "m", 3, 1.0)]))
    assert row(lines, "piqa")[1:3] == ["0.0±14.3", "0.0±14.3"]
    assert row(lines, "obqa")[1] == "100.0±14.3"
    assert "± of 0 % and of 100 % is read from Wilson's interval." in lines
    assert result("piqa", "m", 3, 0.0).brief()["metrics"]["acc"]["stderr"] == 0.0


@pytest.mark.parametrize("width", [40, 60])
def test_nothing_is_folded_or_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    kept = briefs(eight("mobilellm-125m-4bit"))
    for call in (print_choices, print_list, print_results):
        call(kept)
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= width for line in lines), (call, lines)
    print_list(kept)
    assert kept[1]["id"] in capsys.readouterr().out.splitlines()


def test_ids_are_told_whole_on_as_few_lines_as_there_can_be(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    kept = [{**one, "path": "x"} for one in briefs(eight("m"))]
    tell_kept([*kept, {"id": "stopped", "path": ""}])
    said = capsys.readouterr().err
    assert said.startswith("kept as ") and "stopped" not in said
    assert len(said.splitlines()) < 8
    assert all(one["id"] in said for one in kept)


def test_a_run_that_was_stopped_is_in_no_table(shown) -> None:
    part = {**result("piqa", "m", 16).brief(), "asked": 30, "path": ""}
    lines = shown(print_results, [*briefs([result("obqa", "m")]), part])
    assert not any(line.startswith("piqa ") for line in lines)
    said = "piqa: stopped at 16 of 30 requests, no result kept; the same command goes on"
    assert " ".join(" ".join(lines).split()).endswith(said)


def test_a_single_task_has_no_average(shown) -> None:
    lines = shown(print_choices, briefs([result("piqa", "nobody")]))
    assert not any("average" in line for line in lines)


def test_nan_is_named_and_in_no_average(shown) -> None:
    results = eight("mobilellm-125m")
    nan = float("nan")
    scores = {**results[3].scores, "0": {"acc": nan, "acc_norm": nan, "bits_per_byte": nan}}
    results[3] = replace(results[3], scores=scores, metrics=summarise(scores))
    lines = shown(print_choices, briefs(results))
    assert "piqa: 1 value is NaN or infinite, so it is in no average." in lines
    assert row(lines, "average of 7")[-1] != "46.3"
    nothing = {id: dict.fromkeys(some, nan) for id, some in scores.items()}
    dead = replace(results[3], scores=nothing, metrics=summarise(nothing))
    assert row(shown(print_choices, briefs([dead])), "piqa")[1:4] == ["-", "-", "-"]


def test_results_that_are_no_choices_keep_their_table(shown) -> None:
    scores = {"a": {"em_intent": 1.0, "seconds": 2.0}, "b": {"em_intent": 0.0, "seconds": 3.0}}
    calls = result("calls-home", "m", scores=scores, metrics=summarise(scores))
    lines = shown(print_results, briefs([calls, result("piqa", "m")]))
    assert "calls-home: 2 requests, m" in lines
    assert row(lines, "em_intent")[0] == "(n=2)"
    assert row(lines, "piqa")[0] == "40"


def test_every_model_and_form_has_a_table_of_its_own(shown) -> None:
    kept = [result("piqa", "m"), result("piqa", "n"), result("boolq", "m")]
    kept.append(result("piqa", "m", task_settings={"form": "olmes"}))
    lines = shown(print_results, briefs(kept))
    heads = [line.split(",")[0] for line in lines if "standard error" in line]
    assert heads == [
        "m: in the words of lm-eval",
        "n: in the words of lm-eval",
        "m: in the words of olmes",
    ]
    assert sum(line.startswith("average of 2") for line in lines) == 1


def test_the_list_names_the_figure_that_it_shows(shown) -> None:
    scores = {
        "a": {"em_intent": 1.0, "em_structure": 0.0},
        "b": {"em_intent": 1.0, "em_structure": 1.0},
    }
    calls = result("calls-home", "m", adapter="tools", scores=scores, metrics=summarise(scores))
    bits = {"a": {"bits_per_byte": 0.91}, "b": {"bits_per_byte": 0.93}}
    text = result("text", "m", scores=bits, metrics=summarise(bits))
    nothing = result("nothing", "m", scores={}, metrics={})
    kept = [result("piqa", "m"), result("boolq", "m", is_normed=False), calls, text, nothing]
    lines = shown(print_list, briefs(kept))
    assert lines[0].split() == ["id", "model", "n", "figure"]
    normed = kept[0].metrics["acc_norm"].mean
    assert lines[2].split()[1:] == ["m", "40", "acc_norm", f"{100 * normed:.1f}%"]
    assert lines[3].split()[3] == "acc"
    assert lines[4].split()[1:] == ["m", "2", "em_intent", "100%"]
    assert lines[5].split() == ["+", "tools", "em_structure", "50%"]
    assert lines[6].split()[3:] == ["bits_per_byte", "0.92"]
    assert lines[7].split()[1:] == ["m", "0"]


def test_two_models_are_shown_side_by_side(shown) -> None:
    kept = [*eight("m"), *eight("n", share=0.6)]
    lines = shown(print_model_differences, compare_models("m", "n", kept))
    assert lines[:2] == ["before: m", "after:  n"]
    found = compare_models("m", "n", kept).tasks[0].difference
    cells = row(lines, "arc_easy acc_norm")
    assert cells[:3] == ["40", f"{100 * found.before:.1f}", f"{100 * found.after:.1f}"]
    assert cells[3] == f"{100 * found.change.mean:+.1f}"
    assert row(lines, "average of 8")[-1] == "<0.001"
    assert not any("Left out" in line or "those that both" in line for line in lines)


def test_what_two_models_do_not_share_is_said(shown) -> None:
    other = eight("n", n=30)
    other[2] = replace(other[2], task_settings={"form": "olmes"})
    lines = shown(print_model_differences, compare_models("m", "n", [*eight("m"), *other]))
    assert "40 and 30 of piqa" in " ".join(" ".join(lines).split())
    assert not any("average" in line for line in lines)  # of part of the paper's eight
    text = " ".join(" ".join(lines).split())
    assert "Left out: boolq: the results are of different settings of the task" in text


def test_names_cannot_steer_a_terminal(shown) -> None:
    wild = "\x1b[31m[bold]m"
    kept = [result("piqa", wild, adapter="\x1b]0;x"), result("boolq", wild, adapter="\x1b]0;x")]
    for call in (print_choices, print_list):
        text = "\n".join(shown(call, briefs(kept)))
        assert "\x1b" not in text and "[bold]m" in text
    compared = compare_models(f"{wild}+\x1b]0;x", f"{wild}+\x1b]0;x", kept)
    assert "\x1b" not in "\n".join(shown(print_model_differences, compared))
