"""ParetoQ's weights against torch: tests/golden/make_paretoq_golden.py."""

from collections.abc import Iterator, Mapping
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
from tiny import write_json
from tolerances import FP32_REORDERED, assert_close

from convert.inspection import inspect
from convert.job import ConvertOptions
from convert.readers.affine import pack_codes, widest_group
from convert.readers.open import open_weights
from convert.readers.paretoq import WIDTHS, ParetoQReader, paretoq_reader
from convert.readers.tensors import PackedTensor, Reader
from convert.source import open_source
from convert.sources import inspect_any
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.weights import Packing
from tests.convert.checkpoints import (
    FAST,
    UP,
    WIDE,
    checkpoint,
    config,
    notices,
    proof,
    run,
    set_config,
    tensors,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "paretoq.npz"
PAIRS = [
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("float32", "bfloat16"),
    ("float32", "float32"),
    ("bfloat16", "float32"),
]
BITS = {0: 2, 1: 2, 2: 2, 3: 3, 4: 4}
IDS = mx.array([[3, 1, 4, 1, 5, 256]])


@pytest.fixture(scope="module")
def golden() -> Iterator[Mapping[str, np.ndarray]]:
    with np.load(GOLDEN) as arrays:
        yield dict(arrays)


def reader_of(directory: Path, arrays: Mapping[str, mx.array]) -> Reader:
    path = directory / "model.safetensors"
    mx.save_safetensors(str(path), dict(arrays))
    return open_weights(path)


def linear(weight: mx.array, alpha: mx.array) -> dict[str, mx.array]:
    return {"x.weight": weight, "x.weight_clip_val": alpha}


def array(values: np.ndarray, dtype: str) -> mx.array:
    return mx.array(values).astype(getattr(mx, dtype))


def by_mlx(packed: PackedTensor) -> mx.array:
    """The weights by MLX's arithmetic, not ours, in float32."""
    scales, biases = packed.scales.astype(mx.float32), packed.biases.astype(mx.float32)
    group, bits = packed.packing.group_size, packed.packing.bits
    return mx.dequantize(packed.codes, scales, biases, group_size=group, bits=bits)


# Against torch


@pytest.mark.parametrize("width", BITS)
@pytest.mark.parametrize(("weight", "alpha"), PAIRS)
def test_packed_weights_are_what_torch_rounds_them_to(tmp_path, golden, weight, alpha, width):
    parts = [array(golden[f"{k}/{d}"], d) for k, d in (("weights", weight), ("alpha", alpha))]
    reader = paretoq_reader(reader_of(tmp_path, linear(*parts)), {"w_bits": width})
    packed, entry = reader.read("x.weight"), reader.entries["x.weight"]
    assert isinstance(packed, PackedTensor)
    assert packed.packing == entry.packing == Packing(64, BITS[width])
    assert entry.shape == (12, 64) and packed.scales.shape == packed.biases.shape == (12, 1)
    stored = {mx.float16: "F16", mx.bfloat16: "BF16", mx.float32: "F32"}
    assert stored[packed.scales.dtype] == stored[packed.biases.dtype] == entry.dtype
    wanted = golden[f"rounded/{weight}/{alpha}/{width}"]
    computed = getattr(mx, weight) if weight == alpha else mx.float32
    got = np.array(by_mlx(packed).astype(computed).astype(mx.float32))
    if alpha == "float32" and width >= 2:  # of 24 digits some are lost in a product
        assert np.abs(got - wanted).max(initial=0, where=wanted == 0) == 0
        assert (np.abs(got - wanted) <= 1e-6 * np.abs(wanted)).all()
    else:
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("width", BITS)
def test_every_level_of_a_width_is_in_the_golden(golden, width) -> None:
    levels = {0: 3, 1: 3, 2: 4, 3: 8, 4: 16}[width]
    ratios = golden[f"rounded/float32/float32/{width}"] / golden["alpha/float32"].clip(1e-5)
    assert len(np.unique(ratios.round(3) + 0.0)) == levels


def test_a_quotient_in_bfloat16_gives_other_codes_than_one_in_float32(golden) -> None:
    """So the type in which it is computed matters, and the golden shows it."""
    weight, alpha = golden["weights/bfloat16"], golden["alpha/bfloat16"].clip(1e-5)
    wide = np.clip(np.round(weight / alpha), -8, 7)
    assert (np.round(golden["rounded/bfloat16/bfloat16/4"] / alpha) != wide).sum() > 0


@pytest.mark.parametrize(
    ("width", "dtype"), [(0, "BF16"), (1, "BF16"), (2, "F32"), (3, "BF16"), (4, "BF16")]
)
def test_scales_are_as_short_as_is_exact(tmp_path, width, dtype) -> None:
    weight, alpha = mx.ones((2, 128), mx.bfloat16), mx.ones((2, 1), mx.bfloat16)
    reader = ParetoQReader(reader_of(tmp_path, linear(weight, alpha)), width)
    assert reader.entries["x.weight"].dtype == dtype
    assert reader.entries["x.weight"].nbytes == 2 * 128 * 2 + 4


@pytest.mark.parametrize("columns", [32, 64, 96, 128, 192, 256, 576])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_lie_where_mlx_looks_for_them(columns, bits) -> None:
    codes = np.random.default_rng(columns).integers(0, 2**bits, (5, columns))
    group = widest_group(columns)
    assert group is not None
    words = pack_codes(mx.array(codes), bits)
    ones, zeros = mx.ones((5, columns // group)), mx.zeros((5, columns // group))
    again = mx.dequantize(words, ones, zeros, group_size=group, bits=bits)
    assert np.array_equal(np.array(again), codes)


@pytest.mark.parametrize(("columns", "group"), [(576, 64), (1280, 128), (96, 32), (48, None)])
def test_groups_are_as_wide_as_the_rows_allow(columns, group) -> None:
    assert widest_group(columns) == group


# What is refused


@pytest.mark.parametrize(
    "clip", [(2,), (1, 1), (2, 2), (1, 2), (2, 1, 1), ()], ids=lambda shape: str(shape)
)
def test_clip_values_of_another_shape_are_refused(tmp_path, clip) -> None:
    reader = reader_of(tmp_path, linear(mx.ones((2, 64)), mx.ones(clip)))
    with pytest.raises(ConvertError, match=r"`x.weight_clip_val` is .*expected .* 2 x 1"):
        paretoq_reader(reader, {"w_bits": 4})


def test_clip_values_without_a_matrix_are_refused(tmp_path) -> None:
    with pytest.raises(ConvertError, match="belongs to no matrix"):
        paretoq_reader(reader_of(tmp_path, {"x.weight_clip_val": mx.ones((2, 1))}), {"w_bits": 4})


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (mx.ones((2, 64), mx.int32), "no matrix of floats"),
        (mx.ones((2,)), "no matrix of floats"),
        (mx.ones((2, 48)), "48 columns"),
        (mx.ones((2, 0)), "no matrix of floats"),
    ],
)
def test_what_cannot_be_packed_is_refused(tmp_path, weight, why) -> None:
    with pytest.raises(ConvertError, match=why):
        paretoq_reader(reader_of(tmp_path, linear(weight, mx.ones((2, 1)))), {"w_bits": 4})


@pytest.mark.parametrize(
    ("weight", "alpha", "dtype", "why"),
    [
        (nan, 1.0, mx.float32, "`x.weight` holds NaN"),
        (1.0, nan, mx.float32, "`x.weight_clip_val` holds NaN"),
        (1.0, inf, mx.float32, "`x.weight_clip_val` holds NaN or inf"),
        (1.0, 60_000.0, mx.float16, "too large for float16"),
    ],
)
def test_values_that_no_code_stands_for_are_refused(tmp_path, weight, alpha, dtype, why) -> None:
    parts = linear(mx.full((1, 32), weight, dtype), mx.full((1, 1), alpha, dtype))
    reader = paretoq_reader(reader_of(tmp_path, parts), {"w_bits": 4})
    with pytest.raises(ConvertError, match=why):
        reader.read("x.weight")


@pytest.mark.parametrize("said", [{}, {"w_bits": 16}, {"w_bits": "4"}, {"w_bits": True}])
def test_bits_are_never_guessed(tmp_path, said) -> None:
    reader = reader_of(tmp_path, linear(mx.ones((2, 64)), mx.ones((2, 1))))
    with pytest.raises(ConvertError, match="does not say for how many bits") as caught:
        paretoq_reader(reader, said)
    assert "--weight-bits" in (caught.value.hint or "")


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_a_person_can_say_the_bits_but_not_against_the_configuration(tmp_path, name, width) -> None:
    reader = reader_of(tmp_path, linear(mx.ones((2, 64)), mx.ones((2, 1))))
    for said in ({}, {"w_bits": 16}, {"w_bits": width}):
        packing = paretoq_reader(reader, said, name).entries["x.weight"].packing
        assert packing == Packing(64, BITS[width])
    with pytest.raises(ConvertError, match=f"is {name}, but `w_bits`"):
        paretoq_reader(reader, {"w_bits": (width + 1) % 5}, name)


def test_bits_of_ordinary_weights_are_refused(tmp_path) -> None:
    reader = reader_of(tmp_path, {"x.weight": mx.ones((2, 64))})
    assert paretoq_reader(reader, {"w_bits": 16}) is reader
    with pytest.raises(ConvertError, match="has no `weight_clip_val`"):
        paretoq_reader(reader, {}, "4")
    with pytest.raises(InvalidOption, match="weight_bits"):
        ConvertOptions(weight_bits="5")


# Whole conversions


def rounded(weight: np.ndarray, alpha: np.ndarray, width: int) -> np.ndarray:
    """The formulas once more, float32, (rows, columns) and (rows, 1)."""
    if width == 1:
        return np.sign(weight) * alpha
    if width in (0, 2):
        n, shift = (np.float32(1.5), 0) if width == 0 else (np.float32(2), np.float32(0.5))
        inside = np.clip(weight / alpha, np.float32(-0.99), np.float32(0.99))
        return (np.round(inside * n - shift) + shift) / n * alpha
    return np.clip(np.round(weight / alpha), -(2 ** (width - 1)), 2 ** (width - 1) - 1) * alpha


def trained(
    directory: Path, width: int, dtype: mx.Dtype = mx.float32
) -> tuple[Path, dict[str, mx.array]]:
    """A checkpoint with clip values, and the matrices that its network would compute with."""
    checkpoint(directory, WIDE, dtype=dtype)
    rng, clips, dense = np.random.default_rng(1), {}, {}
    for name, values in tensors(directory).items():
        if "_proj." in name:
            # Whole 256ths: 16 bits hold them.
            alpha = (rng.integers(5, 60, (values.shape[0], 1)) / 256).astype(np.float32)
            clips[name.replace(".weight", ".weight_clip_val")] = mx.array(alpha).astype(dtype)
            weight = np.array(values.astype(mx.float32))
            dense[name] = mx.array(rounded(weight, alpha, width).astype(np.float32))
    checkpoint(directory, WIDE, clips, dtype=dtype)
    set_config(directory, w_bits=width)
    return directory, dense


def logits(directory: Path, form: str = "dense") -> mx.array:
    return load_model(directory, LoadOptions(compute=form)).model(IDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", BITS)
def test_a_converted_checkpoint_says_what_the_rounded_network_says(tmp_path, width) -> None:
    source, dense = trained(tmp_path / "s", width)
    said = run(source, tmp_path / "t", ConvertOptions(dtype="float32"))
    checkpoint(tmp_path / "dense", WIDE, dense, dtype=mx.float32)
    wanted = logits(tmp_path / "dense")
    assert_close(logits(tmp_path / "t"), wanted, 0, "unpacked")
    assert_close(logits(tmp_path / "t", "packed"), wanted, FP32_REORDERED, "packed")
    paper = proof(tmp_path / "t")
    rows = [row for row in paper["tensors"] if "_proj." in row["name"]]
    assert len(rows) == 14 and {row["action"] for row in rows} == {"copy"}
    assert paper["relative_error"] is None  # nothing was rounded
    assert any("14 matrices hold" in text for text in notices(said))


@pytest.mark.parametrize(("width", "scales"), [(2, mx.float32), (4, mx.bfloat16)])
def test_what_is_not_trained_in_bits_keeps_its_type(tmp_path, width, scales) -> None:
    source, _ = trained(tmp_path / "s", width, mx.bfloat16)
    run(source, tmp_path / "t")
    made = tensors(tmp_path / "t")
    assert made["model.embed_tokens.weight"].dtype == mx.bfloat16
    assert made[UP.replace(".weight", ".scales")].dtype == scales
    assert made[UP.replace(".weight", ".biases")].dtype == scales
    table = config(tmp_path / "t")["quantization"]
    assert (table["bits"], table["group_size"]) == (width, 64)
    assert table["model.embed_tokens"] is False
    assert table["model.layers.0.mlp.down_proj"]["group_size"] == 128


def test_float32_scales_survive_another_type(tmp_path) -> None:
    source, _ = trained(tmp_path / "s", 2, mx.bfloat16)
    run(source, tmp_path / "t", ConvertOptions(verify=False, dtype="float16"))
    assert tensors(tmp_path / "t")[UP.replace(".weight", ".scales")].dtype == mx.float32
    assert tensors(tmp_path / "t")["model.norm.weight"].dtype == mx.float16


def test_a_single_file_needs_the_bits_only_once(tmp_path) -> None:
    source, _ = trained(tmp_path / "s", 3)
    write_json(source / "config.json", WIDE)
    with pytest.raises(ConvertError, match="does not say for how many bits"):
        run(source, tmp_path / "t")
    run(source, tmp_path / "t", ConvertOptions(verify=False, weight_bits="3"))
    assert config(tmp_path / "t")["quantization"]["bits"] == 3
    row = inspect_any(str(source), ConvertOptions(weight_bits="3")).to_dict()
    assert row["packings"]["3-bit, groups of 64"] == 12


def test_a_matrix_without_clip_values_is_named(tmp_path) -> None:
    source, _ = trained(tmp_path / "s", 4)
    arrays = tensors(source)
    del arrays[UP.replace("weight", "weight_clip_val")]
    mx.save_safetensors(str(source / "model.safetensors"), arrays)
    with pytest.raises(ConvertError, match=f"`{UP}` has no clip values, which 13"):
        open_source(source)


def test_the_variant_without_clip_values_converts_as_any(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    set_config(source, w_bits=16)
    run(source, tmp_path / "t", FAST)
    assert {row["action"] for row in proof(tmp_path / "t")["tensors"]} == {"pack", "keep"}


def test_packing_anew_is_possible_when_it_is_asked_for(tmp_path) -> None:
    source, _ = trained(tmp_path / "s", 2)
    plan = inspect(open_source(source), ConvertOptions(bits=8), "x")
    assert plan.packings["8-bit, groups of 64"] == 15
