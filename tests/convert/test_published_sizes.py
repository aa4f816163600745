"""Every published size is opened and planned from its tables alone: no weight is read."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import pytest

from convert.plan import ConvertOptions, Plan, make_plan
from convert.readers.tensors import Entry, Reader
from convert.source import EMBEDDING, HEAD, Source, map_names, open_source
from mobilellm_mlx.backend import tree_flatten
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.models.sizes import SIZES, checkpoint_config
from mobilellm_mlx.weights import Packing

STORED = {"125m": "F16", "350m": "F16", "600m": "BF16", "1b": "BF16", "1.5b": "BF16"}
WITH_HEAD = ("600m", "1b", "1.5b")
"""Sizes whose files hold an output head: a second name of the embedding, or 1.5B's own."""
FILE_BYTES = {
    "125m": 249_270_912,
    "350m": 690_710_400,
    "600m": 1_280_104_704,
    "1b": 2_092_843_520,
    "1.5b": 3_124_777_600,
}
"""Bytes of all tensors of the published files, lm_head included where there is one."""


def published_config(size: str) -> dict[str, Any]:
    """1.5B is published as a Llama whose head is its own."""
    config = checkpoint_config(size)
    if size == "1.5b":
        config["model_type"] = "llama"
        del config["share_embedding"], config["layer_sharing"]
    return config


class UnreadReader(Reader):
    """The tables of a published file; to read a tensor fails the test."""

    def __init__(self, size: str):
        self.format = "pytorch"
        self.files = (Path("pytorch_model.bin"),)
        self.entries: Mapping[str, Entry] = {
            name: Entry(name, shape, STORED[size], prod(shape) * 2, location=name)
            for name, shape in stored_shapes(size).items()
        }
        if size in ("600m", "1b"):
            embedding = self.entries[EMBEDDING]
            head = Entry(HEAD, embedding.shape, embedding.dtype, embedding.nbytes, EMBEDDING)
            self.entries = {**self.entries, HEAD: head}

    def read(self, name: str) -> NoReturn:
        pytest.fail(f"`{name}` was read")


def stored_shapes(size: str) -> dict[str, tuple[int, ...]]:
    model = LanguageModel(build_config(published_config(size)))
    return {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}


def published_source(size: str, **changes: Any) -> Source:
    reader = UnreadReader(size)
    names, unused = map_names(reader.entries)
    return Source(Path(size), reader, {**published_config(size), **changes}, names, unused)


def plan_of(size: str, **options: Any) -> Plan:
    return make_plan(published_source(size), ConvertOptions(**options))


def weights(plan: Plan) -> int:
    return sum(prod(tensor.shape) for tensor in plan.tensors)


@pytest.mark.parametrize("size", SIZES)
def test_the_fake_has_the_size_of_the_published_file(size: str) -> None:
    entries = UnreadReader(size).entries
    assert sum(entry.nbytes for entry in entries.values()) == FILE_BYTES[size]
    assert (HEAD in entries) == (size in WITH_HEAD)


@pytest.mark.parametrize("size", SIZES)
def test_every_stored_parameter_of_a_published_size_is_planned_once(size: str) -> None:
    own_head = 32_000 * SIZES[size].dim if size == "1.5b" else 0
    assert weights(plan_of(size)) == SIZES[size].parameters + own_head


@pytest.mark.parametrize("size", ["600m", "1b"])
def test_a_head_in_the_storage_of_the_embedding_is_left_out_without_reading_it(size: str) -> None:
    source = published_source(size)
    assert list(source.unused) == [HEAD]
    assert HEAD not in source.shapes and source.config.tie_word_embeddings


def test_the_head_of_1_5b_is_kept() -> None:
    source = published_source("1.5b")
    assert HEAD in source.shapes and not source.config.tie_word_embeddings
    assert not source.unused and not source.notices


@pytest.mark.parametrize("size", ["125m", "350m"])
def test_a_layer_sharing_variant_stores_what_the_plain_one_does(size: str) -> None:
    shared = make_plan(published_source(size, layer_sharing=True), ConvertOptions())
    assert shared == plan_of(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group_size", [32, 64])
def test_no_matrix_of_a_published_size_is_packed_otherwise_than_asked(
    size: str, group_size: int
) -> None:
    plan = plan_of(size, bits=4, group_size=group_size)
    assert plan.notes == {}
    assert {t.packing for t in plan.tensors if len(t.shape) == 2} == {Packing(group_size, 4)}
    assert plan.quantization() == {"group_size": group_size, "bits": 4, "mode": "affine"}


@pytest.mark.parametrize("size", SIZES)
def test_scale_and_bias_of_64_weights_take_half_a_bit_a_weight(size: str) -> None:
    plan = plan_of(size, bits=4, group_size=64)
    norms = sum(prod(t.shape) for t in plan.tensors if len(t.shape) == 1)
    assert plan.nbytes == (weights(plan) - norms) * 9 // 16 + norms * 2
    assert 4.5 < plan.bits_per_weight < 4.51


@pytest.mark.parametrize("size", SIZES)
def test_groups_of_128_are_halved_where_they_do_not_divide_the_columns(size: str) -> None:
    plan = plan_of(size, bits=4, group_size=128)
    smaller = {t.shape[1] for t in plan.tensors if t.packing == Packing(64, 4)}
    assert smaller == {SIZES[size].dim} & {576, 960, 1600}
    assert len(plan.notes) == sum(len(t.shape) == 2 and t.shape[1] in smaller for t in plan.tensors)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_changes_its_16_bit_type_without_being_told(size: str) -> None:
    plan = plan_of(size, bits=None)
    assert {tensor.action for tensor in plan.tensors} == {"keep"}
    assert plan.nbytes == sum(prod(shape) * 2 for shape in stored_shapes(size).values())


def write_sparse_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A header and a hole: gigabytes in the directory, kilobytes on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)


def test_a_file_of_three_gigabytes_is_opened_and_planned_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_sparse_safetensors(path, stored_shapes("1.5b"))
    (tmp_path / "config.json").write_text(json.dumps(published_config("1.5b")))
    assert path.stat().st_size > FILE_BYTES["1.5b"]
    assert path.stat().st_blocks * 512 < 1_000_000
    source = open_source(tmp_path)
    assert weights(make_plan(source, ConvertOptions())) == 1_562_388_800
