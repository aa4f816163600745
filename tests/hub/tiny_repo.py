"""A model for the fake hub, fetching it, and a process without settings of its own."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mobilellm_mlx import huggingface
from mobilellm_mlx.huggingface import RemoteRepo, fetch_repo, wanted_files
from tests.hub.fake_hub import FakeHub, serve

HEADER = json.dumps({"w": {"dtype": "U8", "shape": [3 << 20], "data_offsets": [0, 3 << 20]}})
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER.encode() + os.urandom(1 << 10) * (3 << 10)
FILES = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
    "config.json": b'{"model_type": "llama"}',
    "modeling_tiny.py": b"raise SystemExit",
    "tokenizer.model": b"pieces",
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
}
WANTED = ["README.md", "config.json", "tokenizer.model", "tokenizer_config.json"]


@contextmanager
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody's token, nobody's cache, and a session that looks at the settings anew."""
    from huggingface_hub import close_session, constants

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSF"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(huggingface.fetch, "_PAUSE_S", 0)
    close_session()
    yield
    close_session()


@contextmanager
def running_hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that is well, holds one model, and is the one that is asked."""
    with serve(FakeHub()) as running:
        running.commit(files)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def finish(repo: RemoteRepo, *names: str) -> tuple[list, Path]:
    """Fetch to the end: the events, and where the files are."""
    files = [repo.file(name) for name in names] if names else wanted_files(repo)
    work, events = fetch_repo(repo, files), []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def place(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub" / "models--org--tiny"


def no_sockets(monkeypatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
