"""``mobilellm demo tools`` without the interface: what happens is printed, and nothing is left."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.cli import demo as verb
from mobilellm_mlx.cli.demo import Demo
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.events import Event, from_dict
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.testing import ScriptedEngine
from tui import DEMO_TASKS

Run = Callable[..., Any]
TELLS = {"expression": "17% of 240", "text": "buy oat milk"}
"""What is said of an argument; tools that need others are not called."""


class Engine(ScriptedEngine):
    """In the place of the real one; it does what a grammar asks of it."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chat(
        self,
        messages: Any,
        options: Any,
        cancel: Any = None,
        begun: Any = (),
        grammar: Grammar | None = None,
        **more: Any,
    ) -> Iterator[Event]:
        self._answers = [_answer(grammar)]
        return super().chat(messages, options, cancel, begun, grammar, **more)


def _answer(grammar: Grammar | None) -> str:
    if grammar is None:
        return "Done."
    asked = json.loads(grammar.source)
    if grammar.kind == "choice":
        return next((name for name in ("calculator", "add_note") if name in asked), "none")
    return json.dumps({name: TELLS[name] for name in asked["required"]}, separators=(",", ":"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Engine]:
    """The engines that were opened; what a demo leaves would lie in ``tmp_path / "left"``."""
    engines: list[Engine] = []

    def engine(directory: Path, options: Any) -> Engine:
        engines.append(Engine())
        return engines[-1]

    (tmp_path / "left").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "left"))
    monkeypatch.setattr(verb, "Engine", engine)
    monkeypatch.setattr(verb, "resolve_model", lambda name: Path("/models/scripted"))
    return engines


def test_eight_tasks_are_done_and_nothing_is_left(
    run: Run, made: list[Engine], tmp_path: Path
) -> None:
    done = run("demo", "tools", "--lines", "--yes")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(DEMO_TASKS) == 8
    assert [line for line in lines if line in DEMO_TASKS] == list(DEMO_TASKS)
    assert lines.count("  answer   Done.") >= 1
    assert "40.8" in next(line for line in lines if line.startswith("  result "))
    assert "  result   Noted: buy oat milk." in lines and lines[-2] == "  answer   Done."
    assert not list((tmp_path / "left").iterdir())
    assert [engine.closed for engine in made] == [True]


def test_without_a_terminal_nothing_is_done_unless_it_was_allowed(
    run: Run, made: list[Engine]
) -> None:
    silent = run("demo", "tools", "--lines").out
    assert "  denied   " in silent and "  result   " not in silent
    assert "  denied   " not in run("demo", "tools", "--lines", "--yes").out


def test_as_json_every_line_is_an_event(run: Run, made: list[Engine]) -> None:
    done = run("demo", "tools", "--json", "--yes")
    assert done.code == 0
    events = [json.loads(line) for line in done.out.splitlines()]
    assert [from_dict(event) for event in events]
    kinds = [event["event"] for event in events]
    assert kinds.count("summary") == 8 and kinds[-1] == "summary"
    assert {"tools_offered", "tool_called", "tool_allowed", "tool_ended"} < set(kinds)


def test_a_demo_that_fails_leaves_nothing_either(
    run: Run, made: list[Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ContextOverflow(9, 8)

    monkeypatch.setattr(Engine, "chat", fail)
    for more in ((), ("--json",)):
        done = run("demo", "tools", "--yes", "--lines", *more)
        assert done.code == 1 and "Traceback" not in done.err + done.out
    assert not list((tmp_path / "left").iterdir())
    assert len(done.out.splitlines()) and json.loads(done.out.splitlines()[-1])["status"] == "error"


def test_notes_and_timers_of_a_demo_lie_in_a_folder_of_its_own(
    made: list[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    with Demo(ScriptedEngine(["x"])) as trial:
        kit = trial.session.tools
        assert kit is not None and kit.approvals.rules == ()
        assert [path.name.startswith("mobilellm-demo-") for path in left.iterdir()] == [True]
        (folder,) = left.iterdir()
        note = kit.toolbox.find("add_note")
        note.run({"text": "buy milk"}, threading.Event())
        assert list(folder.iterdir())
    assert not list(left.iterdir())
    trial.close()  # twice does no harm
