"""``mobilellm tools``: listed, shown, and called by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx import cli
from mobilellm_mlx.chat.store import history_path
from mobilellm_mlx.cli.toolbox import Workbench
from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.settings import load_settings, save_setting

VERB = ("mobilellm_mlx.cli.tools:tools", "List, show and call the tools a model may use.")
OWN = '''
from typing import Annotated
from mobilellm_mlx.tools import Limits, ToolError, tool

@tool(reads_only=True, live={"who": lambda: ["ann", "bob"]})
def greet(who: str, times: Annotated[int, Limits(ge=1, le=3)] = 1, loud: bool = False) -> str:
    """Greet somebody.

    Args:
        who: the person
    """
    said = f"hello {who}"
    return "\\x1b[31m" + ", ".join([said.upper() if loud else said] * times)

@tool
def join(words: list[str]) -> str:
    """Join words."""
    return "+".join(words)

@tool
def fail() -> str:
    """Fail always."""
    raise ToolError("it was not to be")
'''
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "tools", VERB)


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "my_tools.py"
    path.write_text(OWN)
    return str(path)


def test_the_list_says_what_a_tool_does_who_is_asked_and_where_it_is_from(
    run: Run, own: str
) -> None:
    done = run("tools", "list", "--tools", own)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "Built in"
    assert any(line.split()[:3] == ["calculator", "reads", "only"] for line in lines)
    assert any(line.split()[:3] == ["add_note", "asks", "first"] for line in lines)
    assert f"From my_tools.py ({own})" in lines
    assert any(line.startswith("  greet ") and "Greet somebody." in line for line in lines)
    # Nothing is granted yet, and the list says so.
    assert "(not here: no folder is granted" in next(line for line in lines if "read_file" in line)
    assert run("tools").out == run("tools", "list").out


def test_the_list_as_json_is_for_programs(run: Run, own: str) -> None:
    done = run("tools", "list", "--json", "--tools", own)
    rows = {row["name"]: row for row in json.loads(done.out)["tools"]}
    assert rows["calculator"]["usable"] and rows["calculator"]["source"] == "builtin"
    assert rows["read_file"]["usable"] is False and rows["read_file"]["missing"]
    assert rows["greet"]["source"] == f"file:{own}"
    assert rows["greet"]["parameters"]["required"] == ["who"]


def test_a_tool_is_shown_with_all_that_it_takes(run: Run, own: str) -> None:
    done = run("tools", "show", "greet", "--tools", own)
    assert done.code == 0
    for words in (
        "reads only, changes nothing",
        "who: the person (one of ann, bob)",
        "times: whole number from 1 to 3, 1 if left out",
        "loud: true/false, false if left out",
    ):
        assert words in done.out
    shown = json.loads(run("tools", "show", "greet", "--json", "--tools", own).out)
    assert shown["live"] == {"who": ["ann", "bob"]}


def test_a_call_prints_its_result_and_nothing_else(run: Run, own: str) -> None:
    done = run("tools", "call", "greet", "who=ann", "times=2", "loud=true", "--tools", own)
    assert (done.code, done.out, done.err) == (0, "HELLO ANN, HELLO ANN\n", "")
    done = run("tools", "call", "greet", "--json", '{"who": "bob"}', "--tools", own)
    assert (done.code, done.out) == (0, "hello bob\n")


@pytest.mark.parametrize("typed", ["words=a, b", 'words=["a", "b"]'])
def test_a_list_may_be_typed_as_json_or_with_commas(run: Run, own: str, typed: str) -> None:
    assert run("tools", "call", "join", typed, "--tools", own).out == "a+b\n"


def test_a_built_in_tool_works_without_a_model(run: Run) -> None:
    done = run("tools", "call", "calculator", "expression=3*17")
    assert done.code == 0 and "51" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["greet", "who=carl"], 1, "`who` of `greet` is `carl`, expected one of `ann`, `bob`"),
        (["greet", "who=ann", "times=9"], 1, "expected at most 3"),
        (["greet"], 1, "`greet` needs `who`"),
        (["greet", "who=ann", "loudly=true"], 1, "did you mean `loud`?"),
        (["fail"], 1, "it was not to be"),
        (["gret"], 1, "did you mean `greet`?"),
        (["greet", "ann"], 2, "'ann' is not KEY=VALUE"),
        (["greet", "who=a", "who=b"], 2, "'who' is given twice"),
        (["greet", "--json", "{"], 2, "--json is no JSON"),
        (["greet", "--json", "[1]"], 2, "--json takes an object"),
        (["greet", "who=ann", "--json", "{}"], 2, "not both"),
        (["read_file", "path=x"], 1, "cannot be used here: no folder is granted"),
    ],
)
def test_a_wrong_call_is_explained(
    run: Run, own: str, arguments: list[str], code: int, says: str
) -> None:
    done = run("tools", "call", *arguments, "--tools", own)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_file_named_on_the_command_line_must_work(run: Run, tmp_path: Path) -> None:
    done = run("tools", "list", "--tools", str(tmp_path / "gone.py"))
    assert (done.code, done.out) == (1, "")
    assert "there is no file" in done.err
    same = tmp_path / "same.py"
    same.write_text(OWN.replace("def greet", "def calculator"))
    done = run("tools", "list", "--tools", str(same))
    assert done.code == 1 and "two tools are called `calculator`" in done.err


def test_a_file_named_in_the_settings_may_be_broken(run: Run, own: str, tmp_path: Path) -> None:
    save_setting("tools.file", own)
    assert "greet" in run("tools", "list").out
    Path(own).write_text("import nowhere\n")
    done = run("tools", "list")
    assert done.code == 0 and "calculator" in done.out
    assert "note: your tools are left out: `my_tools.py` cannot be used, line 1" in done.err
    done = run("tools", "call", "greet")
    assert done.code == 1 and "your tools are left out" in done.err


def test_folders_of_the_settings_are_granted_and_wrong_ones_named(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    (tmp_path / "granted" / "a.txt").write_text("text")
    save_setting("tools.folders", f"{tmp_path / 'granted'}\n\n{tmp_path / 'gone'}\nrelative\n")
    settings, _ = load_settings()
    with Workbench(settings) as bench:
        assert bench.toolbox().find("read_file").missing == ""
        assert [problem.split("`")[1] for problem in bench.problems] == [
            str(tmp_path / "gone"),
            "relative",
        ]


def test_folders_that_are_granted_or_taken_back_later_count_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    settings, _ = load_settings()
    with Workbench(settings) as bench:
        assert "no folder is granted" in bench.toolbox().find("read_file").missing

        def missing(folder: Path | None) -> str:
            now = settings.replaced("tools.folders", None if folder is None else str(folder))
            return bench.toolbox(settings=now).find("read_file").missing

        assert missing(tmp_path) == ""
        assert "no folder is granted" in missing(tmp_path / "gone")
        assert [problem.split("`")[1] for problem in bench.problems] == [str(tmp_path / "gone")]
        assert "no folder is granted" in missing(None)
        assert bench.problems == []


def test_a_name_that_is_taken_is_left_out_of_the_file_of_the_settings(own: str) -> None:
    Path(own).write_text(OWN.replace("def greet", "def calculator"))
    save_setting("tools.file", own)
    settings, _ = load_settings()
    with Workbench(settings) as bench:
        assert bench.toolbox().find("calculator").source == "builtin"
        assert bench.toolbox().find("join").source == f"file:{own}"
        assert "`calculator` of file:" in bench.problems[0]
    with pytest.raises(ToolError, match="two tools are called"):
        Workbench(load_settings()[0], [own], servers=False)


def test_looking_for_earlier_chats_makes_no_history(run: Run) -> None:
    done = run("tools", "call", "search_chats", "words=lisbon")
    assert (done.code, "No chat" in done.out) == (0, True)
    assert not history_path().exists()


def test_the_example_of_the_documentation_works(run: Run, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
    path = tmp_path / "my_tools.py"
    path.write_text(text.partition("```python\n")[2].partition("```")[0])
    done = run("tools", "call", "set_light", "room=kitchen", "percent=30", "--tools", str(path))
    assert (done.code, done.out) == (0, "The light in the kitchen is at 30 %.\n")


def test_asking_for_help_loads_no_tool(run: Run) -> None:
    done = run("tools", "--help")
    assert done.code == 0
    assert [word for word in ("list", "show", "call") if word not in done.out] == []
