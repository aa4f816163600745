"""``mobilellm models`` and the published family: the list, names, terms, gates, what is kept."""

import json
import subprocess
import sys

import pytest

from mobilellm_mlx import events, paths
from mobilellm_mlx.cli import faces, shared
from mobilellm_mlx.published import LINES, PUBLISHED
from tests.hub.tiny_repo import FILES, no_sockets, own_settings, running_hub


def rows(result) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(result.out)["models"]}


def line_of(result, word: str) -> str:
    (line,) = [line for line in result.out.splitlines() if f" {word} " in line]
    return line


def headings(result) -> dict[str, str]:
    """The heading above every name."""
    found, heading = {}, ""
    for line in result.out.splitlines():
        if line.startswith("  "):
            found[line.split()[0]] = heading
        else:
            heading = line
    return found


@pytest.fixture
def made_from_hub(monkeypatch) -> list[tuple]:
    """What the converter was asked for; it makes tiny directories."""
    from tiny import write_model

    from convert.writers import directory as writer

    sources, asked = faces.convert("sources"), []

    def make(name, target, options=None):
        asked.append((name, options))
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = write_model(target.parent / "scratch", packed=True)
        yield events.Progress("converting", 1, 1)
        yield events.Notice("all is well")
        writer.publish(scratch, target, {"name": target.name, "licence": "theirs"})
        yield events.Summary("convert", elapsed_s=1.0)

    monkeypatch.setattr(sources, "convert_any", make)
    return asked


def test_list_names_the_whole_family_under_what_it_is_for(run) -> None:
    result = run("models", "list")
    above = headings(result)
    for model in PUBLISHED.values():
        name = f"{model.name.removesuffix(model.variant)}*" if model.variant else model.name
        assert above[name] == f"{model.line}: {LINES[model.line]}"
    assert "(* is 1-bit, 1.58-bit, 2-bit, 3-bit, 4-bit or bf16)" in result.out
    assert "no tool training" in above["mobilellm-r1-950m"]
    assert "does not chat" in above["mobilellm-125m"]


def test_list_fits_a_narrow_terminal(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-paretoq-1.5b-1.58-bit")
    run("models", "pull", "someone-with-a-long-name/a-model-with-a-longer-name")
    result = run("models", "list")
    assert max(map(len, result.out.splitlines())) < 80
    assert "someone-with-a-long-name/a-model-with-a-longer-name\n" in result.out


def test_list_tells_terms_apart(run) -> None:
    result = run("models", "list")
    assert line_of(result, "mobilellm-r1-950m").endswith("~721 MB  NC, gated")
    assert line_of(result, "mobilellm-125m").endswith("249 MB    ~92 MB  NC")
    assert line_of(result, "mobilellm-paretoq-1b-*").split()[1:] == ["1B", "?", "?", "?", "?"]
    for sign in ("NC: ", "gated: ", "?: ", "~: "):
        assert sign in result.out


def test_neither_list_nor_show_asks_the_network_or_loads_mlx(spawn) -> None:
    for verb in (["list"], ["list", "--json"], ["show", "mobilellm-r1-950m"]):
        assert spawn("models", *verb, HF_ENDPOINT="http://127.0.0.1:9").code == 0
    looked = "import mobilellm_mlx.cli.models, sys; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", looked]).returncode == 0


@pytest.mark.parametrize("verb", ["pull", "show", "rm"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mobilelm-125m", "mobilellm-125m"),
        ("MobileLLM-R1-950", "mobilellm-r1-950m"),
        ("mobilellm-pareto-1b-2-bit", "mobilellm-paretoq-1b-2-bit"),
    ],
)
def test_a_mistyped_name_of_the_family_suggests_the_right_one(run, verb, typed, meant) -> None:
    result = run("models", verb, typed)
    assert result.code == 1 and result.err.endswith(f"hint: did you mean `{meant}`?\n")


@pytest.mark.parametrize(
    "name",
    ["mobilellm-125m", "MobileLLM-125M", "facebook/MobileLLM-125M", "facebook/mobilellm-125m"],
)
def test_a_model_of_the_family_is_pulled_by_any_of_its_names(run, made_from_hub, name) -> None:
    result = run("models", "pull", name)
    directory = PUBLISHED["mobilellm-125m"].path
    assert (result.code, result.out) == (0, "")
    assert result.err.endswith(f"{name} is ready: {directory}\n")
    assert [asked for asked, _ in made_from_hub] == ["facebook/MobileLLM-125M"]
    assert directory == paths.models_dir() / "hub" / "facebook--MobileLLM-125M"
    again = run("models", "pull", "mobilellm-125m")
    assert again.err == f"mobilellm-125m is already here: {directory}\n"
    assert shared.resolve_model(name) == directory and len(made_from_hub) == 1


def test_pull_says_which_terms_apply_and_how_to_enter(run, made_from_hub) -> None:
    said = run("models", "pull", "mobilellm-r1-950m").err
    assert "3.80 GB" in said and "for non-commercial use only (FAIR Noncommercial" in said
    assert "accept its terms at https://huggingface.co/facebook/MobileLLM-R1-950M " in said
    assert "`hf auth login` or set HF_TOKEN" in said
    assert "gated" not in run("models", "pull", "mobilellm-125m").err


def test_pull_in_json_tells_the_terms_and_ends_with_one_summary(run, made_from_hub) -> None:
    told = [
        json.loads(line)
        for line in run("models", "pull", "mobilellm-pro", "--json").out.splitlines()
    ]
    assert [event["event"] for event in told] == ["notice", "progress", "notice", "summary"]
    assert "gated" in told[0]["text"] and told[-1]["job"] == "pull"


def test_the_first_chat_with_a_short_name_fetches_it(made_from_hub, capsys) -> None:
    directory = shared.resolve_model("mobilellm-r1-140m")
    assert directory == PUBLISHED["mobilellm-r1-140m"].path and directory.is_dir()
    assert "It is gated" in capsys.readouterr().err


def test_a_directory_wins_over_a_short_name(made_from_hub, tiny_dir, tmp_path, monkeypatch) -> None:
    (tmp_path / "mobilellm-125m").symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    assert str(shared.resolve_model("mobilellm-125m")) == "mobilellm-125m"
    assert made_from_hub == []


def test_a_revision_follows_a_short_name_too(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-r1-950m@MobileLLM-R1-950M-tulu3")
    name = "facebook/MobileLLM-R1-950M@MobileLLM-R1-950M-tulu3"
    assert [asked for asked, _ in made_from_hub] == [name]
    found = rows(run("models", "list", "--json"))
    assert found[name]["installed"] and not found["mobilellm-r1-950m"]["installed"]
    assert run("models", "show", name).code == 0
    assert run("models", "rm", name).code == 0
    assert name not in rows(run("models", "list", "--json"))


@pytest.mark.parametrize(
    ("name", "weight_bits", "fake_quant"),
    [
        ("mobilellm-paretoq-125m-1.58-bit", "1.58", None),
        ("mobilellm-paretoq-1.5b-3-bit", "3", None),
        ("mobilellm-pro-base-int4-cpu", None, "int4"),
        ("mobilellm-paretoq-125m-bf16", None, None),
    ],
)
def test_a_model_trained_for_few_bits_is_converted_to_them(
    run, made_from_hub, name, weight_bits, fake_quant
) -> None:
    assert run("models", "pull", name).code == 0
    ((_, options),) = made_from_hub
    assert (options.weight_bits, options.fake_quant) == (weight_bits, fake_quant)


def test_a_gate_is_explained(run, tmp_path, monkeypatch) -> None:
    with own_settings(tmp_path, monkeypatch), running_hub(FILES, monkeypatch) as hub:
        hub.repo_id, hub.gated, hub.token = "facebook/MobileLLM-R1-140M", "auto", "hf_secret"
        result = run("models", "pull", "mobilellm-r1-140m")
        assert (result.code, result.out) == (1, "")
        assert "`facebook/MobileLLM-R1-140M` is gated: its terms must be accepted" in result.err
        assert f"hint: accept them at {hub.url}/facebook/MobileLLM-R1-140M, then" in result.err
        assert "401" not in result.err.replace(hub.url, "")  # whose port is any number
        last = run("models", "pull", "mobilellm-r1-140m", "--json").out.splitlines()[-1]
        assert "accept them at" in json.loads(last)["hint"]
    assert not PUBLISHED["mobilellm-r1-140m"].path.exists()


def test_show_says_what_a_model_is_for_and_what_it_is_not(run, monkeypatch) -> None:
    no_sockets(monkeypatch)
    said = {name: " ".join(run("models", "show", name).out.split()) for name in PUBLISHED}
    assert "for maths, code and science; no tool training" in said["mobilellm-r1-950m"]
    assert "completes text, does not chat" in said["mobilellm-125m"]
    assert (
        "gate accept the terms at https://huggingface.co/facebook/MobileLLM-Pro, then"
        in said["mobilellm-pro"]
    )
    assert "gate not known" in said["mobilellm-1b"]
    assert "trained for 1.58-bit weights" in said["mobilellm-paretoq-1b-1.58-bit"]
    for name, model in PUBLISHED.items():
        assert ("for non-commercial use only" in said[name]) and model.page in said[name]
        assert f"`mobilellm models pull {name}`" in said[name]


def test_show_of_an_installed_one_tells_what_its_files_say(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-paretoq-125m-4-bit")
    row = json.loads(run("models", "show", "mobilellm-paretoq-125m-4-bit", "--json").out)
    assert row["installed"] and row["packing"].startswith("4-bit, some 8; ") and row["context"]
    assert row["name"] == "mobilellm-paretoq-125m-4-bit" and row["licence"] == "theirs"
    said = run("models", "show", "mobilellm-paretoq-125m-4-bit").out
    assert "gate" not in said and "to fetch" not in said and row["path"] in said


def test_the_terms_of_an_installed_one_are_still_told(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-pro")
    said = run("models", "show", "mobilellm-pro").out
    assert "FAIR Noncommercial Research License: for non-commercial use only" in said


def test_a_model_of_somebody_else_is_kept_listed_and_removed(run, made_from_hub) -> None:
    assert run("models", "show", "org/other").code == 1
    assert run("models", "pull", "org/other").code == 0
    row = rows(run("models", "list", "--json"))["org/other"]
    assert row["installed"] and row["bytes"] and row["licence"] == "theirs"
    assert headings(run("models", "list"))["org/other"] == "Installed"
    assert run("models", "rm", "org/other").code == 0
    assert "org/other" not in rows(run("models", "list", "--json"))


def test_a_kept_model_whose_configuration_is_broken_is_listed_and_can_be_removed(
    run, made_from_hub
) -> None:
    run("models", "pull", "org/other")
    (paths.models_dir() / "hub" / "org--other" / "config.json").write_text("{")
    result = run("models", "list")
    assert result.code == 0 and headings(result)["org/other"] == "Installed"
    assert run("models", "rm", "org/other").code == 0


def test_rm_of_a_converted_model_frees_it_and_names_what_is_left(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-350m")
    result = run("models", "rm", "mobilellm-350m")
    assert result.code == 0 and result.err.startswith("removed mobilellm-350m, ")
    assert "`hf cache ls`" in result.err
    assert not PUBLISHED["mobilellm-350m"].path.exists()
    assert run("models", "rm", "mobilellm-350m").code == 1


@pytest.mark.parametrize("name", ["../models", "..", ".", "hub", "facebook/..", "/", "@x", ":"])
def test_rm_takes_no_paths(run, made_from_hub, name) -> None:
    run("models", "pull", "mobilellm-350m")
    assert run("models", "rm", name).code == 1
    assert PUBLISHED["mobilellm-350m"].is_installed


def test_doctor_looks_at_converted_models_too(run, made_from_hub) -> None:
    run("models", "pull", "mobilellm-350m")
    path = PUBLISHED["mobilellm-350m"].path / "config.json"
    assert "mobilellm-350m" in run("doctor").out
    path.write_text(path.read_text() + " ")
    report = json.loads(run("doctor", "--json").out)
    (check,) = [check for check in report["checks"] if check["name"] == "mobilellm-350m"]
    assert check["status"] == "fail" and "`config.json` has" in check["value"]
    assert "models rm mobilellm-350m" in check["hint"]
