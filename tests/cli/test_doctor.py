"""``mobilellm doctor``: it says what is, and fails for what is broken."""

import json
import os
import subprocess
import sys

import pytest

from mobilellm_mlx.cli import doctor
from tests.cli.processes import environment


@pytest.fixture
def examine(run):
    """The checks of ``doctor --json`` by name, and its exit code."""

    def examine() -> tuple[dict[str, dict], int]:
        result = run("doctor", "--json")
        assert result.err == ""
        report = json.loads(result.out)
        assert report["ok"] == (result.code == 0)
        return {check["name"]: check for check in report["checks"]}, result.code

    return examine


@pytest.fixture(autouse=True)
def _all_packages(monkeypatch) -> None:
    """The suite may run from a checkout that is not installed; that is not what is tested here."""
    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: found(package) or "1.0")


def test_a_sound_machine_passes(examine) -> None:
    checks, code = examine()
    assert code == 0
    assert checks["backend"]["value"].startswith(("cpu", "metal", "cuda"))
    assert {"system", "memory", "python", "mlx", "pip", "directory", "encoding"} <= checks.keys()


def test_the_report_for_people_says_the_same(run, examine) -> None:
    result = run("doctor")
    assert result.code == 0 and result.err == ""
    for name, check in examine()[0].items():
        assert name in result.out, check


def test_nothing_is_made_by_looking(run, home) -> None:
    run("doctor")
    assert not home.exists()


def test_an_installed_model_is_found_whole(run, examine, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    checks, code = examine()
    assert code == 0
    assert checks["pseudo"]["value"] == "whole, every file as it was made (MIT)"


def test_a_model_that_is_not_fetched_is_no_failure(examine, pseudo_model) -> None:
    checks, code = examine()
    assert (code, checks["pseudo"]["status"]) == (0, "ok")
    assert "models pull pseudo" in checks["pseudo"]["value"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "m.gguf").write_bytes(b"weightX"), "`m.gguf` has changed"),
        (lambda d: (d / "m.gguf").write_bytes(b"weig"), "`m.gguf` has 4 bytes, not 7"),
        (lambda d: (d / "m.gguf").unlink(), "`m.gguf` is missing"),
        (lambda d: (d / "mobilellm.json").unlink(), "manifest cannot be read"),
        (lambda d: (d / "mobilellm.json").write_text("{"), "manifest cannot be read"),
        (lambda d: (d / "mobilellm.json").write_text("[]"), "manifest cannot be read"),
    ],
    ids=["changed", "truncated", "missing", "no manifest", "half a manifest", "odd manifest"],
)
def test_a_damaged_model_fails_with_a_way_out(run, examine, pseudo_model, damage, said) -> None:
    run("models", "pull", "pseudo")
    damage(pseudo_model.path)
    checks, code = examine()
    assert (code, checks["pseudo"]["status"]) == (1, "fail")
    assert said in checks["pseudo"]["value"]
    assert (
        checks["pseudo"]["hint"]
        == "`mobilellm models rm pseudo`, then `mobilellm models pull pseudo`"
    )
    for verb in ("rm", "pull"):  # and the hint is true
        assert run("models", verb, "pseudo").code == 0
    assert examine()[1] == 0


def test_the_report_for_people_marks_what_failed(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    (pseudo_model.path / "m.gguf").unlink()
    result = run("doctor")
    assert result.code == 1
    lines = result.out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if "is missing" in line]
    assert lines[at].startswith("x pseudo") and "models rm pseudo" in lines[at + 1]


def test_a_cache_that_cannot_be_written_fails(examine, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: mode != os.W_OK)
    checks, code = examine()
    assert (code, checks["directory"]["status"]) == (1, "fail")
    assert "MOBILELLM_HOME" in checks["directory"]["hint"]


@pytest.mark.parametrize("place", ["", "cache"])
def test_a_cache_that_is_a_file_fails(examine, home, place) -> None:
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).write_text("not a directory")
    checks, code = examine()
    assert (code, checks["directory"]["status"]) == (1, "fail")


def test_a_missing_package_fails_with_the_command_that_installs_it(examine, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "sentencepiece" else "1")
    checks, code = examine()
    assert (code, checks["sentencepiece"]["value"]) == (1, "not installed")
    assert checks["sentencepiece"]["hint"] == "install it with `pip install sentencepiece`"


@pytest.mark.parametrize("verb", ["doctor", "generate"])
def test_without_mlx_the_reason_and_the_remedy_are_named(verb, tiny_dir) -> None:
    args = {"doctor": ["doctor"], "generate": ["generate", "-m", str(tiny_dir), "-p", "hi"]}[verb]
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'mlx':\n"
        "            raise ModuleNotFoundError('No module named ' + repr(name), name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"from mobilellm_mlx.cli import main\nmain({args!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60
    )
    said = done.stdout if verb == "doctor" else done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "MLX cannot be imported: No module named 'mlx" in said
    assert "mlx[cpu]" in said and "Rosetta" in said
    assert (done.stderr == "") == (verb == "doctor")


def test_an_intel_python_on_a_mac_fails(examine, monkeypatch) -> None:
    monkeypatch.setattr(doctor.sys, "platform", "darwin")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    checks, code = examine()
    assert (code, checks["python"]["status"]) == (1, "fail")
    assert "arm64" in checks["python"]["hint"]


def test_a_slow_blas_is_a_warning_and_no_failure(examine, monkeypatch) -> None:
    from mobilellm_mlx import backend

    monkeypatch.setattr(backend, "backend", lambda: backend.BACKENDS["cpu"])
    monkeypatch.setattr(doctor, "_product_ms", lambda mx: 500.0)
    checks, code = examine()
    assert (code, checks["BLAS"]["status"]) == (0, "warn")
    monkeypatch.setattr(doctor, "_product_ms", lambda mx: 5.0)
    assert examine()[0]["BLAS"]["status"] == "ok"


def test_little_memory_is_a_warning_and_no_failure(examine, monkeypatch) -> None:
    import psutil

    class Memory:
        total, available = 8 * 10**9, 10**8

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    checks, code = examine()
    assert (code, checks["memory"]["status"]) == (0, "warn")


def test_an_ascii_locale_is_a_warning(examine, monkeypatch) -> None:
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda *_: "ANSI_X3.4-1968")
    checks, code = examine()
    assert (code, checks["encoding"]["status"]) == (0, "warn")


# ---------------------------------------------------------------- the history


@pytest.fixture
def chats_file():
    """A history with one chat."""
    from mobilellm_mlx.chat.records import ChatRecord, make_id, now
    from mobilellm_mlx.chat.store import Store, history_path

    store = Store(history_path())
    store.add_chat(ChatRecord(make_id(), now(), now(), "a chat"))
    store.close()
    return history_path()


def test_no_history_yet_is_no_failure(examine) -> None:
    checks, code = examine()
    assert (code, checks["chats"]["status"]) == (0, "ok")
    assert checks["chats"]["value"].startswith("none yet")
    assert checks["search"]["value"].endswith("with FTS5")


def test_a_whole_history_is_counted_and_left_as_it_is(examine, chats_file) -> None:
    before = chats_file.read_bytes()
    checks, code = examine()
    assert (code, checks["chats"]["status"]) == (0, "ok")
    assert (
        str(chats_file) in checks["chats"]["value"] and "1 chat, whole" in checks["chats"]["value"]
    )
    assert [path.name for path in chats_file.parent.iterdir()] == ["history.db"]
    assert chats_file.read_bytes() == before


def test_a_history_in_use_is_counted_with_its_log(examine, chats_file) -> None:
    from mobilellm_mlx.chat.records import ChatRecord, make_id, now
    from mobilellm_mlx.chat.store import Store

    store = Store(chats_file)
    store.add_chat(ChatRecord(make_id(), now(), now(), "another"))
    try:
        assert "2 chats, whole" in examine()[0]["chats"]["value"]
    finally:
        store.close()


@pytest.mark.parametrize(
    ("what", "hint"),
    [
        ("text", "saves what can be read"),
        ("directory", "saves what can be read"),
        ("foreign", "move it away"),
        ("newer", "update MobileLLM"),
    ],
)
def test_a_history_that_cannot_be_used_fails_with_a_hint(examine, chats_file, what, hint) -> None:
    import sqlite3
    from contextlib import closing

    if what == "newer":
        with closing(sqlite3.connect(chats_file)) as raw:
            raw.execute("INSERT INTO migrations VALUES ('telepathy', '2099')")
            raw.commit()
    else:
        chats_file.unlink()
    if what == "text":
        chats_file.write_text("no database " * 100)
    elif what == "directory":
        chats_file.mkdir()
    elif what == "foreign":
        with closing(sqlite3.connect(chats_file)) as raw:
            raw.execute("CREATE TABLE birds (name)")
    checks, code = examine()
    assert (code, checks["chats"]["status"]) == (1, "fail")
    assert str(chats_file) in checks["chats"]["value"] and hint in checks["chats"]["hint"]


def test_a_history_that_cannot_be_written_fails(examine, chats_file, monkeypatch) -> None:
    access = os.access
    refuse = lambda path, mode: path != chats_file and access(path, mode)  # noqa: E731
    monkeypatch.setattr(doctor.os, "access", refuse)
    checks, code = examine()
    assert (code, checks["chats"]["status"]) == (1, "fail")
    assert "cannot be read and written" in checks["chats"]["value"]
