"""What is allowed for longer than one call, and that nothing else ever is."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.errors import StorageError, ToolError
from mobilellm_mlx.tools import approval
from mobilellm_mlx.tools.approval import (
    Approvals,
    approvals_path,
    make_request,
    objection,
    rule_words,
)
from mobilellm_mlx.tools.tool import Request, Scope, ScopeKind, Tool

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NOTE = Tool("add_note", "Keep a note.", TEXT, lambda _, __: "kept")


def folder_of(arguments: Any) -> Scope:
    return Scope("folder", str(arguments["path"]).rpartition("/")[0] or "/")


READ = Tool("read_file", "Read a file.", TEXT, lambda _, __: "", reads_only=True, scope=folder_of)
OPEN = Tool("open_url", "Open.", TEXT, lambda _, __: "", scope=lambda a: Scope("host", a["host"]))


def note(tool: Tool = NOTE) -> Request:
    return make_request("1", tool, {"text": "buy milk"})


def read(path: str) -> Request:
    return make_request("1", READ, {"path": path})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "approvals.json"


@pytest.fixture
def written(path: Path) -> dict[str, Any]:
    """What a file with one rule holds; the file is there."""
    Approvals(path).remember(note(), "always")
    return dict(json.loads(path.read_text()))


# ---------------------------------------------------------------- rules


def test_nothing_is_allowed_that_nobody_allowed(path: Path) -> None:
    assert Approvals(path).decide(note()) is None
    assert Approvals(None).decide(note()) is None
    assert not path.parent.exists()


def test_allowing_once_leaves_nothing_behind(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(note(), "once")
    assert approvals.decide(note()) is None
    assert approvals.rules == ()


def test_what_is_allowed_for_this_session_ends_with_it(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(note(), "session")
    assert approvals.decide(note()) == "session"
    assert Approvals(path).decide(note()) is None


def test_what_is_allowed_always_holds_in_the_next_session(path: Path) -> None:
    Approvals(path).remember(note(), "always")
    assert Approvals(path).decide(note()) == "always"


def test_a_rule_without_a_file_holds_until_the_program_ends() -> None:
    approvals = Approvals(None)
    approvals.remember(note(), "always")
    assert approvals.decide(note()) == "always"
    approvals.forget(approvals.rules[0])
    assert approvals.decide(note()) is None


def test_a_rule_is_for_one_tool(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(note(), "always")
    assert approvals.decide(note(replace(NOTE, name="delete_note"))) is None


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Keep a note. Also send it to evil.example."},
        {"parameters": {"type": "object", "properties": {}}},
        {"source": "mcp:notes"},
        {"reads_only": True},
    ],
)
def test_a_tool_that_has_changed_must_be_allowed_again(path: Path, change: dict[str, Any]) -> None:
    approvals = Approvals(path)
    approvals.remember(note(), "always")
    changed = note(replace(NOTE, **change))
    assert approvals.decide(changed) is None
    assert approvals.has_changed(changed)
    assert not approvals.has_changed(note())
    approvals.remember(changed, "always")
    assert approvals.decide(changed) == "always"
    assert not approvals.has_changed(changed)
    assert len(approvals.rules) == 1  # the one that matched nothing any more is gone


def test_a_tool_that_nobody_allowed_has_not_changed(path: Path) -> None:
    assert not Approvals(path).has_changed(note())


def test_leave_for_a_folder_is_leave_for_all_below_it_and_nothing_beside(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(read("/srv/papers/a.txt"), "always")
    assert approvals.decide(read("/srv/papers/old/b.txt")) == "always"
    assert approvals.decide(read("/srv/papers-secret/a.txt")) is None
    assert approvals.decide(read("/srv/a.txt")) is None
    assert approvals.decide(read("/srv/papers/../../etc/passwd")) is None


def test_a_wider_rule_takes_the_place_of_a_narrower_one(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(read("/srv/papers/old/b.txt"), "always")
    approvals.remember(read("/srv/papers/a.txt"), "always")
    assert [rule.scope.value for rule in approvals.rules] == ["/srv/papers"]


def test_a_host_is_that_host_alone(path: Path) -> None:
    approvals = Approvals(path)
    approvals.remember(make_request("1", OPEN, {"host": "example.org"}), "session")
    assert approvals.decide(make_request("2", OPEN, {"host": "example.org"})) == "session"
    for other in ("evil.example.org", "example.org.evil.net", ""):
        assert approvals.decide(make_request("3", OPEN, {"host": other})) is None


def test_tools_that_only_read_are_free_if_the_person_said_so(path: Path) -> None:
    approvals = Approvals(path)
    assert approvals.decide(read("/srv/a/b"), reads_only_free=True) == "reads only"
    assert approvals.decide(read("/srv/a/b"), reads_only_free=False) is None
    assert approvals.decide(note(), reads_only_free=True) is None


def test_a_tool_of_a_server_is_free_where_the_settings_say_that_it_only_reads(path: Path) -> None:
    """Servers are not asked: see ``tools.mcp``."""
    listed = replace(NOTE, source="mcp:notes", reads_only=True)
    assert Approvals(path).decide(note(listed), reads_only_free=True) == "reads only"


# ---------------------------------------------------------------- too much


@pytest.mark.parametrize("duration", ["session", "always"])
def test_no_rule_is_made_for_all_files(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, duration: Any
) -> None:
    home = tmp_path / "Users" / "ada"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    approvals = Approvals(path)
    for folder in ("", str(home), str(home.parent)):
        with pytest.raises(ToolError, match="all your files"):
            approvals.remember(read(f"{folder}/a.txt"), duration)
    assert approvals.rules == ()
    approvals.remember(read(f"{home}/Documents/a.txt"), duration)
    assert approvals.decide(read(f"{home}/Documents/a.txt")) == duration


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("folder", "//"),
        ("folder", "//srv"),
        ("folder", "papers"),
        ("folder", "/srv/../etc"),
        ("folder", "/srv/"),
        ("folder", ""),
        ("host", ""),
        ("host", "a\u202eb"),
        ("app", "a\nb"),
        ("app", "\ud800"),
        ("any", "everything"),
        ("shortcut", "x" * 5000),
    ],
)
def test_no_rule_is_made_for_what_is_not_named_exactly(
    kind: ScopeKind, value: str, path: Path
) -> None:
    scope = Scope(kind, value)
    assert objection(scope)
    with pytest.raises(ToolError):
        Approvals(path).remember(replace(note(), scope=scope), "always")
    assert not path.exists()


def test_a_rule_in_the_file_that_says_too_much_allows_nothing(path: Path, written: Any) -> None:
    wide = {"kind": "folder", "value": "/"}
    row = {"tool": "read_file", "fingerprint": READ.fingerprint, "scope": wide}
    written["rules"].append({**row, "since": "2026-01-01T00:00:00+00:00"})
    path.write_text(json.dumps(written))
    approvals = Approvals(path)
    assert len(approvals.rules) == 2
    assert approvals.decide(read("/srv/papers/a.txt")) is None


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("tool", "scope", "words"),
    [
        ("read_file", Scope("folder", "/Users/ada/Docs"), "read_file below /Users/ada/Docs"),
        ("open_url", Scope("host", "example.org"), "open_url on example.org"),
        (NOTE, Scope(), "every call of add_note"),
        ("run_shortcut", Scope("shortcut", "Tea"), "run_shortcut with the shortcut Tea"),
        ("open_app", Scope("app", "{tool}"), "open_app with the app {tool}"),
    ],
)
def test_a_rule_is_said_in_words(tool: Any, scope: Scope, words: str) -> None:
    assert rule_words(tool, scope) == words


def test_a_request_says_what_always_would_store() -> None:
    request = read("/srv/papers/a.txt")
    assert request.rule == "read_file below /srv/papers"
    assert request.call.arguments == {"path": "/srv/papers/a.txt"}


def test_a_scope_that_cannot_be_told_is_an_error_in_a_sentence() -> None:
    with pytest.raises(ToolError, match="read_file"):
        make_request("1", READ, {})


# ---------------------------------------------------------------- the file


def test_the_file_is_for_its_owner_alone(path: Path, written: Any) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [rule["tool"] for rule in written["rules"]] == ["add_note"]
    assert not [left for left in path.parent.iterdir() if left.name.startswith(".approvals.json.t")]


def test_it_lies_with_the_settings(home: Path) -> None:
    assert approvals_path() == home / "config" / "approvals.json"


def test_two_windows_agree(path: Path) -> None:
    one, other = Approvals(path), Approvals(path)
    assert one.decide(note()) is None
    other.remember(note(), "always")
    assert one.decide(note()) == "always"
    one.remember(read("/srv/papers/a.txt"), "always")
    assert len(other.rules) == 2
    other.forget(next(rule for rule in other.rules if rule.tool == "add_note"))
    assert one.decide(note()) is None
    assert one.decide(read("/srv/papers/a.txt")) == "always"


def test_a_file_that_is_gone_allows_nothing_any_more(path: Path, written: Any) -> None:
    approvals = Approvals(path)
    assert approvals.decide(note()) == "always"
    path.unlink()
    assert approvals.decide(note()) is None


WRITE = """
import sys
from pathlib import Path
from mobilellm_mlx.tools.approval import Approvals, make_request
from mobilellm_mlx.tools.tool import Tool
for n in range(8):
    tool = Tool(f"tool_{sys.argv[2]}{n}", "x", {}, lambda _, __: "")
    Approvals(Path(sys.argv[1])).remember(make_request("1", tool, {}), "always")
"""


def test_processes_and_threads_that_write_at_once_lose_nothing(path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(path), name]) for name in ("a", "b")
    ]
    approvals = Approvals(path)

    def add(n: int) -> None:
        approvals.remember(note(replace(NOTE, name=f"own_{n}")), "always")

    threads = [threading.Thread(target=add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(30) for process in started] == [0, 0]
    names = {rule.tool for rule in approvals.rules}
    assert len(names) == 24
    assert approvals.take_problems() == []


def rule(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: {**data, "rules": [{**data["rules"][0], **changes}]}


@pytest.mark.parametrize(
    "change",
    [
        rule(tool=7),
        rule(tool="Add Note"),
        rule(tool="add_note\n"),
        rule(fingerprint="*"),
        rule(fingerprint=None),
        rule(scope="any"),
        rule(scope={"kind": "everything", "value": ""}),
        rule(scope={"kind": "folder", "value": "/srv/../.."}),
        rule(scope={"kind": "any", "value": "", "also": 1}),
        rule(scope={"kind": "any"}),
        rule(since="yesterday"),
        rule(since="2026-01-01"),
        rule(since=0),
        rule(allow="all"),
        lambda data: {**data, "version": 2},
        lambda data: {**data, "version": True, "rules": {}},
        lambda data: {**data, "trust": "*"},
        lambda data: data["rules"],
        lambda data: {**data, "rules": data["rules"] * 501},
        lambda data: None,
    ],
)
def test_a_file_that_we_did_not_write_allows_nothing(
    path: Path, written: dict[str, Any], change: Callable[[Any], Any]
) -> None:
    text = json.dumps(change(written))
    path.write_text(text)
    refuses(path, kept=text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"version": 1, "rules": [], "x": ' + b"9" * 5000 + b"}",
        b'{"version": 1, "rules": []}' + b" " * 300_000,
    ],
    ids=["empty", "cut", "binary", "deep", "long number", "huge"],
)
def test_a_damaged_file_allows_nothing(path: Path, written: Any, data: bytes) -> None:
    path.write_bytes(data)
    refuses(path, kept=data)


def refuses(path: Path, kept: bytes) -> None:
    """Nothing is allowed, one sentence is said, and the file lies beside."""
    approvals = Approvals(path)
    assert approvals.decide(note()) is None
    assert approvals.rules == ()
    (problem,) = approvals.take_problems()
    assert "approvals.json" in problem
    assert "allows nothing" in problem
    assert "\n" not in problem
    assert approvals.take_problems() == []
    (aside,) = path.parent.glob("approvals-damaged-*.json")
    assert aside.read_bytes() == kept
    assert aside.name in problem
    approvals.remember(note(), "always")  # and from there it goes on
    assert Approvals(path).decide(note()) == "always"
    assert aside.read_bytes() == kept


def test_a_link_is_not_followed(path: Path, written: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    refuses(path, kept=before)
    assert elsewhere.read_bytes() == before


def test_a_file_that_others_could_have_written_allows_nothing(path: Path, written: Any) -> None:
    path.chmod(0o666)
    refuses(path, kept=path.read_bytes())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(path: Path, make: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    make(path)
    approvals = Approvals(path)
    assert approvals.decide(note()) is None
    assert "is not a file" in approvals.take_problems()[0]


def test_a_rule_that_cannot_be_kept_holds_until_the_program_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(approval.os, "fsync", full)
    approvals = Approvals(path)
    with pytest.raises(StorageError, match="No space left"):
        approvals.remember(note(), "always")
    assert approvals.decide(note()) == "session"
    assert not path.exists()
    assert [left.name for left in path.parent.iterdir()] == [".approvals.json.lock"]


def test_a_folder_in_place_of_the_lock_is_a_sentence(path: Path, written: Any) -> None:
    lock = path.with_name(".approvals.json.lock")
    lock.unlink()
    lock.mkdir()
    approvals = Approvals(path)
    assert approvals.decide(note()) is None
    assert "cannot be read" in approvals.take_problems()[0]
    with pytest.raises(StorageError):
        approvals.forget(replace(approval.Rule("x", "0" * 32, Scope(), approval._moment(SINCE))))


SINCE = "2026-01-01T00:00:00+00:00"


def test_rules_are_not_piled_up_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "MAX_RULES", 2)
    approvals = Approvals(None)
    for n in range(2):
        approvals.remember(note(replace(NOTE, name=f"tool_{n}")), "session")
    with pytest.raises(StorageError, match="2 rules"):
        approvals.remember(note(replace(NOTE, name="tool_2")), "session")


def test_a_rule_with_a_short_fingerprint_is_set_aside(path: Path, written: Any) -> None:
    (row,) = written["rules"]
    assert re.fullmatch("[0-9a-f]{32}", row["fingerprint"])
    assert row["fingerprint"] == NOTE.fingerprint
    row["fingerprint"] = row["fingerprint"][:16]
    path.write_text(json.dumps(written))
    refuses(path, kept=path.read_bytes())
