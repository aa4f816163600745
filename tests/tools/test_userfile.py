"""A user's own tools run in a child process, and nothing they do reaches this one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools import userfile
from mobilellm_mlx.tools.running import run_tool
from mobilellm_mlx.tools.tool import Outcome, Tool
from mobilellm_mlx.tools.toolbox import Toolbox
from mobilellm_mlx.tools.userfile import load_user_tools

HEAD = "from mobilellm_mlx.tools import Example, Limits, ToolError, tool\n"
GREET = '''
import os, sys, subprocess, time
from typing import Annotated
print("printed at import")
sys.stderr.write("and an error")

@tool(
    reads_only=True,
    live={"who": lambda: ["ann", "bob"]},
    spoken=["words"],
    keywords=["hello"],
    examples=[Example("Say hello to ann", {"who": "ann"})],
    timeout_s=7,
)
def greet(who: str, times: Annotated[int, Limits(ge=1, le=3)] = 1, words: str = "hello") -> str:
    """Greet somebody.

    Args:
        who: the person
    """
    print("printed in a call")
    os.write(1, b"written to where the answers went")
    return f"{words} {who} " * times
'''
TROUBLE = '''
import os, signal, subprocess, sys, time

def child(pid_file):
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(pid_file, "w") as file:
        file.write(str(started.pid))

@tool
def act(way: str, where: str = "") -> str:
    """Do something."""
    if way == "hang":
        child(where)
        time.sleep(60)
    if way == "raise":
        raise ValueError("no\\x1b[31m way")
    if way == "refuse":
        raise ToolError("there is no way")
    if way == "exit":
        sys.exit(3)
    if way == "os exit":
        os._exit(3)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "much":
        return "x" * 50_000_000
    if way == "bytes":
        return b"\\x00\\x01"
    if way == "memory":
        return str(len(bytearray(8_000_000_000)))
    if way == "environment":
        return os.environ.get("A_WORD", "")
    if way == "input":
        return input()
    return "done"
'''


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(source: str, name: str = "my_tools.py", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.write_text(head + source)
        return path

    return write


@pytest.fixture
def act(write: Callable[..., Path]) -> Callable[..., Outcome]:
    tool = load_user_tools(write(TROUBLE))[0]

    def act(way: str, where: str = "", **more: Any) -> Outcome:
        cancel = more.pop("cancel", threading.Event())
        return run_tool(dataclasses.replace(tool, **more), {"way": way, "where": where}, cancel)

    return act


def test_what_a_tool_is_comes_out_of_the_file(write: Callable[..., Path]) -> None:
    path = write(GREET)
    (greet,) = load_user_tools(path)
    assert greet.name == "greet"
    assert greet.description == "Greet somebody."
    assert greet.source == f"file:{path}"
    assert greet.reads_only
    assert greet.keywords == ("hello",)
    assert greet.spoken == {"words"}
    assert greet.timeout_s == 7
    assert greet.examples[0].arguments == {"who": "ann"}
    assert greet.parameters["properties"]["who"]["description"] == "the person"
    assert Toolbox([greet]).live_schema(greet)["properties"]["who"]["enum"] == ["ann", "bob"]
    done = run_tool(greet, {"who": "ann", "times": 2}, threading.Event())
    assert (done.status, done.text) == ("ok", "hello ann hello ann ")


def test_neighbours_of_the_file_can_be_imported_and_nothing_is_left_beside_it(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("WORD = 'found'\n", "neighbour.py", "")
    # The folder we are in is not trusted like that: its json.py must not become Python's.
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit('taken for the real one')\n")
    monkeypatch.chdir(here)
    path = write(
        "import neighbour\n@tool\ndef word() -> str:\n    'Say it.'\n    return neighbour.WORD\n"
    )
    assert run_tool(load_user_tools(path)[0], {}, threading.Event()).text == "found"
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\nimport nowhere\n", "line 3: ModuleNotFoundError: No module named 'nowhere'"),
        ("\ndef act(:\n", "line 3: SyntaxError"),
        ("import sys\n\nsys.exit(4)\n", "line 4: SystemExit: 4"),
        ("import os\nos._exit(4)\n", "`my_tools.py` left Python with code 4, without an answer"),
        ("x = 1\n", "`my_tools.py` defines no tool"),
        ("@tool\ndef act(a: dict):\n    'Act.'\n", "the parameter `a` of the tool `act`"),
        (
            "@tool\ndef a():\n  'A.'\n@tool(name='a')\ndef b():\n  'B.'\n",
            "defines two tools called `a`",
        ),
        ("raise BaseException('\\x1b[31mred')\n", "line 2: BaseException: red"),
        ("raise ValueError('x' * 10_000)\n", "line 2: ValueError: xxx"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_a_sentence(
    write: Callable[..., Path], source: str, says: str
) -> None:
    with pytest.raises(ToolError) as raised:
        load_user_tools(write(source))
    assert says in raised.value.message
    assert "my_tools.py" in raised.value.message
    assert "\n" not in raised.value.message and len(raised.value.message) < 600


def test_a_file_that_hangs_at_import_is_ended_and_says_where(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userfile, "IMPORT_S", 1.0)
    with pytest.raises(ToolError) as raised:
        load_user_tools(write("import time\n\ntime.sleep(60)\n"))
    assert raised.value.message == (
        "`my_tools.py` cannot be used, line 4: it was still busy after 1 s"
    )


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"there is no file `.*gone.py`"):
        load_user_tools(tmp_path / "gone.py")


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("raise", "`act` failed: ValueError: no way (my_tools.py, line 17)"),
        ("refuse", "there is no way"),
        ("exit", "`act` failed: SystemExit: 3 (my_tools.py, line 21)"),
        ("os exit", "`my_tools.py` left Python with code 3, without an answer"),
        ("kill", "`my_tools.py` was ended by signal 9"),
        ("bytes", "the tool gave binary data, not text"),
        ("input", "`act` failed: EOFError"),
    ],
)
def test_a_call_that_fails_is_said_in_a_sentence(
    act: Callable[..., Outcome], way: str, says: str
) -> None:
    done = act(way)
    assert (done.status, says in done.text) == ("failed", True), done.text


def test_much_is_cut_in_the_child_already(act: Callable[..., Outcome]) -> None:
    done = act("much")
    assert (done.status, done.is_shortened) == ("ok", True)


def test_the_environment_is_passed_on(
    act: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_WORD", "passed")
    assert act("environment").text == "passed"


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="macOS has no limit of address space")
def test_memory_has_a_limit(act: Callable[..., Outcome]) -> None:
    assert "MemoryError" in act("memory").text


@pytest.mark.parametrize("end", ["timeout", "cancelled"])
def test_a_call_that_hangs_is_ended_with_all_that_it_started(
    act: Callable[..., Outcome], tmp_path: Path, end: str
) -> None:
    pid_file, cancel = tmp_path / "pid", threading.Event()

    def cancel_when_begun() -> None:
        wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
        cancel.set()

    if end == "timeout":
        done = act("hang", str(pid_file), timeout_s=1.5)
    else:
        stopper = threading.Thread(target=cancel_when_begun)
        stopper.start()
        done = act("hang", str(pid_file), cancel=cancel)
        stopper.join()
    assert done.status == end
    pid = int(pid_file.read_text())
    wait_for(lambda: not is_running(pid))


def test_a_child_does_not_outlive_a_parent_that_is_killed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path, pid_file = write(TROUBLE), tmp_path / "pid"
    code = (
        "import sys, threading; from pathlib import Path\n"
        "from mobilellm_mlx.tools.userfile import load_user_tools\n"
        "(tool,) = load_user_tools(Path(sys.argv[1]))\n"
        "tool.run({'way': 'hang', 'where': sys.argv[2]}, threading.Event())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(path), str(pid_file)])
    wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    parent.kill()
    parent.wait()
    pid = int(pid_file.read_text())
    wait_for(lambda: not is_running(pid))


def test_a_child_that_floods_is_ended(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userfile, "MAX_ANSWER_BYTES", 1_000)
    many = "".join(f"@tool\ndef act{n}():\n    'Act, at length.'\n" for n in range(20))
    with pytest.raises(ToolError, match="said more than 1,000 bytes"):
        load_user_tools(write(many))


def test_values_that_cannot_be_listed_keep_the_tool_from_being_offered(
    write: Callable[..., Path],
) -> None:
    source = "@tool(live={'a': lambda: 1 / 0})\ndef act(a: str):\n    'Act.'\n"
    tools: list[Tool] = load_user_tools(write(source))
    box = Toolbox(tools)
    assert box.offer_all("act") == []
    with pytest.raises(ToolError, match="ZeroDivisionError"):
        box.live_schema(tools[0])


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


TOOL = "from mobilellm_mlx.tools.tool import Tool\nf = lambda a, c: 'x'\n"
OBJECT = '{"type": "object"}'


def hand_made(name: str = "ok", parameters: str = OBJECT, more: str = "") -> str:
    """A file whose tool was not made by ``@tool``, which would have refused it."""
    return f'{TOOL}t = Tool({name!r}, "Do it.", {parameters}, f{more})\n'


@pytest.mark.parametrize(
    "parameters",
    [
        "[1]",
        "7",
        '"x"',
        '{"type": "array"}',
        '{"type": "object", "properties": "x"}',
        '{"type": "object", "properties": {"x": 5}}',
        '{"type": "object", "required": 3}',
        '{"type": "object", "properties": {"x": {"type": "string", "minLength": "a"}}}',
    ],
)
def test_parameters_that_are_no_schema_of_an_object_are_refused(
    write: Callable[..., Path], parameters: str
) -> None:
    with pytest.raises(ToolError) as caught:
        load_user_tools(write(hand_made(parameters=parameters)))
    said = "the parameters of `ok` in `my_tools.py` are no schema of an object"
    assert caught.value.message == said


@pytest.mark.parametrize("name", ["none", "Bad name\n", "", "x" * 65, "1st", "\u202egit"])
def test_a_name_that_a_model_or_a_rule_cannot_hold_is_refused(
    write: Callable[..., Path], name: str
) -> None:
    with pytest.raises(ToolError, match="has a tool that is called") as caught:
        load_user_tools(write(hand_made(name)))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("timeout", ["nan", "inf", "-inf", "0", "-5"])
def test_a_patience_is_always_a_number_of_seconds(write: Callable[..., Path], timeout: str) -> None:
    (tool,) = load_user_tools(write(hand_made(more=f', timeout_s=float("{timeout}")')))
    assert 0.1 <= tool.timeout_s <= userfile.MAX_TIMEOUT_S


def test_a_result_that_is_an_answer_is_known_as_one(write: Callable[..., Path]) -> None:
    path = write(
        "@tool(answers=True)\ndef a():\n    'A.'\n@tool\ndef b():\n    'B.'\n",
    )
    assert [tool.answers for tool in load_user_tools(path)] == [True, False]
