"""4-bit weights found again in bfloat16 ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tolerances import FP32_REORDERED, assert_close

from convert.job import ConvertOptions
from convert.readers import fake_quant
from convert.readers.fake_quant import FakeQuantReader, fake_quant_reader, find_scales
from convert.readers.open import open_weights
from convert.readers.tensors import Entry, PackedTensor, Reader
from convert.remote import TableReader
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.weights import Packing
from tests.convert.checkpoints import UP, WIDE, checkpoint, notices, proof, run, tensors

EMBED = "model.embed_tokens.weight"
IDS = mx.array([[3, 1, 4, 1, 5, 256]])


def reader_of(directory: Path, arrays: Mapping[str, mx.array]) -> Reader:
    path = directory / "model.safetensors"
    mx.save_safetensors(str(path), dict(arrays))
    return open_weights(path)


def quantised(codes: np.ndarray, scales: np.ndarray) -> mx.array:
    """bfloat16 of codes (G, n) times scales (G, 1)."""
    return (mx.array(codes, mx.float32) * mx.array(scales, mx.float32)).astype(mx.bfloat16)


def short(values: np.ndarray) -> np.ndarray:
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def same(packed: object, weights: mx.array) -> bool:
    """Whether MLX's own unpacking gives the weights to the bit."""
    assert isinstance(packed, PackedTensor)
    scales, biases = packed.scales.astype(mx.float32), packed.biases.astype(mx.float32)
    group, bits = packed.packing.group_size, packed.packing.bits
    values = mx.dequantize(packed.codes, scales, biases, group_size=group, bits=bits)
    return bool(mx.array_equal(values.astype(mx.bfloat16), weights).item())


def weights(rows: int, columns: int, *, seed: int = 0, divide: float = 7, brief: bool = False):
    """Normal numbers rounded to codes as min-max training does: bfloat16, (rows, columns)."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.05, (rows * columns // 32, 32)).astype(np.float32)
    scales = np.abs(values).max(1, keepdims=True) / np.float32(divide)
    scales = short(scales) if brief else scales
    codes = np.clip(np.round(values / scales), -8, 7)
    return quantised(codes, scales).reshape(rows, columns)


@pytest.mark.parametrize("brief", [True, False])
@pytest.mark.parametrize("divide", [7, 7.5, 8])
def test_every_group_of_trained_codes_is_found(tmp_path, divide, brief) -> None:
    w = weights(96, 320, divide=divide, brief=brief)
    reader = FakeQuantReader(reader_of(tmp_path, {"x.weight": w}))
    packed, entry = reader.read("x.weight"), reader.entries["x.weight"]
    assert same(packed, w) and not reader.misfits
    assert packed.packing == entry.packing == Packing(32, 4)
    assert entry.dtype == ("BF16" if brief else "F32")
    assert packed.scales.dtype == (mx.bfloat16 if brief else mx.float32)


@pytest.mark.parametrize("most", range(1, 9))
def test_groups_that_use_few_codes_are_found(most) -> None:
    rng = np.random.default_rng(most)
    codes = rng.integers(-most, min(most, 7) + 1, (500, 32))
    codes[:, 5:] *= rng.integers(0, 2, (500, 1))  # many with five weights besides zeros
    scales = np.exp(rng.normal(-4, 3, (500, 1)))
    groups = quantised(codes, scales)
    found = np.array(find_scales(groups))
    assert np.isfinite(found).all()
    again = np.round(np.array(groups.astype(mx.float32)) / np.where(found, found, 1)[:, None])
    assert again.min() >= -8 and again.max() <= 7
    assert mx.array_equal(quantised(again, found[:, None]), groups).item()


def test_zeros_and_single_values_are_found(tmp_path) -> None:
    w = np.zeros((6, 32), np.float32)
    w[1], w[2, 3], w[3, 3], w[4, ::2], w[5, 0] = 0.3, 0.7, -0.7, -1e-3, 1e-38
    w[5, 1] = -0.0
    matrix = mx.array(w).astype(mx.bfloat16)
    packed = FakeQuantReader(reader_of(tmp_path, {"x.weight": matrix})).read("x.weight")
    assert same(packed, matrix)
    assert packed.scales[0].item() == 0 and np.isfinite(np.array(packed.scales)[:].sum())


def test_both_ends_of_the_codes_are_kept_apart(tmp_path) -> None:
    """8 times a scale up is no code, so the scale must be another or there is none."""
    codes = np.tile(np.arange(-8, 8), (2, 2))
    codes[1] = -codes[1]
    found = np.array(find_scales(quantised(codes, np.full((2, 1), 0.1))))
    assert np.isfinite(found[0]) and np.isnan(found[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.38e38])
def test_impossible_values_do_not_fit(value) -> None:
    codes = np.tile(np.arange(-8, 8), (1, 2)).astype(np.float32)
    codes[0, 3] = value
    assert np.isnan(np.array(find_scales(mx.array(codes).astype(mx.bfloat16)))).all()


@pytest.mark.parametrize(("value", "fits"), [(3e38, False), (-3e38, True), (1e38, True)])
def test_a_scale_whose_offset_is_infinite_does_not_fit(value, fits) -> None:
    found = find_scales(mx.full((1, 32), value, mx.bfloat16))
    assert bool(mx.isfinite(found).item()) is fits


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1 + 2**-7, "BF16"),
        (1 + 2**-10, "F16"),
        (1 + 2**-11, "F32"),
        ((1 + 2**-9) * 2**-16, "F32"),  # eight times as much is a float16, itself it is not
        ((1 + 2**-9) * 2**14, "F32"),  # the other way round
    ],
)
def test_scales_are_as_short_as_is_exact(scale, dtype) -> None:
    assert fake_quant._smallest_type(mx.array([[1.0], [scale]])) == dtype


def test_ordinary_weights_are_not_taken_for_rounded_ones() -> None:
    groups = mx.random.normal((20_000, 32), key=mx.random.key(3)).astype(mx.bfloat16)
    assert np.isnan(np.array(find_scales(groups))).all()


def test_the_work_in_steps_is_the_work_at_once(tmp_path, monkeypatch) -> None:
    w = weights(50, 64)
    monkeypatch.setattr(fake_quant, "_STEP_WEIGHTS", 64 * 7)
    row = mx.full((50,), 0.25)
    stored = {"y.weight": quantised(np.ones((50, 64)), 0.25), "y" + "." + fake_quant._SCALE: row}
    reader = FakeQuantReader(reader_of(tmp_path, {"x.weight": w, **stored}))
    assert same(reader.read("x.weight"), w)
    assert same(reader.read("y.weight"), stored["y.weight"])


def test_a_matrix_with_one_group_that_does_not_fit_stays_as_it_is(tmp_path) -> None:
    good, bad = weights(16, 64), np.array(weights(16, 64).astype(mx.float32))
    bad[3, :5] *= 1.05
    arrays = {
        "good.weight": good,
        "bad.weight": mx.array(bad).astype(mx.bfloat16),
        "norm.weight": mx.ones((64,), mx.bfloat16),
        "wide.weight": good.astype(mx.float32),
        "odd.weight": mx.ones((4, 24), mx.bfloat16),
    }
    reader = fake_quant_reader(reader_of(tmp_path, arrays), "int4")
    assert [name for name, entry in reader.entries.items() if entry.packing] == ["good.weight"]
    assert reader.misfits == {"bad.weight": (1, 32)}
    assert "`bad.weight` (1 of 32)" in reader.notices[-1]
    for name in arrays.keys() - {"good.weight"}:
        assert mx.array_equal(reader.read(name), arrays[name]).item()


def test_a_checkpoint_without_such_matrices_is_refused(tmp_path) -> None:
    reader = reader_of(tmp_path, {"x.weight": mx.random.normal((4, 64)).astype(mx.bfloat16)})
    assert fake_quant_reader(reader, None) is reader
    with pytest.raises(ConvertError, match="no matrix of the checkpoint holds 4-bit weights"):
        fake_quant_reader(reader, "int4")
    with pytest.raises(InvalidOption, match="fake_quant"):
        ConvertOptions(fake_quant="int5")


# With stored scales


def by_row(rows: int, columns: int) -> tuple[mx.array, np.ndarray]:
    rng = np.random.default_rng(9)
    scales = rng.uniform(0.001, 0.1, (rows, 1)).astype(np.float32)
    return quantised(rng.integers(-8, 8, (rows, columns)), scales), scales


@pytest.mark.parametrize("shape", [(20, 1), (20,)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_stored_scales_are_used_as_they_are(tmp_path, dtype, shape) -> None:
    codes = np.random.default_rng(2).integers(-8, 8, (20, 192))
    scales = mx.random.uniform(0.01, 0.1, (20, 1), key=mx.random.key(1)).astype(dtype)
    w = (mx.array(codes) * scales.astype(mx.float32)).astype(mx.bfloat16)
    stored = {"x.weight": w, "x.weight_fake_quantizer.scale": scales.reshape(shape)}
    reader = FakeQuantReader(reader_of(tmp_path, stored))
    packed = reader.read("x.weight")
    assert list(reader.entries) == ["x.weight"] and packed.packing == Packing(64, 4)
    assert same(packed, w) and "scales of 1 are stored" in reader.notices[-1]
    assert packed.scales.dtype == dtype
    assert mx.array_equal(packed.scales, mx.repeat(scales, 3, axis=1)).item()


def test_stored_scales_that_do_not_fit_are_an_error(tmp_path) -> None:
    w, scales = by_row(20, 64)
    scales[4], scales[7], scales[9] = 0, np.nan, -scales[9]
    stored = {"x.weight": w, "x.weight_fake_quantizer.scale": mx.array(scales)}
    with pytest.raises(ConvertError, match=r"`x\.weight` does not hold the values .* of 20 rows"):
        FakeQuantReader(reader_of(tmp_path, stored))


def test_stored_scales_are_not_passed_over(tmp_path) -> None:
    stored = {"x.weight": by_row(20, 64)[0], "x.weight_fake_quantizer.scale": mx.ones((20, 1))}
    with pytest.raises(ConvertError, match="rounded in training") as caught:
        fake_quant_reader(reader_of(tmp_path, stored), None)
    assert "--fake-quant int4" in (caught.value.hint or "")


def test_weights_that_were_not_rounded_to_their_stored_scales_are_refused(tmp_path) -> None:
    stored = {"x.weight": by_row(20, 64)[0]}
    stored["x.weight_fake_quantizer.scale"] = mx.full((20, 1), 1e-5)
    with pytest.raises(ConvertError, match="20 of 20 rows do not fit"):
        fake_quant_reader(reader_of(tmp_path, stored), "int4")


def test_scales_that_belong_to_nothing_are_not_hidden(tmp_path) -> None:
    lonely = "y.weight_fake_quantizer.scale"
    stored = {"x.weight": weights(20, 64), lonely: mx.ones((20, 1))}
    reader = fake_quant_reader(reader_of(tmp_path, stored), "int4")
    assert set(reader.entries) == {"x.weight", lonely}


def test_stored_scales_of_another_size_are_refused(tmp_path) -> None:
    w, _ = by_row(20, 64)
    stored = {"x.weight": w, "x.weight_fake_quantizer.scale": mx.ones((20, 2))}
    with pytest.raises(ConvertError, match="has 40 values, expected 20"):
        FakeQuantReader(reader_of(tmp_path, stored))


def test_from_afar_the_weights_are_taken_on_trust_and_that_is_said() -> None:
    entry = Entry("x.weight", (4, 64), "BF16", 512)
    reader = FakeQuantReader(TableReader("safetensors", {"x.weight": entry}))
    assert reader.entries["x.weight"].packing == Packing(32, 4)
    assert "looked at when they are converted" in reader.notices[0]


# Whole conversions


def test_a_converted_checkpoint_says_what_its_source_says(tmp_path) -> None:
    plain = tensors(checkpoint(tmp_path / "p", WIDE))
    names = [name for name, array in plain.items() if array.ndim == 2 and name != UP]
    changes = {n: weights(*plain[n].shape, seed=i, brief=True) for i, n in enumerate(names)}
    source = checkpoint(tmp_path / "s", WIDE, changes)
    said = run(source, tmp_path / "t", ConvertOptions(fake_quant="int4"))
    made, form = tensors(tmp_path / "t"), LoadOptions(compute="dense")
    assert made[UP].dtype == mx.bfloat16 and made[EMBED].dtype == mx.uint32
    assert any(f"`{UP}` (256 of 256)" in text for text in notices(said))
    assert proof(tmp_path / "t")["relative_error"] is None
    # Unpacked in float32 a weight has more digits than bfloat16 left it, so rounded it is the same.
    wanted = load_model(source, form).model
    got = load_model(tmp_path / "t", form).model
    for name in names:
        array = got
        for part in name.split("."):
            array = array[int(part)] if part.isdecimal() else getattr(array, part)
        assert mx.array_equal(array.astype(mx.bfloat16), changes[name]).item(), name
    assert_close(got(IDS), wanted(IDS), 0.05, "logits")
    packed = load_model(tmp_path / "t", LoadOptions(compute="packed")).model
    assert_close(packed(IDS), got(IDS), FP32_REORDERED, "packed")
