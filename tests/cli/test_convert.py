"""``mobilellm convert``: what it says where, its exit codes, and that its output works."""

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tiny import LLAMA, write_model

from mobilellm_mlx import events
from mobilellm_mlx.backend import mx
from mobilellm_mlx.cli import console
from mobilellm_mlx.events import ConvertSummary, Notice, Progress
from mobilellm_mlx.paths import MANIFEST
from tests.cli.processes import command, environment
from tests.hub.fake_hub import FakeHub
from tests.hub.tiny_repo import no_sockets, own_settings, running_hub

WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 128}
ANSWER = ("-p", "hi", "--max-tokens", "4", "--temp", "0")


@pytest.fixture
def source(tmp_path):
    directory = write_model(tmp_path / "source", WIDE, dtype=mx.bfloat16)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    return directory


@pytest.fixture
def hub(source, tmp_path, monkeypatch) -> Iterator[FakeHub]:
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    with own_settings(tmp_path, monkeypatch), running_hub(files, monkeypatch) as running:
        yield running


def test_the_help_explains_source_and_options(run) -> None:
    result = run("convert", "--help")
    assert (result.code, result.err) == (0, "")
    for word in ("SOURCE", "--output", "--recipe", "--bits-for", "--inspect", "facebook/Mobile"):
        assert word in result.out


def test_a_conversion_says_everything_on_stderr_and_the_place_on_stdout(
    run, source, tmp_path
) -> None:
    out = tmp_path / "out"
    result = run("convert", str(source), "-o", str(out), "--recipe", "4bit-blocks")
    assert (result.code, result.out) == (0, f"{out}\n")
    said = result.err.splitlines()
    assert said[0] == "converting (181 kB)" and said[1] == "verifying"
    assert "183 kB -> 64 kB (5.68 bits a weight)" in said[2]
    assert said[3].startswith("perplexity ") and "over 1,536 tokens" in said[3]
    assert said[4] == "licence: mit" and "s to convert with at most" in said[5]


def test_what_was_converted_answers(run, source, tmp_path) -> None:
    run("convert", str(source), "-o", str(tmp_path / "out"), "--bits", "16", "--no-verify")
    plain, ours = (run("generate", "-m", str(tmp_path / n), *ANSWER) for n in ("source", "out"))
    assert ours.code == 0 and ours.out == plain.out != ""


def test_notices_are_seen(run, tmp_path) -> None:
    source = write_model(tmp_path / "narrow", {**WIDE, "intermediate_size": 48})
    result = run("convert", str(source), "-o", str(tmp_path / "out"), "--no-verify")
    assert "\nnote: 2 tensors such as `model.layers.0.mlp.down_proj.weight`: 48 " in (
        f"\n{result.err}"
    )
    assert "licence: not named by the source" in result.err


def test_json_is_events_and_a_summary(run, source, tmp_path) -> None:
    result = run("convert", str(source), "-o", str(tmp_path / "out"), "--json")
    assert (result.code, result.err) == (0, "")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert {event["event"] for event in told[:-1]} == {"progress"}
    last = told[-1]
    assert (last["event"], last["job"], last["status"]) == ("summary", "convert", "ok")
    assert (last["path"], last["licence"]) == (str(tmp_path / "out"), "mit")
    assert all(events.from_dict(event).to_dict() == event for event in told)


def test_every_option_reaches_the_converter(run, source, tmp_path) -> None:
    out = tmp_path / "out"
    options = ("--bits", "8", "--group-size", "32", "--bits-for", "v_proj=6", "--dtype", "float16",
               "--bits-for", "*.0.mlp.*=16", "--no-verify")  # fmt: skip
    assert run("convert", str(source), "-o", str(out), *options).code == 0
    told = json.loads((out / "conversion.json").read_text())["options"]
    assert (told["bits"], told["group_size"], told["dtype"]) == (8, 32, "float16")
    assert told["verify"] is False and told["bits_for"] == [
        {"pattern": "v_proj", "bits": 6},
        {"pattern": "*.0.mlp.*", "bits": 16},
    ]
    table = json.loads((out / "config.json").read_text())["quantization"]
    assert table["model.layers.0.self_attn.v_proj"]["bits"] == 6
    assert table["model.layers.0.mlp.up_proj"] is False and table["group_size"] == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "4", "--recipe", "4bit"], "exclude each other"),
        (["--recipe", "5bit"], "`recipe` is '5bit', expected one of 4bit, "),
        (["--mode", "int4"], "`mode` is 'int4'"),
        (["--mode", "nvfp4", "--group-size", "64"], "`group_size` is 64"),
        (["--dtype", "half"], "`dtype` is 'half'"),
        (["--bits-for", "v_proj"], "`--bits-for v_proj` is not PATTERN=BITS"),
        (["--bits-for", "=4"], "is not PATTERN=BITS"),
        (["--bits-for", "v_proj=x"], "is not PATTERN=BITS"),
        (["--bits-for", "nothing=4"], "matches no tensor"),
        (["--bits-for", "v_proj=7"], "`bits-for v_proj` is 7"),
    ],
    ids=str,
)
@pytest.mark.parametrize("more", [[], ["--inspect"]], ids=["convert", "inspect"])
def test_an_impossible_option_is_wrong_usage(run, source, tmp_path, options, said, more) -> None:
    result = run("convert", str(source), "-o", str(tmp_path / "out"), *options, *more)
    assert (result.code, result.out) == (2, "") and not (tmp_path / "out").exists()
    first, *rest = result.err.splitlines()
    assert first.startswith("error: ") and said in first
    assert all(line.startswith("hint: ") for line in rest)


@pytest.mark.parametrize("bits", ["", "7", "four", "9" * 5000], ids=["empty", "7", "four", "long"])
def test_a_number_that_is_none_is_wrong_usage(run, source, tmp_path, bits) -> None:
    result = run("convert", str(source), "-o", str(tmp_path / "out"), "--bits", bits, "--no-verify")
    assert result.code == 2


def test_where_the_result_goes_has_to_be_said(run, source) -> None:
    result = run("convert", str(source))
    assert result.code == 2 and "-o DIR" in result.err
    assert run("convert").code == 2
    assert run("convert", "\udcff", "-o", "x").code == 2


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_source_that_is_not_there_is_explained(run, tmp_path, options) -> None:
    result = run("convert", "./nowhere", "-o", str(tmp_path / "out"), *options)
    assert result.code == 1
    if options:
        (line,) = result.out.splitlines()
        told = json.loads(line)
        assert (told["event"], told["job"], told["status"]) == ("summary", "convert", "error")
        assert "there is no `./nowhere`" in told["error"] and told["hint"] and result.err == ""
    else:
        assert result.out == "" and result.err.splitlines()[0] == "error: there is no `./nowhere`"
        assert result.err.splitlines()[1].startswith("hint: ")


def test_a_target_in_the_way_is_replaced_with_force(run, source, tmp_path) -> None:
    arguments = ("convert", str(source), "-o", str(tmp_path / "out"), "--no-verify")
    assert run(*arguments).code == 0
    result = run(*arguments)
    assert result.code == 1 and "`--force`" in result.err
    assert run(*arguments, "--force").code == 0


def test_a_failure_in_the_middle_is_an_error_summary(run, source, tmp_path, monkeypatch) -> None:
    from convert import job

    monkeypatch.setattr(job, "transform", lambda *_: 1 / 0)
    result = run("convert", str(source), "-o", str(tmp_path / "out"), "--json")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1 and told[-1]["status"] == "error" and not (tmp_path / "out").exists()
    assert "Traceback" not in result.err


def test_an_interruption_ends_with_130_and_leaves_nothing(source, tmp_path) -> None:
    """Ctrl-C, as a person presses it, while it verifies."""
    book = tmp_path / "long.txt"
    book.write_text("the quick brown fox " * 200_000)
    process = subprocess.Popen(
        command("convert", str(source), "-o", str(tmp_path / "out"), "--json", "--text", str(book)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("task") == "converting":
            process.send_signal(signal.SIGINT)
            break
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert json.loads(said.splitlines()[-1])["status"] == "cancelled"
    assert {path.name for path in tmp_path.iterdir()} >= {"source", "long.txt"}
    assert not [
        path for path in tmp_path.iterdir() if ".partial-" in path.name or path.name == "out"
    ]


def test_names_from_a_file_cannot_steer_the_terminal(run, source, tmp_path) -> None:
    (source / "README.md").write_text("---\nlicense: mit\x1b[31m\n---\n")
    result = run("convert", str(source), "-o", str(tmp_path / "out"), "--no-verify")
    assert "\x1b" not in result.err and "licence: mit" in result.err
    result = run("convert", "--inspect", str(source))
    assert "\x1b" not in result.out
    arrays = mx.load(str(source / "model.safetensors"))
    mx.eval(arrays)
    mx.save_safetensors(str(source / "model.safetensors"), {**arrays, "\x1b[2Jx": mx.ones((1,))})
    result = run("convert", str(source), "-o", str(tmp_path / "other"), "--no-verify")
    assert result.code == 1 and "\x1b" not in result.err and "\ufffd[2Jx" in result.err


# Looking


def test_inspect_describes_and_writes_nothing(run, source, tmp_path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    out = str(tmp_path / "out")
    result = run("convert", "--inspect", str(source), "-o", out, "--recipe", "4bit-blocks")
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert (lines["name"], lines["family"], lines["licence"]) == ("source", "llama", "mit")
    assert lines["parameters"] == "90,560" and lines["becomes"] == "64 kB, 5.68 bits a weight"
    assert "14 x 4-bit, groups of 32" in result.out and "head        is the embedding" in result.out
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_inspect_follows_the_options(run, source) -> None:
    result = run("convert", "--inspect", str(source), "--mode", "mxfp4", "--bits-for", "v_proj=16")
    assert "13 x 4-bit mxfp4, groups of 32" in result.out and "2 x bfloat16 matrices" in result.out


def test_inspect_in_json_is_one_object(run, source) -> None:
    result = run("convert", "--inspect", str(source), "--json", "--recipe", "4bit-blocks")
    row = json.loads(result.out)
    assert (row["parameters"], row["format"], row["fallbacks"]) == (90_560, "safetensors", {})
    assert row["converted_bytes"] == 64_264 and row["memory"].keys() == {"1024"}


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_inspecting_nothing_is_an_error(run, options) -> None:
    result = run("convert", "--inspect", "./nowhere", *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[0] == "error: there is no `./nowhere`"


# The hub


def test_a_model_of_the_hub_is_fetched_and_converted(run, hub, tmp_path) -> None:
    out = tmp_path / "out"
    result = run("convert", "org/tiny", "-o", str(out), "--no-verify")
    assert (result.code, result.out) == (0, f"{out}\n")
    assert "licence: mit" in result.err and (out / MANIFEST).is_file()


def test_inspecting_a_model_of_the_hub_fetches_no_weights(run, hub) -> None:
    result = run("convert", "--inspect", "org/tiny")
    assert result.code == 0 and "name        org/tiny@" in result.out
    assert [r.headers.get("Range") for r in hub.requests if r.server == "storage"] == [
        "bytes=0-65535"
    ]


def test_offline_only_what_was_fetched_is_there(run, hub, tmp_path, monkeypatch) -> None:
    no_sockets(monkeypatch)
    result = run("convert", "org/tiny", "-o", str(tmp_path / "out"), "--offline")
    assert result.code == 1 and "was not looked up on this machine" in result.err


def test_a_model_that_the_hub_does_not_have_is_explained(run, hub, tmp_path) -> None:
    result = run("convert", "org/nothing", "-o", str(tmp_path / "out"))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ") and "org/nothing" in result.err


def test_an_answer_can_come_from_a_model_of_the_hub_by_its_name(run, hub) -> None:
    first = run("generate", "-m", "org/tiny", *ANSWER)
    assert first.code == 0 and first.out and "converted to 4 bits, once" in first.err
    hub.requests.clear()
    second = run("generate", "-m", "org/tiny", *ANSWER)
    assert second.out == first.out and hub.requests == []
    assert "is fetched" not in second.err


# The console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [
    Progress("converting \x1b[2J", 0, 100),
    Notice("a [bold]name[/] with \x1b[31m signs"),
    Progress("converting \x1b[2J", 100, 100),
    Progress("verifying", 1, 3, "steps"),
    Progress("reading", 5, None, "tokens"),
    ConvertSummary(path="x"),
]


def test_a_terminal_shows_bars_and_every_notice(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert console.show_progress(STEPS) == STEPS[-1]
    text = screen.getvalue()
    assert "note: a [bold]name[/] with \ufffd[31m signs" in text
    assert "\x1b[2J" not in text and "\x1b[31m signs" not in text
    assert "100 B of 100 B" in text and "1 of 3 steps" in text and "5 tokens" in text


def test_without_a_terminal_every_task_is_a_line_and_every_notice_too(capsys) -> None:
    assert console.show_progress(STEPS) == STEPS[-1]
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "converting \ufffd[2J (100 B)",
        "note: a [bold]name[/] with \ufffd[31m signs",
        "verifying",
        "reading",
    ]


def test_a_job_without_a_summary_has_none(capsys) -> None:
    assert console.show_progress([Progress("x", 1, 2)]) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=str)
def test_however_it_is_ended_nothing_is_left(popen, source, tmp_path, number) -> None:
    out = tmp_path / "out"
    process = popen("convert", str(source), "-o", str(out), "--method", "dwq")
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".out.partial-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=30) in (128 + number, 130)
    assert not list(tmp_path.glob(".out.partial-*")) and not out.exists()
