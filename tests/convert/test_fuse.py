"""A model and its adapter as one model: the same answers, and what packing took of the change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_json
from tolerances import FP16, FP32_REORDERED, as_float64, assert_close

from convert.fuse.job import fuse
from convert.fuse.survival import Survival
from convert.job import convert
from convert.plan import ConvertOptions
from convert.readers.tensors import PackedTensor
from convert.recipes import Rule
from convert.source import open_source
from mobilellm_mlx import events
from mobilellm_mlx.adapters import AdapterInfo, read_info
from mobilellm_mlx.adapters.files import load_adapter
from mobilellm_mlx.backend import mx
from mobilellm_mlx.events import Event, FuseSummary
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.models.lora import attach
from mobilellm_mlx.options import LoadOptions
from tests.adapters.made import write_random_adapter
from tests.convert.checkpoints import (
    SHARED,
    UP,
    WIDE,
    checkpoint,
    config,
    notices,
    proof,
    same_bits,
    strict_json,
    tensors,
)

IDS = mx.array([[3, 1, 4, 1, 5, 256]])
EMBED = "model.embed_tokens.weight"
FAST, MEASURED = ConvertOptions(verify=False), ConvertOptions()
UNTIED = {**WIDE, "tie_word_embeddings": False}


def run(
    base: Path, adapter: AdapterInfo, target: Path | None, options: Any = FAST, **rest: Any
) -> list[Event]:
    return list(fuse(base, adapter, target, options, **rest))


def summary(told: list[Event]) -> FuseSummary:
    last = told[-1]
    assert isinstance(last, FuseSummary)
    assert events.from_dict(last.to_dict()).to_dict() == last.to_dict()
    last.to_json()  # no NaN
    return last


def logits(directory: Path) -> mx.array:
    return load_model(directory, LoadOptions(compute="dense")).model(IDS)


def adapted_logits(directory: Path, adapter: AdapterInfo, ids: mx.array = IDS) -> mx.array:
    """Of the base with the adapter beside it."""
    model = load_model(directory, LoadOptions(compute="dense")).model
    loaded = load_adapter(adapter.path, model)
    assert loaded.spec is not None
    attach(model, loaded.spec)
    model.load_weights(list(loaded.tensors.items()), strict=False)
    return model(ids)


def dense(directory: Path) -> dict[str, np.ndarray]:
    """Every weight of a model directory as it is computed with."""
    source = open_source(directory)
    values = {name: source.read(name) for name in source.shapes}
    return {
        name: np.array(v.dense() if isinstance(v, PackedTensor) else v.astype(mx.float32))
        for name, v in values.items()
    }


@pytest.fixture
def base(tmp_path) -> Path:
    return checkpoint(tmp_path / "base", dtype=mx.float32)


@pytest.fixture
def packed(tmp_path) -> Path:
    return checkpoint(tmp_path / "packed", packed=True, dtype=mx.float16)


# The same model


@pytest.mark.parametrize(
    ("raw", "method", "modules"),
    [
        (WIDE, "lora", ("*_proj",)),
        (WIDE, "dora", ("*_proj",)),
        (WIDE, "lora", ("q_proj", "embed_tokens")),
        (UNTIED, "lora", ("lm_head", "embed_tokens", "down_proj")),
        (UNTIED, "dora", ("lm_head",)),
        (SHARED, "lora", ("*_proj", "embed_tokens")),
        (SHARED, "dora", ("*_proj",)),
    ],
    ids=str,
)
def test_the_fused_model_says_what_the_base_says_with_its_adapter(
    tmp_path, raw, method, modules
) -> None:
    base = checkpoint(tmp_path / "base", raw, dtype=mx.float32)
    adapter = write_random_adapter(tmp_path / "a", base, method=method, modules=modules)
    run(base, adapter, tmp_path / "t")
    wanted = adapted_logits(base, adapter)
    assert_close(logits(tmp_path / "t"), wanted, FP32_REORDERED, "fused")
    assert float(mx.abs(wanted - logits(base)).max()) > 1  # it matters that it is there


def test_only_the_blocks_that_have_an_adapter_change(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base, modules=("up_proj",), layers="last 1")
    run(base, adapter, tmp_path / "t")
    ours, theirs = tensors(tmp_path / "t"), tensors(base)
    assert [name for name in ours if not same_bits(ours[name], theirs[name])] == [
        "model.layers.1.mlp.up_proj.weight"
    ]
    assert "quantization" not in config(tmp_path / "t")


@pytest.mark.parametrize(
    ("options", "bits"),
    [(FAST, 8), (replace(FAST, bits_for=(Rule("up_proj", 4),)), 4)],
    ids=["unasked", "asked"],
)
def test_what_changes_in_a_packed_base_has_8_bits_and_the_rest_keeps_every_bit(
    tmp_path, packed, options, bits
) -> None:
    adapter = write_random_adapter(tmp_path / "a", packed, modules=("up_proj",))
    told = run(packed, adapter, tmp_path / "t", options)
    ours, theirs = tensors(tmp_path / "t"), tensors(packed)
    module = UP.removesuffix("weight")
    changed = {name for name in ours if not same_bits(ours[name], theirs[name])}
    assert (
        ours.keys() == theirs.keys()
        and {name for name in changed if ".up_proj." not in name} == set()
    )
    table = config(tmp_path / "t")["quantization"]
    assert (table["bits"], table["group_size"]) == (4, 32)
    assert table["model.embed_tokens"]["bits"] == 8
    packing = {"group_size": 32, "bits": bits}
    assert table.get(f"{module}"[:-1], packing) == {"mode": "affine", **packing} or bits == 4
    (said,) = notices(told)
    assert said.startswith(
        "2 of the tensors that the adapter changes are packed with 8 bits"
        if bits == 8
        else "4 bits can round away what the adapter changes, and it is not measured"
    )
    a, b = (tensors_of(adapter)[f"{module}{leaf}"] for leaf in ("lora_a", "lora_b"))
    wanted = mx.array(dense(packed)[UP]) + 1.5 * (a @ b).T
    codes, scales, biases = mx.quantize(wanted.astype(mx.float16), **packing)
    assert same_bits(ours[UP], codes) and same_bits(ours[f"{module}scales"], scales)
    assert same_bits(ours[f"{module}biases"], biases)


def tensors_of(adapter: AdapterInfo) -> dict[str, mx.array]:
    arrays = mx.load(str(adapter.path / "adapters.safetensors"))
    assert isinstance(arrays, dict)
    return arrays


def test_a_packed_base_can_be_fused_into_16_bits(tmp_path, packed) -> None:
    adapter = write_random_adapter(tmp_path / "a", packed)
    run(packed, adapter, tmp_path / "t", ConvertOptions(bits=None, verify=False))
    assert {array.dtype for array in tensors(tmp_path / "t").values()} == {mx.float16}
    assert_close(logits(tmp_path / "t"), adapted_logits(packed, adapter), 3 * FP16, "16 bits")


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_a_base_of_packed_floats_gets_plain_8_bits_where_it_has_fewer(tmp_path, base, mode) -> None:
    list(convert(base, tmp_path / "floats", ConvertOptions(mode=mode, verify=False)))
    adapter = write_random_adapter(tmp_path / "a", tmp_path / "floats", modules=("up_proj",))
    run(tmp_path / "floats", adapter, tmp_path / "t")
    table, own = config(tmp_path / "t")["quantization"], UP.removesuffix(".weight")
    wanted = table if mode == "mxfp8" else {"group_size": 32, "bits": 8, "mode": "affine"}
    assert table["mode"] == mode and table.get(own, table) == wanted
    close = adapted_logits(tmp_path / "floats", adapter)
    off = float(mx.abs(logits(tmp_path / "t") - close).max())
    assert off < (0.5 if mode != "mxfp8" else 5)


def test_types_that_differ_in_the_base_differ_in_the_result(tmp_path) -> None:
    norm = "model.norm.weight"
    base = checkpoint(tmp_path / "base", changes={norm: mx.full((64,), 1 + 2**-20)})
    run(base, write_random_adapter(tmp_path / "a", base), tmp_path / "t")
    got = tensors(tmp_path / "t")
    assert got[norm].dtype == mx.float32 and got[UP].dtype == mx.bfloat16
    assert same_bits(got[norm], tensors(base)[norm])


def test_whole_weights_take_the_place_of_the_base_s(tmp_path, packed) -> None:
    values = {
        UP: mx.random.normal((128, 64)).astype(mx.float16),
        "model.norm.weight": mx.full((64,), 0.5),
    }
    (tmp_path / "a").mkdir()
    mx.save_safetensors(str(tmp_path / "a" / "adapters.safetensors"), values)
    write_json(tmp_path / "a" / "adapter_config.json", {"fine_tune_type": "full", "num_layers": 2})
    told = run(packed, read_info(tmp_path / "a"), tmp_path / "t", MEASURED)
    got = dense(tmp_path / "t")
    codes, scales, biases = mx.quantize(values[UP], group_size=32, bits=8)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    wanted = mx.dequantize(codes, scales, biases, group_size=32, bits=8)
    assert_close(got[UP], wanted, 1e-6, "whole")
    assert (got["model.norm.weight"] == 0.5).all() and summary(told).adapted_tensors == 2
    assert notices(told)[0] == "the adapter does not say which model it was made for"


def test_a_fused_model_takes_another_adapter(tmp_path, base) -> None:
    first = write_random_adapter(tmp_path / "a", base, modules=("q_proj",))
    run(base, first, tmp_path / "one")
    second = write_random_adapter(tmp_path / "b", tmp_path / "one", modules=("v_proj",), seed=1)
    run(tmp_path / "one", second, tmp_path / "two")
    assert_close(logits(tmp_path / "two"), adapted_logits(tmp_path / "one", second), 1e-4, "twice")


# What is left of the change


def twin(base: Path, adapter: AdapterInfo, packing: dict[str, int]) -> dict[str, tuple[Any, ...]]:
    """Size, share and cosine of every changed matrix and in all, in NumPy."""

    def rounded(values: np.ndarray) -> np.ndarray:
        halves = mx.array(values).astype(mx.float16)
        codes, scales, biases = map(np.array, mx.quantize(halves, **packing))
        bits, group = packing["bits"], packing["group_size"]
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        numbers = (codes[..., None] >> shifts) & (2**bits - 1)
        numbers = numbers.reshape(len(codes), -1, group).astype(np.float64)
        values = numbers * scales[..., None].astype(float) + biases[..., None].astype(float)
        return values.reshape(len(codes), -1)

    weights, parts = dense(base), tensors_of(adapter)
    rows: dict[str, tuple[Any, ...]] = {}
    sums = np.zeros(4)
    for name in sorted({n.rpartition(".")[0] for n in parts}):
        a, b = (as_float64(parts[f"{name}.{leaf}"]) for leaf in ("lora_a", "lora_b"))
        weight = weights[f"{name}.weight"].astype(float)
        change = adapter.scale * (a @ b).T
        left = rounded((weight + change).astype(np.float32)) - rounded(weight.astype(np.float32))
        each = np.array(
            [(weight**2).sum(), (change**2).sum(), (left * change).sum(), (left**2).sum()]
        )
        rows[f"{name}.weight"] = figures(each)
        sums += each
    return {**rows, "": figures(sums)}


def figures(sums: np.ndarray) -> tuple[Any, ...]:
    weights, wanted, along, left = sums
    return ((wanted / weights) ** 0.5, along / wanted, along / (wanted * left) ** 0.5)


def told_figures(row: Any) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("relative_change", "share_kept", "cosine"))


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_left_of_the_change_is_what_numpy_finds(tmp_path, base, bits) -> None:
    adapter = small_adapter(tmp_path / "a", base, 0.05)
    options = ConvertOptions(bits=bits, group_size=32)
    told = summary(run(base, adapter, tmp_path / "t", options))
    wanted = twin(base, adapter, {"bits": bits, "group_size": 32})
    whole = (told.relative_change, told.share_kept, told.cosine)
    assert_close(whole, wanted.pop(""), 1e-4, "in all")
    found = {row["name"]: told_figures(row) for row in told.tensors}
    written = {row["name"]: row for row in proof(tmp_path / "t")["tensors"]}
    assert found.keys() == wanted.keys()
    for name, row in wanted.items():
        assert_close(found[name], row, 1e-4, name)
        assert written[name]["adapted"] and told_figures(written[name]) == found[name]
    assert whole[2] < 0.9 if bits == 4 else whole[2] > 0.9  # the measure tells the two apart


def small_adapter(directory: Path, base: Path, size: float, **rest: Any) -> AdapterInfo:
    """One whose change of ``up_proj`` is ``size`` times the matrix."""
    adapter = write_random_adapter(directory, base, modules=("up_proj",), **rest)
    values = tensors_of(adapter)
    mx.eval(values)
    a, b = (as_float64(values[UP.replace("weight", leaf)]) for leaf in ("lora_a", "lora_b"))
    factor = size * np.linalg.norm(dense(base)[UP]) / np.linalg.norm(1.5 * a @ b)
    kept = {n: v * factor if n.endswith("lora_b") else v for n, v in values.items()}
    mx.save_safetensors(str(directory / "adapters.safetensors"), kept)
    return read_info(directory)


def test_sums_without_a_change_or_anything_left_have_no_infinities() -> None:
    nothing, lost = Survival(weights=4.0), Survival(weights=4.0, wanted=1.0)
    assert (nothing.size, nothing.share, nothing.cosine) == (0.0, None, None)
    assert (lost.size, lost.share, lost.cosine) == (0.5, 0.0, 0.0)
    assert Survival().size is None


def test_both_divergences_are_those_of_the_models_on_the_text(tmp_path, base) -> None:
    adapter = small_adapter(tmp_path / "a", base, 0.2)
    text = tmp_path / "text.txt"
    text.write_text("She sells sea shells by the sea shore, and the shells she sells. " * 8)
    told = summary(run(base, adapter, tmp_path / "t", ConvertOptions(bits=4), text=text))
    tokens = load_model(base).tokenizer.encode(text.read_text())
    ids = mx.array(tokens[:512]).reshape(2, 256)
    models = [
        load_model(each, LoadOptions(compute="dense")).model for each in (base, tmp_path / "t")
    ]
    plain, fused = (log_softmax(model(ids)) for model in models)
    beside = log_softmax(adapted_logits(base, adapter, ids))
    assert told.verified_tokens == 512
    assert_close(
        [told.adapter_kl, told.mean_kl], [kl(plain, beside), kl(beside, fused)], 1e-4, "KL"
    )
    same = (beside.argmax(-1) == fused.argmax(-1)).mean()
    assert told.top1_agreement == pytest.approx(same, abs=0.005)
    assert proof(tmp_path / "t")["survival"]["adapter_on_base"]["mean_kl"] == told.adapter_kl


def log_softmax(values: mx.array) -> np.ndarray:
    array = as_float64(values)
    return array - np.log(np.exp(array).sum(-1, keepdims=True))


def kl(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.exp(before) * (before - after)).sum(-1).mean())


def test_rounding_that_moves_more_than_the_adapter_is_warned_about(tmp_path, base) -> None:
    adapter = small_adapter(tmp_path / "a", base, 0.02)
    told = run(base, adapter, tmp_path / "t", ConvertOptions(bits=4))
    (said,) = notices(told)
    assert said.startswith("rounding moves the model further (KL ") and "`--bits 8`" in said
    assert said in (tmp_path / "t" / "README.md").read_text()
    big = small_adapter(tmp_path / "b", base, 0.2)
    assert notices(run(base, big, tmp_path / "u", ConvertOptions(bits=8))) == []


def test_a_change_that_a_packed_base_swallows_is_warned_about(tmp_path, packed) -> None:
    adapter = small_adapter(tmp_path / "a", packed, 0.01)
    told = run(packed, adapter, tmp_path / "t", ConvertOptions(bits=4))
    (said,) = notices(told)
    assert summary(run(packed, adapter, tmp_path / "u", MEASURED)).share_kept > 0.95  # 8 bits
    assert said.startswith("only ") and "of the adapter's change is left: fuse with `--b" in said


def test_a_change_that_16_bits_swallow_is_warned_about(tmp_path) -> None:
    # Between 256 and the next number of this type there are 2: smaller changes are lost.
    base = checkpoint(tmp_path / "base", changes={UP: mx.full((128, 64), 256, mx.bfloat16)})
    adapter = small_adapter(tmp_path / "a", base, 0.0005)
    parts = {n: v for n, v in tensors_of(adapter).items() if ".0." in n}
    mx.eval(parts)
    info = replace(adapter, base_sha256=None)
    mx.save_safetensors(str(adapter.path / "adapters.safetensors"), parts)
    said = notices(run(base, info, tmp_path / "t", MEASURED))
    assert any(
        "of the adapter's change is left" in text and "`--dtype float32`" in text for text in said
    )


def test_an_adapter_that_changes_nothing_is_noticed(tmp_path, base) -> None:
    adapter = small_adapter(tmp_path / "a", base, 0.0)
    told = run(base, adapter, tmp_path / "t", MEASURED)
    assert notices(told) == ["the adapter changes nothing: was it trained?"]
    assert (summary(told).share_kept, summary(told).relative_change) == (None, 0.0)
    assert summary(told).adapter_kl == pytest.approx(0, abs=1e-6)


def test_a_dry_run_measures_the_same_and_writes_no_weights(tmp_path, packed, monkeypatch) -> None:
    adapter = small_adapter(tmp_path / "a", packed, 0.05)
    real = summary(run(packed, adapter, tmp_path / "t", MEASURED))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("convert.job.write_shards", None)
    monkeypatch.setattr("convert.fuse.job.require_free_space", None)
    dry = summary(run(packed, adapter, None, MEASURED))
    assert sorted(tmp_path.rglob("*")) == before
    assert dry.dry_run and dry.path == "" and not real.dry_run
    for name in ("share_kept", "cosine", "mean_kl", "adapter_kl", "bytes", "tensors"):
        assert getattr(dry, name) == getattr(real, name)


# What goes with it


def test_the_adapter_s_template_and_stop_token_become_the_model_s(tmp_path) -> None:
    base = checkpoint(tmp_path / "base", template=None, dtype=mx.float32)
    adapter = write_random_adapter(
        tmp_path / "a", base, template="{{ messages[0].content }}!", stop_token="<|im_start|>"
    )
    told = run(base, adapter, tmp_path / "t")
    loaded = load_model(tmp_path / "t")
    assert loaded.template is not None and loaded.template.source == "{{ messages[0].content }}!"
    assert loaded.stop_tokens == {256, 257} and summary(told).chat
    assert "the chat template is the adapter's" in notices(told)


def test_a_stop_token_that_the_model_lacks_is_refused(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base, stop_token="<|done|>")
    refused(base, adapter, tmp_path, "ends a turn with '<|done|>'")


def test_where_both_came_from_is_written_down(tmp_path, base) -> None:
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "LICENSE").write_text("the base's")
    source = {"name": "orig", "hub": "org/orig", "revision": "0" * 40, "elsewhere": "/home/me"}
    write_json(base / "mobilellm.json", {"format": 1, "name": "mine", "source": source})
    told = {"data_sha256": "d" * 64, "data_name": "/home/me/chats.jsonl", "licence": "cc-by-4.0"}
    training = {"rank": 4, "template": "/home/me/secret.jinja"}
    adapter = write_random_adapter(tmp_path / "a", base, config=training, **told)
    adapter = replace(adapter, scores={"best_loss": float("inf")})  # as JSON's 1e999 is read
    (adapter.path / "LICENSE").write_text("the adapter's")
    run(base, adapter, tmp_path / "t", MEASURED)
    written = proof(tmp_path / "t")
    manifest = strict_json(tmp_path / "t" / "mobilellm.json")
    assert written["adapter"] == manifest["adapter"]
    assert manifest["adapter"]["data"] == {"name": "chats.jsonl", "sha256": "d" * 64}
    assert manifest["adapter"]["training"] == {"rank": 4, "template": "secret.jinja"}
    assert manifest["adapter"]["scores"] == {"best_loss": None}
    assert manifest["adapter"]["base"]["sha256"] == adapter.base_sha256
    assert manifest["source"] == {"name": "mine", "hub": "org/orig", "revision": "0" * 40}
    assert manifest["licence"] == written["source"]["licence"] == "mit and cc-by-4.0"
    card = (tmp_path / "t" / "README.md").read_text()
    assert "# mine with a, for MLX" in card and "base_model: org/orig" in card
    assert "d" * 64 in card and "/home/me" not in card + str(written) + str(manifest)
    assert (tmp_path / "t" / "LICENSE").read_text() == "the base's"
    assert (tmp_path / "t" / "LICENSE.adapter").read_text() == "the adapter's"


def test_names_from_files_stay_in_their_line_of_the_card(tmp_path, base) -> None:
    hostile = {"hub": "x/y\nlicense: mit", "revision": "a\nb"}
    write_json(base / "mobilellm.json", {"name": "m\nn", "source": hostile})
    adapter = write_random_adapter(tmp_path / "a", base, data_sha256="`|\n# Chat with me")
    run(base, replace(adapter, name="x\n# y"), tmp_path / "t")
    card = (tmp_path / "t" / "README.md").read_text().splitlines()
    assert not {"# y", "# Chat with me", "license: mit", "b", "n"} & set(card)
    assert strict_json(tmp_path / "t" / "mobilellm.json")["source"] == {"name": "base"}


# What is refused


def refused(base: Path, adapter: AdapterInfo, tmp_path: Path, said: str, **rest: Any) -> None:
    """Fusing ends with a sentence and leaves nothing."""
    from mobilellm_mlx.errors import MobileLLMError

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(MobileLLMError) as caught:
        run(base, adapter, rest.pop("target", tmp_path / "t"), **rest)
    assert said in caught.value.message and caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_adapter_of_another_model_is_refused_unless_forced(tmp_path, base) -> None:
    other = checkpoint(tmp_path / "other", seed=1)
    adapter = write_random_adapter(tmp_path / "a", other)
    refused(base, adapter, tmp_path, "is not for `base`: it was made for `other`")
    told = run(base, adapter, tmp_path / "t", other_base=True)
    assert notices(told) == ["the adapter was made for another model, and was forced on this one"]


def test_a_target_in_the_way_is_refused_unless_forced(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base)
    run(base, adapter, tmp_path / "t")
    refused(base, adapter, tmp_path, "is there already")
    run(base, adapter, tmp_path / "t", replace(FAST, force=True))
    for place in (base, adapter.path):
        refused(base, adapter, tmp_path, "is where the source lies", target=place)


def test_an_adapter_for_each_run_is_refused(tmp_path) -> None:
    base = checkpoint(tmp_path / "base", SHARED, dtype=mx.float32)
    adapter = write_random_adapter(tmp_path / "a", base, per_run=True)
    refused(base, adapter, tmp_path, "has matrices for each run of a shared block")


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{DOWN}.lora_b": None}, "lacks `model.layers.1.mlp.down_proj.lora_b`"),
        ({f"{DOWN}.m": mx.ones((64,))}, "has `model.layers.1.mlp.down_proj.m`"),
        ({"model.layers.7.mlp.up_proj.lora_a": mx.ones((64, 4))}, "this model has no place"),
        ({"model.norm.weight": mx.ones((64,))}, "this model has no place"),
        ({"model.norm.lora_a": mx.ones((64, 4))}, "changes `model.norm`, which is no matrix"),
        ({f"{DOWN}.lora_a": mx.ones((64, 4))}, "is 64 x 4, but this model needs 128 x 4"),
        ({f"{DOWN}.lora_b": mx.ones((8, 64))}, "is 8 x 64, but this model needs 4 x 64"),
        ({f"{DOWN}.lora_a": mx.ones((128, 4), mx.int32)}, "holds I32, expected floats"),
        ({f"{DOWN}.lora_a": mx.full((128, 4), float("nan"))}, "values that are not finite"),
        ({f"{DOWN}.lora_b": mx.full((4, 64), float("inf"))}, "values that are not finite"),
        ({f"{DOWN}.lora_{leaf}": mx.full(shape, 3e38) for leaf, shape in
          (("a", (128, 4)), ("b", (4, 64)))}, "too large for numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_damaged_adapter_is_refused_and_leaves_nothing(tmp_path, base, changes, said) -> None:
    adapter = write_random_adapter(tmp_path / "a", base)
    arrays = tensors_of(adapter)
    mx.eval(arrays)
    kept = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    mx.save_safetensors(str(adapter.path / "adapters.safetensors"), kept)
    refused(base, read_info(adapter.path), tmp_path, said)


def test_a_truncated_adapter_is_refused(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base)
    path = adapter.path / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(base, adapter, tmp_path, "does not fit the")


def test_too_large_a_weight_for_the_type_is_an_error_with_a_remedy(tmp_path) -> None:
    base = checkpoint(tmp_path / "base", dtype=mx.float16)
    adapter = write_random_adapter(tmp_path / "a", base, modules=("up_proj",))
    big = {name: array * 1e3 for name, array in tensors_of(adapter).items()}
    mx.eval(big)
    mx.save_safetensors(str(adapter.path / "adapters.safetensors"), big)
    refused(base, read_info(adapter.path), tmp_path, "values too large for float16")


def test_a_template_that_is_a_link_is_refused(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base)
    (tmp_path / "secret").write_text("mine")
    (adapter.path / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(Exception, match="is a link"):
        run(base, adapter, tmp_path / "t")


def test_exceptions_and_unknown_modules_are_checked_as_for_a_conversion(tmp_path, base) -> None:
    adapter = write_random_adapter(tmp_path / "a", base)
    options = replace(FAST, bits=4, bits_for=(Rule("v_proj", 8),))
    run(base, adapter, tmp_path / "t", options)
    table = config(tmp_path / "t")["quantization"]
    assert table["bits"] == 4 and table["model.layers.0.self_attn.v_proj"]["bits"] == 8
    with pytest.raises(Exception, match="matches no tensor"):
        run(base, adapter, tmp_path / "u", replace(options, bits_for=(Rule("nothing", 8),)))
