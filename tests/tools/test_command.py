"""Programs are started without a shell, with little, and are ended whatever they do."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.command import Ran, SystemRunner, failure, operand


@pytest.fixture
def runner() -> SystemRunner:
    return SystemRunner()


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        pass
    else:
        return state != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not sys.platform.startswith("linux")


def wait_until_gone(pid: int) -> bool:
    end = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(pid)


def test_a_program_reads_its_input_and_gives_output_errors_and_status(
    runner: SystemRunner,
) -> None:
    code = "import sys; print(sys.stdin.read()[::-1]); print('no', file=sys.stderr); sys.exit(3)"
    assert runner.run(python(code), stdin="añb") == Ran(3, "bña\n", "no\n")


def test_arguments_are_never_read_by_a_shell(runner: SystemRunner, tmp_path: Path) -> None:
    wanted = f"$(touch {tmp_path / 'made'}); `touch {tmp_path / 'made'}` | * ~"
    assert runner.run(["printf", "%s", wanted]).out == wanted
    assert not list(tmp_path.iterdir())


def test_programs_are_found_in_trusted_places_only(
    runner: SystemRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "cat"
    mine.write_text("#!/bin/sh\necho mine\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert runner.run(["cat"], stdin="x").out == "x"
    for name in ("./cat", "../bin/cat", "", "no\0t", "x" * 5_000):
        assert runner.find(name) is None


def test_a_program_that_is_missing_is_one_sentence(runner: SystemRunner) -> None:
    for argv in ([], ["no-such-program"], [""], ["/bin"], ["./cat"]):
        with pytest.raises(ToolError, match="there is no program"):
            runner.run(argv)


def test_a_program_learns_nothing_of_our_environment(
    runner: SystemRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    told = runner.run(["env"]).out
    assert "secret" not in told and "LD_PRELOAD" not in told
    assert "PATH=/usr/bin:/bin" in told and "UTF-8" in told


def test_a_program_has_no_terminal_to_ask_on(runner: SystemRunner) -> None:
    code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid(), os.getcwd())"
    assert runner.run(python(code)).out == "True /\n"


def test_a_program_that_hangs_is_killed_with_its_children(
    runner: SystemRunner, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        f"    open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"did not end within 1\.5 s"):
        runner.run(python(code), timeout_s=1.5)
    assert time.monotonic() - started < 5
    assert wait_until_gone(int(note.read_text()))


def test_a_program_can_be_stopped(runner: SystemRunner) -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(ToolError, match="sleep was stopped"):
        runner.run(["sleep", "60"], timeout_s=60, cancel=cancel)
    assert time.monotonic() - started < 5


def test_a_flood_is_cut_and_ended(runner: SystemRunner) -> None:
    started = time.monotonic()
    ran = runner.run(["yes"], max_bytes=10_000)
    assert ran.is_cut and len(ran.out) == 10_000 and ran.code < 0
    assert time.monotonic() - started < 5


def test_a_flood_of_errors_is_cut_too(runner: SystemRunner) -> None:
    ran = runner.run(python("while True: print('x' * 99, file=__import__('sys').stderr)"))
    assert ran.is_cut and len(ran.err) == 200_000


def test_output_that_is_not_text_is_replaced(runner: SystemRunner) -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\xff\\xfeb')"
    assert runner.run(python(code)).out == "a\ufffd\ufffdb"


def test_input_that_nobody_reads_is_no_trouble(runner: SystemRunner) -> None:
    assert runner.run(["true"], stdin="x" * 1_000_000) == Ran(0)


def test_long_input_and_output_do_not_wait_for_each_other(runner: SystemRunner) -> None:
    text = "0123456789" * 100_000
    assert runner.run(["cat"], stdin=text, max_bytes=2_000_000).out == text


def test_without_input_a_program_meets_the_end_of_it(runner: SystemRunner) -> None:
    assert runner.run(["cat"], timeout_s=5) == Ran(0)


def test_output_held_open_by_a_child_does_not_keep_us_waiting(runner: SystemRunner) -> None:
    code = "import os, time\nprint('done', flush=True)\nif os.fork() == 0: time.sleep(60)"
    started = time.monotonic()
    assert runner.run(python(code), timeout_s=30) == Ran(0, "done\n")
    assert time.monotonic() - started < 5


def test_what_may_stay_is_left_alone(runner: SystemRunner, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(5)"
    assert runner.run(python(code), timeout_s=1, may_stay=True) == Ran(0)
    pid = int(note.read_text())
    try:
        assert is_running(pid)
    finally:
        os.kill(pid, 9)
    assert wait_until_gone(pid)


def test_what_cannot_be_an_argument_is_one_sentence(runner: SystemRunner) -> None:
    for wrong in ("a\0b", "\ud800", "x" * 20_000_000):
        with pytest.raises(ToolError, match="printf could not be started"):
            runner.run(["printf", wrong])


def test_no_descriptors_are_left(runner: SystemRunner) -> None:
    where = "/dev/fd" if sys.platform == "darwin" else "/proc/self/fd"
    before = len(os.listdir(where))  # noqa: PTH208
    for _ in range(5):
        runner.run(["cat"], stdin="x")
        with pytest.raises(ToolError):
            runner.run(["sleep", "9"], timeout_s=0.05)
    assert len(os.listdir(where)) == before  # noqa: PTH208


def test_an_operand_cannot_become_an_option() -> None:
    assert operand("Morning", "the shortcut") == "Morning"
    for wrong in ("-h", "--output-path", "a\0"):
        with pytest.raises(ToolError):
            operand(wrong, "the shortcut")


def test_a_failure_says_the_first_line_and_steers_no_terminal() -> None:
    error = failure("the clipboard", Ran(1, "", "\x1b[31mno such\x07 thing\nand more\n"))
    assert error.message == "the clipboard failed: [31mno such thing"
    assert failure("it", Ran(7)).message == "it failed: status 7"
