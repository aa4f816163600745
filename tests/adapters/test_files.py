"""Tensors of an adapter are checked before they are used, and written whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import LLAMA, MOBILELLM, make_model, write_model

from mobilellm_mlx.adapters import files, read_info
from mobilellm_mlx.adapters.files import load_adapter, name_modules
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import AdapterError, InsufficientMemory, StorageError
from mobilellm_mlx.models.lora import find_modules
from tests.adapters.made import write_random_adapter
from tests.adapters.test_registry import files_in

MODEL = make_model(LLAMA)
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> bytes:
    """The tensors' file of an adapter of q_proj and v_proj."""
    place = tmp_path_factory.mktemp("whole") / "one"
    write_random_adapter(place, tiny_dir, modules=["q_proj", "v_proj"])
    return (place / "adapters.safetensors").read_bytes()


@pytest.fixture
def one(tmp_path: Path, tiny_dir: Path) -> Path:
    return write_random_adapter(tmp_path / "one", tiny_dir, modules=["q_proj", "v_proj"]).path


def change(place: Path, edit: Callable[[dict[str, mx.array]], object]) -> None:
    """Write an adapter's tensors again, changed."""
    path = str(place / "adapters.safetensors")
    tensors: Any = mx.load(path)
    mx.eval(tensors)
    edit(tensors)
    mx.save_safetensors(path, tensors)


def test_what_was_written_is_read(one: Path) -> None:
    adapter = load_adapter(one, MODEL)
    assert adapter.spec is not None
    assert adapter.spec.paths == tuple(sorted(find_modules(MODEL, ["q_proj", "v_proj"], "all")))
    assert (adapter.spec.method, adapter.spec.rank, adapter.spec.scale) == ("lora", 4, 1.5)
    assert adapter.nbytes > 0


def test_the_type_of_the_tensors_is_kept_in_the_file(tmp_path: Path, tiny_dir: Path) -> None:
    info = write_random_adapter(tmp_path / "one", tiny_dir)
    tensors: Any = mx.load(str(info.path / "adapters.safetensors"))
    half = {name: array.astype(mx.bfloat16) for name, array in tensors.items()}
    again = files.write_adapter(tmp_path / "half", info, half, MODEL.config)
    kept: Any = mx.load(str(again.path / "adapters.safetensors"))
    assert {array.dtype for array in kept.values()} == {mx.bfloat16}
    read = load_adapter(again.path, MODEL).tensors  # this machine is quick with float32 only
    assert {array.dtype for array in read.values()} == {mx.float32}


BAD: dict[str, Callable[[dict[str, mx.array]], object]] = {
    "a module that is not there": lambda t: t.update(
        {"model.layers.9.x.lora_a": mx.zeros((32, 4))}
    ),
    "a module of no configuration": lambda t: t.update(
        {Q.replace("q_proj", "k_proj") + ".lora_a": mx.zeros((32, 4))}
    ),
    "a weight of the base": lambda t: t.update({f"{Q}.weight": mx.zeros((32, 32))}),
    "a way somewhere": lambda t: t.update({"../../x": mx.zeros((1,))}),
    "another rank": lambda t: t.update({f"{Q}.lora_a": mx.zeros((32, 5))}),
    "an axis more": lambda t: t.update({f"{Q}.lora_a": mx.zeros((2, 32, 4))}),
    "whole numbers": lambda t: t.update({f"{Q}.lora_a": mx.zeros((32, 4), mx.int32)}),
    "half of a module": lambda t: t.pop(f"{Q}.lora_b"),
    "no number": lambda t: t.update({f"{Q}.lora_a": mx.full((32, 4), float("nan"))}),
    "too large a number": lambda t: t.update({f"{Q}.lora_b": mx.full((4, 32), float("inf"))}),
    "a length without DoRA": lambda t: t.update({f"{Q}.m": mx.zeros((32,))}),
}


@pytest.mark.parametrize("name", BAD)
def test_tensors_that_do_not_belong_are_refused(name: str, one: Path) -> None:
    change(one, BAD[name])
    with pytest.raises(AdapterError):
        load_adapter(one, MODEL)


def test_an_adapter_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    other = write_model(tmp_path / "wide", {**LLAMA, "hidden_size": 64})
    write_random_adapter(tmp_path / "one", other)
    with pytest.raises(AdapterError, match="this model wants"):
        load_adapter(tmp_path / "one", MODEL)


def test_matrices_for_each_run_need_blocks_that_run_twice(tmp_path: Path) -> None:
    shared = write_model(tmp_path / "shared", MOBILELLM)
    write_random_adapter(tmp_path / "one", shared, per_run=True)
    assert load_adapter(tmp_path / "one", make_model(MOBILELLM)).spec is not None
    with pytest.raises(AdapterError):
        load_adapter(tmp_path / "one", MODEL)


def test_an_embedding_with_dora_is_refused(one: Path) -> None:
    config = json.loads((one / "adapter_config.json").read_text())
    config["fine_tune_type"] = "dora"
    config["lora_parameters"]["keys"] = ["model.embed_tokens"]
    (one / "adapter_config.json").write_text(json.dumps(config))
    path = "model.embed_tokens"
    tensors = {f"{path}.lora_a": mx.zeros((258, 4)), f"{path}.lora_b": mx.zeros((4, 32))}
    mx.save_safetensors(str(one / "adapters.safetensors"), tensors)
    with pytest.raises(AdapterError, match="embedding"):
        load_adapter(one, MODEL)


def test_an_adapter_without_room_is_refused(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory_bytes", lambda: 100)
    with pytest.raises(InsufficientMemory, match="one"):
        load_adapter(one, MODEL)


@given(st.data())
def test_a_file_with_some_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    place = tmp_path_factory.getbasetemp() / "changed"
    place.mkdir(exist_ok=True)
    config = {
        "num_layers": 2,
        "lora_parameters": {
            "rank": 4,
            "scale": 1.5,
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        },
    }
    (place / "adapter_config.json").write_text(json.dumps(config))
    content = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, min(len(whole), 900) - 1), max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    (place / "adapters.safetensors").write_bytes(content[:cut])
    try:
        load_adapter(place, MODEL)
    except AdapterError as error:
        assert len(error.message) < 600


def test_a_full_disk_leaves_no_half_an_adapter(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[save_safetensors] Failed to write: No space left on device")

    monkeypatch.setattr(files.mx, "save_safetensors", full)
    (tmp_path / "place").mkdir()
    with pytest.raises(StorageError, match="No space left"):
        files.write_adapter(tmp_path / "place" / "two", read_info(one), {}, MODEL.config)
    assert files_in(tmp_path / "place") == []


def test_an_adapter_is_not_written_over_another(one: Path) -> None:
    before = (one / "adapters.safetensors").stat().st_mtime_ns
    with pytest.raises(StorageError):
        files.write_adapter(one, read_info(one), {"x": mx.zeros((1,))}, MODEL.config)
    assert (one / "adapters.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("blocks", "names", "told"),
    [
        ("all", ["q_proj"], (("self_attn.q_proj",), 2)),
        ("last 1", ["q_proj"], (("self_attn.q_proj",), 1)),
        ("0", ["q_proj"], ((Q,), 2)),
        ("all", ["q_proj", "embed_tokens"], (("self_attn.q_proj", "model.embed_tokens"), 2)),
        ("all", ["embed_tokens"], (("model.embed_tokens",), 2)),
    ],
)
def test_modules_are_named_as_mlx_lm_names_them(
    blocks: str, names: list[str], told: tuple[tuple[str, ...], int]
) -> None:
    assert name_modules(find_modules(MODEL, names, blocks), 2) == told
