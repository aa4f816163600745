"""What an adapter's files say is read as it is meant, and nothing else of it is believed."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_json

from mobilellm_mlx.adapters import AdapterInfo, read_info
from mobilellm_mlx.adapters.record import config_table, manifest_table
from mobilellm_mlx.errors import AdapterError

CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora",
    "num_layers": 2,
    "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.1, "keys": ["self_attn.q_proj"]},
}


def write(place: Path, config: Any = CONFIG, manifest: Any = None) -> Path:
    """A directory that could be an adapter's; its tensors are nothing."""
    place.mkdir(exist_ok=True)
    write_json(place / "adapter_config.json", config)
    (place / "adapters.safetensors").write_bytes(b"")
    if manifest is not None:
        write_json(place / "mobilellm.json", manifest)
    return place


def with_parameters(**told: Any) -> dict[str, Any]:
    return {**CONFIG, "lora_parameters": {**CONFIG["lora_parameters"], **told}}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    info = AdapterInfo(
        "one",
        tmp_path / "one",
        "dora",
        rank=8,
        scale=1.25,
        dropout=0.05,
        keys=("self_attn.q_proj", "model.embed_tokens"),
        num_layers=3,
        per_run=True,
        base_name="smollm2-135m",
        base_sha256="ab" * 32,
        data_name="pirate.jsonl",
        data_sha256="cd" * 32,
        config={"rank": 8, "modules": ["*_proj"]},
        scores={"best_loss": 1.5, "best_step": 20},
        created="2026-01-02T03:04:05+00:00",
        made_by="mobilellm-mlx 0.1.0",
        licence="Apache-2.0",
        tools={"style": "paper", "only_calls": True},
        stop_token="<|im_end|>",
    )
    write(tmp_path / "one", config_table(info), manifest_table(info))
    assert read_info(tmp_path / "one") == info


def test_an_adapter_without_our_file_has_no_known_base(tmp_path: Path) -> None:
    info = read_info(write(tmp_path / "theirs", {**CONFIG, "model": "org/model", "iters": 600}))
    assert (info.base_name, info.base_sha256, info.licence) == ("org/model", None, None)
    assert not info.has_template


@pytest.mark.parametrize("layers", [0, -1, -16])
def test_no_number_of_blocks_means_all_of_them(tmp_path: Path, layers: int) -> None:
    assert read_info(write(tmp_path / "all", {**CONFIG, "num_layers": layers})).num_layers == 0


BAD: dict[str, Any] = {
    "a list": [],
    "rank of no number": with_parameters(rank="4"),
    "rank of yes": with_parameters(rank=True),
    "no rank": with_parameters(rank=None),
    "rank 0": with_parameters(rank=0),
    "huge rank": with_parameters(rank=10**9),
    "scale of alpha alone": with_parameters(scale=None, alpha=16),
    "huge scale": with_parameters(scale=10**400),
    "dropout 1": with_parameters(dropout=1.0),
    "dropout below 0": with_parameters(dropout=-0.5),
    "keys in a text": with_parameters(keys="q_proj"),
    "numbers for keys": with_parameters(keys=[1]),
    "empty keys": with_parameters(keys=[""]),
    "very many keys": with_parameters(keys=["q"] * 30_000),
    "another kind": {**CONFIG, "fine_tune_type": "ia3"},
    "kind of no text": {**CONFIG, "fine_tune_type": ["lora"]},
    "blocks of no number": {**CONFIG, "num_layers": "all"},
    "very many blocks": {**CONFIG, "num_layers": 10**12},
    "parameters of no table": {**CONFIG, "lora_parameters": [4]},
    "half a character": {**CONFIG, "model": "\ud800"},
}
BAD_MANIFESTS: dict[str, Any] = {
    "a text": "adapter",
    "a newer format": {"format": 2},
    "base of no table": {"base": "smollm2"},
    "a hash of no text": {"base": {"sha256": 5}},
    "runs of no truth": {"per_run": "yes"},
    "scores of no table": {"scores": [1]},
    "stop token of no text": {"stop_token": 2},
}


@pytest.mark.parametrize("name", BAD)
def test_an_impossible_configuration_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        read_info(write(tmp_path / "bad", BAD[name]))


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_an_impossible_manifest_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        read_info(write(tmp_path / "bad", manifest=BAD_MANIFESTS[name]))


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(AdapterError, match="valid JSON"):
            read_info(write(tmp_path / "bad", with_parameters(scale=value)))


def _pipe(place: Path) -> None:
    (place / "adapter_config.json").unlink()
    os.mkfifo(place / "adapter_config.json")


BROKEN: dict[str, Callable[[Path], object]] = {
    "no configuration": lambda place: (place / "adapter_config.json").unlink(),
    "no tensors": lambda place: (place / "adapters.safetensors").unlink(),
    "a pipe": _pipe,
    "no JSON": lambda place: (place / "adapter_config.json").write_bytes(b"\xff{"),
    "deep JSON": lambda place: (place / "adapter_config.json").write_text("[" * 200_000),
    "a very long file": lambda place: (place / "adapter_config.json").write_text(" " * 2_000_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_is_refused(name: str, tmp_path: Path) -> None:
    place = write(tmp_path / "bad")
    BROKEN[name](place)
    with pytest.raises(AdapterError):
        read_info(place)


def test_an_adapter_of_peft_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="PEFT"):
        read_info(write(tmp_path / "peft", {"peft_type": "LORA", "r": 8, "lora_alpha": 16}))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
NAMES = [
    "fine_tune_type",
    "num_layers",
    "lora_parameters",
    "rank",
    "scale",
    "keys",
    "base",
    "tools",
]


@given(st.dictionaries(st.sampled_from(NAMES), values), values)
def test_whatever_the_files_hold_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, config: Any, manifest: Any
) -> None:
    place = tmp_path_factory.getbasetemp() / "any"
    try:
        read_info(write(place, {**CONFIG, **config}, manifest))
    except AdapterError as error:
        assert len(error.message) < 500
