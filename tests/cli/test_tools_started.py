"""What of the person's own is started, and when: servers and files of tools."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mobilellm_mlx import cli
from mobilellm_mlx.cli import chat as verb
from mobilellm_mlx.cli import faces
from mobilellm_mlx.cli.toolbox import Workbench
from mobilellm_mlx.settings import load_settings, settings_path

VERB = ("mobilellm_mlx.cli.tools:tools", "List, show and call the tools a model may use.")
LEAVES_A_MARK = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
Run = Callable[..., Any]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Made by the server that the settings name, as soon as it is started."""
    path = tmp_path / "started"
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    command = f'command = "{sys.executable}"\nargs = ["-ISc", "{LEAVES_A_MARK}", "{path}"]\n'
    settings_path().write_text(f"[mcp.marker]\n{command}timeout_s = 5\n")
    return path


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A file of tools, and the mark that it makes when it is run."""
    path, trace = tmp_path / "my_tools.py", tmp_path / "ran"
    path.write_text(f"open({str(trace)!r}, 'w').close()\n")
    return path, trace


@pytest.mark.parametrize(
    ("args", "starts"),
    [
        (("call", "calculator", "expression=3*17"), False),
        (("show", "calculator"), False),
        (("list",), True),
        (("show", "marker_echo"), True),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_servers_are_started_only_for_what_may_be_theirs(
    run: Run, mark: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], starts: bool
) -> None:
    monkeypatch.setitem(cli.VERBS, "tools", VERB)
    run("tools", *args)
    assert mark.exists() is starts


def test_without_tools_no_server_is_started_and_no_file_run(
    run: Run, tiny_dir: Path, mark: Path, own: tuple[Path, Path]
) -> None:
    path, trace = own
    with settings_path().open("a") as file:
        file.write(f'[tools]\nfile = "{path}"\n')
    assert run("chat", str(tiny_dir), "--no-tools", "--tools", str(path), stdin=b"").code == 0
    assert not mark.exists() and not trace.exists()
    assert run("chat", str(tiny_dir), stdin=b"").code == 0
    assert mark.exists() and trace.exists()  # what the two would have left


def test_the_interface_never_waits_for_servers_that_are_starting(
    monkeypatch: pytest.MonkeyPatch, run: Run, tiny_dir: Path
) -> None:
    waits: list[float | None] = []
    toolbox = Workbench.toolbox

    def watched(self: Workbench, *, wait_s: float | None = None, **more: Any) -> Any:
        waits.append(wait_s)
        return toolbox(self, wait_s=wait_s, **more)

    class Interface:
        make_house = SimpleNamespace

        @staticmethod
        def run_chat(engine: Any, *, house: SimpleNamespace, **_: Any) -> None:
            house.toolbox()

    monkeypatch.setattr(Workbench, "toolbox", watched)
    monkeypatch.setattr(verb, "is_interactive", lambda: True)
    monkeypatch.setattr(faces, "tui", lambda: Interface)
    assert run("chat", str(tiny_dir)).code == 0
    assert waits == [0, 0]


def test_a_silent_server_holds_nothing_up_where_nobody_waits() -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(
        f'[mcp.silent]\ncommand = "{sys.executable}"\n'
        'args = ["-ISc", "import time; time.sleep(60)"]\ntimeout_s = 1\n'
    )
    settings, _ = load_settings()
    with Workbench(settings) as bench:
        at = time.perf_counter()
        names = [tool.name for tool in bench.toolbox(wait_s=0).tools]
        assert time.perf_counter() - at < 0.7
    assert "calculator" in names
