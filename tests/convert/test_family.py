"""R1 and Pro from Hugging Face's layout to a directory that runs, against transformers."""

from typing import Any

import pytest
from tiny import LLAMA, make_model, write_byte_tokenizer, write_json
from tolerances import FP32_REORDERED, assert_close

from convert.job import ConvertOptions
from convert.source import Source
from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.loading import build_model, load_model, read_json
from mobilellm_mlx.models import RotatingKVCache, build_config
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.weights import load_tensors, weight_files
from tests.convert.checkpoints import proof, run
from tests.models.test_llama4 import CASES, read_case

R1: dict[str, Any] = {
    **LLAMA,
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "hidden_size": 64,
    "head_dim": 16,
    "intermediate_size": 64,
    "intermediate_size_mlp": 128,
    "num_hidden_layers": 4,
    "rope_theta": 10_000.0,
    "use_qk_norm": True,
    "no_rope_layers": [1, 1, 1, 1],
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": False,
    "moe_layers": [],
    "interleave_moe_layer_step": 0,
}
PRO: dict[str, Any] = {
    **R1,
    "architectures": ["MobileLLMP1ForCausalLM"],
    "layer_types": ["full_attention", *["sliding_attention"] * 2, "full_attention"],
    "sliding_window": 8,
}
FLASH: dict[str, Any] = {
    **{name: value for name, value in LLAMA.items() if name != "tie_word_embeddings"},
    "model_type": "mobilellm",
    "hidden_size": 64,
    "intermediate_size": 128,
    "layer_types": ["full_attention", "none"],
    "layer_runs": 3,
}


@pytest.mark.parametrize("case", CASES)
def test_a_converted_r1_gives_the_logits_of_transformers(tmp_path, case, monkeypatch) -> None:
    raw, weights, ids, logits = read_case(case)
    source = tmp_path / "source"
    source.mkdir()
    write_json(source / "config.json", raw)
    tensors = {name: mx.array(array) for name, array in weights.items()}
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    monkeypatch.setattr(Source, "write_tokenizer", lambda *_: [])  # the goldens have no words
    run(source, tmp_path / "t", ConvertOptions(bits=None, dtype="float32", verify=False))
    config = build_config(read_json(tmp_path / "t" / "config.json"))
    model = build_model(config, load_tensors(weight_files(tmp_path / "t")), None, "dense")
    assert_close(model(mx.array(ids)), logits, FP32_REORDERED, case)
    found = proof(tmp_path / "t")
    assert found["unused"] == found["missing"] == [] and found["family"] == "llama4_text"
    assert len(found["tensors"]) == len(tensors)


@pytest.mark.parametrize("raw", [R1, PRO, FLASH], ids=["r1", "pro", "flash"])
def test_every_line_of_the_family_converts_to_4_bits_is_measured_and_answers(tmp_path, raw) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_json(source / "config.json", raw)
    write_byte_tokenizer(source)
    model = make_model(raw)
    model.set_dtype(mx.bfloat16)
    mx.save_safetensors(str(source / "model.safetensors"), dict(tree_flatten(model.parameters())))
    summary = run(source, tmp_path / "t", ConvertOptions())[-1]
    assert summary.verified_tokens > 0 and summary.mean_kl is not None
    ids = mx.array([list(b"a text that is longer than the window")])
    logits = {}
    for compute in ("dense", "packed"):
        loaded = load_model(tmp_path / "t", LoadOptions(compute=compute))
        logits[compute] = loaded.model(ids)
        assert loaded.info.family == raw["model_type"]
        named = read_json(tmp_path / "t" / "config.json")["model_type"]
        assert named == ("mobilellm_pro" if raw is PRO else raw["model_type"])
        windows = [c for c in loaded.model.make_cache() if isinstance(c, RotatingKVCache)]
        assert len(windows) == (2 if raw is PRO else 0)
    assert_close(logits["dense"], logits["packed"], FP32_REORDERED * 10, "dense and packed")
