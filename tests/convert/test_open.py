"""From a path to its weight files: what is chosen, and what is refused."""

from pathlib import Path

import pytest
from tiny import write_json

from convert.readers.open import open_directory, open_weights, weight_files
from convert.readers.packed import PackedReader
from convert.readers.tensors import PackedTensor
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, MobileLLMError, WeightsError
from mobilellm_mlx.weights import Packing, QuantizationTable
from tests.convert import gguf_writer
from tests.convert.checkpoints import same_bits, write_safetensors

INDEX = "model.safetensors.index.json"


def save(path: Path, **tensors: mx.array) -> None:
    mx.save_safetensors(str(path), tensors)


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ("model.safetensors pytorch_model.bin q4.gguf", "model.safetensors"),
        ("pytorch_model.bin q4.gguf consolidated.00.pth", "pytorch_model.bin"),
        ("model.safetensors adapter.safetensors", "model.safetensors"),
        ("weights.safetensors", "weights.safetensors"),
        ("consolidated.00.pth config.json", "consolidated.00.pth"),
        (
            "model-00002-of-00002.safetensors model-00001-of-00002.safetensors",
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
        ),
    ],
)
def test_the_kind_that_is_preferred_is_chosen_by_name(tmp_path, there, chosen) -> None:
    touch(tmp_path, *there.split())
    assert [path.name for path in weight_files(tmp_path)] == chosen.split()


def test_an_index_says_which_files_belong_together(tmp_path) -> None:
    touch(tmp_path, "a.safetensors", "b.safetensors", "model.safetensors")
    write_json(tmp_path / INDEX, {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}})
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]


def test_safetensors_are_preferred_to_an_index_of_files_that_are_not_there(tmp_path) -> None:
    touch(tmp_path, "model.safetensors")
    names = {"weight_map": {"x": "pytorch_model-00001-of-00002.bin"}}
    write_json(tmp_path / "pytorch_model.bin.index.json", names)
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


def test_the_hidden_twins_that_macos_leaves_on_other_disks_are_no_weights(tmp_path) -> None:
    touch(tmp_path, "q4.gguf", "._q4.gguf")
    assert [path.name for path in weight_files(tmp_path)] == ["q4.gguf"]


def test_several_checkpoints_in_one_directory_are_not_guessed_about(tmp_path) -> None:
    touch(tmp_path, "q4.gguf", "q8.gguf")
    with pytest.raises(ConvertError, match=r"holds 2 weight files: q4\.gguf, q8\.gguf") as caught:
        weight_files(tmp_path)
    assert caught.value.hint == "name the one that is meant"


def test_a_directory_without_weights_says_what_was_expected(tmp_path) -> None:
    touch(tmp_path, "config.json", "README.md")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ConvertError, match="no weights in"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "a/../x", "x" * 300]
)
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, name) -> None:
    touch(tmp_path.parent, "x.safetensors")
    touch(tmp_path, "x.safetensors")
    write_json(tmp_path / INDEX, {"weight_map": {"t": name}})
    with pytest.raises(ConvertError, match=r"outside its directory") as caught:
        weight_files(tmp_path)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", ["gone.safetensors", "..", "", "a\0b", "\ud800"])
def test_a_file_of_the_index_that_is_not_there_is_named(tmp_path, name) -> None:
    write_json(tmp_path / INDEX, {"weight_map": {"t": name}})
    with pytest.raises(ConvertError, match=r"is listed in .* but missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "5", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "\xff"),
        *('{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": 5, "b": "c"}}', "[" * 100_000),
    ],
    ids=lambda text: text[:30],
)
def test_an_index_that_is_none_is_refused(tmp_path, text) -> None:
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(ConvertError, match="not a readable index"):
        weight_files(tmp_path)


def test_an_empty_and_an_endless_index_are_refused(tmp_path, monkeypatch) -> None:
    write_json(tmp_path / INDEX, {"weight_map": {}})
    with pytest.raises(ConvertError, match="lists no files"):
        weight_files(tmp_path)
    monkeypatch.setattr("convert.readers.open._MAX_INDEX_BYTES", 10)
    with pytest.raises(ConvertError, match="larger than any index"):
        weight_files(tmp_path)


def test_shards_are_one_checkpoint(tmp_path) -> None:
    save(tmp_path / "model-00001-of-00002.safetensors", a=mx.ones((2,)))
    save(tmp_path / "model-00002-of-00002.safetensors", b=mx.zeros((3,)))
    reader = open_directory(tmp_path)
    assert (reader.format, reader.entries.keys()) == ("safetensors", {"a", "b"})
    assert [path.name[:11] for path in reader.files] == ["model-00001", "model-00002"]
    assert mx.array_equal(reader.read("b"), mx.zeros((3,)))


def test_a_tensor_in_two_shards_is_refused(tmp_path) -> None:
    for number in (1, 2):
        save(tmp_path / f"model-0000{number}-of-00002.safetensors", same=mx.ones((2,)))
    with pytest.raises(ConvertError, match="`same` is stored in two files, one of them `model-00"):
        open_directory(tmp_path)


def test_symbolic_links_to_weights_are_followed_as_a_hub_cache_needs_it(tmp_path) -> None:
    (tmp_path / "blobs").mkdir()
    save(tmp_path / "blobs" / "0123.safetensors", a=mx.ones((2,)))
    (tmp_path / "blobs" / "0123.safetensors").rename(tmp_path / "blobs" / "0123")
    home = tmp_path / "snapshot"
    home.mkdir()
    (home / "model.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    reader = open_directory(home)
    assert [path.name for path in reader.files] == ["model.safetensors"]
    assert mx.array_equal(reader.read("a"), mx.ones((2,)))


def test_the_first_bytes_decide_and_not_the_name(tmp_path) -> None:
    save(tmp_path / "model.safetensors", a=mx.ones((2,)))
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.bin")
    assert open_weights(tmp_path / "weights.bin").format == "safetensors"
    gguf_writer.write_tiny_gguf(tmp_path / "q4.bin")
    assert open_weights(tmp_path / "q4.bin").format == "gguf"


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.gguf", "x.pth", "x"])
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 40, b"GGUF", b"PK\3\4" + bytes(30), b"{}"])
def test_a_damaged_file_of_any_kind_is_one_of_our_errors(tmp_path, name, data) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MobileLLMError):
        open_weights(tmp_path / name)


def test_a_weight_file_that_is_not_there_or_a_directory_is_said(tmp_path) -> None:
    for path in (tmp_path / "gone.bin", tmp_path):
        with pytest.raises(ConvertError, match="cannot be read"):
            open_weights(path)


def test_a_file_that_shrank_after_it_was_opened_is_said(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, a=mx.ones((64,)))
    reader = open_weights(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConvertError, match=r"`model\.safetensors` ends at byte .*, expected data"):
        reader.read("a")
    path.unlink()
    with pytest.raises(ConvertError, match="cannot be read"):
        reader.read("a")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *(("F16", mx.float16), ("BF16", mx.bfloat16), ("F32", mx.float32), ("F64", mx.float32)),
        *(("U8", mx.uint8), ("I8", mx.int8), ("U32", mx.uint32), ("I64", mx.int64)),
    ],
)
def test_every_type_arrives_as_it_is_and_float64_as_float32(tmp_path, dtype, expected) -> None:
    shapes = {"matrix": (3, 4), "vector": (5,), "empty": (0, 4), "number": ()}
    write_safetensors(tmp_path / "m.safetensors", {n: (dtype, s) for n, s in shapes.items()})
    reader = open_weights(tmp_path / "m.safetensors")
    for name, shape in shapes.items():
        array = reader.read(name)
        assert isinstance(array, mx.array) and array.shape == shape
        assert array.dtype == expected or name == "empty"


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
def test_values_are_read_bit_for_bit(tmp_path, dtype) -> None:
    values = mx.array([0.0, -0.0, 1.5, float("nan"), float("-inf"), 6e-8]).astype(dtype)
    save(tmp_path / "m.safetensors", padding=mx.ones((3,), mx.uint8), values=values)
    read = open_weights(tmp_path / "m.safetensors").read("values")
    assert isinstance(read, mx.array) and same_bits(read, values)


# What MLX packed before


def packed(path: Path, changes: dict[str, mx.array | None] | None = None) -> PackedReader:
    codes, scales, biases = mx.quantize(mx.ones((4, 64)), group_size=32, bits=4)
    parts = {"m.weight": codes, "m.scales": scales, "m.biases": biases, "n": mx.ones((2,))}
    kept = {n: a for n, a in {**parts, **(changes or {})}.items() if a is not None}
    mx.save_safetensors(str(path / "m.safetensors"), kept)
    table = QuantizationTable(Packing(32, 4), {})
    return PackedReader(open_weights(path / "m.safetensors"), table)


def test_the_parts_of_a_packed_matrix_are_one_entry_of_its_own_shape(tmp_path) -> None:
    reader = packed(tmp_path)
    assert reader.entries.keys() == {"m.weight", "n"}
    entry = reader.entries["m.weight"]
    assert (entry.shape, entry.packing, entry.dtype) == ((4, 64), Packing(32, 4), "F32")
    assert entry.nbytes == 4 * 32 + 4 * 2 * 4 * 2
    value = reader.read("m.weight")
    assert isinstance(value, PackedTensor) and set(value.parts()) == {"weight", "scales", "biases"}
    assert mx.allclose(value.dense(), mx.ones((4, 64)))


@pytest.mark.parametrize(
    "changes",
    [
        {"m.biases": None},
        {"m.scales": mx.ones((4, 1))},
        {"m.biases": mx.ones((4, 4))},
        {"m.biases": mx.ones((4,))},
        {"m.weight": mx.zeros((4, 5), mx.uint32)},
        {"m.weight": mx.zeros((5, 8), mx.uint32)},
        {"m.weight": mx.zeros((32,), mx.uint32)},
        {"m.weight": mx.zeros((2, 2, 8), mx.uint32)},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_parts_that_do_not_fit_the_table_are_refused(tmp_path, changes) -> None:
    with pytest.raises(ConvertError, match="packed"):
        packed(tmp_path, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"m.weight": mx.zeros((4, 8))},
        {"m.weight": mx.zeros((4, 8), mx.int32)},
        {"m.scales": mx.ones((4, 2), mx.int32)},
        {"m.biases": mx.ones((4, 2), mx.uint8)},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_parts_of_another_type_are_refused(tmp_path, changes) -> None:
    with pytest.raises((ConvertError, WeightsError)):
        packed(tmp_path, changes)


def test_a_module_that_the_table_excepts_is_left_as_it_is(tmp_path) -> None:
    save(tmp_path / "m.safetensors", **{"m.weight": mx.ones((2, 64))})
    table = QuantizationTable(Packing(32, 4), {"m": None})
    reader = PackedReader(open_weights(tmp_path / "m.safetensors"), table)
    assert reader.entries["m.weight"].packing is None
    assert reader.entries["m.weight"].shape == (2, 64)


def test_a_missing_part_is_noticed_without_an_index(tmp_path) -> None:
    touch(tmp_path, "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors")
    with pytest.raises(ConvertError, match="holds 2 of 3 parts"):
        weight_files(tmp_path)
    touch(tmp_path, "model-00003-of-00003.safetensors")
    assert len(weight_files(tmp_path)) == 3
