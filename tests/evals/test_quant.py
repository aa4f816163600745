"""What rounding costs: small models beside the one that they were rounded from."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, write_model

import mobilellm_mlx.evals.quant as module
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import InsufficientMemory, InvalidInput, ModelNotFound
from mobilellm_mlx.evals.budget import parse_memory
from mobilellm_mlx.evals.choice.question import Question
from mobilellm_mlx.evals.choice.task import ChoiceTask
from mobilellm_mlx.evals.divergence import WINDOW
from mobilellm_mlx.evals.exam import Exam, make_exam
from mobilellm_mlx.evals.journal import Journal, evals_dir
from mobilellm_mlx.evals.quant import measure_quant, unique_names
from mobilellm_mlx.evals.results import find_result, stored_results
from mobilellm_mlx.events import EvalSummary, Event, Notice, Progress
from tests.adapters.made import write_random_adapter

TEXT = "Rounding is cheap until it is not. " * 30
"""Four windows of one byte a token, and a rest."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the same in fewer bits."""
    place = tmp_path_factory.mktemp("quant")
    return write_model(place / "whole"), write_model(place / "packed", packed=True)


def exam(*directories: Path, tokens: int = 3 * WINDOW, **values: Any) -> Exam:
    return replace(make_exam(directories, TEXT, tokens), **{"measures_speed": False, **values})


def run(whole: Path, *others: Path, **values: Any) -> list[Event]:
    cancel = values.pop("cancel", None)
    return list(measure_quant(others, whole, exam(whole, *others, **values), None, cancel))


def rows(events: list[Event]) -> list[dict[str, Any]]:
    assert isinstance(events[-1], EvalSummary)
    json.loads(events[-1].to_json())
    return events[-1].results


def colours() -> ChoiceTask:
    questions = [
        Question((("The sky is", " blue"), ("The sky is", f" number {n}")), n % 2, (4, 8))
        for n in range(6)
    ]
    return ChoiceTask("colours", questions, "0" * 64, {"form": "lm-eval"})


ASKED = colours().requests(3, 0)


def test_each_model_gets_a_row(models: tuple[Path, Path]) -> None:
    whole, packed = rows(run(*models))
    assert (whole["model"], whole["is_reference"]) == ("whole", True)
    assert (packed["model"], packed["is_reference"]) == ("packed", False)
    assert whole["distance"]["mean_kl"] == 0 and whole["mean_kl"] is None
    found = packed["distance"]
    assert found["tokens"] == 3 * WINDOW
    assert 0 < found["median_kl"] < found["p99_kl"]
    assert packed["mean_kl"]["mean"] == pytest.approx(found["mean_kl"])
    assert 0.2 < found["top1_agreement"] < 1
    assert whole["distance"]["perplexity"] == pytest.approx(found["reference_perplexity"])
    assert packed["bytes"] == (models[1] / "model.safetensors").stat().st_size
    assert 4 < packed["bits_per_weight"] < 20 < whole["bits_per_weight"]
    kept = find_result(packed["results"][0])
    assert (kept.task, len(kept.scores)) == ("divergence", 3)


def test_a_copy_is_no_distance_away(models: tuple[Path, Path], tmp_path: Path) -> None:
    copy = rows(run(models[0], write_model(tmp_path / "copy")))[1]
    assert copy["distance"]["mean_kl"] == 0
    assert copy["distance"]["top1_agreement"] == 1


def test_a_run_that_was_stopped_goes_on(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    real = module.hidden

    def watched(model: Any, window: Any) -> Any:
        read.append(window)
        if len(read) == 5:  # three of the reference, the second of the other
            raise RuntimeError("power")
        return real(model, window)

    monkeypatch.setattr(module, "hidden", watched)
    with pytest.raises(RuntimeError, match="power"):
        run(*models)
    events = run(*models)
    assert len(read) == 5 + 3 + 2
    assert any(isinstance(e, Notice) and "packed: divergence: 1 of 3" in e.text for e in events)
    assert rows(events)[1]["distance"]["tokens"] == 3 * WINDOW
    run(*models, tokens=4 * WINDOW)
    assert len(read) == 10 + 4 + 1


def test_a_cancelled_run_gives_the_rows_it_has(models: tuple[Path, Path]) -> None:
    cancel = threading.Event()
    events = []
    for event in measure_quant(models[1:], models[0], exam(*models), None, cancel):
        events.append(event)
        if isinstance(event, Progress) and event.task == "packed: divergence" and event.done:
            cancel.set()
    assert isinstance(events[-1], EvalSummary) and events[-1].status == "cancelled"
    assert [row["model"] for row in rows(events)] == ["whole"]


def test_choices_are_compared_question_by_question(models: tuple[Path, Path]) -> None:
    whole, packed = rows(run(*models, tasks=[colours()], questions=5))
    assert whole["accuracy"]["mean"] == pytest.approx(round(5 * whole["accuracy"]["mean"]) / 5)
    assert whole["change"] is None
    (task,) = packed["tasks"]
    assert (task["task"], task["change"]["n"]) == ("colours", 5)
    difference = packed["accuracy"]["mean"] - whole["accuracy"]["mean"]
    assert packed["change"]["mean"] == pytest.approx(difference)
    assert len(packed["results"]) == 2 and len(whole["results"]) == 1
    assert {one.task for one in stored_results()[0]} == {"colours", "divergence"}
    again = run(*models, tasks=[colours()], questions=5)
    assert any(isinstance(e, Notice) and "whole: colours: 5 of 5" in e.text for e in again)


def test_what_is_held_stays_within_a_budget(tmp_path: Path) -> None:
    raw = {**LLAMA, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8}
    made = [write_model(tmp_path / name, raw) for name in ("one", "two")]
    mx.clear_cache()
    before = mx.get_active_memory()
    long = ChoiceTask("long", [long_question(n) for n in range(8)], "1" * 64, {"form": "lm-eval"})

    def peak(**values: Any) -> int:
        mx.reset_peak_memory()
        assert len(rows(run(*made, tasks=[long], fresh=True, **values))) == 2
        return mx.get_peak_memory() - before

    freely, least, refused = peak(), 1_000_000, 0
    while True:
        try:
            held = peak(max_memory=least)
        except InsufficientMemory as error:  # for the text, for answers, of one model or the other
            assert error.hint is not None
            enough = parse_memory(error.hint.split("`")[1].split()[1])
            assert enough > least
            least, refused = enough, refused + 1
        else:
            break
    assert refused
    assert held <= least < 0.8 * freely


def long_question(number: int) -> Question:
    begun = f"{number} is a number, as everybody knows, and so are many others; " * 2
    return Question(((begun, " yes" * 9), (begun, " no" * 9)), 0, (4, 3))


def test_speed_is_measured_with_a_warm_up(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilellm_mlx.evals.speed.NEW_TOKENS", 3)
    for row in rows(run(*models, tokens=WINDOW, measures_speed=True)):
        for name in ("prefill", "decode"):
            least, most = row[f"{name}_range"]
            assert 0 < least <= row[f"{name}_tok_per_s"] <= most


def test_speeds_are_measured_in_turn(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(loaded: Any, prompt: Any) -> tuple[float, float]:
        asked.append(loaded.info.model)
        return float(len(asked)), 10.0 * len(asked)

    monkeypatch.setattr("mobilellm_mlx.evals.speed.measure_speed", measured)
    first, second = rows(run(*models, tokens=WINDOW, measures_speed=True))
    assert asked == ["whole", "packed"] * 3
    assert (first["prefill_tok_per_s"], first["prefill_range"]) == (3.0, (1.0, 5.0))
    assert (second["decode_tok_per_s"], second["decode_range"]) == (40.0, (20.0, 60.0))


def test_models_of_other_tokens_do_not_compare(models: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_model(tmp_path / "other")
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_start|>", "<|begin|>"))
    with pytest.raises(InvalidInput, match="`other` has other tokens than `whole`"):
        exam(models[0], other)
    wide = write_model(tmp_path / "wide", {**LLAMA, "vocab_size": 260})
    with pytest.raises(InvalidInput, match="`wide` has other tokens"):
        exam(models[0], wide)


def test_a_text_that_is_too_short_is_refused(models: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidInput, match="expected at least 256"):
        make_exam(models, "Too short.")


def test_a_directory_that_is_no_model_is_found_before_any_work(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound):
        exam(models[0], tmp_path)


def broken(place: Path) -> Path:
    """A model whose last norm is NaN."""
    directory = write_model(place / "broken")
    tensors = mx.load(str(directory / "model.safetensors"))
    assert isinstance(tensors, dict)
    tensors["model.norm.weight"] = mx.full((32,), math.nan)
    mx.eval(tensors)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, {"format": "mlx"})
    return directory


def test_a_model_that_computes_nan_is_named_and_has_no_figures(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    events = run(models[0], broken(tmp_path), models[1], tasks=[colours()])
    bad, good = rows(events)[1:]
    assert bad["distance"]["nonfinite"] == bad["distance"]["tokens"] == 3 * WINDOW
    assert bad["distance"]["mean_kl"] is None and bad["distance"]["perplexity"] is None
    assert bad["accuracy"] is None and bad["change"] is None
    assert any(
        isinstance(e, Notice) and e.text.startswith("broken: divergence: 3 values") for e in events
    )
    assert good["distance"]["mean_kl"] > 0


def test_nothing_is_compared_with_a_model_that_computes_nan(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="`broken` computes values that are not numbers"):
        run(broken(tmp_path), models[1])


def test_models_of_one_name_are_told_apart() -> None:
    assert unique_names([Path("/a/x"), Path("/b/x"), Path("/b/y")]) == ["a/x", "b/x", "y"]
    assert unique_names([Path("/a/x"), Path("/a/x")]) == ["x", "x"]


def test_every_model_has_the_adapter_on(models: tuple[Path, Path], tmp_path: Path) -> None:
    write_random_adapter(tmp_path / "tools", models[0])
    whole, packed = rows(run(*models, adapter=tmp_path / "tools"))
    bare = rows(run(*models))
    for row, other in zip((whole, packed), bare, strict=True):
        assert row["distance"]["perplexity"] != pytest.approx(other["distance"]["perplexity"])
    assert find_result(packed["results"][0]).adapter == "tools"


def test_a_run_of_another_program_is_left_out_and_the_others_go_on(
    models: tuple[Path, Path],
) -> None:
    tasks = [colours(), ChoiceTask("more", [one.payload for one in ASKED], "1" * 64, {})]
    (whole,) = rows(run(models[0], tasks=tasks))
    taken = next(evals_dir().glob("runs/colours-*.jsonl"))
    with Journal(taken):
        events = run(models[0], tasks=tasks)
    assert isinstance(events[-1], EvalSummary) and events[-1].status == "error"
    assert len(rows(events)[0]["results"]) == len(whole["results"]) - 1
    assert any(isinstance(e, Notice) and "whole: colours is left out" in e.text for e in events)
