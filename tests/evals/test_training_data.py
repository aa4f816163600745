"""Folders of data to train with: reproducible, said where from, never over something else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mobilellm_mlx.cli.train_data import data
from mobilellm_mlx.errors import ChecksumError, InvalidOption, StorageError
from mobilellm_mlx.evals import sources, training_data
from mobilellm_mlx.evals.instructions import read_instructions
from mobilellm_mlx.evals.sources import Sdist, ensure_sdist
from mobilellm_mlx.evals.training_data import prepare


def rows(*turns: tuple[str, str]) -> str:
    lines = []
    for said, answer in turns:
        messages = [("system", "You are somebody else."), ("user", said), ("assistant", answer)]
        told = [{"role": role, "content": content} for role, content in messages]
        lines.append(json.dumps({"messages": told}))
    return "\n".join(lines)


MANY = rows(*((f"Say the number {n}.", f"It is {n}.") for n in range(300)))


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred instructions in the place of the archive."""
    monkeypatch.setattr(training_data, "ensure_sdist", lambda source: iter(()))
    monkeypatch.setattr(Sdist, "text", lambda self: MANY)


# As under the whole program: a command keeps the names of its help from the first time it is asked.
AS_A_VERB: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(data, arguments, catch_exceptions=False, **AS_A_VERB)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_row_loses_its_system_prompt() -> None:
    (one,) = read_instructions(rows(("Name a colour.", "Red.")))
    assert (one.said, one.answer) == ("Name a colour.", "Red.")


def test_rows_that_cannot_be_used_are_left_out() -> None:
    text = rows(
        ("Name a colour.\n<noinput>", "Red."),
        ("Name a fruit.", "</s> Pear."),
        ("What are the results of the paper?", "They are good."),
        ("Name a town.", " "),
        ("Is 3 < 4?", "Yes, 3 < 4."),
        ("Is 3 < 4?", "Indeed."),
        ("Summarize the text.\nIt rained.", "Rain."),
    )
    found = [one.said for one in read_instructions(text)]
    assert found == ["Is 3 < 4?", "Summarize the text.\nIt rained."]


def test_the_folder_says_what_it_is_made_of(tmp_path: Path, instructions: None) -> None:
    run("chat", "-o", str(tmp_path / "made"), "--count", "50", "--valid", "5")
    made = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert made["kind"] == "chat"
    assert made["sources"][0]["licence"] == "Apache-2.0"
    for name, count in (("train.jsonl", 50), ("valid.jsonl", 5)):
        written = (tmp_path / "made" / name).read_bytes()
        assert made["files"][name] == {
            "rows": count,
            "sha256": hashlib.sha256(written).hexdigest(),
        }
        for line in written.decode().splitlines():
            assert [one["role"] for one in json.loads(line)["messages"]] == ["user", "assistant"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, instructions: None) -> None:
    files = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run("chat", "-o", str(tmp_path / name), "--count", "50", "--valid", "5", "--seed", seed)
        files.append((tmp_path / name / "train.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]


def test_no_question_is_on_both_sides(tmp_path: Path, instructions: None) -> None:
    run("chat", "-o", str(tmp_path / "made"))
    made = [tmp_path / "made" / f"{name}.jsonl" for name in ("train", "valid")]
    sides = [set(one.read_text(encoding="utf-8").splitlines()) for one in made]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 300


def test_json_prints_the_manifest(tmp_path: Path, instructions: None) -> None:
    arguments = ["chat", "-o", str(tmp_path / "made"), "--json"]
    result = CliRunner().invoke(data, arguments, catch_exceptions=False, **AS_A_VERB)
    assert json.loads(result.stdout)["kind"] == "chat"


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(InvalidOption, match="not empty"):
        prepare(tmp_path, force=True)
    assert (tmp_path / "letter.txt").read_text() == "Dear"


def test_an_earlier_run_is_replaced_only_when_asked(tmp_path: Path, instructions: None) -> None:
    folder = str(tmp_path / "made")
    run("chat", "-o", folder, "--count", "9")
    with pytest.raises(InvalidOption, match="not empty") as caught:
        prepare(Path(folder), force=False)
    assert "--force" in str(caught.value.hint)
    run("chat", "-o", folder, "--count", "8", "--force")
    assert len((tmp_path / "made" / "train.jsonl").read_text().splitlines()) == 8


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="is a file"):
        prepare(tmp_path / "file", force=True)
    with pytest.raises(StorageError, match="cannot be made"):
        prepare(tmp_path / "file" / "below", force=True)


def archive(path: Path, name: str, content: bytes) -> Sdist:
    """A small archive, and its pin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as made:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sdist("some-data", "1.0", path.stat().st_size, digest, "data/a.txt", "MIT")


def pinned(home: Path, name: str = "some_data-1.0/data/a.txt") -> Sdist:
    return archive(home / "cache" / "evals" / "some-data-1.0.tar.gz", name, b"hello")


def test_a_file_is_read_out_of_a_pinned_archive(home: Path) -> None:
    source = pinned(home)
    assert source.text() == "hello"
    assert not list(ensure_sdist(source))  # it is there


def test_an_altered_archive_is_refused(home: Path) -> None:
    source = pinned(home)
    source.path.write_bytes(source.path.read_bytes() + b"x")
    with pytest.raises(ChecksumError, match="not the file that was pinned"):
        source.text()


def test_an_archive_without_the_file_is_refused(home: Path) -> None:
    with pytest.raises(ChecksumError, match=r"has no `data/a\.txt`"):
        pinned(home, "some_data-1.0/other.txt").text()


def test_a_package_that_cannot_be_had_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    source = Sdist("no-such-data", "1.0", 10, "0" * 64, "a", "MIT")
    with pytest.raises(sources.DownloadError, match=r"index has no `no-such-data` 1\.0"):
        list(ensure_sdist(source))
    assert not source.path.exists()
    assert not list(source.path.parent.iterdir())
