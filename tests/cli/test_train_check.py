"""``mobilellm train check``: the doctor of data sets, as a person and a program see it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

Run = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "tiny"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"messages": [
            {"role": "user", "content": f"What is {n}?"},
            {"role": "assistant", "content": f"It is the number {n}.\nNo more." * (1 + n % 5)},
        ]}
        for n in range(60)
    ]  # fmt: skip
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_sound_data_set_is_told_in_figures_and_examples(
    run: Run, model: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("train", "check", str(data), "--model", model)
    assert result.code == 0, result.err
    assert re.search(r"^train +57 +[\d,]+ +\d+%", result.out, re.MULTILINE)
    assert re.search(r"^valid +3 ", result.out, re.MULTILINE)
    assert "nothing looks wrong" in result.out
    assert result.out.count("\u2588") > 5
    assert result.out.count("tokens, ") == 3
    assert "\u27e6It is the number 0.\n  No more.<|im_end|>\u27e7" in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert "\x1b" not in result.out


def test_programs_get_the_same_as_json(run: Run, model: str, data: Path) -> None:
    result = run("train", "check", str(data), "--model", model, "--json", "--max-tokens", "64")
    assert result.code == 0
    found = json.loads(result.out)
    assert found["report"]["splits"]["train"]["examples"] == 57
    assert found["report"]["max_tokens"] == 64
    assert found["report"]["splits"]["train"]["cut"] > 0
    assert any("--max-tokens" in warning for warning in found["report"]["warnings"])
    pieces = found["examples"][0]["pieces"]
    assert [learned for _, learned in pieces] == [False, True]
    assert found["problems"] == []
    assert len(found["sha256"]) == 64


def test_every_broken_line_is_counted_and_the_first_ones_are_shown(
    run: Run, model: str, data: Path
) -> None:
    with data.open("a") as file:
        file.write("{\n" * 14)
    result = run("train", "check", str(data), "-m", model)
    assert result.code == 1
    assert result.err.count("error: `numbers.jsonl:") == 10
    assert "`numbers.jsonl:61`: it is not JSON" in result.err
    assert "and 4 more lines that cannot be used" in result.err
    assert "14 lines are broken; a training would not begin" in result.out
    assert re.search(r"^train +57 ", result.out, re.MULTILINE)
    found = json.loads(run("train", "check", str(data), "-m", model, "--json").out)
    assert (found["unusable"], len(found["problems"])) == (14, 10)


def test_data_of_which_nothing_can_be_used_is_an_error(run: Run, model: str, data: Path) -> None:
    data.write_text("{\n")
    result = run("train", "check", str(data), "-m", model)
    assert result.code == 1
    assert "`numbers.jsonl:1`: it is not JSON" in result.err
    assert "Traceback" not in result.err
    found = json.loads(run("train", "check", str(data), "-m", model, "--json").out)
    assert "`numbers.jsonl:1`" in found["problems"][0]["message"]


def test_a_model_without_a_template_gets_one_by_option(
    run: Run, tmp_path: Path, data: Path
) -> None:
    base = str(write_model(tmp_path / "base", template=None))
    result = run("train", "check", str(data), "-m", base)
    assert result.code == 1
    assert "the model has no chat template" in result.err
    assert "--template chatml" in result.err
    assert run("train", "check", str(data), "-m", base, "--template", "chatml").code == 0


def test_what_a_stranger_wrote_cannot_steer_the_terminal(
    run: Run, model: str, tmp_path: Path
) -> None:
    path = tmp_path / "evil.jsonl"
    row = {"prompt": "[red]\x1b[2J", "completion": "\x1b]0;gone\x07 [bold]x[/bold] \u202e"}
    path.write_text((json.dumps(row) + "\n") * 60)
    result = run("train", "check", str(path), "-m", model, "--valid-share", "0")
    assert result.code == 0
    assert not re.search("[\x1b\x07\u202e]", result.out + result.err)
    assert "[bold]x[/bold]" in result.out


def test_long_examples_are_shown_in_part(run: Run, model: str, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    row = {"prompt": "word " * 80, "completion": "line\n" * 100}
    path.write_text(json.dumps(row) + "\n")
    result = run("train", "check", str(path), "-m", model, "--valid-share", "0", "--max-tokens",
                 "1000")  # fmt: skip
    assert result.code == 0, result.err
    assert "lines \u2026" in result.out
    assert len(result.out.splitlines()) < 50


def test_wrong_options_are_wrong_usage(run: Run, model: str, data: Path) -> None:
    assert run("train", "check", str(data), "-m", model, "--max-tokens", "1").code == 2
    assert run("train", "check", str(data), "-m", model, "--loss-on", "none").code == 2
