"""The default model through the real command."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mobilellm_mlx import catalogue
from mobilellm_mlx.hub import sha256
from mobilellm_mlx.weights import read_safetensors_header

pytestmark = pytest.mark.real
QUESTION = "What is the capital of France?"


@pytest.fixture
def installed(real_model, home) -> Path:
    """The real model, in this test's own home under its own name."""
    place = home / "cache" / "models" / catalogue.DEFAULT
    place.parent.mkdir(parents=True)
    place.symlink_to(real_model)
    return place


def mobilellm(*args: str, stdin: str = "", prefix: tuple[str, ...] = ()) -> tuple[str, str]:
    """What a run of the command says on stdout and stderr; it must leave with 0."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "mobilellm_mlx", *args],
        input=stdin, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_first_question_is_answered_right(installed) -> None:
    out, err = mobilellm("generate", "-p", QUESTION, "--temp", "0")
    assert (out, err) == ("The capital of France is Paris.\n", "")


def test_line_mode_chat_knows_what_was_said_before(installed) -> None:
    out, err = mobilellm("chat", "--temp", "0", stdin=f"{QUESTION}\n\nAnd of Germany?\n")
    first, second, *rest = out.splitlines()
    assert first == "The capital of France is Paris."
    assert "Berlin" in second and rest == [] and err == ""


def test_a_second_start_needs_no_network_and_makes_nothing_again(installed) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in installed.iterdir()}
    offline = ("unshare", "--map-root-user", "--net")
    if not shutil.which("unshare") or subprocess.run([*offline, "true"]).returncode:
        offline = ("env", "PIP_NO_INDEX=1", "HTTPS_PROXY=http://127.0.0.1:9")
    out, err = mobilellm("generate", "-p", QUESTION, "--temp", "0", prefix=offline)
    assert (out, err) == ("The capital of France is Paris.\n", "")
    assert {path.name: path.stat().st_mtime_ns for path in installed.iterdir()} == before
    assert {path.name for path in installed.parent.iterdir()} == {catalogue.DEFAULT}  # no lock


def test_doctor_finds_the_model_whole(installed) -> None:
    out, _ = mobilellm("doctor", "--json")
    (check,) = [c for c in json.loads(out)["checks"] if c["name"] == catalogue.DEFAULT]
    assert check["value"] == "whole, every file as it was made (Apache-2.0)"


def test_the_licence_lies_beside_the_weights(real_model) -> None:
    assert "Apache License" in (real_model / "LICENSE").read_text()


def test_the_manifest_pins_the_file_that_it_came_from(real_model) -> None:
    manifest = json.loads((real_model / "mobilellm.json").read_text())
    source = catalogue.CATALOGUE[catalogue.DEFAULT].source
    assert manifest["source"]["sha256"] == source.member_sha256
    for name, facts in manifest["files"].items():
        assert (facts["bytes"], facts["sha256"]) == (
            (real_model / name).stat().st_size,
            sha256(real_model / name),
        )


def test_every_tensor_of_thirty_blocks_is_there_in_its_form(real_model) -> None:
    header = read_safetensors_header(real_model / "model.safetensors")
    kinds = Counter((name.rpartition(".")[2], info.dtype) for name, info in header.items())
    matrices, norms = 30 * 7 + 1, 30 * 2 + 1  # the head is the embedding
    assert kinds == {
        ("weight", "U32"): matrices,
        ("scales", "F16"): matrices,
        ("biases", "F16"): matrices,
        ("weight", "F16"): norms,
    }


def test_only_the_embedding_is_packed_otherwise(real_model) -> None:
    config = json.loads((real_model / "config.json").read_text())
    odd = {name: entry for name, entry in config["quantization"].items() if type(entry) is dict}
    (entry,) = odd.values()
    assert odd.keys() == {"model.embed_tokens"}
    assert (entry["group_size"], entry["bits"]) == (32, 8)
    assert config["quantization"]["bits"] == 4
    assert (config["rope_theta"], config["rms_norm_eps"]) == (100_000.0, 1e-5)
    assert (config["tie_word_embeddings"], config["max_position_embeddings"]) == (True, 8192)
