"""Small matrices beside frozen weights: what they change, and whose format they are in."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack
from tolerances import FP32, FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.errors import ConfigError
from mobilellm_mlx.models.lora import (
    LoraSpec,
    adapter_parameters,
    attach,
    count_parameters,
    dense_weight,
    detach,
    find_modules,
    parse_layers,
)
from mobilellm_mlx.models.uncached import make_uncached

TOKENS = mx.array([[1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4]])


def adapted(raw, method="lora", *, patterns=("*_proj",), layers="all", packed=False, per_run=False,
            filled=True):  # fmt: skip
    model = make_model(raw)
    if packed:
        pack(model)
    paths = find_modules(model, patterns, layers)
    attach(model, LoraSpec(method, 4, 2.0, paths, per_run=per_run))
    if filled:
        fill(model)
    return model


def fill(model):
    """Give the second matrices values, and DoRA's lengths others."""
    draw = np.random.default_rng(3)
    for name, array in adapter_parameters(model).items():
        module = dict(model.named_modules())[name.rpartition(".")[0]]
        if name.endswith("lora_b"):
            module.lora_b = mx.array(draw.normal(0, 0.1, array.shape).astype(np.float32))
        elif name.endswith(".m"):
            module.m = array * 1.1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("per_run", [False, True])
@pytest.mark.parametrize("raw", [LLAMA, MOBILELLM])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_fresh_adapter_changes_nothing(method, raw, per_run, packed):
    plain = make_model(raw)
    if packed:
        pack(plain)
    model = adapted(raw, method, packed=packed, per_run=per_run, filled=False)
    assert_close(model(TOKENS), plain(TOKENS), FP32, "logits")


@pytest.mark.parametrize("raw", [LLAMA, MOBILELLM])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_taking_it_off_gives_the_base_back(method, raw):
    before = make_model(raw)(TOKENS)
    model = adapted(raw, method)
    assert mx.abs(model(TOKENS) - before).max() > 0.01
    detach(model)
    assert mx.array_equal(model(TOKENS), before)
    assert not adapter_parameters(model)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_it_equals_the_changed_matrix_of_the_paper(method, packed):
    model = adapted(LLAMA, method, packed=packed)
    layer = model.model.layers[1].mlp.up_proj
    x = mx.random.normal((3, 32))
    weight = np.asarray(dense_weight(layer.linear), np.float64)
    changed = weight + 2.0 * (np.asarray(layer.lora_a) @ np.asarray(layer.lora_b)).T
    if method == "dora":
        lengths = np.linalg.norm(changed, axis=1, keepdims=True)
        changed = np.asarray(layer.m)[:, None] * changed / lengths
    assert_close(layer(x), np.asarray(x, np.float64) @ changed.T, FP32_REORDERED, "outputs")


def test_an_adapted_embedding_is_an_adapted_head_too():
    model = adapted(LLAMA, patterns=("embed_tokens",))
    table = model.model.embed_tokens
    whole = table.embedding.weight + 2.0 * table.lora_a @ table.lora_b
    plain = make_model(LLAMA)
    plain.model.embed_tokens.weight = whole
    assert_close(model(TOKENS), plain(TOKENS), FP32_REORDERED, "logits")


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_each_run_of_a_shared_block_can_have_its_own(method):
    model = adapted(MOBILELLM, method, per_run=True)
    names = adapter_parameters(model)
    assert names["model.layers.0.self_attn.q_proj.lora_a"].shape == (2, 32, 4)
    together = adapted(MOBILELLM, method)
    before = model(TOKENS)
    # With both runs alike it is the adapter that all runs share.
    modules, shared = dict(model.named_modules()), dict(together.named_modules())
    for name in names:
        path, _, leaf = name.rpartition(".")
        one = shared[path][leaf]
        setattr(modules[path], leaf, mx.stack([one, one]))
    assert_close(model(TOKENS), together(TOKENS), FP32, "logits")
    assert mx.abs(before - together(TOKENS)).max() > 0.01


@pytest.mark.parametrize("per_run", [False, True])
@pytest.mark.parametrize("raw", [LLAMA, MOBILELLM])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_gradients_are_the_slopes_of_the_loss(method, raw, per_run):
    model = adapted(raw, method, per_run=per_run)
    toward = mx.random.normal((2, 6, 258), key=mx.random.key(1))

    def loss():
        hidden = model.hidden(TOKENS, make_uncached(model.config))
        return (model.head(hidden) * toward).mean()

    _, gradients = nn.value_and_grad(model, loss)()
    flat = dict(tree_flatten(gradients))
    assert set(flat) == set(adapter_parameters(model))
    if method == "dora":
        return  # lengths are held fixed on the way back (section 4.3), so slopes differ
    modules = dict(model.named_modules())
    for name in list(flat)[::5]:
        path, _, leaf = name.rpartition(".")
        array, slope = modules[path][leaf], flat[name]
        direction = mx.sign(slope)
        step = 2e-3
        setattr(modules[path], leaf, array + step * direction)
        above = loss()
        setattr(modules[path], leaf, array - step * direction)
        below = loss()
        setattr(modules[path], leaf, array)
        measured = ((above - below) / (2 * step)).item()
        assert measured == pytest.approx(mx.abs(slope).sum().item(), rel=0.02, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_gradients_on_packed_weights_are_those_on_the_same_weights_unpacked(method):
    packed = adapted(LLAMA, method, packed=True)
    dense = make_model(LLAMA)
    for path, module in pack(make_model(LLAMA)).named_modules():
        if "scales" in module:
            dict(dense.named_modules())[path].weight = dense_weight(module)
    paths = find_modules(dense, ("*_proj",), "all")
    attach(dense, LoraSpec(method, 4, 2.0, paths))
    for path, module in dict(packed.named_modules()).items():
        if "lora_b" in module:
            for leaf in ("lora_a", "lora_b", "m"):
                if leaf in module:
                    setattr(dict(dense.named_modules())[path], leaf, module[leaf])

    def gradients(model):
        def loss():
            hidden = model.hidden(TOKENS, make_uncached(model.config))
            return mx.square(model.head(hidden)).mean()

        return dict(tree_flatten(nn.value_and_grad(model, loss)()[1]))

    ours, theirs = gradients(packed), gradients(dense)
    for name, want in theirs.items():
        scale = mx.abs(want).max().item()
        assert_close(ours[name] / scale, want / scale, FP32_REORDERED, name)


def test_only_the_adapter_is_trained():
    model = adapted(LLAMA, layers="last 1", patterns=("q_proj", "v_proj"))
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert set(trained) == set(adapter_parameters(model))
    assert count_parameters(model) == 4 * (32 + 32) + 4 * (32 + 16)


@pytest.mark.parametrize("patterns, layers, count", [
    (("*_proj",), "all", 14), (("q_proj",), "all", 2), (("self_attn.*",), "0", 4),
    (("mlp.up_proj", "down_proj"), "last 1", 2), (("embed_tokens",), "all", 1),
    (("model.layers.1.self_attn.q_proj",), "all", 1), (("*_proj",), "first 1", 7),
])  # fmt: skip
def test_modules_are_found_by_name_and_block(patterns, layers, count):
    model = make_model(LLAMA)
    found = find_modules(model, patterns, layers)
    assert len(found) == count
    attach(model, LoraSpec("lora", 2, 1.0, found))
    assert find_modules(model, patterns, layers) == found  # also where adapters are on


def test_blocks_come_in_their_order():
    model = make_model({**LLAMA, "num_hidden_layers": 12})
    numbers = [int(path.split(".")[2]) for path in find_modules(model, ("q_proj",), "all")]
    assert numbers == list(range(12))


@pytest.mark.parametrize("patterns", [("nope",), ("q_prj",), ("norm",), ("layers",)])
def test_a_name_that_fits_nothing_is_refused(patterns):
    with pytest.raises(ConfigError, match="no module is named like"):
        find_modules(make_model(LLAMA), patterns, "all")


@pytest.mark.parametrize("text, numbers", [
    ("all", {0, 1, 2, 3}), ("last 2", {2, 3}), ("first 1", {0}), ("0-1,3", {0, 1, 3}),
    ("last 99", {0, 1, 2, 3}), (" 2 ", {2}),
])  # fmt: skip
def test_blocks_are_named(text, numbers):
    assert parse_layers(text, 4) == numbers


@pytest.mark.parametrize("text", ["", "last 0", "4", "1-9", "3-1", "last", "-1", "a", "1,,2", "٣-٤",
                                  "9" * 5000])  # fmt: skip
def test_blocks_that_are_not_there_are_refused(text):
    with pytest.raises(ConfigError, match="`layers` is"):
        parse_layers(text, 4)
