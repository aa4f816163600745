"""The trainings as the interface is handed them: data, recipes, runs, and what is thrown away."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from tiny import write_model

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.cli import checkup
from mobilellm_mlx.cli.workshop import Workshop
from mobilellm_mlx.errors import DataError, TrainingError
from mobilellm_mlx.events import TrainStep
from mobilellm_mlx.testing import ScriptedEngine
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.runs import Run
from tests.training.test_hostile_runs import promptly
from tests.tui.workshops import finished, make_run, step
from tui.training import SAID, WENT_WRONG, last_words, spawn
from tui.workshop import Launch, Order


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n}?"},
                      {"role": "assistant", "content": f"The number {n}."}]}
        for n in range(60)
    ]  # fmt: skip
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_doctor_tells_data_examples_and_memory(tmp_path: Path, data: Path) -> None:
    base = write_model(tmp_path / "tiny")
    found = checkup.examine(base, data, TrainConfig())
    facts = dict(found["facts"])
    assert facts["train"].startswith("57 examples")
    assert facts["valid"].startswith("3 examples")
    assert found["warnings"] == []
    pieces = found["examples"][0]
    assert [learned for _, learned in pieces] == [False, True]
    assert pieces[1][0].startswith("The number")
    estimate = found["estimate"]
    parts = ("weights", "gradients", "optimizer", "activations")
    assert estimate["total_bytes"] == sum(estimate[f"{part}_bytes"] for part in parts)
    assert estimate["fits"]


def test_lines_that_cannot_be_used_are_warned_of(tmp_path: Path, data: Path) -> None:
    with data.open("a") as file:
        file.write("{no json\n" * 5)
    found = checkup.examine(write_model(tmp_path / "tiny"), data, TrainConfig())
    assert any("numbers.jsonl:61" in warning for warning in found["warnings"])
    assert "2 more lines cannot be used" in found["warnings"]


def test_the_doctors_process_answers_with_an_error_instead_of_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = {"base": str(tmp_path), "data": str(tmp_path / "no.jsonl"), "config": {}}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    assert checkup.main() == 0
    assert json.loads(capsys.readouterr().out)["error"]


def test_a_checkup_is_done_in_another_process(tmp_path: Path) -> None:
    order = Order(tmp_path, tmp_path / "no.jsonl", TrainConfig())
    with pytest.raises(DataError, match=r"config\.json|no\.jsonl"):
        Workshop().check(order)


def test_a_run_begins_as_one_that_is_gone_on_with(tmp_path: Path, data: Path) -> None:
    base = write_model(tmp_path / "tiny")
    order = Order(base, data, TrainConfig(), name="mine", risks_memory=True)
    launch = Workshop().begin(order)
    run = Run.open("mine")
    assert launch.folder == run.path
    assert launch.command[1:4] == ("-P", "-m", "mobilellm_mlx")
    assert launch.command[4:] == ("train", "resume", "mine", "--json", "--force")
    assert run.data.path == data
    with pytest.raises(TrainingError, match="there is a run `mine`"):
        Workshop().begin(order)


def test_what_lies_in_the_folder_one_stands_in_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "downloads", tmp_path / "mark"
    folder.mkdir()
    for name in ("json", "click", "mobilellm_mlx"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with pytest.raises(DataError, match=r"config\.json|no\.jsonl"):
        Workshop().check(Order(tmp_path, tmp_path / "no.jsonl", TrainConfig()))
    launch = Workshop._launch("no-such-run", tmp_path / "run")
    assert spawn(launch).wait(60) == 1
    assert "no run `no-such-run`" in (launch.folder / SAID).read_text()
    assert not mark.exists()


@pytest.mark.parametrize("name", [SAID, WENT_WRONG])
def test_a_training_does_not_write_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "letter.txt").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "letter.txt")
    with pytest.raises(TrainingError, match="could not be started"):
        spawn(Launch("mine", (sys.executable, "-c", "print('x')"), tmp_path / "run"))
    assert (tmp_path / "letter.txt").read_text() == "precious"


@pytest.mark.parametrize("name", [SAID, WENT_WRONG])
def test_a_training_does_not_wait_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with promptly(), pytest.raises(TrainingError, match="could not be started"):
        spawn(Launch("mine", (sys.executable, "-c", "print('x')"), tmp_path))
    with promptly():
        assert last_words(tmp_path) == ""


def test_chats_that_were_written_down_go_with_their_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "history.db")
    session = Session(ScriptedEngine(["Hello to you."]), store=store)
    for _ in session.send("Hello"):
        pass
    workshop = Workshop(store)
    used, unused = workshop.export_chats(), workshop.export_chats()
    assert json.loads(used.read_text())["messages"][-1]["content"] == "Hello to you."
    assert used != unused
    assert used.stat().st_mode & 0o077 == 0  # nobody else reads them
    make_run("of-chats", data=used)
    workshop.discard(used)
    workshop.discard(unused)
    assert used.exists() and not unused.exists()
    workshop.remove("of-chats")
    assert not used.exists()
    store.close()


def test_a_file_of_the_persons_own_is_never_deleted(data: Path) -> None:
    Workshop().discard(data)
    make_run("of-data", data=data)
    Workshop().remove("of-data")
    assert data.exists()


def test_without_chats_there_is_nothing_to_write_down(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no chats are kept"):
        Workshop().export_chats()
    store = Store(tmp_path / "history.db")
    with pytest.raises(DataError, match="no complete turn"):
        Workshop(store).export_chats()
    store.close()


def test_runs_are_read_again_only_when_they_have_said_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run("a-run", [step(1)])
    workshop = Workshop()
    opened: list[str] = []
    really = Run.open
    monkeypatch.setattr(Run, "open", lambda name: opened.append(name) or really(name))
    assert [row.step for row in workshop.runs()] == [1]
    assert [row.state for row in workshop.runs()] == ["interrupted"]
    assert opened == ["a-run"]
    run.note(step(2))
    with run.lock():
        assert [row.state for row in workshop.runs()] == ["running"]
    run.note(finished(2))
    assert [row.state for row in workshop.runs()] == ["finished"]
    (run.path / "run.json").write_text("[]")
    assert workshop.runs()[0].state == "failed"


def test_every_recipe_is_offered() -> None:
    assert {preset.name for preset in Workshop().presets()} >= {"chat"}
    assert isinstance(step(1), TrainStep)
