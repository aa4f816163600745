"""Learned quantisation: packed as planned, better than plain rounding, quiet, and honest about
what it cannot do."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny

from convert.learning import mlx_lm_methods
from convert.learning.methods import METHODS, quantize_learned
from convert.readers.tensors import PackedTensor, Tensor
from mobilellm_mlx.backend import BACKENDS, mx, nn, tree_flatten
from mobilellm_mlx.errors import ConvertError, InsufficientMemory
from mobilellm_mlx.loading import build_model
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.weights import Packing, QuantizationTable

WIDE = {"hidden_size": 64, "intermediate_size": 128}
LLAMA: dict[str, Any] = {**tiny.LLAMA, **WIDE}
SHARED: dict[str, Any] = {**tiny.MOBILELLM, **WIDE}
UNTIED: dict[str, Any] = {**LLAMA, "tie_word_embeddings": False}
EMBEDDING, FOUR = Packing(32, 8), Packing(32, 4)
QUICK: dict[str, Any] = {"steps": 32, "learning_rate": 1e-3}


def tensors_of(raw: dict[str, Any]) -> dict[str, mx.array]:
    """Random weights whose inputs have a structure to learn: hidden states that lie mostly in a few
    directions, and a few channels that are much louder than the rest."""
    tensors, rng = tiny.random_weights(raw), np.random.default_rng(1)
    rows, columns = tensors["model.embed_tokens.weight"].shape
    flat = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, columns))
    tensors["model.embed_tokens.weight"] = mx.array(
        (0.1 * flat + 0.02 * rng.normal(size=(rows, columns))).astype(np.float32)
    )
    loud = np.ones(columns, np.float32)
    loud[::16] = 4
    for name in tensors:
        if name.endswith("layernorm.weight"):
            tensors[name] = tensors[name] * mx.array(loud)
    return tensors


def plan_of(raw: dict[str, Any], packing: Packing = FOUR) -> dict[str, Packing | None]:
    paths = [path for path, _ in mlx_lm_methods.matrices(LanguageModel(build_config(raw)))]
    return {path: EMBEDDING if "embed" in path else packing for path in paths}


def windows_of(count: int = 8, length: int = 33) -> list[list[int]]:
    return np.random.default_rng(2).integers(0, 256, (count, length)).tolist()


def quantised(method: str, raw: dict[str, Any] = LLAMA, **options: Any) -> dict[str, Tensor]:
    plan = options.pop("plan", None) or plan_of(raw)
    tensors = options.pop("tensors", None) or tensors_of(raw)
    windows = options.pop("windows", None) or windows_of()
    return quantize_learned(
        method, build_config(raw), tensors, plan, windows, **{**QUICK, **options}
    )


def plainly_rounded(tensors: dict[str, mx.array], plan: dict[str, Packing | None]) -> dict:
    result: dict[str, Tensor] = dict(tensors)
    for path, packing in plan.items():
        if packing is not None:
            parts = mx.quantize(tensors[f"{path}.weight"], packing.group_size, packing.bits)
            result[f"{path}.weight"] = PackedTensor(*parts, packing)
    return result


def unpacked(tensors: dict[str, Tensor]) -> dict[str, mx.array]:
    return {
        name: t
        if isinstance(t, mx.array)
        else mx.dequantize(t.codes, t.scales, t.biases, t.packing.group_size, t.packing.bits)
        for name, t in tensors.items()
    }


def divergence(raw: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    """Mean KL of the dense network's predictions to those of ``tensors``, on the windows."""

    def predictions(weights: dict[str, mx.array]) -> mx.array:
        model = build_model(build_config(raw), weights, None, "dense")
        return nn.log_softmax(model(mx.array(windows_of())))

    dense, ours = predictions(tensors_of(raw)), predictions(unpacked(tensors))
    return float((mx.exp(dense) * (dense - ours)).sum(-1).mean().item())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    one, two = unpacked(first), unpacked(second)
    return one.keys() == two.keys() and all(mx.array_equal(one[n], two[n]).item() for n in one)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Tensor]]:
    """Each method on the ordinary network, once."""
    return {method: quantised(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_everything_is_packed_as_planned(results, method) -> None:
    result, plan = results[method], plan_of(LLAMA)
    shapes = {n: a.shape for n, a in tree_flatten(LanguageModel(build_config(LLAMA)).parameters())}
    assert result.keys() == shapes.keys()
    for name, tensor in result.items():
        packing = plan.get(name.removesuffix(".weight"))
        if packing is None:
            assert isinstance(tensor, mx.array) and tensor.shape == shapes[name]
            continue
        assert isinstance(tensor, PackedTensor) and tensor.packing == packing
        rows, columns = shapes[name]
        assert tensor.codes.shape == (rows, columns * packing.bits // 32)
        assert tensor.scales.shape == tensor.biases.shape == (rows, columns // packing.group_size)
        assert tensor.codes.dtype == mx.uint32 and tensor.scales.dtype == mx.float32


@pytest.mark.parametrize("method", METHODS)
def test_the_result_runs_packed_in_our_network(results, method) -> None:
    stored: dict[str, mx.array] = {}
    for name, tensor in results[method].items():
        if isinstance(tensor, PackedTensor):
            path = name.removesuffix(".weight")
            stored[f"{path}.scales"], stored[f"{path}.biases"] = tensor.scales, tensor.biases
            stored[name] = tensor.codes
        else:
            stored[name] = tensor
    table = QuantizationTable(FOUR, plan_of(LLAMA))
    tokens, config = mx.array(windows_of(2)), build_config(LLAMA)
    packed = build_model(config, stored, table, "packed")(tokens)
    dense = build_model(config, unpacked(results[method]), None, "dense")(tokens)
    assert mx.allclose(packed, dense, rtol=1e-3, atol=1e-3).item()


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_closer_than_after_plain_rounding(results, method) -> None:
    plain = divergence(LLAMA, plainly_rounded(tensors_of(LLAMA), plan_of(LLAMA)))
    assert 0 < divergence(LLAMA, results[method]) < 0.9 * plain


@pytest.mark.parametrize("method", ["gptq", "dwq"])
def test_shared_blocks_are_learned_too(method) -> None:
    plain = divergence(SHARED, plainly_rounded(tensors_of(SHARED), plan_of(SHARED)))
    assert 0 < divergence(SHARED, quantised(method, SHARED)) < 0.9 * plain


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_does_not_reach_is_rounded_plainly(results, method) -> None:
    plain = plainly_rounded(tensors_of(LLAMA), plan_of(LLAMA))
    names = {"model.embed_tokens.weight", "model.norm.weight"}
    if method != "awq":  # which moves scales from the layers into the norms before them
        names |= {name for name in plain if name.endswith("layernorm.weight")}
    assert same({n: results[method][n] for n in names}, {n: plain[n] for n in names})


def test_dwq_keeps_the_codes_and_trains_only_scales_and_biases(results) -> None:
    plain = plainly_rounded(tensors_of(LLAMA), plan_of(LLAMA))
    name = "model.layers.0.mlp.up_proj.weight"
    assert mx.array_equal(results["dwq"][name].codes, plain[name].codes)
    assert not mx.array_equal(results["dwq"][name].scales, plain[name].scales)
    assert not mx.array_equal(results["dwq"][name].biases, plain[name].biases)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits(results, method) -> None:
    np.random.seed(99)  # mlx-lm draws from the global generators
    mx.random.seed(99)
    assert same(quantised(method), results[method])


def test_another_seed_shows_dwq_the_windows_in_another_order(results) -> None:
    assert not same(quantised("dwq", seed=1), results["dwq"])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed_and_progress_is_told(capfd, method) -> None:
    told: list[tuple[str, int, int]] = []
    quantised(method, steps=2, progress=lambda *step: told.append(step))
    assert capfd.readouterr() == ("", "")
    expected = {
        "gptq": {"measuring": 2, "rounding": 14},
        "dwq": {"checking": 1, "tuning": 2},
        "awq": {"scaling": 2},
    }[method]
    assert {stage: total for stage, _, total in told} == expected
    for stage, total in expected.items():
        steps = [done for told_stage, done, _ in told if told_stage == stage]
        assert steps[: total + 1] == list(range(total + 1))


@pytest.mark.parametrize("method", METHODS)
def test_scales_have_the_type_of_the_weights(method) -> None:
    tensors = {name: array.astype(mx.bfloat16) for name, array in tensors_of(LLAMA).items()}
    for tensor in quantised(method, tensors=tensors, steps=1).values():
        floats = tensor.scales if isinstance(tensor, PackedTensor) else tensor
        assert floats.dtype == mx.bfloat16


@pytest.mark.parametrize("method", ["gptq", "dwq"])
def test_a_module_kept_unpacked_stays_as_it_is(method) -> None:
    kept = "model.layers.1.mlp.down_proj"
    result = quantised(method, plan={**plan_of(LLAMA), kept: None}, steps=1)
    assert mx.array_equal(result[f"{kept}.weight"], tensors_of(LLAMA)[f"{kept}.weight"])


def test_gptq_takes_several_packings_and_a_head_that_it_cannot_pack() -> None:
    two, eight, six = Packing(32, 2), Packing(64, 8), Packing(32, 6)
    plan = plan_of(UNTIED) | {"model.layers.0.mlp.up_proj": two, "lm_head": six}
    plan |= {"model.layers.1.mlp.up_proj": eight}
    result = quantised("gptq", UNTIED, plan=plan)
    for path, packing in plan.items():
        tensor = result[f"{path}.weight"]
        assert isinstance(tensor, PackedTensor) and tensor.packing == packing
    plain = plainly_rounded(tensors_of(UNTIED), plan)
    assert same({"": result["lm_head.weight"]}, {"": plain["lm_head.weight"]})
    assert divergence(UNTIED, result) < 0.9 * divergence(UNTIED, plain)


def test_gptq_in_parts_gives_the_same_as_at_once(results, monkeypatch) -> None:
    monkeypatch.setattr(mlx_lm_methods, "_HESSIAN_BYTES", 64**2 * 4 * 3)
    measured: list[int] = []
    parts = quantised(
        "gptq", progress=lambda stage, done, _: measured.append(done) if stage == "measuring" else 0
    )
    assert measured.count(0) >= 4
    assert same(parts, results["gptq"])


def test_dwq_on_a_gpu_trains_mlx_s_own_packed_layers_to_the_same_end(results, monkeypatch) -> None:
    packed = replace(BACKENDS["cpu"], default_compute="packed")
    monkeypatch.setattr(mlx_lm_methods, "backend", lambda: packed)
    kinds: set[type] = set()
    real = LanguageModel.__call__

    def watch(self: LanguageModel, *args: Any) -> mx.array:
        kinds.update(type(module) for module in self.modules())
        return real(self, *args)

    monkeypatch.setattr(LanguageModel, "__call__", watch)
    theirs, ours = unpacked(quantised("dwq")), unpacked(results["dwq"])
    assert {nn.QuantizedLinear, nn.QuantizedEmbedding} <= kinds
    assert all(mx.allclose(theirs[name], ours[name], rtol=1e-2, atol=1e-2) for name in ours)


REFUSED = {
    "gptq with 3 bits": ("gptq", LLAMA, plan_of(LLAMA, Packing(32, 3)), "gptq packs in 2, 4 or 8"),
    "gptq without linears": (
        "gptq", LLAMA, {"model.embed_tokens": FOUR}, "works on linear layers, and the plan",
    ),
    "dwq with 8 bits": ("dwq", LLAMA, plan_of(LLAMA, Packing(32, 8)), "fewer than 8 bits"),
    "awq with shared blocks": ("awq", SHARED, plan_of(SHARED), "blocks that run twice or differ"),
    "awq with several packings": (
        "awq", LLAMA, plan_of(LLAMA) | {"model.layers.0.mlp.up_proj": None}, "packs all layers",
    ),
    "floats": ("gptq", LLAMA, plan_of(LLAMA, Packing(32, 4, "mxfp4")), "has mxfp4 for `model"),
    "unknown module": ("gptq", LLAMA, {"model.layers.7.mlp.up_proj": FOUR}, r"`model\.layers\.7\."),
    "a norm": ("gptq", LLAMA, {"model.norm": FOUR}, "no matrix of this network"),
    "groups": ("gptq", LLAMA, plan_of(LLAMA, Packing(128, 4)), "has 64 columns, which groups of"),
    "bits": ("awq", LLAMA, plan_of(LLAMA, Packing(32, 7)), "awq failed: "),
    "method": ("magic", LLAMA, plan_of(LLAMA), "`magic` is no learned method, expected gptq, dwq"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_method_cannot_do_is_refused_in_a_sentence(case) -> None:
    method, raw, plan, said = REFUSED[case]
    with pytest.raises(ConvertError, match=said):
        quantised(method, raw, plan=plan)


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ([[1, 2, 3], [1, 2]], r"pieces of \[2, 3\] tokens"),
        ([[1]], r"pieces of \[1\] tokens"),
        ([[1] * 2000], "from 2 to 1,024"),
        ([[1, 258]], "token 258, but the vocabulary is 258"),
    ],
    ids=["ragged", "short", "long", "foreign"],
)
def test_text_that_does_not_fit_the_network_is_refused(windows, said) -> None:
    with pytest.raises(ConvertError, match=said):
        quantised("gptq", windows=windows)


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(ConvertError, match="there is no calibration text"):
        quantize_learned("gptq", build_config(LLAMA), tensors_of(LLAMA), plan_of(LLAMA), [])


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_numbers_are_refused_by_name(method) -> None:
    tensors, name = tensors_of(LLAMA), "model.layers.0.mlp.up_proj.weight"
    tensors[name][3, 5] = float("nan")
    with pytest.raises(ConvertError, match=f"`{name}` of the checkpoint .* not finite"):
        quantised(method, tensors=tensors)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_overflow_are_refused(method) -> None:
    tensors, name = tensors_of(LLAMA), "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name] * 1e37
    with pytest.raises(ConvertError, match=f"{method} (failed|gave)"):
        quantised(method, tensors=tensors)


def test_training_that_runs_away_is_refused() -> None:
    with pytest.raises(ConvertError, match=r"dwq gave `model\..*` values that are not finite"):
        quantised("dwq", steps=2, learning_rate=1e38)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("[metal::malloc] Unable to allocate 9 bytes"), InsufficientMemory),
        (RuntimeError("something else"), ConvertError),
        (ValueError("bad shape"), ConvertError),
    ],
    ids=["memory", "runtime", "value"],
)
def test_failures_inside_become_errors_for_people(monkeypatch, raised, expected) -> None:
    from mlx_lm.quant import gptq

    def fail(*_: Any, **__: Any) -> None:
        raise raised

    before = gptq.tqdm
    monkeypatch.setattr(gptq, "gptq_quantize", fail)
    with pytest.raises(expected):
        quantised("gptq")
    assert gptq.tqdm is before


def test_progress_may_stop_the_work_and_mlx_lm_is_left_as_it_was() -> None:
    from mlx_lm.quant import dwq

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        raise Stop

    before = dwq.tqdm, dwq.print_trainable_parameters
    with pytest.raises(Stop):
        quantised("dwq", progress=stop)
    assert (dwq.tqdm, dwq.print_trainable_parameters) == before


def test_mlx_lm_is_not_imported_before_it_is_needed() -> None:
    code = "import convert.learning.methods, sys; sys.exit('mlx_lm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
