"""``mobilellm export``: what it says where, its exit codes, and that its output works."""

import json

import pytest
from tiny import write_model

from mobilellm_mlx import events
from mobilellm_mlx.backend import mx


@pytest.fixture
def packed_dir(tmp_path):
    return write_model(tmp_path / "packed", packed=True, dtype=mx.float16)


def test_a_gguf_file_is_written_and_its_path_is_the_answer(run, tmp_path, packed_dir) -> None:
    out = tmp_path / "tiny.gguf"
    result = run("export", str(packed_dir), "--format", "gguf", "-o", str(out))
    assert (result.code, result.out) == (0, f"{out}\n")
    assert out.read_bytes()[:4] == b"GGUF"
    said = result.err.splitlines()
    assert said[0].startswith("writing (") and said[1].startswith("checking (")
    assert said[2].startswith("note: 1 of 20 tensors are rounded to Q8_0")
    size = out.stat().st_size / 1000
    assert said[3:] == [f"{size:.0f} kB of gguf (q4_1), 1 of 20 tensors rounded"]


def test_an_exported_directory_is_a_model_again(run, tmp_path, packed_dir) -> None:
    out = tmp_path / "plain"
    wanted = ("--format", "safetensors", "--type", "f32", "-o", str(out))
    assert run("export", str(packed_dir), *wanted).code == 0
    answer = ("-p", "hi", "--max-tokens", "4", "--temp", "0")
    assert run("generate", "-m", str(out), *answer).out == (
        run("generate", "-m", str(packed_dir), *answer).out
    )


def test_json_is_progress_notices_and_a_summary(run, tmp_path, packed_dir) -> None:
    out = tmp_path / "tiny.gguf"
    result = run("export", str(packed_dir), "--format", "gguf", "-o", str(out), "--json")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert (result.code, result.err) == (0, "")
    assert {event["event"] for event in told[:-1]} == {"progress", "notice"}
    assert (told[-1]["event"], told[-1]["job"], told[-1]["status"]) == ("summary", "export", "ok")
    assert (told[-1]["path"], told[-1]["bytes"]) == (str(out), out.stat().st_size)
    assert all(events.from_dict(event).to_dict() == event for event in told)


def test_an_output_that_is_there_is_an_error_until_it_is_forced(run, tmp_path, packed_dir) -> None:
    out = tmp_path / "tiny.gguf"
    out.write_bytes(b"GGUF of mine")
    command = ("export", str(packed_dir), "--format", "gguf", "-o", str(out))
    result = run(*command)
    assert (result.code, result.out, out.read_bytes()) == (1, "", b"GGUF of mine")
    assert f"error: `{out}` is there already\nhint: replace it with `--force`" in result.err
    assert run(*command, "--force").code == 0
    assert out.stat().st_size > 10_000


def test_a_type_that_the_format_does_not_have_is_wrong_usage(run, tmp_path, packed_dir) -> None:
    wanted = ("--format", "safetensors", "--type", "q4_0", "-o", str(tmp_path / "x"))
    result = run("export", str(packed_dir), *wanted)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: `type` is 'q4_0', expected one of auto, f16, bf16, f32")


def test_a_model_that_is_not_there_is_explained(run, tmp_path) -> None:
    result = run("export", "./nowhere", "--format", "gguf", "-o", str(tmp_path / "x.gguf"))
    assert result.code == 1 and "error: there is no directory `./nowhere`" in result.err
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("missing", ["--format", "-o"])
def test_format_and_output_have_to_be_said(run, tmp_path, packed_dir, missing) -> None:
    given = {"--format": "gguf", "-o": str(tmp_path / "x")}
    del given[missing]
    result = run("export", str(packed_dir), *[part for pair in given.items() for part in pair])
    assert result.code == 2 and "Missing option" in result.err


def test_a_failed_start_in_json_is_an_error_summary(run, tmp_path) -> None:
    out = str(tmp_path / "x.gguf")
    result = run("export", "./nowhere", "--format", "gguf", "-o", out, "--json")
    (line,) = result.out.splitlines()
    assert result.code == 1 and json.loads(line)["status"] == "error"
