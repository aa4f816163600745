"""Hugging Face directories out: what need not change does not, and others can load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import LLAMA, MOBILELLM, write_json, write_model

from mobilellm_mlx.backend import mx
from mobilellm_mlx.events import ExportSummary
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.paths import MANIFEST
from tests.convert.exports import edit_weights, notices, run, same_bits, stored, unpacked

TOKENS = mx.array([[7, 256, 30, 31, 99]])


@pytest.fixture
def half_dir(tmp_path: Path) -> Path:
    """An unpacked float16 model."""
    return write_model(tmp_path / "half", dtype=mx.float16)


@pytest.fixture
def packed_dir(tmp_path: Path) -> Path:
    """4-bit weights in groups of 32 with float16 scales, 8-bit embedding."""
    return write_model(tmp_path / "packed", packed=True, dtype=mx.float16)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_unpacked_weights_go_out_bit_for_bit(tmp_path, dtype) -> None:
    source = write_model(tmp_path / "source", dtype=dtype)
    events = run(source, tmp_path / "out", "safetensors")
    assert same_bits(stored(tmp_path / "out"), stored(source))
    assert notices(events) == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert LLAMA.items() <= config.items() and "quantization" not in config
    assert config["torch_dtype"] == str(dtype).removeprefix("mlx.core.")


def test_packed_weights_go_out_unpacked_and_compute_the_same(tmp_path, packed_dir) -> None:
    events = run(packed_dir, tmp_path / "out", "safetensors", "f32")
    assert same_bits(stored(tmp_path / "out"), unpacked(packed_dir))
    assert notices(events) == []
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())
    dense = LoadOptions(compute="dense")
    ours, theirs = load_model(packed_dir, dense), load_model(tmp_path / "out", dense)
    assert mx.array_equal(ours.model(TOKENS), theirs.model(TOKENS)).item()
    assert theirs.info.bits is None and theirs.info.chat


def test_unpacking_to_sixteen_bits_is_said_and_rounds_once(tmp_path, packed_dir) -> None:
    events = run(packed_dir, tmp_path / "out", "safetensors")
    want = {name: array.astype(mx.float16) for name, array in unpacked(packed_dir).items()}
    assert same_bits(stored(tmp_path / "out"), want)
    (said,) = notices(events)
    assert said.startswith("15 of 20 tensors are rounded to 16 bits")
    assert isinstance(events[-1], ExportSummary)
    assert (events[-1].rounded, events[-1].lossless) == (15, False)


def test_everything_that_belongs_to_the_model_goes_with_it(tmp_path, half_dir) -> None:
    (half_dir / "LICENSE").write_text("do as you like")
    (half_dir / "notes.txt").write_text("mine")
    write_json(half_dir / "generation_config.json", {"do_sample": True})
    write_json(half_dir / MANIFEST, {"name": "half", "licence": "MIT", "files": {"x": 1}})
    run(half_dir, tmp_path / "out", "safetensors")
    out = {path.name for path in (tmp_path / "out").iterdir()}
    assert out == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "generation_config.json", "LICENSE", MANIFEST,
    }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["name"], manifest["licence"]) == ("half", "MIT")
    assert manifest["files"].keys() == out - {MANIFEST}


def test_mobilellm_goes_out_as_the_llama_that_it_is(tmp_path) -> None:
    raw = {**MOBILELLM, "layer_sharing": False, "eos_token_id": [257, 2], "bos_token_id": 256}
    source = write_model(tmp_path / "v1", raw, generation={"eos_token_id": 257, "max_length": 9})
    run(source, tmp_path / "out", "safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert config["tie_word_embeddings"] is True and "share_embedding" not in config
    assert (config["eos_token_id"], config["bos_token_id"]) == ([257, 2], 256)
    generation = (tmp_path / "out" / "generation_config.json").read_text()
    assert json.loads(generation) == {"eos_token_id": 257, "max_length": 9}
    ours, theirs = load_model(source).model, load_model(tmp_path / "out").model
    assert mx.array_equal(ours(TOKENS), theirs(TOKENS)).item()


def test_shared_blocks_keep_a_name_that_other_programs_refuse(tmp_path) -> None:
    source = write_model(tmp_path / "shared", MOBILELLM)
    run(source, tmp_path / "out", "safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["layer_sharing"]) == ("mobilellm", True)


def test_large_weights_are_cut_into_shards_with_an_index(tmp_path, half_dir) -> None:
    run(half_dir, tmp_path / "out", "safetensors", shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == stored(half_dir).keys()
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in stored(half_dir).values())
    assert same_bits(stored(tmp_path / "out"), stored(half_dir))
    assert load_model(tmp_path / "out").info.parameters > 0


def test_what_repeats_other_tensors_is_left_behind(tmp_path, half_dir) -> None:
    before = stored(half_dir)
    repeated = {
        "lm_head.weight": before["model.embed_tokens.weight"],
        "model.layers.0.self_attn.rotary_emb.inv_freq": mx.ones(4),
    }
    edit_weights(half_dir, repeated)
    run(half_dir, tmp_path / "out", "safetensors")
    assert same_bits(stored(tmp_path / "out"), before)
