"""mlx-lm uses our adapters, and we use its own: the same files, the same logits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, MOBILELLM, write_model
from tolerances import FP32_REORDERED, assert_close

from mobilellm_mlx.adapters import read_info
from mobilellm_mlx.adapters.wearing import Wardrobe
from mobilellm_mlx.backend import mx
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from tests.adapters.made import write_random_adapter

IDS = [[7, 3, 99, 200, 41, 0, 255], [1, 1, 2, 3, 5, 8, 13]]
BLOCKS = 4
OURS: dict[str, dict[str, Any]] = {
    "lora everywhere": {},
    "lora in the last blocks": {"layers": "last 2", "modules": ["q_proj", "v_proj"]},
    "lora in chosen blocks": {"layers": "0,2", "modules": ["self_attn.*"]},
    "lora with embedding": {"modules": ["*_proj", "embed_tokens"]},
    "lora of the embedding alone": {"modules": ["embed_tokens"]},
    "dora everywhere": {"method": "dora"},
    "dora in chosen blocks": {"method": "dora", "layers": "1-2"},
}
LORA = {"rank": 3, "scale": 5.0, "dropout": 0.0}
KEYS = {**LORA, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
THEIRS: dict[str, dict[str, Any]] = {
    "no keys": {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": LORA},
    "keys": {"fine_tune_type": "lora", "num_layers": 3, "lora_parameters": KEYS},
    "all blocks by -1": {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": LORA},
    "all blocks by 0": {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": KEYS},
    "more blocks than there are": {
        "fine_tune_type": "lora", "num_layers": 16, "lora_parameters": LORA,
    },
    "embedding": {
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {**LORA, "keys": ["model.embed_tokens", "mlp.up_proj"]},
    },
    "dora": {"fine_tune_type": "dora", "num_layers": 2, "lora_parameters": KEYS},
    "full": {"fine_tune_type": "full", "num_layers": 2, "lora_parameters": LORA},
}  # fmt: skip
CASES = [
    *(f"ours: {name}" for name in OURS),
    *(f"theirs: {name}" for name in THEIRS),
    "ours on packed weights",
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case's base, adapter and logits in mlx-lm, computed by one process."""
    place = tmp_path_factory.mktemp("peer")
    config = {**LLAMA, "num_hidden_layers": BLOCKS}
    base = write_model(place / "base", config)
    packed = write_model(place / "packed", config, packed=True)
    bases = dict.fromkeys(CASES, base) | {"ours on packed weights": packed}
    found = {name: place / f"adapter-{number}" for number, name in enumerate(CASES)}
    for name, told in OURS.items():
        write_random_adapter(found[f"ours: {name}"], base, **told)
    write_random_adapter(found["ours on packed weights"], packed, seed=5)
    task = {
        "make": [
            [str(base), str(found[f"theirs: {name}"]), told, seed]
            for seed, (name, told) in enumerate(THEIRS.items())
        ],
        "compute": [[str(base), None], *([str(bases[n]), str(found[n])] for n in CASES)],
        "ids": IDS,
    }
    script = Path(__file__).parent / "mlx_lm_peer.py"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(task)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    bare, *logits = json.loads(done.stdout)
    return {
        name: (bases[name], found[name], mx.array(bare), mx.array(each))
        for name, each in zip(CASES, logits, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_mlx_lm_and_we_compute_the_same_with_an_adapter(name: str, peer: dict[str, Any]) -> None:
    base, directory, bare, theirs = peer[name]
    compute = "packed" if "packed" in name else "dense"
    loaded = load_model(base, LoadOptions(compute=compute))
    wardrobe = Wardrobe(loaded)
    wardrobe.wear(wardrobe.dressed(directory))
    ours = loaded.model(mx.array(IDS))
    assert mx.abs(theirs - bare).max() > 0.1  # it does change something
    assert_close(ours, theirs, FP32_REORDERED, name)


def test_an_adapter_of_mlx_lm_says_of_which_model_it_is(peer: dict[str, Any]) -> None:
    base, directory, *_ = peer["theirs: keys"]
    info = read_info(directory)
    assert (info.base_name, info.base_sha256) == (str(base), None)
    assert (info.rank, info.scale, info.keys) == (3, 5.0, ("self_attn.q_proj", "mlp.down_proj"))


def test_the_last_blocks_are_said_in_mlx_lms_short_form(peer: dict[str, Any]) -> None:
    _, directory, *_ = peer["ours: lora in the last blocks"]
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["num_layers"] == 2
    assert config["lora_parameters"]["keys"] == ["self_attn.q_proj", "self_attn.v_proj"]


def test_whole_weights_can_be_worn_by_a_packed_network(
    peer: dict[str, Any], tmp_path: Path
) -> None:
    _, directory, *_ = peer["theirs: full"]
    packed = write_model(tmp_path / "packed", {**LLAMA, "num_hidden_layers": BLOCKS}, packed=True)
    logits = []
    for compute in ("packed", "dense"):
        loaded = load_model(packed, LoadOptions(compute=compute))  # type: ignore[arg-type]
        wardrobe = Wardrobe(loaded)
        wardrobe.wear(wardrobe.dressed(directory))
        logits.append(loaded.model(mx.array(IDS)))
    assert_close(*logits, FP32_REORDERED, "packed beside dense")


def test_an_adapter_for_each_run_is_named_as_ours_alone(tmp_path: Path) -> None:
    base = write_model(tmp_path / "shared", MOBILELLM)
    info = write_random_adapter(tmp_path / "twice", base, per_run=True)
    assert info.per_run
    assert json.loads((info.path / "mobilellm.json").read_text())["per_run"] is True
