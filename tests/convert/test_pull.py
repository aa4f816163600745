"""From a fetched file to a model that is whole or not there, whatever happens on the way."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convert import pull
from convert.writers import directory as writer
from convert.writers.safetensors_file import SafetensorsWriter
from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.events import Progress
from mobilellm_mlx.hub import sha256
from tests.convert import gguf_writer, pull_process
from tests.convert.pull_process import MODEL, fetch_from


@pytest.fixture
def log(tmp_path) -> Path:
    """Where every fetch leaves a line."""
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def pulled(gguf_file, log) -> Path:
    """The model, pulled in this process."""
    list(pull.pull(MODEL, fetch_from(gguf_file, log)))
    return MODEL.path


@pytest.fixture
def start(gguf_file, log) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts pulling in another process."""
    started = []

    def start(*stage: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, pull_process.__file__, str(gguf_file), str(log), *stage],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def beside() -> set[str]:
    """What lies in the folder of the models."""
    return {path.name for path in MODEL.path.parent.iterdir()}


def test_a_pulled_model_is_whole(pulled) -> None:
    assert MODEL.is_installed
    assert {path.name for path in pulled.iterdir()} == {
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "conversion.json",
        "generation_config.json",
        "mobilellm.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert beside() == {".lock", MODEL.name}


def test_the_manifest_says_where_it_came_from_and_what_it_is(pulled) -> None:
    manifest = json.loads((pulled / "mobilellm.json").read_text())
    assert (manifest["name"], manifest["licence"]) == ("tiny-smol", "MIT")
    assert manifest["source"] == {
        "package": "tiny-pkg",
        "version": "1.0",
        "member": "p/tiny.gguf",
        "sha256": "1" * 64,
    }
    for name, facts in manifest["files"].items():
        assert facts["sha256"] == sha256(pulled / name), name
    assert manifest["files"].keys() == {p.name for p in pulled.iterdir()} - {"mobilellm.json"}


def test_the_makers_sampling_and_the_stop_tokens_are_kept(pulled) -> None:
    generation = json.loads((pulled / "generation_config.json").read_text())
    tokens = gguf_writer.tiny_metadata()["tokenizer.ggml.tokens"]
    assert generation["temperature"] == 0.2 and generation["do_sample"] is True
    assert generation["eos_token_id"] == tokens.index("<|im_end|>")


@pytest.mark.parametrize("compute", ["dense", "packed"])
def test_a_pulled_model_generates(pulled, compute) -> None:
    from mobilellm_mlx.decoding import Generator
    from mobilellm_mlx.loading import load_model
    from mobilellm_mlx.messages import Message
    from mobilellm_mlx.options import GenerationOptions, LoadOptions

    loaded = load_model(pulled, LoadOptions(compute=compute))
    assert (loaded.info.model, loaded.info.licence) == ("tiny-smol", "MIT")
    assert loaded.defaults.temperature == 0.2
    generator = Generator(loaded)
    prompt = generator.chat_prompt([Message("user", "hi")])
    *_, summary = generator.generate(prompt, GenerationOptions(max_tokens=5))
    assert summary.generated_tokens >= 1


def test_progress_counts_the_bytes_of_the_tensors(gguf_file, log) -> None:
    events = list(pull.pull(MODEL, fetch_from(gguf_file, log)))
    last = events[-1]
    assert isinstance(last, Progress) and (last.task, last.unit) == ("converting", "bytes")
    assert gguf_file.stat().st_size * 0.5 < last.done == last.total < gguf_file.stat().st_size


def test_a_second_pull_fetches_nothing_and_touches_nothing(pulled, gguf_file, log) -> None:
    before = {path: path.stat().st_mtime_ns for path in pulled.iterdir()}
    assert list(pull.pull(MODEL, fetch_from(gguf_file, log))) == []
    assert log.read_text() == "fetched\n"
    assert {path: path.stat().st_mtime_ns for path in pulled.iterdir()} == before


def test_a_directory_without_its_manifest_is_pulled_again(pulled, gguf_file, log) -> None:
    (pulled / "mobilellm.json").unlink()
    (pulled / "model.safetensors").write_bytes(b"half")
    list(pull.pull(MODEL, fetch_from(gguf_file, log)))
    assert MODEL.is_installed and (pulled / "model.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("stage", ["fetch", "write"])
def test_after_kill_9_nothing_looks_installed_and_the_next_pull_succeeds(
    start, gguf_file, log, tmp_path, stage
) -> None:
    process = start(stage, str(tmp_path / "never"))
    for line in process.stdout:
        if line.startswith("writing" if stage == "write" else '{"event": "progress"'):
            break
    while stage == "fetch" and not list(MODEL.path.parent.glob(".partial-*/source/tiny.gguf")):
        assert process.poll() is None
    process.kill()
    process.wait(timeout=10)
    assert not MODEL.is_installed and not MODEL.path.exists()
    assert [name for name in beside() if name.startswith(".partial-")]  # else nothing was tested

    list(pull.pull(MODEL, fetch_from(gguf_file, log)))
    assert MODEL.is_installed
    assert beside() == {".lock", MODEL.name}


def test_of_two_pulls_at_once_one_waits_and_both_succeed(start, log, tmp_path) -> None:
    go = tmp_path / "go"
    first = start("fetch", str(go))
    first.stdout.readline()  # it holds the lock now
    second = start()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=0.7)
    go.touch()
    for process in (first, second):
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
    assert log.read_text() == "fetched\n"
    assert MODEL.is_installed


def test_when_the_first_of_two_pulls_is_killed_the_second_takes_over(start, log, tmp_path) -> None:
    first = start("fetch", str(tmp_path / "never"))
    first.stdout.readline()
    second = start()
    first.kill()
    _, err = second.communicate(timeout=30)
    assert (second.returncode, err) == (0, "")
    assert log.read_text() == "fetched\n" * 2
    assert MODEL.is_installed and beside() == {".lock", MODEL.name}


@pytest.mark.parametrize("stage", ["fetch", "import", "write"])
def test_a_failure_leaves_nothing(gguf_file, log, monkeypatch, stage) -> None:
    fetch = fetch_from(gguf_file, log)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing_fetch(source, directory):
        (directory / "half").write_bytes(b"x")
        yield Progress("fetching", 0, 1)
        full()

    if stage == "import":
        monkeypatch.setattr(writer, "write_json", full)
    if stage == "write":
        monkeypatch.setattr(SafetensorsWriter, "write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        list(pull.pull(MODEL, failing_fetch if stage == "fetch" else fetch))
    assert beside() == {".lock"}


def test_leaving_a_pull_early_leaves_nothing(gguf_file, log) -> None:
    events = pull.pull(MODEL, fetch_from(gguf_file, log))
    next(events)
    assert any(name.startswith(".partial-") for name in beside())
    events.close()
    assert beside() == {".lock"}


def test_a_pull_can_be_cancelled_while_it_waits_for_another(
    start, gguf_file, log, tmp_path
) -> None:
    first = start("fetch", str(tmp_path / "never"))
    first.stdout.readline()
    second = start()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=0.7)
    second.send_signal(2)
    assert second.wait(timeout=10) != 0
    assert first.poll() is None and not MODEL.path.exists()


def in_a_small_world(tmp_path: Path, mount: str, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script where ``tmp_path/disk`` is a file system of its own.

    Skips where user namespaces are not permitted.
    """
    disk = tmp_path / "disk"
    disk.mkdir(exist_ok=True)
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    trial = f"mount -t tmpfs {mount} tmpfs {disk}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*enter, trial], capture_output=True).returncode
    ):
        pytest.skip("needs Linux's user namespaces")
    return subprocess.run(
        [*enter, f"{trial}\n{script}"], capture_output=True, text=True, timeout=60
    )


def test_a_disk_that_is_really_full_is_explained_and_swept(gguf_file, log, tmp_path) -> None:
    size = gguf_file.stat().st_size
    script = (
        f"set +e\nMOBILELLM_HOME={tmp_path}/disk {sys.executable} {pull_process.__file__} "
        f"{gguf_file} {log}\nfind {tmp_path}/disk"
    )
    done = in_a_small_world(tmp_path, f"-o size={(size + 20_000) // 4096 * 4}k", script)
    assert "mobilellm_mlx.errors.StorageError" in done.stderr
    assert done.stdout.splitlines()[-1].endswith("/models/.lock")
    assert ".partial" not in done.stdout and MODEL.name not in done.stdout


def test_a_read_only_disk_is_explained(gguf_file, log, tmp_path) -> None:
    script = (
        f"set +e\nMOBILELLM_HOME={tmp_path}/disk {sys.executable} {pull_process.__file__} "
        f"{gguf_file} {log}"
    )
    done = in_a_small_world(tmp_path, "-o ro", script)
    assert "StorageError" in done.stderr and "Read-only file system" in done.stderr
    assert log.read_text() == ""


def test_pulls_in_two_threads_do_not_disturb_each_other(gguf_file, log) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            list(pull.pull(MODEL, fetch_from(gguf_file, log)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert failures == [] and MODEL.is_installed
    assert log.read_text() == "fetched\n"


def test_a_link_to_a_place_that_is_away_is_refused_before_anything_is_fetched(
    gguf_file, log, tmp_path
) -> None:
    MODEL.path.parent.mkdir(parents=True, exist_ok=True)
    MODEL.path.symlink_to(tmp_path / "unplugged")
    with pytest.raises(StorageError, match="is a link to"):
        list(pull.pull(MODEL, fetch_from(gguf_file, log)))
    assert log.read_text() == "" and MODEL.path.is_symlink()
