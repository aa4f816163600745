"""Adapters that somebody else made: what is too long is refused before it is worked through."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tiny import CHATML, LLAMA, make_model

from mobilellm_mlx.adapters import Registry
from mobilellm_mlx.adapters.files import load_adapter
from mobilellm_mlx.adapters.wearing import Wardrobe
from mobilellm_mlx.errors import AdapterError, MobileLLMError, StorageError
from mobilellm_mlx.loading import load_model
from tests.adapters.made import write_random_adapter

MODEL = make_model(LLAMA)
LONG = "n" * 100_000


@pytest.fixture
def one(tmp_path: Path, tiny_dir: Path) -> Path:
    return write_random_adapter(tmp_path / "one", tiny_dir, modules=["q_proj"]).path


def write_header(place: Path, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    (place / "adapters.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str = "F32", start: int = 0, stop: int = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "data_offsets": [start, stop]}


def test_a_header_of_megabytes_is_not_read(one: Path) -> None:
    header = 20_000_000
    with (one / "adapters.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", header))
        file.truncate(8 + header)
    with pytest.raises(AdapterError, match=r"has a header of 20 MB") as caught:
        load_adapter(one, MODEL)
    assert "damaged" in str(caught.value.hint)


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(one: Path) -> None:
    tensors = one / "adapters.safetensors"
    tensors.unlink()
    tensors.mkdir()
    with pytest.raises(AdapterError, match=r"adapters\.safetensors"):
        load_adapter(one, MODEL)


@pytest.mark.parametrize(
    "header",
    [
        {LONG: entry("F8")},
        {LONG: entry(stop=400)},
        {LONG: {**entry(), "shape": [3]}},
        {LONG: "nothing"},
        {"a": entry(), LONG: entry()},
    ],
    ids=["type", "place", "shape", "entry", "overlap"],
)
def test_a_name_without_end_is_not_repeated(one: Path, header: dict[str, Any]) -> None:
    write_header(one, header, b"\0" * 4)
    with pytest.raises(AdapterError) as caught:
        load_adapter(one, MODEL)
    assert "`nnnn" in caught.value.message
    assert len(caught.value.message) < 500


def test_a_template_that_would_be_compiled_for_long_is_refused(one: Path, tiny_dir: Path) -> None:
    wardrobe = Wardrobe(load_model(tiny_dir))
    template = one / "chat_template.jinja"
    template.write_text(CHATML + "{# #}" * 20_000)
    with pytest.raises(AdapterError, match="chat template of the adapter `one` is too long"):
        wardrobe.dressed(one)
    template.write_text(CHATML + "{# #}" * 10_000)
    assert wardrobe.dressed(one).template is not None


def test_a_place_that_no_disk_can_name_is_refused_in_a_sentence(one: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "root")
    registry.add(one, "mine")
    with pytest.raises(StorageError) as caught:
        registry.export("mine", tmp_path / ("n" * 300))
    assert isinstance(caught.value, MobileLLMError) and "too long" in caught.value.message
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="there is something at"):
        registry.export("mine", tmp_path / "there")
