"""Real processes: several that write at once, one that is killed in the middle of an answer."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilellm_mlx.chat.store import Store, open_history
from tests.chat.stored import query

PROGRAM = Path(__file__).with_name("store_process.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("made_before", [True, False], ids=["a file", "no file yet"])
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, made_before: bool) -> None:
    path = tmp_path / "history.db"
    if made_before:
        Store(path).close()
    names = ["ann", "bob", "cem"]
    children = [start("write", path, name, 60) for name in names]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:  # all are loaded: now they start within a millisecond
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert (child.returncode, errors) == (0, "")
    store = Store(path)
    assert sorted(chat.id for chat in store.chats()) == names
    for name in names:
        kept = [(message.id, message.content) for message in store.messages(name)]
        assert kept == [(f"{name}-{n}", f"word of {name}-{n}") for n in range(60)]
    assert len(store.search("word", limit=1000)) == 180
    store.close()
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_killed_program_loses_at_most_a_second_of_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    child = start("stream", path)
    assert child.stdout
    shown: list[tuple[float, int]] = []
    while not shown or shown[-1][0] < shown[0][0] + 1.8:
        length = int(child.stdout.readline())
        shown.append((time.monotonic(), length))
    killed = time.monotonic()
    child.kill()
    child.communicate()
    assert child.returncode == -9
    a_second_before = max(length for moment, length in shown if moment <= killed - 1)
    store, told = open_history(path)
    assert told is None
    question, answer = store.messages("c")
    store.close()
    assert question.content == "Count."
    assert answer.status == "partial"
    assert len(answer.content) >= a_second_before > 100
    # It is the text, not just as much of it.
    expected = ""
    while len(expected) < len(answer.content):
        expected += f"{len(expected)} "
    assert answer.content == expected
