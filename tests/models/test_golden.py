"""The network against other people's: transformers' Llama, and a NumPy one of the paper's text."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import GOLDEN
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx
from mobilellm_mlx.models import LanguageModel, build_config

Arrays = dict[str, np.ndarray]


def read_case(file: str, case: str = "") -> tuple[dict[str, Any], Arrays]:
    """A golden's configuration and its arrays, without the case's prefix."""
    with np.load(GOLDEN / file) as archive:
        arrays = {
            name.removeprefix(case): archive[name] for name in archive if name.startswith(case)
        }
    return json.loads(str(arrays.pop("config"))), arrays


def build(raw: dict[str, Any], arrays: Arrays, dtype: mx.Dtype = mx.float32) -> LanguageModel:
    model = LanguageModel(build_config(raw))
    weights = {n: mx.array(a).astype(dtype) for n, a in arrays.items() if n.endswith(".weight")}
    model.load_weights(list(weights.items()), strict=True)
    return model


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_llama_gives_the_logits_of_transformers(case: str) -> None:
    raw, arrays = read_case("llama_tiny.npz", f"{case}/")
    logits = build(raw, arrays)(mx.array(arrays["ids"]))
    assert_close(logits, arrays["logits"], FP32_REORDERED, f"llama {case}")


def test_the_golden_cases_differ_in_what_they_claim_to() -> None:
    configs = {case: build_config(read_case("llama_tiny.npz", f"{case}/")[0]) for case in "abc"}
    assert configs["a"].tie_word_embeddings and not configs["b"].tie_word_embeddings
    assert configs["b"].head_dim * configs["b"].num_attention_heads != configs["b"].hidden_size
    assert configs["a"].num_key_value_heads < configs["a"].num_attention_heads
    assert configs["c"].num_key_value_heads == configs["c"].num_attention_heads


def test_layer_sharing_gives_the_logits_of_the_papers_description() -> None:
    raw, arrays = read_case("layer_sharing_tiny.npz")
    logits = build(raw, arrays)(mx.array(arrays["ids"]))
    assert_close(logits, arrays["logits"], FP32_REORDERED, "layer sharing")


def test_the_same_weights_without_layer_sharing_give_the_unshared_logits() -> None:
    raw, arrays = read_case("layer_sharing_tiny.npz")
    logits = build({**raw, "layer_sharing": False}, arrays)(mx.array(arrays["ids"]))
    assert_close(logits, arrays["logits_unshared"], FP32_REORDERED, "no layer sharing")


def test_sharing_or_not_makes_a_large_difference() -> None:
    _, arrays = read_case("layer_sharing_tiny.npz")
    assert np.abs(arrays["logits"] - arrays["logits_unshared"]).max() > 1


def test_the_head_obeys_share_embedding_and_not_tie_word_embeddings() -> None:
    raw, _ = read_case("layer_sharing_tiny.npz")
    assert raw["share_embedding"] and not raw["tie_word_embeddings"]
    assert "lm_head" not in LanguageModel(build_config(raw))


def test_interleaved_rope_would_give_other_logits() -> None:
    """The two conventions of RoPE are not interchangeable: skipping a permutation is visible."""
    raw, arrays = read_case("llama_tiny.npz", "a/")
    model = build(raw, arrays)
    for block in model.model.layers:
        layer = block.self_attn.layer
        assert layer.rope is not None
        block.self_attn.layer = replace(layer, rope=replace(layer.rope, traditional=True))
    logits = np.array(model(mx.array(arrays["ids"])))
    assert np.abs(logits - arrays["logits"]).max() > 0.1
