"""The output's weight files."""

import json

import pytest

from convert.plan import TensorPlan
from convert.readers.tensors import PackedTensor
from convert.writers import shards
from convert.writers.shards import split, write_shards
from mobilellm_mlx.backend import mx
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.weights import Packing, load_tensors, weight_files
from tests.convert.checkpoints import checkpoint, run, same_bits, tensors


def plain(name: str, rows: int) -> TensorPlan:
    """Four bytes a row."""
    return TensorPlan(name, (rows, 2), "F16", 0, "F16", None, "keep")


def names(parts: list[list[TensorPlan]]) -> list[str]:
    return ["".join(tensor.name for tensor in part) for part in parts]


@pytest.mark.parametrize(
    ("rows", "most", "wanted"),
    [
        ([1, 1, 1], 100, ["abc"]),
        ([1, 1, 1], 8, ["ab", "c"]),
        ([1, 1, 1], 4, ["a", "b", "c"]),
        ([1, 1, 1], 1, ["a", "b", "c"]),
        ([9, 1, 1], 8, ["a", "bc"]),
        ([1, 9, 1], 8, ["a", "b", "c"]),
        ([2, 1, 1], 12, ["ab", "c"]),
    ],
)
def test_files_are_filled_in_order_up_to_the_limit(rows, most, wanted) -> None:
    planned = [plain(name, count) for name, count in zip("abc", rows, strict=True)]
    assert names(split(planned, most)) == wanted


def values(planned: list[TensorPlan]):
    for number, tensor in enumerate(planned):
        yield tensor, mx.full(tensor.shape, number, mx.float16)


def test_one_file_needs_no_index(tmp_path) -> None:
    planned = [plain("a", 3), plain("b", 2)]
    assert list(write_shards(tmp_path, planned, values(planned))) == planned
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_several_files_are_numbered_and_listed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "split", lambda tensors: split(tensors, 8))
    planned = [plain("a", 2), plain("b", 2), plain("c", 1)]
    list(write_shards(tmp_path, planned, values(planned)))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    name = "model-0000{}-of-00003.safetensors"
    assert index["weight_map"] == {"a": name.format(1), "b": name.format(2), "c": name.format(3)}
    assert index["metadata"]["total_size"] == 20
    read = load_tensors(weight_files(tmp_path))
    assert {n: array[0, 0].item() for n, array in read.items()} == {"a": 0, "b": 1, "c": 2}


def test_the_parts_of_a_packed_matrix_stay_in_one_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "split", lambda tensors: split(tensors, 1))
    codes, scales, biases = mx.quantize(mx.ones((2, 32)), group_size=32, bits=4)
    packing = Packing(32, 4)
    planned = [
        TensorPlan("m.weight", (2, 32), "F32", 0, "F32", packing, "pack"),
        TensorPlan("n.weight", (2,), "F32", 0, "F32", None, "keep"),
    ]
    given = [PackedTensor(codes, scales, biases, packing), mx.ones((2,))]
    list(write_shards(tmp_path, planned, zip(planned, given, strict=True)))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == {"m.weight", "m.scales", "m.biases", "n.weight"}
    assert len({index[f"m.{part}"] for part in ("weight", "scales", "biases")}) == 1


def test_a_tensor_is_told_once_it_is_in_its_file(tmp_path) -> None:
    planned = [plain("a", 3), plain("b", 2)]
    sizes = [
        (tmp_path / "model.safetensors").stat().st_size
        for _ in write_shards(tmp_path, planned, values(planned))
    ]
    assert sizes[1] - sizes[0] == planned[1].nbytes


def test_no_value_is_asked_for_before_the_one_before_it_is_written(tmp_path) -> None:
    planned, asked = [plain("a", 3), plain("b", 2)], []

    def watched():
        for pair in values(planned):
            asked.append(pair[0].name)
            yield pair

    steps = write_shards(tmp_path, planned, watched())
    assert (next(steps).name, asked) == ("a", ["a"])
    steps.close()


def test_a_sharded_conversion_is_the_same_model(tmp_path, monkeypatch) -> None:
    source = checkpoint(tmp_path / "s")
    run(source, tmp_path / "whole")
    monkeypatch.setattr(shards, "split", lambda tensors: split(tensors, 20_000))
    run(source, tmp_path / "parts")
    assert len(weight_files(tmp_path / "parts")) > 2
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(same_bits(array, parts[name]) for name, array in whole.items())
    ids = mx.array([[1, 2, 3]])
    logits = [load_model(tmp_path / name).model(ids) for name in ("whole", "parts")]
    assert mx.array_equal(*logits)
