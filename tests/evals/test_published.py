"""Published tables: as their sources have them, and found by the names of measured models."""

import math
import tomllib
from pathlib import Path

import pytest

from mobilellm_mlx.evals import published
from mobilellm_mlx.evals.choice.commonsense import COMMONSENSE
from mobilellm_mlx.evals.published import kind_of, rows_for, table, tables

EIGHT = tuple(one.name for one in COMMONSENSE)


@pytest.mark.parametrize(
    ("name", "model", "column", "figure"),
    # Typed a second time, from the sources and not from the files.
    [
        ("common_sense", "OPT-125M", "average", 42.6),
        ("common_sense", "MobileLLM-125M", "arc_easy", 43.9),
        ("common_sense", "MobileLLM-125M", "average", 46.3),
        ("common_sense", "MobileLLM-LS-125M", "obqa", 41.1),
        ("common_sense", "MobileLLM-LS-350M", "hellaswag", 50.6),
        ("common_sense", "MobileLLM-350M", "winogrande", 57.6),
        ("common_sense", "MobileLLM-600M", "piqa", 72.3),
        ("common_sense", "MobileLLM-1B", "boolq", 66.7),
        ("common_sense", "MobileLLM-1.5B", "siqa", 46.4),
        ("common_sense", "TinyLlama-1.1B", "arc_challenge", 37.1),
        ("common_sense", "RWKV-430M", "average", 47.0),
        ("layer_sharing", "350M, all blocks over again", "average", 50.7),
        ("eight_bits", "MobileLLM-LS-350M", "average_8bit", 50.6),
        ("r1_base", "SmolLM2-135M", "average", 50.7),
        ("r1_base", "MobileLLM-R1-140M-base", "average", 44.3),
        ("r1_base", "MobileLLM-R1-950M-base", "mmlu", 47.4),
        ("r1_base", "MobileLLM-R1-360M-base", "gsm8k", 39.4),
        ("r1_instruct", "MobileLLM-R1-950M", "aime25", 16.3),
        ("r1_instruct", "MobileLLM-R1-140M", "livecodebench_v6", 1.7),
        ("pro_base", "MobileLLM-Pro-base", "arc_challenge", 52.62),
        ("pro_base", "Llama3.2-1B", "boolq", 62.51),
        ("pro_four_bits", "MobileLLM-Pro-base-int4-cpu", "average", 61.08),
        ("pro_four_bits", "MobileLLM-Pro-base-int4-accelerator", "average", 60.42),
        ("pro_instruct", "MobileLLM-Pro", "bfcl_v2", 29.4),
        ("paretoq", "MobileLLM-ParetoQ-125M-BF16", "average", 48.5),
        ("paretoq", "MobileLLM-ParetoQ-350M-1.58-bit", "average", 51.4),
        ("paretoq", "MobileLLM-ParetoQ-600M-1-bit", "wikitext_perplexity", 14.0),
        ("paretoq", "MobileLLM-ParetoQ-1.5B-4-bit", "wikitext_perplexity", 7.6),
        ("chat", "MobileLLM-350M", "mt_bench", 3.28),
        ("chat", "MobileLLM-LS-350M", "alpaca_eval", 48.2),
        ("calls", "MobileLLM-350M", "em_intent", 65.3),
        ("calls", "LLaMA-v2 7B", "em_structure", 50.9),
    ],
)
def test_figures_are_those_of_the_source(name: str, model: str, column: str, figure: float) -> None:
    assert table(name).rows[model][column] == figure


@pytest.mark.parametrize(
    ("name", "model", "column"),
    [
        ("chat", "MobileLLM-LS-125M", "alpaca_eval"),
        ("chat", "OPT-125M", "alpaca_eval"),
        ("r1_base", "SmolLM2-135M", "mmlu"),
        ("r1_instruct", "MobileLLM-R1-140M", "aime24"),
        ("pro_base", "Gemma3-1B", "needle_in_haystack"),
        ("pro_instruct", "Gemma3-1B", "bfcl_v2"),
    ],
)
def test_what_no_source_gives_is_not_there(name: str, model: str, column: str) -> None:
    assert column in table(name).columns
    assert column not in table(name).rows[model]


def test_an_average_is_the_mean_of_the_eight_columns_where_all_are_given() -> None:
    whole = [row for row in table("common_sense").rows.values() if set(EIGHT) <= set(row)]
    assert len(whole) == 15
    for row in whole:
        mean = math.fsum(row[task] for task in EIGHT) / 8
        assert row["average"] == pytest.approx(mean, abs=0.06)


def test_every_table_says_where_it_is_from_and_holds_figures() -> None:
    assert len(tables()) == len(list(Path(published.__file__).parent.glob("*.toml"))) >= 10
    for one in tables():
        assert "arXiv 2" in one.source and one.title and one.metric and one.rows
        assert one.about in ("choice", "chat", "calls", "further")
        assert one.models in ("base", "instruct")
        assert all(row and set(row) <= set(one.columns) for row in one.rows.values())
        assert all(math.isfinite(value) for row in one.rows.values() for value in row.values())


@pytest.mark.parametrize(
    ("measured", "model"),
    [
        ("smollm2-135m", "SmolLM2-135M"),
        ("SmolLM2-135M-Instruct-4bit", "SmolLM2-135M"),
        ("smollm2-360m-q4_k_m", "SmolLM2-360M"),
        ("mobilellm-125m", "MobileLLM-125M"),
        ("facebook/MobileLLM-125M", "MobileLLM-125M"),
        ("MobileLLM_350M-8bit-mlx", "MobileLLM-350M"),
        ("mobilellm-ls-125m", "MobileLLM-LS-125M"),
        ("mobilellm-125m-layer-share", "MobileLLM-LS-125M"),
        ("mobilellm-1.5b", "MobileLLM-1.5B"),
        ("r1-140m", "MobileLLM-R1-140M-base"),
        ("mobilellm-r1-140m-base", "MobileLLM-R1-140M-base"),
        ("mobilellm-pro", "MobileLLM-Pro-base"),
        ("mobilellm-paretoq-125m-4-bit", "MobileLLM-ParetoQ-125M-4-bit"),
        ("mobilellm-paretoq-125m-bf16-4bit", "MobileLLM-ParetoQ-125M-BF16"),
    ],
)
def test_a_measured_model_has_the_row_of_its_name(measured: str, model: str) -> None:
    assert [row.model for row in rows_for(measured, "choice")] == [model]


@pytest.mark.parametrize(
    "measured",
    [
        "",
        "-4bit",
        "mobilellm",
        "mobilellm-125m-my-notes",
        "my-mobilellm-125m",
        "mobilellm-r1.5-140m",
        "mobilellm-r1-140m-tulu3",
        "mobilellm-paretoq-125m",  # of how many bits?
        "mobilellm-paretoq-125m-4bit",
        "mobilellm-ls-600m",
        "smollm2-1.7b",
        "smollm-135m",
        "125m, not shared",
        "x" * 100_000,
    ],
    ids=lambda name: name[:30],
)
def test_another_model_has_none(measured: str) -> None:
    assert rows_for(measured) == ()


def test_models_of_the_papers_that_nobody_can_get_have_no_rows() -> None:
    names = {row.table.name for row in rows_for("mobilellm-125m")}
    assert names == {"common_sense"}  # and not the table of 8 bits, nor that of chat


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("smollm2-135m", "instruct"),  # the catalogue's
        ("smollm2-135m-instruct-4bit", "instruct"),
        ("gemma-3-270m-it", "instruct"),
        ("mobilellm-125m-4bit", "base"),
        ("mobilellm-r1-140m", "instruct"),
        ("r1-140m-base", "base"),
        ("mobilellm-pro", "instruct"),
        ("anything", None),
    ],
)
def test_whether_a_model_was_tuned_is_known_by_its_name_or_not(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_a_row_of_other_columns_is_refused(tmp_path: Path) -> None:
    text = (Path(published.__file__).parent / "chat.toml").read_text()
    path = tmp_path / "chat.toml"
    path.write_text(text.replace("{mt_bench = 1.21}", "{mt_bank = 1.21}"))
    tomllib.loads(path.read_text())
    with pytest.raises(ValueError, match="mt_bank"):
        published._read(path)
