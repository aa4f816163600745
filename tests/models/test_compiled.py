"""The decode step as one graph, against the network that it was traced from.

Most tests leave compiling out (``mx.disable_compile``): what is traced then runs as it stands. On
Linux MLX starts a C++ compiler for every new chain of operations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, make_model, pack, random_weights
from tolerances import FP16, FP32_REORDERED, assert_close

from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.benchmark.peers.with_mlx_lm import count_primitives
from mobilellm_mlx.errors import ContextOverflow
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.compiled import CompiledModel, _Step
from mobilellm_mlx.models.lora import LoraSpec, attach, bases, detach
from tests.models.test_layer_kinds import NETWORKS, PRO


@pytest.fixture
def eagerly() -> Iterator[None]:
    """What would be compiled is computed as it stands."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def make(raw: Mapping[str, Any], *, packed: bool = True) -> CompiledModel:
    model = CompiledModel(build_config(raw))
    model.load_weights(list(random_weights(raw).items()), strict=True)
    if packed:
        pack(model)
    mx.eval(model.parameters())
    return model


def like(model: LanguageModel) -> CompiledModel:
    """A compiled network of the same modules."""
    other = CompiledModel(model.config)
    other.model = model.model
    return other


def plainly(model: LanguageModel, tokens: mx.array, caches: Any = None) -> mx.array:
    return LanguageModel.hidden(model, tokens, caches)


def ids(length: int, start: int = 0, batch: int = 1) -> mx.array:
    row = mx.arange(start, start + length) * 37 % 250
    return mx.stack([(row + 11 * number) % 250 for number in range(batch)])


def feed(
    model: LanguageModel, call: Any, lengths: Sequence[int], caches: Any = None, batch: int = 1
) -> mx.array:
    """Hidden states of tokens fed in pieces."""
    caches = model.make_cache() if caches is None else caches
    start, parts = caches[0].offset, []
    for length in lengths:
        parts.append(call(ids(length, start, batch), caches))
        mx.eval(parts[-1])
        start += length
    return mx.concatenate(parts, axis=1)


def steps_of(model: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each piece from now on was a compiled step."""
    taken: list[bool] = []
    model._is_tried = True  # trying it takes steps too
    hidden = LanguageModel.hidden
    stepped = CompiledModel._stepped

    def plain(*arguments: Any) -> Any:
        taken.append(False)
        return hidden(*arguments)

    def step(*arguments: Any) -> Any:
        found = stepped(*arguments)
        if found is not None:
            taken.append(True)
        return found

    monkeypatch.setattr(LanguageModel, "hidden", plain)
    monkeypatch.setattr(CompiledModel, "_stepped", step)
    return taken


# The same numbers


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_block_computes_what_the_network_computes(name: str, batch: int) -> None:
    model = NETWORKS[name]()[0]
    want = feed(model, model.hidden, [9, 1, 1, 14, *[1] * 6], batch=batch)
    compiled = like(model)
    got = feed(compiled, compiled.hidden, [9, 1, 1, 14, *[1] * 6], batch=batch)
    assert compiled._step is not None
    assert_close(got, want, FP32_REORDERED, name)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("name", ["pro", "everything", "layer-sharing"])
def test_far_beyond_the_window_and_over_a_step_of_the_cache(name: str) -> None:
    model = pack(NETWORKS[name]()[0])
    lengths = [250, *[1] * 20, 230, *[1] * 20]
    want = feed(model, model.hidden, lengths)
    compiled = like(model)
    assert_close(feed(compiled, compiled.hidden, lengths), want, FP32_REORDERED, name)


@pytest.mark.parametrize("packed", [False, True])
def test_compiled_in_earnest_it_computes_the_same(packed: bool) -> None:
    model = make(MOBILELLM, packed=packed)
    lengths = [253, *[1] * 6]
    want = feed(model, lambda *a: plainly(model, *a), lengths)
    got = feed(model, model.hidden, lengths)
    assert model._step is not None
    assert_close(got, want, FP32_REORDERED, "compiled")


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("packing", ["dense", "mxfp4", "one of them in eight bits"])
def test_other_packings_and_types(packing: str, dtype: mx.Dtype) -> None:
    """Matrices that are not packed alike stay apart."""
    model = make(LLAMA, packed=False)
    model.set_dtype(dtype)
    if packing == "mxfp4":
        nn.quantize(model, group_size=32, bits=4, mode="mxfp4")
    elif packing != "dense":
        nn.quantize(model, 32, 8, class_predicate=lambda path, _: path.endswith("v_proj"))
        nn.quantize(model, 32, 4, class_predicate=lambda path, _: path.endswith("k_proj"))
    mx.eval(model.parameters())
    want = feed(model, lambda *a: plainly(model, *a), [9, 1, 1, 1])
    got = feed(model, model.hidden, [9, 1, 1, 1])
    assert got.dtype == want.dtype == dtype
    assert_close(got, want, FP32_REORDERED if dtype == mx.float32 else FP16, packing)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("raw", [LLAMA, PRO], ids=["all", "windows"])
def test_the_caches_are_those_of_the_network(raw: Mapping[str, Any]) -> None:
    """Either way may go on from what the other one left there."""
    model = make(raw)
    ours, theirs = model.make_cache(), model.make_cache()
    for turn, length in enumerate((12, 1, 1, 6, 1, 1, 1)):
        tokens = ids(length, ours[0].offset)
        got = model.hidden(tokens, ours) if turn % 2 else plainly(model, tokens, ours)
        want = plainly(model, tokens, theirs)
        assert_close(got, want, FP32_REORDERED, f"in turn {turn}")
    for one, other in zip(ours, theirs, strict=True):
        assert one.offset == other.offset
        for a, b in zip(one.state or (), other.state or (), strict=True):
            assert_close(a, b, FP32_REORDERED, "keys or values")


# What goes the readable way


@pytest.mark.usefixtures("eagerly")
def test_only_single_tokens_behind_caches_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA)
    taken = steps_of(model, monkeypatch)
    feed(model, model.hidden, [5, 1, 2, 1])
    model.hidden(ids(1))
    assert taken == [False, True, False, True, False]


@pytest.mark.usefixtures("eagerly")
def test_caches_that_are_not_at_one_place_are_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA)
    caches = model.make_cache()
    feed(model, model.hidden, [5], caches)
    caches[1].trim(2)
    taken = steps_of(model, monkeypatch)
    model.hidden(ids(1), caches)
    assert taken == [False]
    assert [cache.offset for cache in caches] == [6, 4]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("fault", ["raises", "wrong", "no number", "none"])
def test_a_step_that_is_wrong_on_this_machine_is_never_used(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = _Step.__call__

    def call(step: Any, tokens: mx.array, caches: Any) -> Any:
        hidden = right(step, tokens, caches)
        if fault == "raises":
            raise RuntimeError("[metal] this kernel could not be compiled")
        return {"wrong": -hidden, "no number": hidden * mx.nan, "none": hidden}[fault]

    monkeypatch.setattr(_Step, "__call__", call)
    model = make(LLAMA)
    got = feed(model, model.hidden, [5, 1, 1])
    want = feed(model, lambda *given: plainly(model, *given), [5, 1, 1])
    assert_close(got, want, FP32_REORDERED, fault)
    assert model._is_off == (fault != "none")


@pytest.mark.usefixtures("eagerly")
def test_a_network_in_training_is_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA, packed=False)
    feed(model, model.hidden, [3, 1])
    before = dict(tree_flatten(model.parameters()))
    model.train()
    model.eval()  # between two of its steps, to see how it does
    taken = steps_of(model, monkeypatch)
    feed(model, model.hidden, [3, 1])
    assert taken == [False, False]
    assert model._step is None

    def loss(model: LanguageModel) -> mx.array:
        return model(ids(6)).square().mean()

    gradients = dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))
    plain = make_model(LLAMA)
    want = dict(tree_flatten(nn.value_and_grad(plain, loss)(plain)[1]))
    assert gradients.keys() == want.keys() == before.keys()
    for name, gradient in want.items():
        assert_close(gradients[name], gradient, FP32_REORDERED, name)


@pytest.mark.usefixtures("eagerly")
def test_dropout_is_not_frozen_into_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA)
    attach(model, LoraSpec("lora", 2, 1.0, ("model.layers.0.mlp.up_proj",), dropout=0.5))
    taken = steps_of(model, monkeypatch)
    feed(model, model.hidden, [3, 1])
    assert taken == [False, False]


def test_a_full_context_is_an_error_that_names_the_limit() -> None:
    model = make(LLAMA)
    caches = model.make_cache(4)
    feed(model, model.hidden, [4], caches)
    with pytest.raises(ContextOverflow):
        model.hidden(ids(1), caches)
    assert [cache.offset for cache in caches] == [4, 4]


# Other weights


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("names", ["q_proj", "up_proj", "_proj"])
def test_an_adapter_counts_from_when_it_is_on_until_it_is_off(method: Any, names: str) -> None:
    model = make(MOBILELLM)
    bare = feed(model, model.hidden, [9, 1])
    paths = tuple(path for path, _ in bases(model) if path.endswith(names))
    for per_run in (False, True):
        attach(model, LoraSpec(method, 4, 2.0, paths, per_run=per_run))
        for part in model.modules():
            if "lora_b" in part:
                part.lora_b = mx.random.normal(part.lora_b.shape) * 0.1
        want = plainly(model, ids(10), model.make_cache())
        got = feed(model, model.hidden, [9, 1])
        assert_close(got, want, FP32_REORDERED, "with an adapter")
        assert mx.abs(got[:, -1] - bare[:, -1]).max().item() > 0.02
        detach(model)
    assert mx.array_equal(feed(model, model.hidden, [9, 1]), bare)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("leaf", ["weight", "scales", "biases"])
@pytest.mark.parametrize("path", ["self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_other_weights_are_noticed(path: str, leaf: str) -> None:
    model = make(LLAMA)
    before = feed(model, model.hidden, [3, 1])
    module = dict(model.named_modules())[f"model.layers.1.{path}"]
    module[leaf] = module[leaf][::-1]
    got = feed(model, model.hidden, [3, 1])
    assert_close(got, feed(model, lambda *a: plainly(model, *a), [3, 1]), FP32_REORDERED, path)
    assert mx.abs(got[:, -1] - before[:, -1]).max().item() > 1e-3


def test_another_thread_may_go_on_and_leaves_nothing_behind() -> None:
    """MLX keeps what it compiled with the thread that did it, and with that the weights."""
    mx.clear_cache()
    before = mx.get_active_memory()
    model = make(LLAMA | {"hidden_size": 256, "intermediate_size": 1024})
    size = model.weight_bytes()
    want = feed(model, model.hidden, [3, 1]).tolist()
    found = []

    def go_on(model: CompiledModel) -> None:
        found.append(feed(model, model.hidden, [3, 1]).tolist())
        mx.clear_streams()

    thread = threading.Thread(target=go_on, args=(model,))
    thread.start()
    thread.join()
    assert_close(found[0], want, FP32_REORDERED, "in another thread")
    del model
    assert mx.get_active_memory() - before < 0.05 * size


# Memory


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("packed", [False, True])
def test_parameters_keep_names_and_values_and_are_held_once(packed: bool) -> None:
    raw = LLAMA | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    model = make(raw, packed=packed)
    before = {name: mx.array(a.tolist(), a.dtype) for name, a in tree_flatten(model.parameters())}
    modules, held = dict(model.named_modules()).keys(), model.weight_bytes()
    mx.clear_cache()
    active = mx.get_active_memory()
    mx.reset_peak_memory()
    caches = model.make_cache()
    feed(model, model.hidden, [1, 1], caches)
    active += sum(cache.nbytes for cache in caches)
    one_block = held / 4
    assert mx.get_active_memory() - active < 0.05 * held
    assert mx.get_peak_memory() - active < 1.2 * one_block
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == before.keys()
    assert all(mx.array_equal(after[name], array) for name, array in before.items())
    assert dict(model.named_modules()).keys() == modules
    assert model.weight_bytes() == held


def test_a_network_that_nobody_needs_is_gone_and_its_step_with_it() -> None:
    raw = LLAMA | {"hidden_size": 256, "intermediate_size": 1024}
    mx.clear_cache()
    before = mx.get_active_memory()
    model = make(raw)
    held = model.weight_bytes()
    feed(model, model.hidden, [1, 1])
    assert mx.get_active_memory() - before >= held
    del model
    assert mx.get_active_memory() - before < 0.05 * held


def test_keys_and_values_are_written_in_place() -> None:
    model = make(LLAMA)
    caches = model.make_cache()
    feed(model, model.hidden, [900, 1], caches)
    held = sum(cache.nbytes for cache in caches)
    mx.clear_cache()
    active = mx.get_active_memory()
    mx.reset_peak_memory()
    feed(model, model.hidden, [1] * 5, caches)
    assert mx.get_peak_memory() - active < held / 2  # two arrays of four, even one at a time: more
    assert mx.get_active_memory() - active < held / 20


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("held", [20, 255, 256])
def test_writing_in_place_never_reaches_a_snapshot(held: int) -> None:
    """256 fills the arrays to the last place: then a slice of them is the array itself."""
    model = make(LLAMA)
    caches = model.make_cache()
    feed(model, model.hidden, [held], caches)
    states = [cache.state for cache in caches]
    mx.eval(states)
    kept = [[mx.array(part.tolist()) for part in state] for state in states if state]
    for cache in caches:
        cache.trim(3)
    feed(model, model.hidden, [1, 1, 1, 1, 1], caches)  # over what the snapshot still shows
    for state, copies in zip(states, kept, strict=True):
        assert state is not None
        assert all(mx.array_equal(a, b) for a, b in zip(state, copies, strict=True))
    branches = []
    for first in (0, 100):  # two conversations from one state
        branch = model.make_cache()
        for cache, state in zip(branch, states, strict=True):
            cache.restore(state, held)
            cache.trim(1)
        branches.append(model.hidden(ids(1, first), branch))
    again = model.make_cache()
    for cache, state in zip(again, states, strict=True):
        cache.restore(state, held)
        cache.trim(1)
    assert mx.array_equal(model.hidden(ids(1, 0), again), branches[0])
    assert not mx.array_equal(branches[0], branches[1])


# What it is for


def test_a_step_has_far_fewer_primitives(tmp_path: Any) -> None:
    model = make(LLAMA)
    counts = []
    for call in (model.hidden, lambda *a: plainly(model, *a)):
        caches = model.make_cache()
        feed(model, call, [3, 1], caches)
        path = tmp_path / "step.dot"
        mx.export_to_dot(str(path), call(ids(1, 4), caches))
        counts.append(count_primitives(path.read_text()))
    assert counts[0] < 0.6 * counts[1]


def test_a_step_is_traced_once_for_a_size_of_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA)
    model._is_tried = True  # trying it is a trace too
    traced = []
    block = type(model.model.layers[0])
    call = block.__call__
    monkeypatch.setattr(block, "__call__", lambda *a: (traced.append(a[1].shape), call(*a))[1])
    feed(model, model.hidden, [1] * 12)
    assert traced == [(1, 1, 32)] * 2
