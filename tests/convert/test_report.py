"""The proof for programs and the card for people."""

import hashlib
import json
from datetime import datetime
from math import nan

import pytest

from convert.job import ConvertOptions, Origin, convert
from convert.recipes import Rule
from mobilellm_mlx import __version__
from mobilellm_mlx.backend import mx
from mobilellm_mlx.hub import sha256
from mobilellm_mlx.huggingface import readme_licence
from mobilellm_mlx.paths import MANIFEST
from tests.convert.checkpoints import FAST, UP, WIDE, checkpoint, proof, run, strict_json, tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A verified conversion with a licence, an exception and a fallback; source and target."""
    place = tmp_path_factory.mktemp("report")
    source = checkpoint(place / "My Model", {**WIDE, "intermediate_size": 96})
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    (source / "LICENSE").write_text("do as you like")
    options = ConvertOptions(bits=8, bits_for=(Rule("v_proj", 6),))
    run(source, place / "out", options)
    return source, place / "out"


def test_the_proof_has_everything(made) -> None:
    found = proof(made[1])
    assert found["format"] == 1 and found["made_by"] == f"mobilellm-mlx {__version__}"
    assert datetime.fromisoformat(found["made_at"]).tzinfo is not None
    assert (found["family"], found["unused"], found["missing"]) == ("llama", [], [])
    assert found["parameters"] == sum(a.size for a in tensors(made[0]).values())
    assert found["bytes"] == sum(a.nbytes for a in tensors(made[1]).values())
    assert found["options"]["bits"] == 8
    assert found["options"]["bits_for"] == [{"pattern": "v_proj", "bits": 6}]
    assert 0 < found["relative_error"] < 0.05 and found["nonfinite"] == {}
    assert found["quality"]["tokens"] > 1000 and found["quality_text"] == "built-in"
    assert found["convert_s"] > 0 and found["verify_s"] > 0
    assert found["convert_peak_memory_bytes"] > 10_000_000
    assert len(found["notices"]) == 1


def test_the_source_is_named_with_its_hashes(made) -> None:
    source = proof(made[1])["source"]
    assert (source["name"], source["format"], source["licence"]) == (
        "My Model",
        "safetensors",
        "mit",
    )
    path = made[0] / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["files"] == [
        {"name": "model.safetensors", "bytes": path.stat().st_size, "sha256": digest}
    ]


def test_every_tensor_has_its_row(made) -> None:
    rows = {row["name"]: row for row in proof(made[1])["tensors"]}
    assert rows.keys() == tensors(made[0]).keys()
    v = rows["model.layers.0.self_attn.v_proj.weight"]
    assert (v["bits"], v["group_size"], v["mode"], v["action"]) == (6, 64, "affine", "pack")
    assert 0.01 < v["relative_error"] < 0.05 and v["from"] == v["name"]
    assert "96 columns" in rows["model.layers.0.mlp.down_proj.weight"]["note"]
    norm = rows["model.norm.weight"]
    assert norm["action"] == "keep" and "bits" not in norm and "relative_error" not in norm
    assert (norm["shape"], norm["source_dtype"], norm["dtype"]) == ([64], "BF16", "BF16")


@pytest.mark.parametrize("name", ["conversion.json", "README.md", "config.json", MANIFEST])
def test_no_file_says_where_anything_lay(made, name, tmp_path) -> None:
    text = (made[1] / name).read_text()
    for path in (made[0], made[0].parent, tmp_path.parent):
        assert str(path) not in text
    assert ".partial-" not in text


def test_a_text_is_named_without_its_place(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("the quick brown fox " * 20)
    source = checkpoint(tmp_path / "s")
    run(source, tmp_path / "t", ConvertOptions(), text=tmp_path / "mine.txt")
    text = (tmp_path / "t" / "conversion.json").read_text()
    assert '"mine.txt"' in text and str(tmp_path) not in text
    assert "of mine.txt text" in (tmp_path / "t" / "README.md").read_text()


@pytest.mark.parametrize("verify", [True, False])
def test_weights_that_are_not_numbers_are_still_json(tmp_path, verify) -> None:
    changes = {UP: mx.full((128, 64), nan), "model.norm.weight": mx.full((64,), float("inf"))}
    run(checkpoint(tmp_path / "s", WIDE, changes), tmp_path / "t", ConvertOptions(verify=verify))
    found = proof(tmp_path / "t")
    assert found["nonfinite"] == {UP: 128 * 64, "model.norm.weight": 64}
    assert found["quality"] is None and found["relative_error"] is None
    for name in ("config.json", "generation_config.json", MANIFEST, "tokenizer_config.json"):
        strict_json(tmp_path / "t" / name)


def test_the_hub_s_details_are_kept_and_its_hashes_believed(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    details = {"hub": "org/tiny", "revision": "a" * 40, "licence": "fair-nc"}
    origin = Origin("tiny", details, {"model.safetensors": "b" * 64})
    list(convert(source, tmp_path / "t", FAST, origin=origin))
    found = proof(tmp_path / "t")["source"]
    assert (found["name"], found["hub"], found["revision"]) == ("tiny", "org/tiny", "a" * 40)
    assert found["files"][0]["sha256"] == "b" * 64
    assert "base_model: org/tiny\n" in (tmp_path / "t" / "README.md").read_text()


def test_the_licence_that_the_hub_names_is_the_licence(tmp_path) -> None:
    origin = Origin("tiny", {"hub": "org/tiny"}, licence="fair-nc")
    list(convert(checkpoint(tmp_path / "s"), tmp_path / "t", FAST, origin=origin))
    assert proof(tmp_path / "t")["source"]["licence"] == "fair-nc"
    assert json.loads((tmp_path / "t" / MANIFEST).read_text())["licence"] == "fair-nc"


def test_the_manifest_has_the_hash_of_every_file(made) -> None:
    manifest = json.loads((made[1] / MANIFEST).read_text())
    assert manifest["files"] == {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in made[1].iterdir()
        if path.name != MANIFEST
    }
    assert (manifest["name"], manifest["licence"], manifest["family"]) == ("out", "mit", "llama")


def test_the_card_says_what_people_need(made) -> None:
    text = (made[1] / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\nlibrary_name: mlx\n---\n\n# My Model, for MLX\n")
    assert "**Licence:** mit, as the original weights." in text
    found = proof(made[1])
    assert f"| parameters | {found['parameters']:,} |" in text
    assert f"{found['bits_per_weight']:.2f} bits a weight" in text
    assert f"| perplexity | {found['quality']['perplexity']:.2f}," in text
    assert "What the conversion had to say:" in text and f"- {found['notices'][0]}" in text
    assert (made[1] / "LICENSE").read_text() == "do as you like"


def test_the_card_s_licence_is_read_again(made, tmp_path) -> None:
    assert readme_licence(((made[1] / "README.md").read_text()).encode()) == "mit"
    run(made[1], tmp_path / "again")
    assert proof(tmp_path / "again")["source"]["licence"] == "mit"


def test_a_source_without_a_licence_is_not_given_one(tmp_path) -> None:
    run(checkpoint(tmp_path / "s"), tmp_path / "t")
    text = (tmp_path / "t" / "README.md").read_text()
    assert "the source names none" in text and "non-commercial" not in text  # it is no MobileLLM
    assert proof(tmp_path / "t")["source"]["licence"] is None


def test_no_licence_stays_none_when_it_is_converted_again(tmp_path) -> None:
    run(checkpoint(tmp_path / "s"), tmp_path / "t")
    run(tmp_path / "t", tmp_path / "again")
    assert proof(tmp_path / "again")["source"]["licence"] is None


def test_an_unverified_card_claims_no_quality(tmp_path) -> None:
    run(checkpoint(tmp_path / "s"), tmp_path / "t")
    assert "perplexity" not in (tmp_path / "t" / "README.md").read_text()


@pytest.mark.parametrize("licence", ["a: b", "[mit", "'mit", "mit # or not"])
def test_a_licence_of_any_name_leaves_the_card_readable(tmp_path, licence) -> None:
    yaml = pytest.importorskip("yaml")
    source = checkpoint(tmp_path / "s")
    source_card = f"---\nlicense: other\nlicense_name: {json.dumps(licence)}\n---\n"
    (source / "README.md").write_text(source_card)
    run(source, tmp_path / "t")
    head = (tmp_path / "t" / "README.md").read_text().split("---")[1]
    try:
        assert licence in yaml.safe_load(head).values()
    except yaml.YAMLError:
        pytest.fail("not YAML")
