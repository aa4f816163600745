"""``mobilellm models``: list, pull, show and rm, with a catalogue entry that exists only here."""

import json

import pytest

from mobilellm_mlx import catalogue, events
from mobilellm_mlx.catalogue import CATALOGUE
from mobilellm_mlx.cli import faces, shared
from mobilellm_mlx.errors import DownloadError
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.published import PUBLISHED


def rows(result) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(result.out)["models"]}


def line_of(result, word: str) -> str:
    (line,) = [line for line in result.out.splitlines() if f" {word} " in line]
    return line


def test_list_shows_every_model_with_its_licence(run, pseudo_model) -> None:
    result = run("models", "list")
    assert result.code == 0 and result.err == ""
    assert line_of(result, "pseudo").split() == [
        "pseudo",
        "1M",
        "512",
        "1",
        "kB",
        "~99",
        "B",
        "MIT",
    ]
    assert f"{catalogue.DEFAULT} (default)" in result.out and "Installed" not in result.out


def test_what_is_installed_comes_first(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    lines = run("models", "list").out.splitlines()
    assert lines[1] == "Installed" and lines[2].split()[0] == "pseudo"
    assert "~" not in lines[2]


def test_list_in_json_has_a_row_for_every_model(run, pseudo_model) -> None:
    found = rows(run("models", "list", "--json"))
    assert found.keys() == CATALOGUE.keys() | PUBLISHED.keys()
    row = found["pseudo"]
    assert (row["installed"], row["bytes"], row["download_bytes"]) == (False, None, 1234)
    assert row["path"] == str(pseudo_model.path)
    row = found["mobilellm-paretoq-350m-2-bit"]
    assert (row["weight_bits"], row["context"], row["gated"], row["licence"]) == ("2",) + (
        None,
    ) * 3
    row = found["mobilellm-r1-140m"]
    assert (row["gated"], row["non_commercial"], row["context"]) == (True, True, 32_768)
    assert row["page"] == "https://huggingface.co/facebook/MobileLLM-R1-140M"


def test_pull_says_what_it_does_on_stderr_only(run, pseudo_model) -> None:
    result = run("models", "pull", "pseudo")
    assert (result.code, result.out) == (0, "")
    said = result.err.splitlines()
    assert said[0] == "fetching pseudo-pkg 1.0 (1 kB)"
    assert said[-1] == f"pseudo is ready: {pseudo_model.path}"


def test_pull_leaves_a_whole_model_with_its_licence(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    manifest = json.loads((pseudo_model.path / MANIFEST).read_text())
    assert (manifest["name"], manifest["licence"]) == ("pseudo", "MIT")
    assert manifest["files"].keys() == {"m.gguf", "LICENSE"}
    assert (pseudo_model.path / "LICENSE").read_text() == "do as you like"


def test_a_damaged_model_is_not_called_ready(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    (pseudo_model.path / "m.gguf").write_bytes(b"x")
    result = run("models", "pull", "pseudo")
    assert result.code == 1 and "pseudo is here but damaged: `m.gguf` has" in result.err
    assert "hint: `mobilellm models rm pseudo`" in result.err


def test_a_second_pull_fetches_nothing(run, pseudo_model, monkeypatch) -> None:
    run("models", "pull", "pseudo")
    monkeypatch.setattr(shared, "pull_events", lambda model: pytest.fail("it was fetched again"))
    result = run("models", "pull", "pseudo")
    assert (result.code, result.err) == (0, f"pseudo is already here: {pseudo_model.path}\n")


def test_pull_in_json_is_progress_and_a_summary(run, pseudo_model) -> None:
    result = run("models", "pull", "pseudo", "--json")
    told = [json.loads(line) for line in result.out.splitlines()]
    assert (result.code, result.err) == (0, "")
    assert {event["event"] for event in told[:-1]} == {"progress"}
    assert (told[-1]["event"], told[-1]["job"], told[-1]["status"]) == ("summary", "pull", "ok")
    assert all(events.from_dict(event).to_dict() == event for event in told)


def test_a_second_pull_in_json_is_just_the_summary(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    (line,) = run("models", "pull", "pseudo", "--json").out.splitlines()
    assert json.loads(line)["status"] == "ok"


def test_a_failed_pull_is_explained_and_leaves_nothing(run, pseudo_model, monkeypatch) -> None:
    def fail(source, directory):
        (directory / "half").write_bytes(b"x" * 1000)
        yield events.Progress("fetching", 500, 1234)
        raise DownloadError("the index went away", "try again")

    monkeypatch.setattr("mobilellm_mlx.hub.fetch_package_file", fail)
    result = run("models", "pull", "pseudo")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("error: the index went away\nhint: try again\n")
    assert {path.name for path in pseudo_model.path.parent.iterdir()} == {".lock"}


def test_a_failed_pull_in_json_ends_with_an_error_summary(run, pseudo_model, monkeypatch) -> None:
    def fail(source, directory):
        raise DownloadError("the index went away", "try again")
        yield

    monkeypatch.setattr("mobilellm_mlx.hub.fetch_package_file", fail)
    result = run("models", "pull", "pseudo", "--json")
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, result.err, last["job"], last["status"]) == (1, "", "pull", "error")
    assert (last["error"], last["hint"]) == ("the index went away", "try again")


@pytest.mark.parametrize("verb", ["pull", "show", "rm"])
def test_an_unknown_name_suggests_the_nearest(run, pseudo_model, verb) -> None:
    result = run("models", verb, "pseud")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: there is no model named `pseud`, and no such directory\n"
        "hint: did you mean `pseudo`?\n"
    )


def test_an_unknown_name_in_json_is_a_summary_too(run) -> None:
    result = run("models", "pull", "nothing-like-it", "--json")
    assert (result.code, result.err) == (1, "")
    last = json.loads(result.out)
    assert (last["event"], last["status"]) == ("summary", "error")
    assert catalogue.DEFAULT in last["hint"]


def test_show_says_where_it_lies_and_what_it_allows(run, pseudo_model) -> None:
    before = run("models", "show", "pseudo")
    assert "1 kB to fetch" in before.out and "models pull pseudo" in before.out
    run("models", "pull", "pseudo")
    after = run("models", "show", "pseudo")
    assert after.code == 0 and after.err == ""
    for words in ("Pseudo 1M", "Nobody", "MIT", "1,000,000", "512 tokens", str(pseudo_model.path)):
        assert words in after.out, words


def test_show_in_json_has_the_path(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    row = json.loads(run("models", "show", "pseudo", "--json").out)
    assert (row["path"], row["installed"]) == (str(pseudo_model.path), True)
    assert row["bytes"] == sum(file.stat().st_size for file in pseudo_model.path.iterdir())


def test_show_describes_a_directory_by_its_configuration(run, tmp_path) -> None:
    from tiny import LLAMA, write_model

    directory = write_model(tmp_path / "mine", packed=True)
    row = json.loads(run("models", "show", str(directory), "--json").out)
    assert (row["name"], row["path"]) == ("mine", str(directory))
    assert row["context"] == LLAMA["max_position_embeddings"]
    assert row["packing"].startswith("4-bit, some 8; ") and row["licence"] is None
    text = run("models", "show", str(directory))
    assert text.code == 0 and "unknown: see where you got it" in text.out


def test_show_of_a_directory_without_a_model_is_explained(run, tmp_path) -> None:
    result = run("models", "show", str(tmp_path))
    assert (result.code, result.out) == (1, "")
    assert "is not a model directory: it has no `config.json`" in result.err


def test_rm_frees_the_directory(run, pseudo_model) -> None:
    run("models", "pull", "pseudo")
    result = run("models", "rm", "pseudo")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("removed pseudo, ") and result.err.endswith(" freed\n")
    assert not pseudo_model.path.exists()


def test_rm_of_what_is_not_installed_is_explained(run, pseudo_model) -> None:
    result = run("models", "rm", "pseudo")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: `pseudo` is not installed\nhint: ")


def test_rm_never_touches_a_directory_that_is_no_catalogue_model(run, tiny_dir) -> None:
    assert run("models", "rm", str(tiny_dir)).code == 1
    assert (tiny_dir / "config.json").is_file()


def test_rm_of_a_link_leaves_what_it_points_to(run, pseudo_model, tmp_path) -> None:
    run("models", "pull", "pseudo")
    elsewhere = pseudo_model.path.rename(tmp_path / "elsewhere")
    pseudo_model.path.symlink_to(elsewhere)
    assert run("models", "rm", "pseudo").code == 0
    assert not pseudo_model.path.is_symlink() and (elsewhere / MANIFEST).is_file()


def test_rm_that_is_cut_off_leaves_nothing_that_looks_installed(
    run, pseudo_model, monkeypatch
) -> None:
    run("models", "pull", "pseudo")

    def cut_off(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", cut_off)
    assert run("models", "rm", "pseudo").code == 130
    assert (pseudo_model.path / "m.gguf").exists() and not pseudo_model.is_installed


def test_what_was_removed_can_be_pulled_again(run, pseudo_model) -> None:
    for verb in ("pull", "rm", "pull"):
        assert run("models", verb, "pseudo").code == 0
    assert pseudo_model.is_installed


def test_the_first_run_names_the_licence_and_the_size_on_stderr(
    run, pseudo_model, monkeypatch
) -> None:
    asked = []

    def no_engine(directory, options, **_):
        asked.append(directory)
        raise DownloadError("far enough")

    monkeypatch.setattr("mobilellm_mlx.cli.generate.Engine", no_engine)
    result = run("generate", "-m", "pseudo", "-p", "hi")
    assert result.out == "" and asked == [pseudo_model.path]
    first = result.err.splitlines()[0]
    assert "Pseudo 1M" in first and "(MIT)" in first and "1 kB" in first and "once" in first
    again = run("generate", "-m", "pseudo", "-p", "hi")
    assert again.err == "error: far enough\n"


def test_a_catalogue_name_wins_over_a_directory_of_that_name(
    run, pseudo_model, tmp_path, monkeypatch
) -> None:
    (tmp_path / "pseudo").mkdir()
    monkeypatch.chdir(tmp_path)
    run("models", "pull", "pseudo")
    assert shared.resolve_model("pseudo") == pseudo_model.path


def test_a_relative_directory_is_a_model(run, tiny_dir, monkeypatch) -> None:
    monkeypatch.chdir(tiny_dir.parent)
    assert run("generate", "-m", tiny_dir.name, "-p", "x", "--max-tokens", "1").code == 0


def test_every_catalogue_entry_is_pinned_and_licensed() -> None:
    for name, model in CATALOGUE.items():
        source = model.source
        assert model.name == name and model.licence
        for digest in (source.wheel_sha256, source.member_sha256):
            assert len(bytes.fromhex(digest)) == 32
        assert "latest" not in source.version and source.version[0].isdigit()


def test_the_faces_are_named_as_they_are() -> None:
    assert faces.convert("pull").__name__ == "convert.pull"
    assert faces.tui().__name__ == "tui"
