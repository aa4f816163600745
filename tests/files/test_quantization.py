"""The quantization table of a config.json, and tensors against it."""

from dataclasses import asdict
from typing import Any, Literal

import pytest
from tiny import LLAMA, make_model, pack
from tolerances import FP32, FP32_REORDERED, assert_close

import mobilellm_mlx.loading as loading
from mobilellm_mlx.backend import BACKENDS, mx, nn, tree_flatten
from mobilellm_mlx.errors import ConfigError, WeightsError
from mobilellm_mlx.loading import build_model
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.compiled import CompiledModel
from mobilellm_mlx.weights import Packing, QuantizationTable, read_quantization, unpack_tensors

FOUR = {"group_size": 32, "bits": 4}
TABLE = QuantizationTable(Packing(32, 4), {})
IDS = mx.array([[3, 1, 4, 1, 5]])
UP = "model.layers.0.mlp.up_proj"
FORMS: list[Literal["packed", "dense"]] = ["packed", "dense"]


def packed_tensors() -> dict[str, mx.array]:
    return dict(tree_flatten(pack(make_model(LLAMA)).parameters()))


def test_a_checkpoint_without_a_table_is_not_packed() -> None:
    assert read_quantization(LLAMA) is None
    assert read_quantization({"quantization": None}) is None


def test_a_table_gives_one_packing_to_all_modules() -> None:
    table = read_quantization({"quantization": {**FOUR, "mode": "affine"}})
    assert table is not None and table.packing("any.module") == Packing(32, 4)


def test_a_table_can_except_modules() -> None:
    raw = {**FOUR, "a": {"bits": 8}, "b": {"group_size": 64, "bits": 6}, "c": False}
    table = read_quantization({"quantization": raw})
    assert table is not None
    assert [table.packing(name) for name in "abcd"] == [
        Packing(32, 8),
        Packing(64, 6),
        None,
        Packing(32, 4),
    ]


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"bits": 4},
        {"group_size": 32},
        {"bits": 7, "group_size": 32},
        {"bits": 4, "group_size": 48},
        {"bits": "4", "group_size": 32},
        {"bits": 4.0, "group_size": 32},
        {"bits": True, "group_size": 32},
        {"bits": [4], "group_size": 32},
        {"bits": 4, "group_size": 64, "mode": "mxfp4"},
        {"bits": 8, "group_size": 16, "mode": "nvfp4"},
        {"bits": 4, "group_size": 32, "mode": "nf4"},
        {"bits": 4, "group_size": 32, "mode": ["affine"]},
        {**FOUR, "model.embed_tokens": {"bits": 9}},
        {**FOUR, "model.embed_tokens": {"mode": "nvfp4"}},
        5,
        "4-bit",
        [],
        False,
    ],
    ids=str,
)
def test_an_impossible_table_is_refused(table: Any) -> None:
    with pytest.raises(ConfigError):
        read_quantization({"quantization": table})


def test_the_error_names_the_module_whose_exception_is_impossible() -> None:
    with pytest.raises(ConfigError, match=r"`model\.embed_tokens` has bits 9"):
        read_quantization({"quantization": {**FOUR, "model.embed_tokens": {"bits": 9}}})


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_unpacking_gives_what_mlx_unpacks(bits: int, group_size: int) -> None:
    weight = mx.random.normal((6, 256), key=mx.random.key(bits))
    codes, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
    tensors = {"m.weight": codes, "m.scales": scales, "m.biases": biases}
    table = QuantizationTable(Packing(group_size, bits), {})
    unpacked = unpack_tensors(tensors, table, mx.float32)
    assert unpacked.keys() == {"m.weight"}
    wanted = mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits)
    assert_close(unpacked["m.weight"], wanted, FP32, f"{bits} bits in groups of {group_size}")


def test_float16_scales_are_widened_before_the_product() -> None:
    """float32 then holds scale x code + bias exactly; in float16 the product would be rounded."""
    weight = mx.random.normal((4, 32), key=mx.random.key(1))
    codes, scales, biases = mx.quantize(weight, group_size=32, bits=8)
    scales, biases = scales.astype(mx.float16), biases.astype(mx.float16)
    tensors = {"m.weight": codes, "m.scales": scales, "m.biases": biases}
    table = QuantizationTable(Packing(32, 8), {})
    got = unpack_tensors(tensors, table, mx.float32)["m.weight"]
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    wanted = mx.dequantize(codes, *wide, group_size=32, bits=8)
    assert_close(got, wanted, FP32 / 10, "widened first")
    narrow = mx.dequantize(codes, scales, biases, group_size=32, bits=8).astype(mx.float32)
    assert mx.abs(wanted - narrow).max().item() > 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_give_the_logits_of_the_packed_network(form: Literal["packed", "dense"]) -> None:
    reference = pack(make_model(LLAMA))
    model = build_model(build_config(LLAMA), packed_tensors(), TABLE, form)
    assert_close(model(IDS), reference(IDS), FP32_REORDERED, form)


def test_the_dense_form_is_float32_without_packed_modules() -> None:
    model = build_model(build_config(LLAMA), packed_tensors(), TABLE, "dense")
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.float32}
    assert not any(isinstance(m, nn.QuantizedLinear) for m in model.modules())


def test_the_packed_form_keeps_the_packed_modules() -> None:
    model = build_model(build_config(LLAMA), packed_tensors(), TABLE, "packed")
    kinds = {type(m).__name__ for m in model.modules()}
    assert {"QuantizedLinear", "QuantizedEmbedding"} <= kinds
    assert not {"Linear", "Embedding"} & kinds


@pytest.mark.parametrize(
    ("name", "expected"), [("cpu", mx.float32), ("metal", mx.float16), ("cuda", mx.float16)]
)
def test_float16_scales_stay_so_only_where_half_precision_is_fast(
    name: str, expected: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS[name])  # type: ignore[index]
    half = {
        n: a.astype(mx.float16) if a.dtype == mx.float32 else a for n, a in packed_tensors().items()
    }
    model = build_model(build_config(LLAMA), half, TABLE, "packed")
    assert model.dtype == expected
    assert model(IDS).dtype == expected


@pytest.mark.parametrize(
    ("name", "kind"), [("metal", CompiledModel), ("cuda", LanguageModel), ("cpu", LanguageModel)]
)
def test_only_metal_compiles_the_decode_step(
    name: str, kind: type[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS[name])  # type: ignore[index]
    for form in ("packed", "dense"):
        model = build_model(build_config(LLAMA), packed_tensors(), TABLE, form)  # type: ignore[arg-type]
        assert type(model) is kind


def test_a_module_kept_unpacked_is_left_alone() -> None:
    table = QuantizationTable(Packing(32, 4), {UP: None})
    plain = make_model(LLAMA)
    weight = plain.model.layers[0].mlp.up_proj.weight
    tensors = {n: a for n, a in packed_tensors().items() if not n.startswith(UP)}
    for form in FORMS:
        model = build_model(build_config(LLAMA), {**tensors, f"{UP}.weight": weight}, table, form)
        assert_close(model.model.layers[0].mlp.up_proj.weight, weight, 0, form)


BROKEN: dict[str, dict[str, Any]] = {
    "no biases": {f"{UP}.biases": None},
    "no scales": {f"{UP}.scales": None},
    "neither": {f"{UP}.scales": None, f"{UP}.biases": None},
    "no codes": {f"{UP}.weight": None},
    "other groups": {f"{UP}.scales": mx.ones((64, 2)), f"{UP}.biases": mx.ones((64, 2))},
    "one bias for all": {f"{UP}.biases": mx.ones((1, 1))},
    "one scale a row too few": {f"{UP}.scales": mx.ones((63, 1))},
    "signed codes": {f"{UP}.weight": mx.zeros((64, 4), mx.int32)},
    "codes are floats": {f"{UP}.weight": mx.zeros((64, 4))},
    "codes of other bits": {f"{UP}.weight": mx.zeros((64, 8), mx.uint32)},
    "flat codes": {f"{UP}.weight": mx.zeros((256,), mx.uint32)},
    "packed norm": {"model.norm.scales": mx.ones((1, 1)), "model.norm.biases": mx.ones((1, 1))},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", BROKEN)
def test_badly_packed_tensors_are_refused_while_loading(
    change: str, form: Literal["packed", "dense"]
) -> None:
    tensors = {n: a for n, a in {**packed_tensors(), **BROKEN[change]}.items() if a is not None}
    with pytest.raises(WeightsError):
        mx.eval(build_model(build_config(LLAMA), tensors, TABLE, form).parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "table",
    [None, *(QuantizationTable(p, {}) for p in (Packing(32, 8), Packing(64, 4), Packing(128, 2)))],
    ids=str,
)
def test_a_table_that_does_not_fit_the_tensors_is_refused(
    table: QuantizationTable | None, form: Literal["packed", "dense"]
) -> None:
    with pytest.raises(WeightsError):
        mx.eval(build_model(build_config(LLAMA), packed_tensors(), table, form).parameters())


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_cannot_be_packed_so_is_refused(form: Literal["packed", "dense"]) -> None:
    config = build_config({**LLAMA, "hidden_size": 24, "head_dim": 8})
    with pytest.raises(WeightsError):
        mx.eval(build_model(config, packed_tensors(), TABLE, form).parameters())


# The modes of few-bit floats

FLOATS = {"mxfp4": Packing(32, 4, "mxfp4"), "mxfp8": Packing(32, 8, "mxfp8"),
          "nvfp4": Packing(16, 4, "nvfp4")}  # fmt: skip
FORMATS = {name: QuantizationTable(packing, {}) for name, packing in FLOATS.items()}


def float_tensors(mode: str, dtype: mx.Dtype = mx.float32) -> dict[str, mx.array]:
    """A network's tensors, every matrix packed in ``mode``."""
    model = make_model(LLAMA)
    model.set_dtype(dtype)
    packing = FLOATS[mode]
    nn.quantize(model, group_size=packing.group_size, bits=packing.bits, mode=mode)
    return dict(tree_flatten(model.parameters()))


@pytest.mark.parametrize("mode", FLOATS)
def test_a_table_can_name_another_mode_for_all_or_for_one(mode: str) -> None:
    entry = asdict(FLOATS[mode])
    table = read_quantization({"quantization": entry})
    assert table is not None and table.packing("any") == FLOATS[mode]
    table = read_quantization({"quantization": {**FOUR, "m": entry}})
    assert table is not None
    assert (table.packing("m"), table.packing("n")) == (FLOATS[mode], Packing(32, 4))


@pytest.mark.parametrize("mode", FLOATS)
def test_unpacking_floats_gives_what_mlx_unpacks(mode: str) -> None:
    tensors, table = float_tensors(mode), FORMATS[mode]
    unpacked = unpack_tensors(tensors, table, mx.float32)
    assert not any(name.endswith((".scales", ".biases")) for name in unpacked)
    packing = asdict(FLOATS[mode])
    wanted = mx.dequantize(
        tensors[f"{UP}.weight"], tensors[f"{UP}.scales"], **packing, dtype=mx.float32
    )
    assert_close(unpacked[f"{UP}.weight"], wanted, 0, mode)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", FLOATS)
def test_both_forms_of_packed_floats_give_the_same_logits(
    mode: str, form: Literal["packed", "dense"]
) -> None:
    tensors = float_tensors(mode)
    plain = unpack_tensors(tensors, FORMATS[mode], mx.float32)
    wanted = build_model(build_config(LLAMA), plain, None, "packed")(IDS)
    model = build_model(build_config(LLAMA), tensors, FORMATS[mode], form)
    assert_close(model(IDS), wanted, FP32_REORDERED, f"{mode}, {form}")
    packed = any(isinstance(module, nn.QuantizedLinear) for module in model.modules())
    assert packed == (form == "packed")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("mode", FLOATS)
def test_activations_take_the_type_of_the_norms_where_scales_are_bytes(
    mode: str, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS["metal"])
    tensors = float_tensors(mode, dtype)
    assert loading.activation_dtype(tensors) == dtype
    model = build_model(build_config(LLAMA), tensors, FORMATS[mode], "packed")
    assert model.dtype == dtype and model.hidden(IDS).dtype == dtype
    assert model(IDS).dtype == dtype


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "change",
    [
        {f"{UP}.biases": mx.zeros((64, 1))},
        {f"{UP}.scales": mx.ones((64, 1))},
        {f"{UP}.scales": mx.ones((64, 2), mx.uint8)},
        {f"{UP}.scales": None},
        {f"{UP}.weight": mx.zeros((64, 4), mx.int32)},
    ],
    ids=lambda change: " ".join(change),
)
def test_badly_packed_floats_are_refused_while_loading(
    change: dict[str, mx.array | None], form: Literal["packed", "dense"]
) -> None:
    changed = {**float_tensors("mxfp4"), **change}
    tensors = {name: array for name, array in changed.items() if array is not None}
    with pytest.raises(WeightsError):
        mx.eval(build_model(build_config(LLAMA), tensors, FORMATS["mxfp4"], form).parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pair", [("mxfp4", "mxfp8"), ("mxfp4", "nvfp4"), ("nvfp4", "mxfp4")])
def test_floats_of_another_mode_than_the_table_s_are_refused(
    pair: tuple[str, str], form: Literal["packed", "dense"]
) -> None:
    stored, said = pair
    with pytest.raises(WeightsError):
        mx.eval(
            build_model(
                build_config(LLAMA), float_tensors(stored), FORMATS[said], form
            ).parameters()
        )
