"""What is set aside, what is cut, and what the report says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.data.making import load, marked, said, write_lines

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.training.data.report import suggested_max_tokens
from mobilellm_mlx.training.data.splitting import choose_valid


def pairs(count: int, answer: str = "answer {n}") -> list[dict[str, str]]:
    return [{"prompt": f"question {n}", "completion": answer.format(n=n)} for n in range(count)]


@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1),
    st.floats(0.01, 0.9),
    st.integers(0, 3),
)
def test_groups_stay_together_and_no_side_is_empty(
    groups: list[int], share: float, seed: int
) -> None:
    chosen = choose_valid(groups, share, seed)
    assert 0 < len(chosen) < len(groups)
    assert {groups[at] for at in chosen}.isdisjoint(
        groups[at] for at in range(len(groups)) if at not in chosen
    )
    assert chosen == choose_valid(groups, share, seed)


def test_about_the_share_that_was_asked_for_is_set_aside() -> None:
    assert len(choose_valid(range(1000), 0.05, 0)) == 50
    assert choose_valid(range(1000), 0.05, 0) != choose_valid(range(1000), 0.05, 1)
    assert len(choose_valid([*range(100), *[500] * 900], 0.05, 0)) == 50  # not the great group


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    same = [{"prompt": "hi", "completion": str(n)} for n in range(5)]
    with pytest.raises(DataError, match="all examples ask the same"):
        load(write_lines(tmp_path / "d.jsonl", same), valid_share=0.2)
    with pytest.raises(DataError, match="only one example"):
        load(write_lines(tmp_path / "d.jsonl", same[:1]), valid_share=0.2)
    assert len(load(write_lines(tmp_path / "d.jsonl", same), valid_share=0.0).train) == 5


def test_prompts_that_are_typed_differently_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"{form} {n // 3}", "completion": str(n)}
            for n, form in enumerate(["Hi there", "hi  there", "HI THERE"] * 10)]  # fmt: skip
    data = load(write_lines(tmp_path / "d.jsonl", rows), valid_share=0.3)
    assert len(data.valid) == 9
    assert data.report.leaks == {"valid": 0}


def test_a_folder_has_its_own_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", pairs(60))
    write_lines(tmp_path / "validation.jsonl", pairs(3))
    write_lines(tmp_path / "test.jsonl", [{"prompt": " Question  1", "completion": "x"}])
    data = load(tmp_path, valid_share=0.5)
    assert (len(data.train), len(data.valid), len(data.test)) == (60, 3, 1)
    assert data.report.leaks == {"valid": 3, "test": 1}
    assert any("3 of the 3 prompts in valid are in train too" in w for w in data.report.warnings)
    write_lines(tmp_path / "valid.jsonl", pairs(3))
    with pytest.raises(DataError, match=r"has both `valid.jsonl` and `validation.jsonl`"):
        load(tmp_path)


def test_a_folder_without_a_valid_file_is_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", pairs(60))
    data = load(tmp_path, valid_share=0.1)
    assert (len(data.train), len(data.valid)) == (54, 6)
    (tmp_path / "valid.jsonl").touch()
    with pytest.raises(DataError, match=r"the valid file of .* has no examples"):
        load(tmp_path)


def test_long_examples_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "a" * n} for n in (10, 20, 30)]
    data = load(write_lines(tmp_path / "d.jsonl", rows), template=None, max_tokens=20)
    assert [(len(e), e.cut) for e in data.train] == [(11, 0), (20, 1), (20, 11)]
    split = data.report.splits["train"]
    assert (split.cut, split.tokens_lost, split.longest) == (2, 12, 31)
    assert data.report.cut_share == pytest.approx(2 / 3)
    short = load(tmp_path / "d.jsonl", template=None, max_tokens=20, context=15)
    assert max(map(len, short.train)) == 15


def test_an_example_that_is_cut_before_its_answer_is_left_out(tmp_path: Path) -> None:
    rows = [said("hi", "Hello."), said("long " * 100, "Hello.")]
    data = load(write_lines(tmp_path / "d.jsonl", rows), max_tokens=100)
    assert [example.source for example in data.train] == ["d.jsonl:1"]
    assert data.report.splits["train"].unlearnable == 1
    assert any("d.jsonl:2" in warning for warning in data.report.warnings)
    with pytest.raises(DataError, match="nothing to learn: its only example is"):
        load(write_lines(tmp_path / "d.jsonl", rows[1:]), max_tokens=100)


@pytest.mark.parametrize(
    "row",
    [{"text": " \n"}, {"prompt": "a", "completion": ""}, said("hi", " "), said("hi"),
     said("hi", "Hello.", "and", "")],
)  # fmt: skip
def test_an_example_without_an_answer_is_left_out_with_its_place(tmp_path: Path, row: Any) -> None:
    data = load(write_lines(tmp_path / "d.jsonl", [said("hi", "Hello."), row]))
    assert len(data.train) == 1
    assert data.report.splits["train"].left_out == 1
    assert any("left out: d.jsonl:2" in warning for warning in data.report.warnings)


def test_one_sided_answers_and_duplicates_are_told(tmp_path: Path) -> None:
    rows = [*pairs(40), *pairs(1), *pairs(20, "I\u2019m sorry, I can't.")]
    rows = [*rows[:41], *({**row, "prompt": row["prompt"] + "?"} for row in rows[41:])]
    said = " ".join(load(write_lines(tmp_path / "d.jsonl", rows)).report.warnings)
    assert "1 example is there more than once" in said
    assert "33% of the answers are the same: \u201cI\u2019m sorry, I can't.\u201d" in said
    assert "33% of the answers refuse" in said


def test_an_answer_that_is_there_twice_is_no_matter(tmp_path: Path) -> None:
    rows = [*pairs(14), *({"prompt": f"again {n}", "completion": "Yes."} for n in range(2))]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "valid.jsonl", pairs(4))  # what is in both files once is not quoted
    said = " ".join(load(tmp_path).report.warnings)
    assert "are the same" not in said
    write_lines(tmp_path / "train.jsonl", [*rows, {"prompt": "and again", "completion": "Yes."}])
    assert "14% of the answers are the same: \u201cYes.\u201d" in " ".join(
        load(tmp_path).report.warnings
    )


@pytest.mark.parametrize(
    ("max_tokens", "context", "advice"),
    [
        (64, 1024, "`--max-tokens 448` would cut fewer than 1 %"),
        (64, 200, "`--max-tokens 200` is the most: the model's context"),
        (200, 200, "That is the model's context"),
        (1024, 200, "That is the model's context"),
    ],
)
def test_no_more_tokens_are_suggested_than_the_model_can_read(
    tmp_path: Path, max_tokens: int, context: int, advice: str
) -> None:
    rows = [*pairs(9), {"prompt": "long", "completion": "a " * 200}]
    report = load(
        write_lines(tmp_path / "d.jsonl", rows), max_tokens=max_tokens, context=context
    ).report
    [warning] = [each for each in report.warnings if "1 example is longer than" in each]
    assert advice in warning
    assert warning.count("--max-tokens") == (context != min(max_tokens, context))


def test_a_good_data_set_gets_no_warning(tmp_path: Path) -> None:
    report = load(write_lines(tmp_path / "d.jsonl", pairs(200)), valid_share=0.1).report
    assert report.warnings == []
    assert sum(count for *_, count in report.histogram) == 200


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300))
def test_the_suggested_length_cuts_fewer_than_one_in_a_hundred(lengths: list[int]) -> None:
    suggested = suggested_max_tokens(sorted(lengths))
    assert sum(length > suggested for length in lengths) <= 0.01 * len(lengths)
    assert suggested % 64 == 0


def test_samples_are_prompts_of_the_valid_side_and_always_the_same(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", pairs(60))
    data, again = (load(path, valid_share=0.1, samples=3) for _ in range(2))
    assert data.samples == again.samples
    assert len(data.samples) == 3
    valid = {marked(example) for example in data.valid}
    for sample in data.samples:
        prompt = bytes(token for token in sample.tokens if token < 256).decode()
        assert prompt == f"user\n{sample.text}\nassistant\n"
        assert any(f"{sample.text}<|im_end|>" in text and sample.expected in text for text in valid)


def test_a_sample_of_a_text_is_its_beginning(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"text": "Once upon a time."}])
    [sample] = load(path, template=None, samples=2).samples
    assert sample.text + sample.expected == "Once upon a time."
    assert bytes(sample.tokens).decode() == sample.text != ""
