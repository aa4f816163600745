"""The loss in chunks against the plain one."""

from __future__ import annotations

import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.models.lora import LoraSpec, attach, find_modules
from mobilellm_mlx.models.uncached import make_uncached
from mobilellm_mlx.training.loss import only_loss, summed_loss

TOKENS = mx.array([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]])
POSITIONS = mx.array([1, 2, 5, 9, 10, 13, 0])
TARGETS = TOKENS.reshape(-1)[POSITIONS + 1]
WEIGHTS = mx.array([1.0] * 6 + [0.0])


def prepared(case):
    raw = {**LLAMA, "tie_word_embeddings": case not in ("untied", "untied full")}
    model = make_model(MOBILELLM if case == "shared" else raw)
    if case in ("packed", "dora packed"):
        pack(model)
    if "full" in case:
        model.unfreeze()
        return model
    patterns = ("*_proj", "embed_tokens") if case == "embedding" else ("*_proj",)
    if case == "untied":
        patterns = ("*_proj", "lm_head")
    method = "dora" if "dora" in case else "lora"
    attach(model, LoraSpec(method, 4, 2.0, find_modules(model, patterns, "all")))
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(2)) * 0.1
    return model


@pytest.mark.parametrize("chunk", [2, 3, 100])
@pytest.mark.parametrize("case", ["lora", "dora", "full", "untied", "untied full", "embedding",
                                  "packed", "dora packed", "shared"])  # fmt: skip
def test_loss_and_gradients_are_those_of_all_logits_at_once(case, chunk):
    model = prepared(case)

    def plain():
        hidden = model.hidden(TOKENS, make_uncached(model.config))
        logits = model.head(hidden).reshape(-1, 258)[POSITIONS]
        return (WEIGHTS * nn.losses.cross_entropy(logits, TARGETS)).sum()

    def ours():
        hidden = model.hidden(TOKENS, make_uncached(model.config))
        return summed_loss(model, hidden, POSITIONS, TARGETS, WEIGHTS, chunk)

    want, slopes = nn.value_and_grad(model, plain)()
    got, found = nn.value_and_grad(model, ours)()
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    hidden = model.hidden(TOKENS)
    alone = only_loss(model, hidden, POSITIONS, TARGETS, WEIGHTS, chunk)
    assert alone.item() == pytest.approx(want.item(), rel=1e-5)
    ours_by_name = dict(tree_flatten(found))
    for name, slope in tree_flatten(slopes):
        scale = mx.abs(slope).max().item() + 1e-9
        assert mx.abs(ours_by_name[name] - slope).max().item() / scale < 1e-4, name


@pytest.mark.parametrize("case", ["embedding", "untied"])
def test_dropout_of_the_head_leaves_out_the_same_for_the_loss_and_its_gradient(case):
    model = prepared(case)
    head = model.model.embed_tokens if case == "embedding" else model.lm_head
    head.dropout = type(head.dropout)(0.5)
    head.dropout.draw(mx.random.key(3))
    model.train()
    states = mx.random.normal((7, model.config.hidden_size), key=mx.random.key(4))
    own = mx.arange(7)

    def plain():
        return (WEIGHTS * nn.losses.cross_entropy(model.head(states), TARGETS)).sum()

    def ours():
        return summed_loss(model, states[None], own, TARGETS, WEIGHTS, 100)

    want, slopes = nn.value_and_grad(model, plain)()
    got, found = nn.value_and_grad(model, ours)()
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    names = [n for n, _ in tree_flatten(slopes) if n.startswith(("lm_head", "model.embed"))]
    assert names
    for name in names:
        slope, other = dict(tree_flatten(slopes))[name], dict(tree_flatten(found))[name]
        assert mx.allclose(other, slope, rtol=1e-4, atol=1e-6), name


def test_the_gradient_of_a_part_of_the_loss_is_that_part_of_its_gradient():
    model = prepared("full")

    def share(factor):
        def loss():
            hidden = model.hidden(TOKENS, make_uncached(model.config))
            return factor * summed_loss(model, hidden, POSITIONS, TARGETS, WEIGHTS, 3)

        return dict(tree_flatten(nn.value_and_grad(model, loss)()[1]))

    whole, part = share(1.0), share(0.25)
    for name, slope in whole.items():
        assert mx.allclose(part[name], 0.25 * slope, rtol=1e-4, atol=1e-6), name


def test_tokens_that_only_fill_the_shape_do_not_count():
    model = prepared("lora")
    hidden = model.hidden(TOKENS)
    with_filling = only_loss(model, hidden, POSITIONS, TARGETS, WEIGHTS, 4)
    without = only_loss(model, hidden, POSITIONS[:6], TARGETS[:6], WEIGHTS[:6], 4)
    assert with_filling.item() == pytest.approx(without.item(), rel=1e-6)


def test_a_small_chunk_never_holds_the_logits_of_all_tokens():
    """The whole would be 4,096 tokens times 20,000 words times 4 bytes: 328 MB."""
    model = make_model({**LLAMA, "vocab_size": 20_000, "max_position_embeddings": 8192})
    attach(model, LoraSpec("lora", 2, 1.0, find_modules(model, ("q_proj",), "last 1")))
    tokens = mx.zeros((1, 4097), mx.int32)
    hidden = model.model.embed_tokens(tokens)
    positions = mx.arange(4096)
    targets, weights = mx.zeros((4096,), mx.int32), mx.ones((4096,))

    def peak(chunk):
        def loss(states):
            return summed_loss(model, states, positions, targets, weights, chunk)

        mx.eval(hidden)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(mx.value_and_grad(loss)(hidden))
        return mx.get_peak_memory() - before

    assert peak(128) < 120e6
    assert peak(4096) > 600e6
