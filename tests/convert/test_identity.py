"""What we pack is what stock mlx-lm packs, bit for bit, and what both run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tolerances import FP32_REORDERED, assert_close

from convert.job import ConvertOptions
from convert.recipes import Rule
from mobilellm_mlx.backend import mx, nn, tree_flatten
from mobilellm_mlx.loading import build_model, load_model
from mobilellm_mlx.models import build_config
from mobilellm_mlx.options import LoadOptions
from tests.convert.checkpoints import SHARED, WIDE, checkpoint, config, run, same_bits, tensors

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 256, 65]]
LIKE_MLX_LM: dict[str, tuple[int, int, str]] = {
    "4-32": (4, 32, "affine"),
    "4-64": (4, 64, "affine"),
    "8-64": (8, 64, "affine"),
    "3-32": (3, 32, "affine"),
    "mxfp4": (4, 32, "mxfp4"),
    "mxfp8": (8, 32, "mxfp8"),
    "nvfp4": (4, 16, "nvfp4"),
}
"""Conversions that mlx-lm can be asked for as well: bits, group size and mode."""
OURS: dict[str, ConvertOptions] = {
    "default": ConvertOptions(verify=False),
    "blocks": ConvertOptions(recipe="4bit-blocks", verify=False),
    "exceptions": ConvertOptions(
        mode="mxfp4", bits_for=(Rule("v_proj", 6), Rule("0.mlp.up_proj", 16)), verify=False
    ),
    "plain": ConvertOptions(bits=None, verify=False),
}
"""Conversions that only we can do, which mlx-lm has to read."""
NARROW = {**WIDE, "intermediate_size": 48}
OWN_HEAD = {**WIDE, "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def source(place: Path) -> Path:
    return checkpoint(place / "source", {**WIDE, "torch_dtype": "bfloat16"})


@pytest.fixture(scope="module")
def converted(place: Path, source: Path) -> dict[str, Path]:
    """Our conversions by name."""
    directories = {name: place / name for name in (*LIKE_MLX_LM, *OURS, "narrow", "own head")}
    for name, (bits, group, mode) in LIKE_MLX_LM.items():
        options = ConvertOptions(bits=bits, group_size=group, mode=mode, verify=False)
        run(source, directories[name], options)
    for name, options in OURS.items():
        run(source, directories[name], options)
    run(checkpoint(place / "narrow source", NARROW), directories["narrow"])
    run(checkpoint(place / "own head source", OWN_HEAD), directories["own head"])
    return directories


@pytest.fixture(scope="module")
def theirs(place: Path, source: Path, converted: dict[str, Path]) -> dict[str, Any]:
    """mlx-lm's conversions lie in ``place / 'stock NAME'``; its logits of ours by name."""
    task = {
        "conversions": [
            [str(source), str(place / f"stock {name}"), *how] for name, how in LIKE_MLX_LM.items()
        ],
        "directories": [str(directory) for directory in converted.values()],
        "ids": IDS,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mlx_lm_peer.py")), json.dumps(task)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(converted, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", LIKE_MLX_LM)
def test_mlx_lm_s_own_conversion_has_the_same_bits(name, place, converted, theirs) -> None:
    stock, ours = tensors(place / f"stock {name}"), tensors(converted[name])
    assert ours.keys() == stock.keys()
    assert [key for key in ours if not same_bits(ours[key], stock[key])] == []
    assert (
        config(converted[name])["quantization"] == config(place / f"stock {name}")["quantization"]
    )


@pytest.mark.parametrize("form", ["packed", "dense"])
@pytest.mark.parametrize("name", [*LIKE_MLX_LM, *OURS, "narrow", "own head"])
def test_mlx_lm_gives_the_logits_that_we_give(name, form, converted, theirs) -> None:
    loaded = load_model(converted[name], LoadOptions(compute=form))
    assert_close(loaded.model(mx.array(IDS)), theirs[name], FP32_REORDERED, f"{name}, {form}")


def test_the_conversions_differ_from_one_another(theirs) -> None:
    """Or else equal logits would say little."""
    assert len({json.dumps(theirs[name]) for name in (*LIKE_MLX_LM, *OURS)}) == 11


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("raw", [WIDE, OWN_HEAD, SHARED], ids=["tied", "own head", "shared"])
def test_packing_equals_nn_quantize_on_the_same_16_bit_weights(raw, dtype, tmp_path) -> None:
    run(
        checkpoint(tmp_path / "s", raw, dtype=dtype),
        tmp_path / "t",
        ConvertOptions("4bit-all", verify=False),
    )
    settings = build_config(raw)
    model = build_model(settings, dict(tensors(tmp_path / "s")), None, "packed")
    model.set_dtype(dtype)
    nn.quantize(model, group_size=32, bits=4)
    wanted, got = dict(tree_flatten(model.parameters())), tensors(tmp_path / "t")
    assert got.keys() == wanted.keys()
    assert [key for key in got if not same_bits(got[key], wanted[key])] == []


def test_float32_weights_are_rounded_to_16_bits_before_they_are_packed(tmp_path) -> None:
    """As MLX does it: scales and codes then follow from what is kept of a model in 16 bits."""
    source = checkpoint(tmp_path / "s", dtype=mx.float32)
    run(source, tmp_path / "t", ConvertOptions("4bit-all", verify=False))
    name = "model.layers.1.self_attn.q_proj"
    halves = tensors(source)[f"{name}.weight"].astype(mx.float16)
    codes, scales, biases = mx.quantize(halves, group_size=32, bits=4)
    got = tensors(tmp_path / "t")
    assert same_bits(got[f"{name}.weight"], codes)
    assert same_bits(got[f"{name}.scales"], scales) and same_bits(got[f"{name}.biases"], biases)
