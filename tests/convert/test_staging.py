"""A conversion is whole or leaves nothing, and never removes what is not its own."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import write_json

from convert.job import ConvertOptions, convert
from convert.plan import TensorPlan
from convert.writers import directory as writer
from convert.writers.safetensors_file import SafetensorsWriter
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, MobileLLMError, StorageError
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.paths import MANIFEST
from tests.convert.checkpoints import FAST, UP, WIDE, checkpoint, leftovers, run, tensors

FORCE = ConvertOptions(verify=False, force=True)
PROCESS = Path(__file__).with_name("convert_process.py")


@pytest.fixture
def source(tmp_path) -> Path:
    return checkpoint(tmp_path / "source")


def untouched(tmp_path: Path, *beside: str) -> bool:
    """Whether there is nothing beside the source and what is named."""
    return {path.name for path in tmp_path.iterdir()} == {"source", *beside}


# What may be replaced


def test_a_target_that_is_not_there_is_made_with_its_parents(source, tmp_path) -> None:
    run(source, tmp_path / "deep" / "er" / "model")
    assert (tmp_path / "deep" / "er" / "model" / MANIFEST).is_file()
    assert leftovers(tmp_path / "deep" / "er") == []


def test_an_empty_directory_is_as_good_as_none(source, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    run(source, tmp_path / "model")
    assert (tmp_path / "model" / MANIFEST).is_file()


def test_a_model_that_is_there_is_replaced_with_force_alone(source, tmp_path) -> None:
    target = tmp_path / "model"
    run(source, target)
    before = target.stat().st_ino
    with pytest.raises(StorageError, match="is there already") as caught:
        run(source, target)
    assert "`--force`" in str(caught.value.hint) and target.stat().st_ino == before
    run(source, target, FORCE)
    assert target.stat().st_ino != before and leftovers(tmp_path) == []


def test_what_somebody_put_into_a_model_is_not_removed_with_it(source, tmp_path) -> None:
    target = tmp_path / "model"
    run(source, target)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"not the model's: notes\.txt"):
        run(source, target, FORCE)
    assert (target / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [FAST, FORCE], ids=["plain", "force"])
@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling link", "link to a model"])
def test_what_is_not_ours_is_never_replaced(source, tmp_path, kind, options) -> None:
    target, other = tmp_path / "model", tmp_path / "other"
    if kind == "directory":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    elif kind == "file":
        target.write_text("years of work")
    else:
        if kind == "link":
            other.mkdir()
        elif kind == "link to a model":
            run(source, other)
        target.symlink_to(other)
    with pytest.raises(StorageError, match="no model directory of ours"):
        run(source, target, options)
    assert target.is_symlink() == ("link" in kind) and leftovers(tmp_path) == []
    assert kind != "directory" or (target / "thesis.txt").read_text() == "years of work"
    assert kind != "file" or target.read_text() == "years of work"
    assert kind != "link to a model" or (other / MANIFEST).is_file()


@pytest.mark.parametrize("options", [FAST, FORCE], ids=["plain", "force"])
@pytest.mark.parametrize("way", ["itself", "its parent", "a file's home", "a link", "dots"])
def test_the_source_is_never_replaced(source, tmp_path, way, options) -> None:
    write_json(source / MANIFEST, {"name": "ours"})
    write_json(tmp_path / MANIFEST, {"name": "ours"})
    path, target = source, source
    if way == "its parent":
        target = tmp_path
    elif way == "a file's home":
        path = source / "model.safetensors"
    elif way == "a link":
        (tmp_path / "link").symlink_to(source)
        path = tmp_path / "link"
    elif way == "dots":
        target = source / ".." / "source"
    before = sorted(source.iterdir())
    with pytest.raises(StorageError, match="is where the source lies"):
        run(path, target, options)
    assert sorted(source.iterdir()) == before


def test_a_model_whose_weights_the_source_links_to_is_not_replaced(source, tmp_path) -> None:
    model = tmp_path / "model"
    run(source, model)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        if path.name != MANIFEST:
            (linked / path.name).symlink_to(path)
    with pytest.raises(StorageError):
        run(linked, model, ConvertOptions(bits=2, verify=False, force=True))


def test_a_target_inside_the_source_leaves_the_source_whole(source) -> None:
    before = {path.name for path in source.iterdir()}
    run(source, source / "packed")
    assert {path.name for path in source.iterdir()} == {*before, "packed"}


def test_what_appears_meanwhile_is_not_replaced(source, tmp_path) -> None:
    """Hours can lie between looking and moving into place."""
    target = tmp_path / "model"
    steps = convert(source, target, FAST)
    next(steps)
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="no model directory of ours"):
        list(steps)
    assert (target / "thesis.txt").read_text() == "years of work"
    assert untouched(tmp_path, "model")


def test_the_current_directory_can_be_the_target(source, tmp_path, monkeypatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    run(source, Path())
    assert (tmp_path / "model" / MANIFEST).is_file()


@pytest.mark.parametrize("length", [245, 256])
def test_a_target_with_too_long_a_name_is_an_error_of_ours(source, tmp_path, length) -> None:
    with pytest.raises(StorageError):
        run(source, tmp_path / ("x" * length))


def test_a_target_below_a_file_is_an_error_of_ours(source, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        run(source, tmp_path / "file" / "model")


def test_a_disk_that_has_no_locks_can_be_written_to(source, tmp_path, monkeypatch) -> None:
    """Network disks and memory cards often have none."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(writer.fcntl, "flock", unsupported)
    run(source, tmp_path / "model")


# Failures on the way


def test_a_checkpoint_without_a_tokenizer_leaves_nothing(source, tmp_path) -> None:
    (source / "tokenizer.json").unlink()
    with pytest.raises(MobileLLMError, match="no tokenizer"):
        run(source, tmp_path / "model")
    assert untouched(tmp_path)


def test_a_missing_tokenizer_is_said_before_any_weight_is_read(
    source, tmp_path, monkeypatch
) -> None:
    from convert.readers.safetensors_file import SafetensorsReader

    (source / "tokenizer.json").unlink()
    monkeypatch.setattr(SafetensorsReader, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(MobileLLMError, match="no tokenizer"):
        run(source, tmp_path / "model")


FAILURES: list[Callable[[], BaseException]] = [
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    KeyboardInterrupt,
    lambda: MemoryError("[malloc] Unable to allocate 12345 bytes."),
]


@pytest.fixture(params=FAILURES, ids=["full", "ctrl-c", "memory"])
def failure(request) -> BaseException:
    return request.param()


def fail_after(count: int, error: BaseException, real: Callable) -> Callable:
    """``real``, until it was called ``count`` times."""
    calls: list[int] = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) > count:
            raise error
        return real(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize(
    ("place", "count"),
    [("convert.writers.safetensors_file.SafetensorsWriter._write", n) for n in (0, 1, 5)]
    + [
        ("convert.report.card", 0),
        ("convert.writers.directory.sha256", 2),
        ("convert.writers.directory.os.fsync", 1),
        ("convert.job.transform", 3),
        ("convert.job.compare", 0),
    ],
)
def test_a_failure_anywhere_leaves_the_old_model_and_nothing_else(
    source, tmp_path, monkeypatch, place, count, failure
) -> None:
    from importlib import import_module

    run(source, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    parts = place.split(".")
    holder = import_module(".".join(parts[:2]))
    for part in parts[2:-1]:
        holder = getattr(holder, part)
    real = getattr(holder, parts[-1])
    monkeypatch.setattr(holder, parts[-1], fail_after(count, failure, real))
    with pytest.raises((MobileLLMError, OSError, KeyboardInterrupt, SystemExit, MemoryError)):
        run(source, tmp_path / "model", ConvertOptions(bits=8, force=True))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert untouched(tmp_path, "model")


def test_a_full_disk_is_said_in_our_words(source, tmp_path, monkeypatch) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    real = SafetensorsWriter._write
    monkeypatch.setattr(SafetensorsWriter, "_write", fail_after(4, error, real))
    with pytest.raises(StorageError, match="the disk is full at"):
        run(source, tmp_path / "model")
    assert untouched(tmp_path)


def test_a_disk_without_room_is_said_before_anything_is_read(source, tmp_path, monkeypatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1_000_000))
    with pytest.raises(StorageError, match="are free"):
        run(source, tmp_path / "model")
    assert untouched(tmp_path)


def test_a_move_that_fails_puts_the_old_model_back(source, tmp_path, monkeypatch) -> None:
    run(source, tmp_path / "model")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == "model" and not self.name.endswith("-old"):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((OSError, StorageError)):
        run(source, tmp_path / "model", FORCE)
    assert (tmp_path / "model" / MANIFEST).is_file() and untouched(tmp_path, "model")


@pytest.mark.parametrize("after", [1, 2, 5, 10])
def test_leaving_the_events_early_leaves_nothing(source, tmp_path, after) -> None:
    steps = convert(source, tmp_path / "model", ConvertOptions())
    for _ in range(after):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert untouched(tmp_path)


def test_a_value_that_is_refused_half_way_leaves_nothing(tmp_path) -> None:
    large = mx.full((128, 64), 1e9)
    source = checkpoint(tmp_path / "source", WIDE, {UP: large}, dtype=mx.float32)
    with pytest.raises(ConvertError, match="too large"):
        run(source, tmp_path / "model")
    assert untouched(tmp_path)


# Other processes


@pytest.fixture
def spawn(source, tmp_path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a conversion to ``model`` that stops in the middle of its weights."""
    started: list[subprocess.Popen[str]] = []

    def spawn(go: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROCESS), str(source), str(tmp_path / "model"), go],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROCESS.parents[2])},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        return process

    yield spawn
    for process in started:
        process.kill()
        process.communicate()


def test_what_a_killed_run_left_is_swept_up_by_the_next(source, tmp_path, spawn) -> None:
    process = spawn("/nonexistent/go")
    process.kill()
    process.wait()
    assert len(leftovers(tmp_path)) == 1 and not (tmp_path / "model").exists()
    (tmp_path / ".other.partial-x").mkdir()
    run(source, tmp_path / "model")
    assert leftovers(tmp_path) == [".other.partial-x"]  # another target's is not ours to judge
    assert load_model(tmp_path / "model").model is not None


def test_a_conversion_that_is_under_way_is_not_swept_up(source, tmp_path, spawn) -> None:
    go = tmp_path / "go"
    process = spawn(str(go))
    run(source, tmp_path / "model")
    assert len(leftovers(tmp_path)) == 1
    finished = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    go.touch()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "is there already" in said
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == finished
    assert leftovers(tmp_path) == []


def test_the_slower_of_two_conversions_in_one_process_does_not_harm_the_other(
    source, tmp_path
) -> None:
    first = convert(source, tmp_path / "model", FORCE)
    next(first)
    second = convert(source, tmp_path / "model", ConvertOptions(bits=8, force=True, verify=False))
    next(second)
    list(second)
    list(first)
    loaded = load_model(tmp_path / "model")
    assert loaded.info.bits == 4 and leftovers(tmp_path) == []


def test_a_name_with_signs_of_patterns_sweeps_up_its_own_only(source, tmp_path) -> None:
    for name in (".a.partial-1", ".[ab].partial-1"):
        (tmp_path / name).mkdir()
    run(source, tmp_path / "[ab]")
    assert leftovers(tmp_path) == [".a.partial-1"]


def test_a_scratch_directory_is_locked_while_it_lives(tmp_path) -> None:
    with writer.staging(tmp_path / "model") as first:
        (first / "file").write_text("x")
        with writer.staging(tmp_path / "model") as second:
            assert first != second and (first / "file").exists()
        assert not second.exists() and (first / "file").exists()
    assert leftovers(tmp_path) == []


# How the weights are read


def test_every_tensor_is_read_once_without_verification(tmp_path, monkeypatch) -> None:
    from convert.readers.safetensors_file import SafetensorsReader

    source = checkpoint(tmp_path / "source")
    read, asked = SafetensorsReader.read, []

    def watched(self: SafetensorsReader, name: str) -> mx.array:
        asked.append(name)
        return read(self, name)

    monkeypatch.setattr(SafetensorsReader, "read", watched)
    run(source, tmp_path / "model")
    assert asked == list(dict.fromkeys(asked)) and set(asked) == tensors(source).keys()


def test_a_tensor_is_written_before_the_next_is_read(tmp_path, monkeypatch) -> None:
    from convert import job
    from convert.readers.safetensors_file import SafetensorsReader

    source, order = checkpoint(tmp_path / "source"), []
    read, transform = SafetensorsReader.read, job.transform
    write = SafetensorsWriter.write

    def note(what: str, function: Callable, place: int) -> Callable:
        def wrapped(*args):
            name = args[place]
            name = name.name if isinstance(name, TensorPlan) else name
            order.append((what, name.rpartition(".")[0]))
            return function(*args)

        return wrapped

    monkeypatch.setattr(SafetensorsReader, "read", note("read", read, 1))
    monkeypatch.setattr(job, "transform", note("transform", transform, 0))
    monkeypatch.setattr(SafetensorsWriter, "write", note("write", write, 1))
    run(source, tmp_path / "model")
    steps = list(dict.fromkeys(order))
    modules = list(dict.fromkeys(module for _, module in order))
    assert steps == [(what, m) for m in modules for what in ("read", "transform", "write")]


# Found by review


def test_what_was_half_removed_is_not_put_back(source, tmp_path) -> None:
    left = tmp_path / ".model.partial-x-old"
    left.mkdir()
    (left / "half").write_text("x")
    run(source, tmp_path / "model")
    assert not (tmp_path / "model" / "half").exists() and untouched(tmp_path, "model")


def test_what_a_killed_run_had_moved_away_is_put_back(source, tmp_path) -> None:
    run(source, tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.partial-x-old")
    with pytest.raises(StorageError, match="is there already"):
        run(source, tmp_path / "model")
    assert (tmp_path / "model" / MANIFEST).is_file() and untouched(tmp_path, "model")


def test_a_text_in_the_target_is_a_source_too(source, tmp_path) -> None:
    run(source, tmp_path / "model")
    text = tmp_path / "model" / "text.txt"
    text.write_text("word " * 3000)
    with pytest.raises(StorageError, match=r"is where the source lies|not the model's"):
        list(convert(source, tmp_path / "model", ConvertOptions(force=True), text=text))
    assert text.is_file()


def test_a_disk_without_locks_sweeps_nothing_up(tmp_path, monkeypatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    (tmp_path / ".partial-somebody").mkdir()
    monkeypatch.setattr(writer.fcntl, "flock", unsupported)
    with writer.exclusive(tmp_path):
        pass
    assert (tmp_path / ".partial-somebody").is_dir()
