"""``mobilellm eval ppl``: its table, its events, and a person's mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.cli import eval_ppl as verb
from mobilellm_mlx.cli.eval import VERBS
from mobilellm_mlx.evals import corpora
from mobilellm_mlx.evals.corpora import CORPORA

NUMBER = re.compile(r"\d+(?:\.\d+)?")
TEXT = "Ice is frozen water, and fire is not. " * 30


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of the test's own to stand in, with a text."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(corpora, "PASSAGE", 80)
    monkeypatch.setitem(VERBS, "ppl", (f"{verb.__name__}:ppl", "Perplexity of a text."))
    Path("ice.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture
def ppl(run: Callable[..., Any], tiny_dir: Path) -> Callable[..., Any]:
    return lambda *args: run("eval", "ppl", *args, "-m", str(tiny_dir))


def test_it_prints_the_figures_with_their_errors_and_keeps_the_result(
    ppl: Callable[..., Any],
) -> None:
    result = ppl("ice.txt", "--window", "64")
    assert result.code == 0
    head, *lines = result.out.splitlines()
    assert head == "tiny: file-ice, windows of 64 tokens, 32 judged in each"
    labels = [" ".join(line.split()[:3]) for line in lines[1:5]]
    assert labels == [
        "perplexity per token", "perplexity per word", "bits per byte", "bits per character"
    ]  # fmt: skip
    assert all("±" in line for line in lines[1:5])
    assert "1,139 tokens for 1,139 bytes and 240 words" in result.out
    assert "± is the standard error over 14 passages" in result.out
    assert "kept as " in result.err and "Traceback" not in result.err
    assert max(map(len, result.out.splitlines())) <= 80


def test_every_event_is_a_line_of_json_and_the_summary_has_the_figures(
    ppl: Callable[..., Any],
) -> None:
    result = ppl("ice.txt", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert {line["event"] for line in lines} >= {"progress", "summary"}
    (found,) = lines[-1]["results"]
    assert (lines[-1]["job"], lines[-1]["status"]) == ("eval", "ok")
    assert found["task_settings"] == {"window": 1024, "stride": 512}
    # One token is one byte, so perplexity and bits per byte say the same.
    bits, perplexity = (found["figures"][key]["value"] for key in ("bits_per_byte", "perplexity"))
    assert 2**bits == pytest.approx(perplexity)
    assert Path(found["path"]).is_file()


def test_a_limit_is_read_first_and_then_the_rest(ppl: Callable[..., Any]) -> None:
    first = ppl("ice.txt", "--limit", "100", "--window", "32")
    assert first.code == 0 and "of 1 document" in first.out
    second = ppl("ice.txt", "--window", "32")
    assert "2 of 14 were answered by an earlier run" in second.err
    again = ppl("ice.txt", "--window", "32", "--fresh")
    assert "answered by an earlier run" not in again.err
    assert NUMBER.sub("", again.out) == NUMBER.sub("", second.out)
    # Other batches, in which a float32 sum may have another order.
    numbers = [[float(text) for text in NUMBER.findall(one.out)] for one in (again, second)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_documents_are_judged_each_by_itself(ppl: Callable[..., Any]) -> None:
    rows = [{"text": f"{TEXT[:70]} {number}"} for number in range(12)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = ppl("rows.jsonl")
    assert "of 12 documents" in result.out
    assert "standard error over 12 documents" in result.out


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (["no.txt"], "there is no file or corpus `no.txt`", 2),
        (["ice.txt", "--window", "9999"], "`--window` is 9,999 tokens, but the context is", 2),
        (["ice.txt", "--window", "64", "--stride", "64"], "`--stride` is 64, expected 1 to 63", 2),
        (["ice.txt", "--window", "3"], "`--window` is 3, expected at least 8", 2),
        (["one.txt"], "the text is a single token", 1),
        (["nul.bin"], "is no text: byte 2 is NUL", 1),
    ],
)
def test_a_mistake_is_one_sentence(
    ppl: Callable[..., Any], args: list[str], said: str, code: int
) -> None:
    Path("one.txt").write_text("x", encoding="utf-8")
    Path("nul.bin").write_bytes(b"x\0")
    result = ppl(*args)
    assert result.code == code
    assert said in result.err and "Traceback" not in result.err
    assert result.out == ""


def test_the_help_names_every_corpus_and_its_licence(run: Callable[..., Any]) -> None:
    said = run("eval", "ppl", "--help").out
    for one in CORPORA.values():
        line = next(line for line in said.splitlines() if line.split()[:1] == [one.name])
        assert one.about.rpartition(",")[0] in line and one.licence in line
