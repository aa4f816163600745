"""Which files a model directory's weights are in, and tensors against the network."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, random_weights

from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import WeightsError
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.weights import assign, load_tensors, weight_files

INDEX = "model.safetensors.index.json"


def index(directory: Path, names: list[Any]) -> None:
    content = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
    (directory / INDEX).write_text(json.dumps(content))


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "adapters.safetensors").touch()
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_an_index_names_each_file_once(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "unlisted.safetensors"):
        (tmp_path / name).touch()
    index(tmp_path, ["b.safetensors", "a.safetensors", "b.safetensors"])
    assert weight_files(tmp_path) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


def test_a_directory_without_weights_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected `model\.safetensors`"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").touch()
    index(tmp_path, ["one.safetensors", "two.safetensors"])
    with pytest.raises(WeightsError, match=r"`two\.safetensors` is listed .* but missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize("kind", ["parent", "absolute", "nested", "dotted"])
def test_an_index_cannot_point_outside_the_directory(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    outside = tmp_path / "secret.safetensors"
    outside.touch()
    (directory / "sub" / "x.safetensors").touch()
    name = {
        "parent": "../secret.safetensors",
        "absolute": str(outside),
        "nested": "sub/x.safetensors",
        "dotted": "sub/../../secret.safetensors",
    }[kind]
    index(directory, [name])
    with pytest.raises(WeightsError, match="outside the model directory"):
        weight_files(directory)


@pytest.mark.parametrize("name", ["..", ".", "", "x\0y", "x" * 5000, "\ud800"])
def test_an_index_with_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    index(tmp_path, [name])
    with pytest.raises(WeightsError):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 5}}',
        b'{"weight_map": {"a": null, "b": "x"}}',
        b'{"weight_map": {"a": ["x"]}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda content: str(content[:40]),
)
def test_a_damaged_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable index"):
        weight_files(tmp_path)


def test_tensors_of_several_files_come_together(tmp_path: Path) -> None:
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for number, file in enumerate(files):
        mx.save_safetensors(str(file), {f"t{number}": mx.array([number])})
    tensors = load_tensors(files)
    assert {name: array.item() for name, array in tensors.items()} == {"t0": 0, "t1": 1}


def test_a_tensor_stored_twice_is_refused_by_name(tmp_path: Path) -> None:
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for file in files:
        mx.save_safetensors(str(file), {"same": mx.array([1])})
    with pytest.raises(WeightsError, match="`same` is stored twice"):
        load_tensors(files)


Q = "model.layers.1.self_attn.q_proj.weight"


def complaint(**changes: Any) -> WeightsError:
    """What ``assign`` says after changing the right tensors; None takes one away."""
    tensors = {**random_weights(LLAMA), **changes}
    with pytest.raises(WeightsError) as caught:
        assign(
            LanguageModel(build_config(LLAMA)),
            {name: array for name, array in tensors.items() if array is not None},
        )
    assert caught.value.hint
    return caught.value


def test_the_right_tensors_fit() -> None:
    model, tensors = LanguageModel(build_config(LLAMA)), random_weights(LLAMA)
    assign(model, tensors)
    assert mx.array_equal(model.model.layers[1].self_attn.q_proj.weight, tensors[Q])


def test_a_missing_tensor_is_named() -> None:
    assert f"1 missing ({Q})" in complaint(**{Q: None}).message


def test_an_unexpected_tensor_is_named() -> None:
    assert "1 unexpected (lm_head.weight)" in complaint(**{"lm_head.weight": mx.zeros(3)}).message


def test_a_misshapen_tensor_is_named_with_both_shapes() -> None:
    assert f"({Q} (32, 31), expected (32, 32))" in complaint(**{Q: mx.zeros((32, 31))}).message


def test_many_missing_tensors_are_counted_and_not_all_listed() -> None:
    gone = {name: None for name in random_weights(LLAMA) if "layers.0" in name}
    assert f"{len(gone)} missing" in (message := complaint(**gone).message)
    assert f"and {len(gone) - 3} more" in message
    assert message.count("layers.0") == 3


def test_all_kinds_of_misfits_are_told_at_once() -> None:
    changes = {Q: None, "extra": mx.zeros(1), "model.norm.weight": mx.zeros(31)}
    message = complaint(**changes).message
    assert "missing" in message and "unexpected" in message and "wrong shape" in message
