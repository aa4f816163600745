"""Packed weights: the same numbers as unpacked ones, and no accidental widening."""

import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack
from tolerances import FP16, FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.models import LanguageModel, build_config

IDS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def half(model: LanguageModel) -> LanguageModel:
    """Packed weights whose scales, biases and norms are float16."""
    pack(model).set_dtype(mx.float16)
    return model


def unpacked(model: LanguageModel) -> LanguageModel:
    """A float32 network of exactly the values that a packed one stands for."""
    dense = LanguageModel(model.config)
    tensors = dict(tree_flatten(model.parameters()))
    weights = {}
    for name, array in tensors.items():
        module = name.rpartition(".")[0]
        if f"{module}.scales" not in tensors:
            weights[name] = array
        elif name.endswith(".weight"):
            parts = tensors[f"{module}.scales"], tensors[f"{module}.biases"]
            weights[name] = mx.dequantize(array, *parts, group_size=32, bits=4)
    dense.load_weights(list(weights.items()), strict=True)
    return dense


@pytest.mark.parametrize("raw", [LLAMA, {**LLAMA, "tie_word_embeddings": False}, MOBILELLM])
def test_packed_and_unpacked_forms_of_the_same_weights_agree(raw: dict[str, object]) -> None:
    packed = pack(make_model(raw))
    assert_close(packed(IDS), unpacked(packed)(IDS), FP32_REORDERED, "packed against dense")


def test_packing_changes_the_weights_so_the_agreement_above_means_something() -> None:
    plain = make_model(LLAMA)
    before = plain(IDS)
    mx.eval(before)
    assert mx.abs(pack(plain)(IDS) - before).max().item() > 0.01


def test_float16_scales_and_norms_keep_activations_and_cache_float16() -> None:
    model = half(make_model(LLAMA))
    caches = model.make_cache()
    assert model(IDS, caches).dtype == mx.float16
    assert {array.dtype for cache in caches for array in cache.arrays} == {mx.float16}


def test_float16_activations_stay_near_float32_ones() -> None:
    model = half(make_model(LLAMA))
    assert_close(model(IDS), unpacked(model)(IDS), 5 * FP16, "float16 against float32")


def test_the_dtype_of_a_packed_model_is_that_of_its_scales() -> None:
    model = half(make_model(LLAMA))
    assert model.dtype == mx.float16
    assert model.kv_bytes_per_token() == model.config.kv_bytes_per_token(2)


def test_one_float32_norm_would_widen_everything_after_it() -> None:
    """The trap: such a checkpoint doubles the cache and leaves the fast kernels, silently."""
    model = half(make_model(LLAMA))
    norm = model.model.layers[0].input_layernorm
    norm.weight = norm.weight.astype(mx.float32)
    caches = model.make_cache()
    assert model(IDS, caches).dtype == mx.float32
    assert caches[0].arrays[0].dtype == mx.float32
    assert model.dtype == mx.float16  # which is why what is planned would then be wrong


def test_weight_bytes_are_those_of_the_packed_arrays() -> None:
    config = build_config({**LLAMA, "tie_word_embeddings": False})
    model = LanguageModel(config)
    nn.quantize(model, group_size=32, bits=4)
    matrices = config.parameter_count() - 5 * config.hidden_size  # five norms
    per_group = 32 * 4 // 8 + 2 * 4  # codes, a float32 scale and a float32 bias
    assert model.weight_bytes() == matrices // 32 * per_group + 5 * config.hidden_size * 4
