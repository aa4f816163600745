"""The whole network in one call, against the readable one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, random_weights, write_model
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.evals.divergence import Reference
from mobilellm_mlx.loading import LoadOptions, load_model
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.accelerated import AcceleratedModel, PackedEmbedding, PackedLinear
from mobilellm_mlx.models.lora import LoraSpec, attach, bases, detach
from tests.models.test_layer_kinds import FLASH, PRO, WINDOW

WIDE = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 2}
SHAPES: dict[str, Mapping[str, Any]] = {
    "llama": LLAMA,
    "layer sharing": MOBILELLM,
    "head dim of a whole vector": LLAMA | WIDE | {"num_key_value_heads": 1, "head_dim": 32},
    "many heads": LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 1},
    "untied head": LLAMA | {"tie_word_embeddings": False},
    "sliding, qk norm, interleaved rope": PRO,
    "chunked, temperature, no rope": PRO
    | {
        "layer_types": ["chunked_attention", "full_attention"] * 2,
        "no_rope_layers": [1, 0, 1, 0],
        "attention_chunk_size": WINDOW,
        "attn_temperature_tuning": True,
        "floor_scale": 4,
    },
    "blocks without attention": FLASH,
}


def make(raw: Mapping[str, Any], *, bits: int = 4, group: int = 32) -> AcceleratedModel:
    model = AcceleratedModel(build_config(raw))
    model.load_weights(list(random_weights(raw).items()), strict=True)
    nn.quantize(model, group_size=group, bits=bits)
    mx.eval(model.parameters())
    model.speed_up()
    return model


def plainly(model: AcceleratedModel, tokens: mx.array, caches: Any = None) -> mx.array:
    return LanguageModel.hidden(model, tokens, caches)


def ids(length: int, start: int = 0) -> mx.array:
    return (mx.arange(start, start + length) * 37 % 250)[None]


def feed(model: Any, call: Any, lengths: Sequence[int], caches: Any = None) -> mx.array:
    """Hidden states of tokens fed in pieces."""
    caches = model.make_cache() if caches is None else caches
    start, parts = caches[0].offset, []
    for length in lengths:
        parts.append(call(ids(length, start), caches))
        start += length
    return mx.concatenate(parts, axis=1)


def assert_in_one_call(model: AcceleratedModel) -> None:
    assert model._stack is not None and model._stack.call is not None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", range(4))
def test_it_computes_what_the_network_computes(module: Any, shape: str, path: int) -> None:
    module.choose(module.paths()[path % len(module.paths())])
    model = make(SHAPES[shape])
    want = plainly(model, ids(40), model.make_cache())
    for lengths in ([40], [1] * 40, [7, 1, 2, 3, 4, 5, 18], [30, 1, 9]):
        got = feed(model, model.hidden, lengths)
        assert_in_one_call(model)
        assert_close(got, want, FP32_REORDERED, f"{shape} in {lengths}")


def test_the_time_in_the_one_call_is_known(module: Any) -> None:
    model = make(LLAMA)
    assert model.called_s is None
    caches = model.make_cache()
    model.hidden(ids(1), caches)
    first = model.called_s
    model.hidden(ids(1, 1), caches)
    assert first is not None and model.called_s is not None
    assert 0 < first < model.called_s < 60


def test_the_one_call_reads_the_weights_where_they_lie(module: Any) -> None:
    model = make(LLAMA | {"vocab_size": 20_000})  # far more than what else is made on the way
    model.gather()
    mx.eval(model.parameters())
    held = mx.get_active_memory()
    model.hidden(ids(1), model.make_cache())
    assert_in_one_call(model)
    assert mx.get_active_memory() - held < model.weight_bytes() / 2


def test_packed_matrices_are_gathered_as_they_are(module: Any) -> None:
    model, same = make(LLAMA), make(LLAMA)
    model.gather()
    mine, others = dict(tree_flatten(model.parameters())), dict(tree_flatten(same.parameters()))
    assert mine.keys() == others.keys()
    assert all(mx.array_equal(mine[name], others[name]).item() for name in mine)
    assert mx.array_equal(model(ids(5)), same(ids(5))).item()
    assert model.weight_bytes() == same.weight_bytes()


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32), (8, 64)])
def test_other_packings(module: Any, bits: int, group: int) -> None:
    model = make(LLAMA | WIDE | {"num_key_value_heads": 1}, bits=bits, group=group)
    want = plainly(model, ids(20), model.make_cache())
    assert_close(feed(model, model.hidden, [15, 1, 4]), want, FP32_REORDERED, "packing")
    assert_in_one_call(model)


def test_threads_change_no_number(module: Any) -> None:
    model = make(MOBILELLM)
    module.set_threads(1)
    alone = feed(model, model.hidden, [30, 1, 2])
    module.set_threads(3)
    assert mx.array_equal(feed(model, model.hidden, [30, 1, 2]), alone)


@pytest.mark.parametrize("raw", [LLAMA, PRO], ids=["all", "windows"])
def test_the_caches_are_those_of_the_network(module: Any, raw: Any) -> None:
    """Either way may go on from what the other one left there."""
    model = make(raw)
    ours, theirs = model.make_cache(), model.make_cache()
    for length, first, second in ((12, model.hidden, plainly), (1, plainly, model.hidden),
                                  (6, model.hidden, plainly)):  # fmt: skip
        tokens = ids(length, ours[0].offset)
        a = first(tokens, ours) if first is model.hidden else plainly(model, tokens, ours)
        b = second(tokens, theirs) if second is model.hidden else plainly(model, tokens, theirs)
        assert_close(a, b, FP32_REORDERED, f"after {length}")


def test_tokens_that_were_taken_back_leave_nothing(module: Any) -> None:
    model = make(LLAMA)
    caches = model.make_cache()
    feed(model, model.hidden, [20, 1, 1], caches)
    for cache in caches:
        cache.trim(5)
    got = model.hidden(ids(4, 17), caches)
    want = plainly(model, ids(21), model.make_cache())[:, 17:]
    assert_close(got, want, FP32_REORDERED, "after going back")


@pytest.mark.parametrize("held", [20, 255, 256])
def test_writing_in_place_never_reaches_a_snapshot(module: Any, held: int) -> None:
    """256 fills the arrays to the last place: then a slice of them is the array itself."""
    model = make(LLAMA)
    caches = model.make_cache()
    feed(model, model.hidden, [held], caches)
    states = [cache.state for cache in caches]
    mx.eval(states)
    kept = [[mx.array(part.tolist()) for part in state] for state in states if state]
    for cache in caches:
        cache.trim(3)
    feed(model, model.hidden, [1, 2, 5], caches)  # over what the snapshot still shows
    for state, copies in zip(states, kept, strict=True):
        assert state is not None
        assert all(mx.array_equal(a, b) for a, b in zip(state, copies, strict=True))
    branches = []
    for first in (0, 100):  # two conversations from one state
        branch = model.make_cache()
        for cache, state in zip(branch, states, strict=True):
            cache.restore(state, held)
        branches.append((branch, model.hidden(ids(1, first), branch)))
    again = model.make_cache()
    for cache, state in zip(again, states, strict=True):
        cache.restore(state, held)
    assert mx.array_equal(model.hidden(ids(1, 0), again), branches[0][1])
    assert not mx.array_equal(branches[0][1], branches[1][1])


def test_an_adapter_counts_from_when_it_is_on_until_it_is_off(module: Any) -> None:
    model = make(MOBILELLM)
    bare = feed(model, model.hidden, [9, 1])
    paths = tuple(path for path, _ in bases(model) if "layers" in path)
    for per_run in (False, True):
        attach(model, LoraSpec("lora", 4, 2.0, paths, per_run=per_run))
        for part in model.modules():
            if "lora_b" in part:
                part.lora_b = mx.random.normal(part.lora_b.shape) * 0.1
        want = plainly(model, ids(10), model.make_cache())
        got = feed(model, model.hidden, [9, 1])
        assert_in_one_call(model)
        assert_close(got, want, FP32_REORDERED, "with an adapter")
        assert mx.abs(got - bare).max() > 0.1
        detach(model)
    assert mx.array_equal(feed(model, model.hidden, [9, 1]), bare)


def test_what_the_call_is_not_made_for_goes_the_readable_way(module: Any) -> None:
    model = make(LLAMA)
    want = plainly(model, ids(6), model.make_cache())
    both = mx.concatenate([ids(6), ids(6)])
    got = model.hidden(both, model.make_cache())  # two sequences
    assert_close(got[1:], want, FP32_REORDERED, "a batch")
    attach(model, LoraSpec("dora", 2, 1.0, ("model.layers.0.self_attn.q_proj",)))
    got = feed(model, model.hidden, [5, 1])
    assert model._stack is not None and model._stack.call is None
    assert_close(got, want, FP32_REORDERED, "DoRA that has learned nothing")


def test_parts_of_sixteen_bits_are_no_trouble(module: Any) -> None:
    """Adapters of other programs have them: their matrices, and norms that they bring whole."""
    model = make(LLAMA)
    attach(model, LoraSpec("lora", 4, 2.0, ("model.layers.1.mlp.up_proj",)))
    adapted = model.model.layers[1].mlp.up_proj
    adapted.lora_a = adapted.lora_a.astype(mx.float16)
    adapted.lora_b = mx.random.normal(adapted.lora_b.shape).astype(mx.float16)
    want = plainly(model, ids(6), model.make_cache())
    assert_close(feed(model, model.hidden, [5, 1]), want, FP32_REORDERED, "an adapter")
    assert_in_one_call(model)
    norm = model.model.layers[0].input_layernorm
    norm.weight = norm.weight.astype(mx.float16)
    want = plainly(model, ids(6), model.make_cache())
    assert_close(feed(model, model.hidden, [5, 1]), want, FP32_REORDERED, "a norm")


def test_other_weights_are_noticed(module: Any) -> None:
    model = make(LLAMA)
    feed(model, model.hidden, [3])
    norm = model.model.layers[0].input_layernorm
    norm.weight = norm.weight * 2
    got = feed(model, model.hidden, [3])
    assert_close(got, plainly(model, ids(3), model.make_cache()), FP32_REORDERED, "new norm")


def test_other_threads_run_while_a_prompt_is_read(module: Any) -> None:
    """An interface would stand still for as long as a part of a prompt takes."""
    model = make(LLAMA)
    model.hidden(ids(1), model.make_cache())
    assert model._stack is not None
    heads, dim = model.config.num_key_value_heads, model.config.head_dim
    shape = (1, heads, 2000, dim)
    runs = model.config.attention_runs
    rooms = [(mx.zeros(shape), mx.zeros(shape), 0) for _ in range(runs)]
    prompt = ids(2000)[0].tolist()
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks[0] += 1

    other = threading.Thread(target=tick)
    other.start()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that it is only this call which lets others run
    try:
        before = ticks[0]
        model._stack.call(prompt, 0, rooms)
        after = ticks[0]
    finally:
        sys.setswitchinterval(usual)
        stop.set()
        other.join()
    assert after > before


def test_a_context_that_is_full_says_so(module: Any) -> None:
    model = make(LLAMA)
    caches = model.make_cache(limit=8)
    model.hidden(ids(8), caches)
    with pytest.raises(ContextOverflow):
        model.hidden(ids(1), caches)
    assert caches[0].offset == 8


def test_a_token_outside_the_vocabulary_is_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        make(LLAMA).hidden(mx.array([[999]]), make(LLAMA).make_cache())


def test_a_packed_model_is_loaded_with_them_and_an_unpacked_one_without(
    module: Any, tmp_path: Path
) -> None:
    directory = write_model(tmp_path / "packed", packed=True)
    loaded = load_model(directory)
    assert loaded.info.compute == "packed" and isinstance(loaded.model, AcceleratedModel)
    assert isinstance(loaded.model.model.embed_tokens, PackedEmbedding)
    assert isinstance(loaded.model.model.layers[0].mlp.up_proj, PackedLinear)
    dense = load_model(directory, LoadOptions(compute="dense"))
    tokens = ids(12)
    assert_close(loaded.model(tokens), dense.model(tokens), FP32_REORDERED, "logits")
    rows = mx.array([3, 250, 3])
    hidden = dense.model.hidden(tokens)
    for model in (loaded.model, dense.model):
        some = model.head(hidden, rows)
        assert_close(some, model.head(hidden)[..., rows], FP32_REORDERED, "some rows")
    assert load_model(write_model(tmp_path / "plain")).info.compute == "dense"


@pytest.mark.usefixtures("module")
def test_a_head_that_is_kept_alone_does_not_keep_the_other_weights(tmp_path: Path) -> None:
    """They all lie in one piece of memory."""
    raw = LLAMA | {"hidden_size": 256, "intermediate_size": 1024}
    directory = write_model(tmp_path / "tiny", raw, packed=True)
    mx.clear_cache()
    before = mx.get_active_memory()
    model = load_model(directory, LoadOptions(compute="packed")).model
    assert isinstance(model, AcceleratedModel)
    want = model.head(mx.ones((1, 256)))
    reference = Reference(model)
    reference.add(mx.ones((3, 256)))
    mx.eval(want)
    held = model.weight_bytes()
    del model
    found = reference.logits(0)(0, 1)
    mx.eval(found)
    assert mx.array_equal(found, want)
    assert mx.get_active_memory() - before < reference.head_bytes + held / 20
