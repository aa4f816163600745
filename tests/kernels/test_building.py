"""Finding, building and refusing kernels, and what people are told about them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx import kernels as package
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.kernels import build, place
from tests.cli.conftest import run
from tests.kernels.sanitize import compile_threads

__all__ = ["run"]  # a fixture

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or mx.default_device() != mx.Device(mx.cpu), reason="Linux CPUs only"
)


@pytest.fixture(autouse=True)
def _anew() -> Any:
    package.kernels.cache_clear()
    yield
    package.kernels.cache_clear()


def test_without_kernels_the_verb_says_how_to_get_them(run: Any) -> None:
    assert package.kernels().module is None
    said = run("kernels").out
    assert "no kernels (not built)" in said
    assert "mobilellm kernels --build" in said


def test_with_kernels_it_says_which_run(module: Any, run: Any) -> None:
    said = json.loads(run("kernels", "--json").out)
    assert said["runs"] is True
    assert said["reason"].startswith(module.path()) and "thread" in said["reason"]


def test_removing_them_leaves_nothing(module: Any, home: Path, run: Any) -> None:
    assert "removed" in run("kernels", "--remove").err
    assert not (home / "cache" / "kernels").exists()
    assert "there were none" in run("kernels", "--remove").err


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("MOBILELLM_KERNELS", "none", "switched off"),
        ("MOBILELLM_KERNELS", "plain", "plain"),
        ("MOBILELLM_THREADS", "1", "1 thread"),
    ],
)
def test_the_environment_chooses(
    module: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    package.kernels.cache_clear()
    assert reason in package.kernels().reason


def test_what_others_could_have_written_is_not_loaded(built: Path, home: Path) -> None:
    directory = place.directory()
    directory.mkdir(parents=True, mode=0o700)
    for name in (place.FILE, place.LENGTH):
        shutil.copy(built.parent / name, directory / name)
    (directory / place.FILE).chmod(0o722)
    found = package.kernels()
    assert found.module is None and "written by others" in found.reason


def test_a_damaged_file_is_a_reason_and_no_failure(home: Path) -> None:
    code = (
        "from mobilellm_mlx.kernels import kernels, place\n"
        "d = place.directory(); d.mkdir(parents=True, mode=0o700)\n"
        "(d / place.FILE).write_bytes(b'no library'); (d / place.LENGTH).write_text('10')\n"
        "print(kernels().module, kernels().reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None") and "cannot be loaded" in done.stdout


def test_a_part_of_a_file_is_not_loaded(module: Any, built: Path, run: Any) -> None:
    """The system would end the program where it reads what is not there."""
    path = place.directory() / place.FILE
    path.unlink()
    path.write_bytes(built.read_bytes()[:60_000])
    package.kernels.cache_clear()
    assert package.kernels().reason == "not built"
    assert "mobilellm kernels --build" in run("kernels").out


@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5", "100000"])
def test_a_wrong_number_of_threads_is_said_and_left_aside(
    module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    monkeypatch.setenv("MOBILELLM_THREADS", value)
    package.kernels.cache_clear()
    cores = package.usable_cores()
    assert f"{cores} thread" in package.kernels().reason
    assert f"MOBILELLM_THREADS={value} is none of 1 to {cores}" in caplog.text


def test_what_killed_builds_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in (".building-old", ".building-now", *(f"kernels{n}" for n in range(9))):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".building-old", (0, 0))
    build._tidy(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert ".building-now" in left and ".building-old" not in left
    assert len(left) == 1 + build._KEPT


def test_other_sources_are_another_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = place.directory()
    (tmp_path / "one.cpp").write_text("int main() {}")
    monkeypatch.setattr(place, "SOURCES", tmp_path)
    assert place.directory() != before


def test_without_a_compiler_building_says_so(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MobileLLMError, match="no C\\+\\+ compiler `no-such-compiler`"):
        build.build()
    assert not (home / "cache").exists()


@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        ("exit 0", "made nothing", "CXX says"),
        (
            "echo 'a.h:3: fatal error: Python.h: No such file' >&2; exit 1",
            "Python.h",
            "python3-dev",
        ),
    ],
)
def test_what_is_wrong_with_a_compiler_has_its_own_hint(
    monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path, script: str, said: str, hint: str
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", os.fspath(compiler))
    with pytest.raises(MobileLLMError, match=said) as caught:
        build.build()
    assert hint in str(caught.value.hint)
    assert list((home / "cache" / "kernels").iterdir()) == []


def test_a_compiler_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: unknown word' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", os.fspath(compiler))
    with pytest.raises(MobileLLMError, match="error: unknown word"):
        build.build()
    assert list((home / "cache" / "kernels").iterdir()) == []


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_threads_take_every_piece_once(tmp_path: Path) -> None:
    """A helper that came late to a job once took a piece of the next one's for its own."""
    program = compile_threads(["-O2"], tmp_path)
    said = subprocess.run([program, "30000"], capture_output=True, text=True, timeout=120)
    assert said.stdout == "threads: 0 wrong\n", said.stdout + said.stderr
