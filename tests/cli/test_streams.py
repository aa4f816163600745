"""What goes to stdout, what to stderr, and the exit code: real processes."""

import json
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from mobilellm_mlx.cli.console import interrupts
from mobilellm_mlx.events import from_dict
from tests.cli.processes import command, environment

NOWHERE = "/no/such/model"


def wait_for(stream, wanted: bytes) -> bytes:
    """Bytes of a stream up to the first that hold what is wanted."""
    got = b""
    while wanted not in got:
        piece = stream.read1(65536)
        assert piece, f"the process ended before {wanted!r}: {got!r}"
        got += piece
    return got


def test_stdout_holds_the_answer_and_nothing_else(spawn, tiny_dir) -> None:
    args = ("generate", "-m", str(tiny_dir), "-p", "hi", "--max-tokens", "7", "--temp", "0")
    plain, told = spawn(*args), spawn(*args, "--json")
    summary = json.loads(told.out.splitlines()[-1])
    assert plain.code == told.code == 0
    assert plain.out == summary["text"] + "\n"
    assert plain.err == told.err == ""


def test_verbose_tells_the_cost_on_stderr(spawn, tiny_dir) -> None:
    result = spawn("generate", "-m", str(tiny_dir), "-p", "hi", "--max-tokens", "7", "-v")
    assert "7 tokens at " in result.err and "tok/s" in result.err and "seed " in result.err
    assert result.err.count("\n") == 1
    assert "tok/s" not in result.out


def test_an_explained_error_is_two_lines_on_stderr_and_1(spawn) -> None:
    result = spawn("generate", "-m", NOWHERE, "-p", "hi")
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert first == f"error: there is no directory `{NOWHERE}`"
    assert second.startswith("hint: ")


@pytest.mark.parametrize("place", ["before the verb", "after the verb"])
def test_debug_adds_the_traceback(spawn, place) -> None:
    args = ["generate", "-m", NOWHERE, "-p", "hi"]
    result = spawn(*(["--debug", *args] if place == "before the verb" else [*args, "--debug"]))
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err
    assert "\nerror: there is no directory" in result.err


def test_an_internal_error_is_one_sentence_too(run, monkeypatch) -> None:
    from mobilellm_mlx.cli import doctor

    def fail():
        raise ZeroDivisionError("surprise")
        yield

    monkeypatch.setattr(doctor, "examine", fail)
    result = run("doctor")
    assert result.code == 1 and result.out == ""
    assert result.err.startswith("error: internal error: ZeroDivisionError: surprise\nhint: ")
    assert "Traceback" not in result.err
    assert "Traceback" in run("doctor", "--debug").err


PIPED = [
    ["generate", "-p", "hi", "--max-tokens", "5000"],
    ["generate", "-p", "hi", "--max-tokens", "5000", "--json"],
    ["models", "list"],
    ["models", "list", "--json"],
    ["doctor"],
    ["--help"],
    ["generate", "--help"],
]


@pytest.mark.parametrize("args", PIPED, ids=" ".join)
def test_a_reader_that_leaves_ends_the_run_quietly_with_0(popen, endless_dir, args) -> None:
    if args[0] == "generate" and "--help" not in args:
        args = [*args, "-m", str(endless_dir)]
    process = popen(*args)
    process.stdout.close()  # what `| true` does
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_leaves_stops_the_generation(popen, endless_dir, form) -> None:
    process = popen("generate", "-m", str(endless_dir), "-p", "hi", "--max-tokens", "100000", *form)
    process.stdout.read(1)  # what `| head -c 1` does
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=5) == 0  # 100,000 tokens would take minutes


def test_ctrl_c_leaves_with_130_and_keeps_the_text_so_far(popen, endless_dir) -> None:
    process = popen("generate", "-m", str(endless_dir), "-p", "hi", "--max-tokens", "100000")
    got = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert len(got) == 20 and (got + rest).endswith(b"\n")
    assert err.strip() == b""


def json_after_ctrl_c(popen, directory) -> tuple[list[dict], int]:
    """The events of a run that was interrupted in mid-answer, and its exit code."""
    process = popen(
        "generate", "-m", str(directory), "-p", "hi", "--max-tokens", "100000", "--json"
    )
    got = wait_for(process.stdout, b"text_delta")
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=10)
    assert err == b""
    return [json.loads(line) for line in (got + rest).splitlines()], process.returncode


def test_ctrl_c_in_json_ends_with_a_cancelled_summary(popen, endless_dir) -> None:
    events, code = json_after_ctrl_c(popen, endless_dir)
    assert code == 130
    assert [event["event"] for event in events].count("summary") == 1
    last = events[-1]
    assert (last["event"], last["job"], last["status"]) == ("summary", "generate", "cancelled")
    assert from_dict(last).status == "cancelled"


def test_the_cancelled_summary_holds_the_text_so_far(popen, endless_dir) -> None:
    events, _ = json_after_ctrl_c(popen, endless_dir)
    said = "".join(event["text"] for event in events if event["event"] == "text_delta")
    assert said and events[-1]["text"] == said
    assert events[-1]["stop_reason"] == "cancelled"


def test_ctrl_c_in_the_middle_of_a_line_mode_answer_leaves_with_130(popen, endless_dir) -> None:
    process = popen("chat", str(endless_dir), "--max-tokens", "100000", stdin=b"hi\n")
    assert process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.strip()) == (130, b"")


def test_ctrl_c_between_two_lines_leaves_with_130(popen, tiny_dir) -> None:
    process = popen("chat", str(tiny_dir), "--max-tokens", "3", stdin=b"hi\n")
    wait_for(process.stdout, b"\n")  # now it waits for the next line
    process.send_signal(signal.SIGINT)
    process.wait(timeout=10)
    assert (process.returncode, process.stderr.read().strip()) == (130, b"")


def test_a_full_disk_behind_stdout_is_an_error(endless_dir) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("generate", "-m", str(endless_dir), "-p", "hi", "--max-tokens", "5"),
            stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the disk is full") and b"Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["chat"], ["doctor", "--json"], ["models", "list"]], ids=" ".join)
def test_a_closed_stdin_is_as_good_as_an_empty_one(args, endless_dir) -> None:
    if args == ["chat"]:
        args = ["chat", str(endless_dir)]
    shell = " ".join(command(*args)) + " <&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, env=environment(), timeout=30)
    assert b"internal error" not in done.stderr
    assert done.returncode == 0


def test_an_answer_that_the_terminal_s_encoding_lacks_is_not_an_error(spawn, tmp_path) -> None:
    from tiny import LLAMA, write_model

    directory = write_model(tmp_path / "seed7", LLAMA, seed=7)
    args = ("generate", "-m", str(directory), "-p", "hi", "--max-tokens", "40", "--temp", "0")
    assert not spawn(*args).out.isascii()  # random bytes: U+FFFD at least
    result = spawn(*args, PYTHONIOENCODING="latin-1")
    assert (result.code, result.err) == (0, "")


def test_the_first_ctrl_c_cancels_and_the_second_interrupts() -> None:
    before, cancel = signal.getsignal(signal.SIGINT), threading.Event()
    with interrupts(cancel):
        signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
