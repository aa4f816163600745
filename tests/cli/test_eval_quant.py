"""``mobilellm eval quant``: a table for people, rows for programs, a plot for both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.cli import eval as group
from mobilellm_mlx.cli import eval_quant as verb

HERE = ("mobilellm_mlx.cli.eval_quant:quant", "What rounding costs.")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same in fewer bits, a text and some questions."""
    place = tmp_path_factory.mktemp("quant")
    write_model(place / "whole")
    write_model(place / "packed", packed=True)
    (place / "text.txt").write_text("Rounding is cheap until it is not. " * 20)
    question = {"question": "What is the sky?", "choices": ["blue", "a number"], "answer": 0}
    (place / "sky.jsonl").write_text("".join(json.dumps(question) + "\n" for _ in range(4)))
    return place


@pytest.fixture
def measure(
    run: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setitem(group.VERBS, "quant", HERE)
    monkeypatch.chdir(place)

    def measure(*more: str, models: tuple[str, ...] = ("./packed",)) -> Any:
        known = ("--text", "text.txt", "--tokens", "512", "--no-speed")
        return run("eval", "quant", *models, "--against", "./whole", *known, *more)

    return measure


def test_people_get_a_line_for_each_model(measure: Callable[..., Any]) -> None:
    result = measure()
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:4] == ["MB", "bits", "KL", "p99"]
    assert max(map(len, lines)) <= 80
    (packed,) = [line.split() for line in lines if line.startswith("packed")]
    assert float(packed[3]) > 0 and packed[5].endswith("%") and float(packed[-1]) > 1
    assert "over 512 tokens" in result.out


def test_choices_have_a_table_of_their_own(measure: Callable[..., Any]) -> None:
    result = measure("--tasks", "sky.jsonl", "--limit", "3")
    assert result.code == 0, result.err
    assert "accuracy" in result.out and "1 task" in result.out


def test_programs_get_rows(measure: Callable[..., Any]) -> None:
    result = measure("--json")
    summary = json.loads(result.out.splitlines()[-1])
    assert (summary["event"], summary["status"], summary["model"]) == ("summary", "ok", "whole")
    assert [row["model"] for row in summary["results"]] == ["whole", "packed"]


def test_a_plot_is_drawn(measure: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "quant.png"
    result = measure("--plot", str(path), "--tasks", "sky.jsonl")
    assert result.code == 0, result.err
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path.name) in result.err.replace("\n", "")


def test_a_plot_that_cannot_be_is_refused_before_any_work(measure: Callable[..., Any]) -> None:
    pytest.importorskip("matplotlib")
    result = measure("--plot", "quant.pdf")
    assert result.code == 2
    assert "does not end in `.png`" in result.err and "whole:" not in result.err


def test_what_is_wrong_is_one_sentence(measure: Callable[..., Any], place: Path) -> None:
    for models in (("./nothing",), ("./text.txt",)):
        result = measure(models=models)
        assert result.code == 1 and result.err.startswith("error: "), models
    result = measure("--tasks", "nonsense")
    assert result.code == 2 and "there is no task `nonsense`" in result.err
    result = measure("--text", "missing.txt")
    assert result.code == 2 and "missing.txt" in result.err


def row(name: str, **values: Any) -> dict[str, Any]:
    return {
        "model": name,
        "is_reference": False,
        "bytes": 84_000_000,
        "bits_per_weight": 5.0,
        "prefill_tok_per_s": 1234.5,
        "prefill_range": (1200.0, 1300.0),
        "decode_tok_per_s": 45.6,
        "decode_range": None,
        "distance": {
            "tokens": 4096,
            "mean_kl": 0.00001,
            "p99_kl": 1.25,
            "top1_agreement": 0.912,
            "perplexity": 18.3,
            "nonfinite": 0,
        },
        "mean_kl": {"mean": 0.00001, "low": 0.0, "high": 0.00002},
        "accuracy": None,
        "change": None,
        "p": None,
        "tasks": [],
        **values,
    }


def test_changes_are_given_task_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    change = {"n": 300, "mean": -0.0213, "low": -0.04, "high": -0.0026}
    tasks = [
        {"task": name, "before": 0.4312, "after": 0.4, "change": change}
        for name in ("piqa", "obqa")
    ]
    own = {"mean": 0.4312, "stderr": 0.01}
    verb.print_rows(
        [
            row("whole", is_reference=True, accuracy=own),
            row("four", accuracy=own, change=change, p=0.0004, tasks=tasks),
        ]
    )
    out = capsys.readouterr().out
    assert "<0.0001" in out and "1.25" in out and "91.2%" in out and "1,234 (1,200 to 1,300)" in out
    assert "43.1 ±1.0" in out and "-2.1" in out and "-4.0 to -0.3" in out and "<0.001" in out
    (piqa,) = [line.split() for line in out.splitlines() if line.startswith("piqa")]
    assert piqa == ["piqa", "300", "43.1", "-2.1"]


def test_nan_is_said_and_is_in_no_plot(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = dict.fromkeys(("mean_kl", "p99_kl", "top1_agreement", "perplexity"))
    lost = {**nothing, "tokens": 4096, "nonfinite": 4096}
    broken = row("broken", distance=lost, mean_kl={"mean": None, "low": None, "high": None})
    rows = [row("whole", is_reference=True, mean_kl=None), row("four"), broken]
    verb.print_rows(rows)
    assert "broken: NaN or infinite at 4,096 tokens" in capsys.readouterr().out
    (panel,) = verb.make_panels(rows)
    assert [point.label for point in panel.points] == ["four"]
